//! Pods behind a bridge: the route to their addresses leads to the bridge, and each is enforced
//! at its own port.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use enforcer::{api::status::EndpointStatus, observe::record::Verdict};
use tests::lab::{
    Daemon,
    Expect::{self, Denied, Open},
    FlowProtocol, Lab, Process, Tree,
    bridge::{BRIDGE, BridgedNode, BridgedPod},
    frame::Hop,
    patient,
    shop::Party,
};

const PORT: u16 = 80;
const OTHER: u16 = 81;

/// Into `a` only `b`, and only to one port; out of `c` only to `a` and to who is outside.
const POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: into-a, namespace: shop}
spec:
  podSelector: {matchLabels: {app: a}}
  ingress:
    - from: [{podSelector: {matchLabels: {app: b}}}]
      ports: [{port: 80}, {port: 80, protocol: UDP}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: out-of-c, namespace: shop}
spec:
  podSelector: {matchLabels: {app: c}}
  policyTypes: [Egress]
  egress:
    - to: [{podSelector: {matchLabels: {app: a}}}]
    - to: [{ipBlock: {cidr: 10.81.0.0/24}}, {ipBlock: {cidr: 'fd81::/64'}}]
      ports: [{port: 80}, {port: 80, protocol: UDP}]
";

fn pod(name: &str, host: u16) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\n\
         metadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}}}\n\
         status: {{phase: Running, podIPs: [{{ip: 10.80.0.{host}}}, {{ip: 'fd80::{host:x}'}}]}}\n"
    )
}

/// A node with pods a, b and c, their servers, and a tree about them.
struct Stage {
    _servers: Vec<Process>,
    pods: [BridgedPod; 3],
    outside: Party,
    system: Party,
    node: BridgedNode,
    tree: Tree,
    lab: Lab,
}

impl Stage {
    fn new() -> Result<Self> {
        Self::on(BridgedNode::build)
    }

    fn on(build: impl FnOnce(&Lab) -> Result<BridgedNode>) -> Result<Self> {
        let lab = Lab::new()?;
        let node = build(&lab)?;
        let connect = |name, host| node.connect(&lab, name, host);
        let pods = [connect("a", 11)?, connect("b", 12)?, connect("c", 13)?];
        let (outside, system) = (node.outside.clone(), node.node.party()?);
        let parties = pods.iter().map(|pod| &pod.party);
        let servers = parties
            .chain([&outside, &system])
            .map(|party| party.place.serve(&[PORT, OTHER], &[PORT, OTHER]))
            .collect::<Result<_>>()?;
        let tree = Tree::empty(&lab, "policies")?;
        for (name, host) in [("a", 11), ("b", 12), ("c", 13)] {
            tree.write(&format!("{name}.yaml"), &pod(name, host))?;
        }
        tree.write("policy.yaml", POLICY)?;
        Ok(Self {
            _servers: servers,
            pods,
            outside,
            system,
            node,
            tree,
            lab,
        })
    }

    fn start_daemon(&self) -> Result<Daemon> {
        self.node.node.start_daemon(&self.lab, self.tree.path())
    }
}

/// By TCP and UDP over both families.
fn expect_all(from: &Party, to: &Party, port: u16, expect: Expect) -> Result<()> {
    for protocol in [FlowProtocol::Tcp, FlowProtocol::Udp] {
        for v6 in [false, true] {
            from.place.expect(protocol, to.ip(v6), port, expect)?;
        }
    }
    Ok(())
}

/// The interface of each pod that has one, in the order of names.
fn places(daemon: &Daemon) -> Result<Vec<(String, String)>> {
    let endpoints: Vec<EndpointStatus> = daemon.ask_json(&["endpoints"])?;
    let pods = endpoints.into_iter().filter(|e| e.namespace.is_some());
    let mut places: Vec<_> = pods.map(|pod| (pod.name, pod.place)).collect();
    places.sort();
    Ok(places)
}

fn wait_for_places(daemon: &Daemon, expected: &[(&str, &str)]) -> Result<()> {
    // A third of the time after which everything is listed again in any case.
    let deadline = Instant::now() + patient(Duration::from_secs(10));
    loop {
        let places = places(daemon)?;
        let found = places.iter().map(|(pod, place)| (&**pod, &**place));
        if found.eq(expected.iter().copied()) {
            return Ok(());
        }
        let late = Instant::now() > deadline;
        anyhow::ensure!(!late, "{places:?} instead of {expected:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

const ALL: [(&str, &str); 3] = [("a", "port-a"), ("b", "port-b"), ("c", "port-c")];

#[test]
fn pods_of_one_bridge_are_enforced_each_at_its_port() -> Result<()> {
    let stage = Stage::new()?;
    let [a, b, c] = &stage.pods;
    let (outside, node) = (&stage.outside, &stage.system);
    let table = [
        (&a.party, &b.party, OTHER, Open),
        (&a.party, outside, OTHER, Open),
        (&b.party, &a.party, PORT, Open),
        (&b.party, &a.party, OTHER, Denied),
        (&c.party, &a.party, PORT, Denied),
        (&c.party, &b.party, PORT, Denied),
        (&c.party, outside, PORT, Open),
        (&c.party, outside, OTHER, Denied),
        (outside, &a.party, PORT, Denied),
        (outside, &b.party, PORT, Open),
        (outside, &c.party, PORT, Open),
        (node, &a.party, OTHER, Open),
        (&c.party, node, OTHER, Open),
    ];
    for (from, to, port, _) in table {
        expect_all(from, to, port, Open)?;
    }
    let daemon = stage.start_daemon()?;
    wait_for_places(&daemon, &ALL)?;
    for (from, to, port, expect) in table {
        expect_all(from, to, port, expect)?;
        for v6 in [false, true] {
            if expect == Denied {
                daemon.wait_for_record(Duration::from_secs(5), |record| {
                    record.verdict == Verdict::Deny
                        && record.reason == "isolation"
                        && record.source().address == Some(from.ip(v6))
                        && record.destination().address == Some(to.ip(v6))
                        && record.destination().port == Some(port)
                })?;
            }
        }
    }
    Ok(())
}

#[test]
fn the_bridge_may_be_the_uplink() -> Result<()> {
    let stage = Stage::on(BridgedNode::build_on_uplink)?;
    let [a, b, _] = &stage.pods;
    let (outside, node) = (&stage.outside, &stage.system);
    let mut options = stage.node.node.daemon_options(stage.tree.path())?;
    options.uplinks = vec![BRIDGE.to_owned()];
    let daemon = Daemon::start(&stage.lab, options)?;
    wait_for_places(&daemon, &ALL)?;
    for (from, to, expect) in [
        (&b.party, &a.party, Open),
        (outside, &a.party, Denied),
        (outside, &b.party, Open),
        (&a.party, outside, Open),
        (&a.party, node, Open),
        (node, &a.party, Open),
        (outside, node, Open),
    ] {
        expect_all(from, to, PORT, expect)?;
    }
    Ok(())
}

#[test]
fn spoofed_sources_do_not_cross_the_bridge() -> Result<()> {
    let stage = Stage::new()?;
    let [a, b, c] = &stage.pods;
    let mark = b"-across the bridge-";
    let hop = Hop::between((&a.inside, "eth0"), (&b.inside, "eth0"))?;
    for enforced in [false, true] {
        let daemon = enforced.then(|| stage.start_daemon()).transpose()?;
        for v6 in [false, true] {
            let frames: Vec<Vec<u8>> = [&a.party, &c.party, &stage.outside]
                .into_iter()
                .map(|from| hop.udp((from.ip(v6), 4000), (b.party.ip(v6), 7777), mark))
                .collect();
            let mut sniffer = b.party.place.sniff("eth0", mark)?;
            a.party.place.send_frames("eth0", &frames)?;
            for _ in 0..if enforced { 1 } else { 3 } {
                sniffer.frame(Duration::from_secs(3))?;
            }
            if let Some(daemon) = &daemon {
                for from in [&c.party, &stage.outside] {
                    daemon.wait_for_record(Duration::from_secs(5), |record| {
                        record.reason == "source-guard"
                            && record.source().address == Some(from.ip(v6))
                    })?;
                }
            }
            assert!(sniffer.stop()?.is_empty(), "v6: {v6}, enforced: {enforced}");
        }
    }
    Ok(())
}

#[test]
fn pods_are_found_when_they_come_and_nobody_takes_their_place() -> Result<()> {
    let stage = Stage::new()?;
    let [a, b, c] = &stage.pods;
    let daemon = stage.start_daemon()?;
    wait_for_places(&daemon, &ALL)?;

    stage.tree.write("d.yaml", &pod("d", 14))?;
    daemon.apply()?;
    let d = stage.node.connect(&stage.lab, "d", 14)?;
    let with_d = [ALL[0], ALL[1], ALL[2], ("d", "port-d")];
    wait_for_places(&daemon, &with_d)?;
    expect_all(&d.party, &a.party, PORT, Denied)?;

    // The address by which it is known goes, and comes back. Several times: something else may
    // make the daemon look again once.
    for _ in 0..4 {
        d.inside.ip(&["addr del 10.80.0.14/24 dev eth0"])?;
        wait_for_places(&daemon, &ALL)?;
        d.inside.ip(&["addr add 10.80.0.14/24 dev eth0"])?;
        wait_for_places(&daemon, &with_d)?;
    }

    // A pod that takes on another one's address stays what it is, and so does the other one.
    c.inside.ip(&["addr add 10.80.0.12/32 dev eth0"])?;
    let frames = Hop::between((&c.inside, "eth0"), (&a.inside, "eth0"))?;
    let mark = b"-of somebody else-";
    let sniffer = a.party.place.sniff("eth0", mark)?;
    let stolen = frames.udp((b.party.ip(false), 4000), (a.party.ip(false), PORT), mark);
    c.party.place.send_frames("eth0", &[stolen])?;
    daemon.wait_for_record(Duration::from_secs(5), |record| {
        record.reason == "source-guard" && record.source().address == Some(b.party.ip(false))
    })?;
    assert!(sniffer.stop()?.is_empty(), "an address was taken on");
    wait_for_places(&daemon, &with_d)?;

    // A port that goes takes its endpoint with it.
    stage.node.node.namespace.ip(&["link del port-d"])?;
    wait_for_places(&daemon, &ALL)?;
    Ok(())
}
