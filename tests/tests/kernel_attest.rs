//! `assurance: attested` in force: who has proven with a private key and a valid certificate who
//! it is gets through, and nobody else; and what ends the proof ends the connections.

use std::{
    fs,
    io::{Read as _, Write as _},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result};
use enforcer::identity::attest::journal::EventKind;
use tests::lab::{
    Daemon, Expect, FlowProtocol, Lab, Place, ProofScene, Tree,
    bridge::BridgedNode,
    frame::Hop,
    pki::{Pki, SERVER, URL, trust_domain},
};

const WORKLOADS: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {cgroup: /shop/web, spiffeId: 'spiffe://example.org/web'}
---
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: thief, namespace: shop, labels: {app: thief}}
spec: {cgroup: /shop/thief, spiffeId: 'spiffe://example.org/thief'}
---
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: store, namespace: shop, labels: {app: store}}
spec: {cgroup: /shop/store}
---
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: api, namespace: shop, labels: {app: api}}
spec:
  interface: veth-api
  addresses: [10.77.12.2, 'fd77:12::2']
  spiffeId: spiffe://example.org/api
---
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {interface: veth-db, addresses: [10.77.22.2, 'fd77:22::2']}
";

const POLICY: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: store, namespace: shop}
spec:
  selector: {matchLabels: {app: store}}
  ingress:
    - name: proven
      from: [{spiffeId: 'spiffe://example.org/web', assurance: attested}]
      ports: [7000/tcp]
---
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: db, namespace: shop}
spec:
  selector: {matchLabels: {app: db}}
  ingress:
    - name: proven
      from: [{labels: {app: api}, assurance: attested}]
      ports: [5432/tcp, 9999/udp]
";

fn scene() -> Result<ProofScene> {
    ProofScene::trusting(&[("workloads.yaml", WORKLOADS), ("policy.yaml", POLICY)])
}

fn store_is(from: &Place, address: std::net::IpAddr, expect: Expect) -> Result<()> {
    from.expect(FlowProtocol::Tcp, address, 7000, expect)?;
    Ok(())
}

#[test]
fn only_who_has_proven_it_gets_through_and_a_revoked_proof_ends_what_it_opened() -> Result<()> {
    let scene = scene()?;
    let front = &scene.shop.front;
    let store = front.place("/shop/store")?;
    let thief = front.place("/shop/thief")?;
    let web = &scene.shop.web.place;
    let _server = store.serve(&[7000], &[])?;
    let address = scene.shop.web.ip(false);
    store_is(web, address, Expect::Open)?;

    let daemon = scene.start_attesting(front)?;
    store_is(web, address, Expect::Denied)?;
    assert_eq!(daemon.assurance("web")?, "kernel");

    // A stolen certificate, shown from where policy does not have it.
    let identity = scene.pki.issue("web", &[])?;
    let stolen = identity.attest(&thief, SERVER, &[])?;
    assert_eq!(stolen.status.code(), Some(1), "{stolen:?}");
    let words = String::from_utf8_lossy(&stolen.stderr);
    assert!(words.contains("spiffe://example.org/thief"), "{words}");
    assert_eq!(daemon.refusals("attestation", "wrong-workload")?, 1);
    store_is(&thief, address, Expect::Denied)?;
    store_is(web, address, Expect::Denied)?;
    // A host process that belongs to no workload.
    let nobody = identity.attest(&front.place("system")?, SERVER, &[])?;
    assert_eq!(nobody.status.code(), Some(1), "{nobody:?}");

    let proven = identity.attest(web, SERVER, &[])?;
    assert!(proven.status.success(), "{proven:?}\n{}", daemon.log());
    assert_eq!(daemon.assurance("web")?, "attested");
    store_is(web, address, Expect::Open)?;
    store_is(&thief, address, Expect::Denied)?;

    // In flight when the certificate is withdrawn.
    let mut held = web.hold((address, 7000).into(), 1, None)?;
    std::thread::sleep(Duration::from_millis(500));
    held.ensure_alive()?;
    let serial = identity.serial()?;
    let began = std::time::Instant::now();
    scene.revoke(&[&serial])?;
    held.wait_for_death(Duration::from_secs(10))?;
    let died = began.elapsed();
    assert!(
        died < tests::lab::patient(Duration::from_secs(1)),
        "{died:?}"
    );
    daemon.wait_for_assurance("web", "kernel")?;
    store_is(web, address, Expect::Denied)?;
    let again = identity.attest(web, SERVER, &[])?;
    assert_eq!(again.status.code(), Some(1), "{again:?}");

    // A new certificate proves it anew.
    let renewed = scene.pki.issue("web", &[])?;
    assert!(renewed.attest(web, SERVER, &[])?.status.success());
    store_is(web, address, Expect::Open)?;
    Ok(())
}

#[test]
fn a_removed_bundle_ends_what_it_proved() -> Result<()> {
    let scene = scene()?;
    let front = &scene.shop.front;
    let web = &scene.shop.web.place;
    let _server = front.place("/shop/store")?.serve(&[7000], &[])?;
    let address = scene.shop.web.ip(false);
    let daemon = scene.start_attesting(front)?;
    let identity = scene.pki.issue("web", &[])?;
    assert!(identity.attest(web, SERVER, &[])?.status.success());
    let mut held = web.hold((address, 7000).into(), 1, Some(Duration::from_millis(20)))?;
    std::thread::sleep(Duration::from_millis(500));
    held.ensure_alive()?;
    let (bundle, away) = (scene.pki.bundle(), scene.lab.folder().join("away.pem"));
    let began = std::time::Instant::now();
    fs::rename(&bundle, &away)?;
    held.wait_for_death(Duration::from_secs(10))?;
    let died = began.elapsed();
    assert!(
        died < tests::lab::patient(Duration::from_secs(1)),
        "{died:?}"
    );
    daemon.wait_for_event("its end", |e| {
        (e.event, e.reason.as_str()) == (EventKind::End, "unknown-domain")
    })?;
    assert_eq!(daemon.assurance("web")?, "kernel");
    store_is(web, address, Expect::Denied)?;
    // The certificate is as good as before when the bundle is back.
    fs::rename(&away, &bundle)?;
    daemon.wait_until("nobody is believed again", Duration::from_secs(10), || {
        Ok(identity.attest(web, SERVER, &[])?.status.success())
    })?;
    store_is(web, address, Expect::Open)?;
    Ok(())
}

#[test]
fn a_proof_ends_with_its_lease_and_outlives_the_daemon() -> Result<()> {
    let scene = scene()?;
    let front = &scene.shop.front;
    let web = &scene.shop.web.place;
    let store = front.place("/shop/store")?;
    let _server = store.serve(&[7000], &[])?;
    let address = scene.shop.web.ip(false);
    let mut daemon = scene.start_attesting(front)?;
    let identity = scene.pki.issue("web", &[])?;
    assert!(identity.attest(web, SERVER, &[])?.status.success());
    let mut held = web.hold((address, 7000).into(), 1, Some(Duration::from_millis(20)))?;
    std::thread::sleep(Duration::from_millis(600));

    daemon.kill()?;
    store_is(web, address, Expect::Open)?;
    daemon.launch()?;
    daemon.wait_ready()?;
    assert_eq!(daemon.assurance("web")?, "attested");
    store_is(web, address, Expect::Open)?;
    held.ensure_alive()?;

    // Renewed for a second, and not again.
    assert!(
        identity
            .attest(web, SERVER, &["--lease", "1s"])?
            .status
            .success()
    );
    held.wait_for_death(Duration::from_secs(15))?;
    daemon.wait_for_assurance("web", "kernel")?;
    store_is(web, address, Expect::Denied)?;

    // What ended while no daemon was there ends at its start.
    assert!(
        identity
            .attest(web, SERVER, &["--lease", "1s"])?
            .status
            .success()
    );
    daemon.kill()?;
    std::thread::sleep(Duration::from_millis(1_500));
    daemon.launch()?;
    daemon.wait_ready()?;
    assert_eq!(daemon.assurance("web")?, "kernel");
    store_is(web, address, Expect::Denied)?;
    Ok(())
}

#[test]
fn a_workload_behind_an_interface_proves_itself_by_its_link() -> Result<()> {
    let scene = scene()?;
    let shop = &scene.shop;
    let _servers = shop.serve()?;
    let daemon = scene.start_attesting(&shop.back)?;
    let db = |v6: bool, expect| {
        let place = &shop.api.place;
        place.expect(FlowProtocol::Tcp, shop.db.ip(v6), 5432, expect)
    };
    for v6 in [false, true] {
        db(v6, Expect::Denied)?;
    }
    let identity = scene.pki.issue("api", &[])?;
    let server = "10.77.2.2:9465";
    // From behind another link, and from another host.
    for from in [&shop.db.place, &shop.intruder.place] {
        let refused = identity.attest(from, server, &[])?;
        assert_eq!(refused.status.code(), Some(1), "{}: {refused:?}", from.name);
    }
    let proven = identity.attest(&shop.api.place, server, &[])?;
    assert!(proven.status.success(), "{proven:?}\n{}", daemon.log());
    assert_eq!(daemon.assurance("api")?, "attested");
    for v6 in [false, true] {
        db(v6, Expect::Open)?;
    }
    // Nobody else sends with its address: what db sends so is dropped at its own link.
    let hop = Hop::between((&shop.db_inside, "eth0"), (&shop.back.namespace, "veth-db"))?;
    let mark = b"-spoofed-";
    let frame = hop.udp(
        (shop.api.ip(false), 4000),
        (shop.intruder.ip(false), 7777),
        mark,
    );
    let sniffer = shop.intruder.place.sniff("eth0", mark)?;
    shop.db.place.send_frames("eth0", &[frame])?;
    daemon.wait_for_record(Duration::from_secs(5), |record| {
        record.reason == "source-guard"
    })?;
    assert!(sniffer.stop()?.is_empty());

    // Released by itself.
    let mut held = shop
        .api
        .place
        .hold((shop.db.ip(false), 5432).into(), 1, None)?;
    std::thread::sleep(Duration::from_millis(500));
    let (status, body) = identity.curl(
        &shop.api.place,
        "https://10.77.2.2:9465/v1/attest",
        &["--insecure", "-X", "DELETE"],
    )?;
    assert_eq!((status, body.as_str()), (200, "{\"ended\":true}"));
    held.wait_for_death(Duration::from_secs(10))?;
    db(false, Expect::Denied)?;
    Ok(())
}

/// Workloads at the ports of one bridge.
const BRIDGED: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: a, namespace: shop, labels: {app: a}}
spec:
  interface: port-a
  addresses: [10.80.0.11, 'fd80::b']
  spiffeId: spiffe://example.org/a
---
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: b, namespace: shop, labels: {app: b}}
spec: {interface: port-b, addresses: [10.80.0.12, 'fd80::c']}
---
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: b, namespace: shop}
spec:
  selector: {matchLabels: {app: b}}
  ingress:
    - name: proven
      from: [{labels: {app: a}, assurance: attested}]
      ports: [5432/tcp]
---
";

/// One more of them.
const PLUGGED: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: c, namespace: shop, labels: {app: c}}
spec: {interface: port-c, addresses: [10.80.0.13, 'fd80::d']}
";

#[test]
fn behind_a_bridge_a_proof_holds_while_every_port_is_guarded() -> Result<()> {
    let lab = Lab::new()?;
    let node = BridgedNode::build(&lab)?;
    let (a, b) = (node.connect(&lab, "a", 11)?, node.connect(&lab, "b", 12)?);
    let _server = b.party.place.serve(&[5432], &[])?;
    let pki = Pki::new(&lab, "pki")?;
    let tree = Tree::empty(&lab, "policies")?;
    tree.write("workloads.yaml", BRIDGED)?;
    tree.write("trust.yaml", &trust_domain(&pki.bundle(), &[]))?;
    let mut options = node.node.daemon_options(tree.path())?;
    options.extra = pki.daemon_flags("node")?;
    let mut daemon = Daemon::prepare(&lab, options)?;
    let log = daemon.flow_log_flags();
    daemon.options().extra.extend(log);
    daemon.launch()?;
    daemon.wait_ready()?;
    let identity = pki.issue("a", &[])?;
    let b_is = |expect| -> Result<()> {
        for v6 in [false, true] {
            let place = &a.party.place;
            place.expect(FlowProtocol::Tcp, b.party.ip(v6), 5432, expect)?;
        }
        Ok(())
    };
    b_is(Expect::Denied)?;
    // By the bridge's own address, and by that of the node's uplink, to which it routes.
    for server in ["10.80.0.1:9465", "10.81.0.1:9465"] {
        let stolen = identity.attest(&b.party.place, server, &[])?;
        assert_eq!(stolen.status.code(), Some(1), "{stolen:?}");
        let proven = identity.attest(&a.party.place, server, &[])?;
        assert!(proven.status.success(), "{proven:?}\n{}", daemon.log());
    }
    assert_eq!(daemon.refusals("attestation", "wrong-workload")?, 2);
    assert_eq!(daemon.assurance("a")?, "attested");
    b_is(Expect::Open)?;

    // Behind a port that is nobody's anybody could be, with any address: nothing is proven by
    // one then, and what was proven ends.
    let c = node.connect(&lab, "c", 13)?;
    daemon.wait_for_assurance("a", "kernel")?;
    daemon.wait_for_event("its end", |e| {
        (e.event, e.reason.as_str()) == (EventKind::End, "open-bridge")
    })?;
    b_is(Expect::Denied)?;
    let refused = identity.attest(&a.party.place, "10.80.0.1:9465", &[])?;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert_eq!(daemon.refusals("attestation", "open-bridge")?, 1);

    // Until that port is a workload's, too.
    tree.write("plugged.yaml", PLUGGED)?;
    daemon.wait_for_endpoint("c", true)?;
    let proven = identity.attest(&a.party.place, "10.80.0.1:9465", &[])?;
    assert!(proven.status.success(), "{proven:?}\n{}", daemon.log());
    b_is(Expect::Open)?;
    let mark = b"-as the proven one-";
    let hop = Hop::between((&c.inside, "eth0"), (&b.inside, "eth0"))?;
    let sniffer = b.party.place.sniff("eth0", mark)?;
    let forged = hop.udp((a.party.ip(false), 4000), (b.party.ip(false), 5432), mark);
    c.party.place.send_frames("eth0", &[forged])?;
    daemon.wait_for_record(Duration::from_secs(5), |record| {
        record.reason == "source-guard"
    })?;
    assert!(sniffer.stop()?.is_empty());

    // One more that is a workload's from the beginning ends nothing.
    let plugged = PLUGGED
        .replace("port-c", "port-d")
        .replace("name: c", "name: d");
    tree.write(
        "later.yaml",
        &plugged.replace("0.13", "0.14").replace("::d", "::e"),
    )?;
    daemon.apply()?;
    let _d = node.connect(&lab, "d", 14)?;
    daemon.wait_for_endpoint("d", true)?;
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(daemon.assurance("a")?, "attested");
    Ok(())
}

/// A connection that was made in one cgroup shows nothing when its process has gone into another:
/// neither of the one nor of the other.
#[test]
fn nobody_takes_a_socket_along_into_a_cgroup_that_proves() -> Result<()> {
    let scene = scene()?;
    let front = &scene.shop.front;
    let web = &scene.shop.web.place;
    let thief = front.place("/shop/thief")?;
    let daemon = scene.start_attesting(front)?;
    let identity = scene.pki.issue("web", &[])?;
    let mut client = thief.command("openssl")?;
    client
        .args(["s_client", "-connect", SERVER, "-quiet", "-cert"])
        .arg(&identity.certificate)
        .arg("-key")
        .arg(&identity.key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut client = client.spawn()?;
    let mut input = client.stdin.take().context("no stdin")?;
    let mut output = client.stdout.take().context("no stdout")?;
    // The connection is there, and stays.
    input.write_all(b"GET /v1/whoami HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let mut said = Vec::new();
    while !said.ends_with(b"}") {
        let mut byte = [0];
        output.read_exact(&mut byte)?;
        said.push(byte[0]);
    }
    fs::write(web.cgroup().join("cgroup.procs"), client.id().to_string())?;
    input.write_all(b"POST /v1/attest HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut said = String::new();
    output.read_to_string(&mut said)?;
    client.wait()?;
    assert!(said.contains("HTTP/1.1 403"), "{said}");
    assert_eq!(daemon.refusals("attestation", "moved")?, 1);
    assert_eq!(daemon.assurance("web")?, "kernel");

    // Going there at all takes the right to write the cgroup's own file.
    let procs = web.cgroup().join("cgroup.procs");
    let enter = format!("echo $$ >{}", procs.display());
    let mut intruder = thief.command("setpriv")?;
    let output = intruder
        .args([
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "sh",
            "-c",
            &enter,
        ])
        .output()?;
    assert!(!output.status.success(), "{output:?}");
    Ok(())
}

#[test]
fn whoever_moves_to_another_cgroup_takes_no_proof_along() -> Result<()> {
    let scene = scene()?;
    let front = &scene.shop.front;
    let web = &scene.shop.web.place;
    let thief = front.place("/shop/thief")?;
    let _server = front.place("/shop/store")?.serve(&[7000], &[])?;
    let address = scene.shop.web.ip(false);
    let daemon = scene.start_attesting(front)?;
    let identity = scene.pki.issue("web", &[])?;
    // The long-running one proves, and is moved.
    let mut agent = identity.attest_command(web, SERVER)?.spawn()?;
    daemon.wait_for_assurance("web", "attested")?;
    store_is(web, address, Expect::Open)?;
    fs::write(thief.cgroup().join("cgroup.procs"), agent.id().to_string())?;
    daemon.wait_for_assurance("web", "kernel")?;
    store_is(web, address, Expect::Denied)?;
    store_is(&thief, address, Expect::Denied)?;
    agent.kill()?;
    agent.wait()?;

    // One that proves and ends leaves its proof to the cgroup: that is what is judged.
    let (status, body) = identity.curl(web, URL, &["-X", "POST"])?;
    assert_eq!(status, 200, "{body}");
    store_is(web, address, Expect::Open)?;
    store_is(&thief, address, Expect::Denied)?;
    // Another cgroup under the same name is another place.
    std::thread::sleep(Duration::from_millis(300));
    tests::lab::cgroup::kill_all(web.cgroup())?;
    tests::lab::cgroup::remove(web.cgroup())?;
    tests::lab::cgroup::make(web.cgroup())?;
    daemon.wait_for_assurance("web", "kernel")?;
    let anew = front.place("/shop/web")?;
    store_is(&anew, address, Expect::Denied)?;
    Ok(())
}
