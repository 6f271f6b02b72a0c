//! A fleet: from a node's publishing a change to its enforcement on another host, through a real
//! etcd, and what a node costs.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, ensure};
use enforcer::{
    policy::model::{Assurance, Labels},
    registry::{
        Registry,
        etcd::EtcdRegistry,
        node_identity::NodeIdentity,
        record::{NodeRecord, PublishedWorkload},
        signed::{milliseconds, sign},
    },
};

use super::{Options, change::kilobytes, figure::PlainFigure, progress};
use crate::lab::{
    Daemon, Lab, Namespace, Place, Tree,
    fleet::{Fleet, of_files, status},
    namespace::{End, cable},
    shop::Host,
};

const NODES: usize = 1_000;
const WORKLOADS: usize = 100;
/// Changes that are timed.
const SAMPLES: usize = 200;
/// Longer than the benchmark takes.
const LEASE: Duration = Duration::from_hours(1);
/// How long the fleet may take to be known, and a change to be enforced.
const PATIENCE: Duration = Duration::from_mins(5);
const PORT: u16 = 7_777;

const TREE: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: work, labels: {app: work}}
spec: {interface: veth-work, addresses: [10.98.0.2]}
---
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: work}
spec:
  selector: {matchLabels: {app: work}}
  egress: [{to: [{labels: {state: open}}]}]
";

/// Measures.
pub fn measure(_: &Options) -> Result<Vec<PlainFigure>> {
    progress(&format!(
        "a fleet of {NODES} nodes with {WORKLOADS} workloads each"
    ));
    let lab = Lab::new()?;
    let host = lab.namespace("host")?;
    let (work, far) = (lab.namespace("work")?, lab.namespace("far")?);
    link(&host, "veth-work", &work, 98)?;
    link(&host, "veth-far", &far, 97)?;
    host.forward()?;
    work.ip(&["route add default via 10.98.0.1"])?;
    // Every workload of the fleet is there.
    host.ip(&["route add 10.128.0.0/9 via 10.97.0.2"])?;
    far.ip(&[
        "addr add 10.128.0.1/9 dev lo",
        "route add default via 10.97.0.1",
    ])?;
    let place = Place::new("etcd", &host, lab.cgroup("etcd")?)?;
    let fleet = Fleet::at(&lab, place, Ipv4Addr::LOCALHOST.into(), 3)?;
    let mut nodes = Vec::new();
    for number in 0..NODES {
        let mut node = Node::new(&fleet, number)?;
        let bytes = node.sign()?;
        let registry = node.registry(&fleet)?;
        fleet.wait_on(async move { registry.publish(bytes).await })?;
        nodes.push(node);
    }
    let cgroup_root = lab.cgroup("host")?;
    let bench = Host {
        name: "bench",
        namespace: host.clone(),
        cgroup_root,
        addresses: (Ipv4Addr::new(10, 98, 0, 1), Ipv6Addr::LOCALHOST),
    };
    let tree = Tree::empty(&lab, "policies")?;
    tree.write("tree.yaml", TREE)?;
    let mut daemon = fleet.daemon(&lab, &bench, &tree, &["--metrics", "off"])?;
    daemon.options().uplinks = vec!["none".to_owned()];
    let started = Instant::now();
    daemon.launch()?;
    daemon.wait_ready()?;
    while status(&daemon)?.workloads < NODES * WORKLOADS {
        ensure!(started.elapsed() < PATIENCE, "the fleet does not get known");
        thread::sleep(Duration::from_millis(50));
    }
    let known = started.elapsed();
    let mut lags = lags(&fleet, &mut nodes, &work, &far)?;
    lags.sort_by(f64::total_cmp);
    let at = |share: usize| lags[(lags.len() * share / 100).min(lags.len() - 1)];
    let bytes: usize = nodes.iter().map(|node| node.bytes).sum();
    let pid = daemon.pid()?;
    let figures = vec![
        figure(
            "daemon started to all nodes known",
            "ms",
            known.as_secs_f64() * 1e3,
        ),
        figure("publish to enforced elsewhere, p50", "ms", at(50)),
        figure("publish to enforced elsewhere, p99", "ms", at(99)),
        figure("record of a node", "bytes", bytes as f64 / NODES as f64),
        figure(
            "daemon memory (RSS)",
            "MiB",
            kilobytes(pid, "VmRSS:")? / 1024.0,
        ),
        figure(
            "daemon memory for each node of the fleet",
            "KiB",
            (kilobytes(pid, "VmRSS:")? - alone(&lab, &bench, &tree)?) / NODES as f64,
        ),
    ];
    daemon.stop()?;
    daemon.detach()?;
    Ok(figures)
}

/// Opens one workload of the fleet after the other, and times each.
fn lags(fleet: &Fleet, nodes: &mut [Node], work: &Namespace, far: &Namespace) -> Result<Vec<f64>> {
    let receiver = far.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)))??;
    receiver.set_nonblocking(true)?;
    let sender = work.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    let mut lags = Vec::new();
    for sample in 0..SAMPLES {
        let node = &mut nodes[sample * (NODES / SAMPLES)];
        let address = SocketAddr::from((node.address(0), PORT));
        let arrived = || {
            let _ = sender.send_to(b"now?", address);
            receiver.recv(&mut [0; 8]).is_ok()
        };
        ensure!(!arrived(), "{address} is open before anybody says so");
        let registry = node.registry(fleet)?;
        // Connected, and with its lease.
        let bytes = node.sign()?;
        let connected = Arc::clone(&registry);
        fleet.wait_on(async move { connected.publish(bytes).await })?;
        thread::sleep(Duration::from_millis(100));
        node.record.workloads[0]
            .labels
            .insert("state".to_owned(), "open".to_owned());
        let start = Instant::now();
        let bytes = node.sign()?;
        fleet.wait_on(async move { registry.publish(bytes).await })?;
        while !arrived() {
            ensure!(start.elapsed() < PATIENCE, "{address} does not open");
            thread::sleep(Duration::from_micros(500));
        }
        lags.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(lags)
}

/// Memory in KiB of a daemon that is part of no fleet.
fn alone(lab: &Lab, host: &Host, tree: &Tree) -> Result<f64> {
    let other = lab.namespace("alone")?;
    let mut options = host.daemon_options(tree.path())?;
    "alone".clone_into(&mut options.name);
    options.place = Place::new("alone", &other, lab.cgroup("alone")?)?;
    options.uplinks = vec!["none".to_owned()];
    options.cgroup_root = lab.cgroup("nothing")?;
    options.extra = vec!["--metrics".to_owned(), "off".to_owned()];
    let mut alone = Daemon::start(lab, options)?;
    let memory = kilobytes(alone.pid()?, "VmRSS:")?;
    alone.stop()?;
    alone.detach()?;
    Ok(memory)
}

/// A simulated node.
struct Node {
    number: usize,
    record: NodeRecord,
    identity: enforcer::registry::node_identity::FileIdentity,
    bytes: usize,
}

impl Node {
    fn new(fleet: &Fleet, number: usize) -> Result<Self> {
        let name = format!("node-{number:04}");
        let mut node = Self {
            number,
            record: NodeRecord {
                node: name.clone(),
                sequence: 0,
                issued: 0,
                expires: 0,
                addresses: vec![[10, 64, byte(number / 250), byte(number % 250 + 1)].into()],
                labels: Labels::new(),
                enforces: true,
                workloads: Vec::new(),
            },
            identity: of_files(fleet.svid(&name)?),
            bytes: 0,
        };
        let labels = |workload: usize| -> Labels {
            // As in a cluster of ten teams with a hundred apps each.
            let pairs = [
                ("app", format!("app-{}", (number * 7 + workload) % 1_000)),
                ("team", format!("team-{}", (number + workload) % 10)),
                ("tier", ["front", "middle", "back"][workload % 3].to_owned()),
            ];
            pairs.map(|(key, value)| (key.to_owned(), value)).into()
        };
        let workloads = (0..WORKLOADS).map(|workload| PublishedWorkload {
            namespace: format!("team-{}", workload % 10),
            name: format!("app-{number:04}-{workload:02}"),
            labels: labels(workload),
            spiffe_id: None,
            service_account: None,
            unit: None,
            ports: [].into(),
            assurance: Assurance::Kernel,
            addresses: vec![node.address(workload)],
            listens: Vec::new(),
        });
        node.record.workloads = workloads.collect();
        Ok(node)
    }

    /// Its number in the upper bits of a 10.128.0.0/9.
    fn address(&self, workload: usize) -> IpAddr {
        let below = u32::try_from(self.number * 256 + workload + 1).unwrap_or(0);
        Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 1)) + below).into()
    }

    fn sign(&mut self) -> Result<Vec<u8>> {
        let svid = self.identity.svid().context("the identity of a node")?;
        let now = milliseconds(SystemTime::now());
        self.record.sequence += 1;
        self.record.issued = now;
        self.record.expires = now + 3_600_000;
        let bytes = sign(&self.record, &svid)?;
        self.bytes = bytes.len();
        Ok(bytes)
    }

    fn registry(&self, fleet: &Fleet) -> Result<Arc<EtcdRegistry>> {
        let settings = fleet.etcd_settings("bench")?;
        Ok(EtcdRegistry::new(settings, &self.record.node, LEASE))
    }
}

fn byte(number: usize) -> u8 {
    u8::try_from(number).unwrap_or(0)
}

pub(super) fn link(host: &Namespace, name: &str, other: &Namespace, net: u8) -> Result<()> {
    let v6 = |end| Ipv6Addr::new(0xfd98, net.into(), 0, 0, 0, 0, 0, end);
    cable(
        &End {
            namespace: host,
            link: name,
            v4: Ipv4Addr::new(10, net, 0, 1),
            v6: v6(1),
        },
        &End {
            namespace: other,
            link: "eth0",
            v4: Ipv4Addr::new(10, net, 0, 2),
            v6: v6(2),
        },
    )
}

fn figure(what: &str, unit: &str, ours: f64) -> PlainFigure {
    PlainFigure {
        what: what.to_owned(),
        rules: 1,
        unit: unit.to_owned(),
        ours,
        nftables: None,
        target: None,
    }
}
