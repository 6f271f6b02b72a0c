//! Imported policies give the verdicts that Cilium and Calico give: random policies are judged by
//! small naive evaluators of their semantics, written here from their documentation, and, once
//! imported, by the reference model.
//!
//! `ENFORCER_CASES` sets the number of trees tried.

mod calico;
mod cilium;

use std::{collections::BTreeMap, fmt::Write, net::IpAddr, sync::Arc};

use enforcer::{
    policy::{
        SourceFile, load_text,
        model::{Mode, Moment, ResolvedPolicy},
    },
    tools::import::{Import, Settings, import},
};
use enforcer_common::Direction;
use proptest::prelude::*;
use tests::model::{ModelAction, RawEndpoint, RawFlow, RawPeer, World};

/// A pod of the little cluster in which all is judged.
struct Pod {
    namespace: &'static str,
    labels: BTreeMap<&'static str, &'static str>,
    account: &'static str,
    address: IpAddr,
}

/// Address of the host.
const HOST: &str = "10.0.0.1";
/// Addresses of nobody.
const WORLD: [&str; 4] = ["192.0.2.1", "192.0.2.77", "10.9.0.1", "2001:db8::1"];
/// Networks of pods and hosts.
const CLUSTER: [&str; 2] = ["10.244.0.0/16", "10.0.0.1/32"];

const NAMESPACES: [&str; 2] = ["a", "b"];

fn pods() -> Vec<Pod> {
    let mut pods = Vec::new();
    for namespace in NAMESPACES {
        for app in [None, Some("x"), Some("y")] {
            for tier in [None, Some("1")] {
                let mut labels = BTreeMap::new();
                labels.extend(app.map(|app| ("app", app)));
                labels.extend(tier.map(|tier| ("tier", tier)));
                let number = pods.len() + 1;
                pods.push(Pod {
                    namespace,
                    labels,
                    account: if tier.is_some() { "runner" } else { "default" },
                    address: format!("10.244.0.{number}").parse().expect("an address"),
                });
            }
        }
    }
    pods
}

/// The pods as documents of ours.
fn workloads(pods: &[Pod]) -> String {
    let mut text = String::new();
    for (number, pod) in pods.iter().enumerate() {
        let labels: Vec<_> = pod
            .labels
            .iter()
            .map(|(k, v)| format!("{k}: '{v}'"))
            .collect();
        writeln!(
            text,
            "---\napiVersion: enforcer.dev/v1alpha1\nkind: Workload\n\
             metadata: {{name: p{number}, namespace: {}, labels: {{{}}}}}\n\
             spec: {{serviceAccount: {}, interface: i{number}, addresses: [{}]}}",
            pod.namespace,
            labels.join(", "),
            pod.account,
            pod.address,
        )
        .expect("a string");
    }
    text
}

/// The other side of a flow.
#[derive(Clone, Copy)]
enum Other<'p> {
    Pod(&'p Pod),
    Host,
    World(IpAddr),
}

/// A flow at a pod's side.
struct Flow<'p> {
    pod: &'p Pod,
    direction: Direction,
    other: Other<'p>,
    protocol: u8,
    port: u16,
}

impl Flow<'_> {
    fn address(&self) -> IpAddr {
        match self.other {
            Other::Pod(pod) => pod.address,
            Other::Host => HOST.parse().expect("an address"),
            Other::World(address) => address,
        }
    }
}

/// Ports that policies speak of, and some between.
const SERVICES: [(u8, u16); 8] = [
    (6, 1),
    (6, 5),
    (6, 6),
    (6, 10),
    (17, 5),
    (17, 53),
    (132, 5),
    (1, 0x0800),
];

fn imported(text: &str) -> Import {
    let file = Arc::new(SourceFile::new("given.yaml", text));
    let settings = Settings {
        cluster_networks: CLUSTER.map(|text| text.parse().expect("a network")).into(),
    };
    import(&[file], &settings).unwrap_or_else(|e| panic!("{}\n{text}", e.render(false)))
}

/// The imported tree, with the pods.
fn tree(import: &Import, pods: &[Pod]) -> ResolvedPolicy {
    let text = format!("{}{}", import.yaml, workloads(pods));
    load_text("imported.yaml", &text).unwrap_or_else(|e| panic!("{}\n{text}", e.render(false)))
}

/// Compares every flow of the cluster. `whole`: verdicts must be the same; otherwise something
/// that was allowed may be denied.
fn compare(
    import: &Import,
    whole: bool,
    mut original: impl FnMut(&Flow<'_>) -> bool,
) -> Result<(), TestCaseError> {
    let pods = pods();
    let policy = tree(import, &pods);
    let hosts = [HOST.parse().expect("an address")];
    let world = World {
        policy: &policy,
        mode: Mode::Enforce,
        now: Moment::default(),
        host_addresses: &hosts,
    };
    let others: Vec<_> = pods
        .iter()
        .map(Other::Pod)
        .chain([Other::Host])
        .chain(WORLD.map(|text| Other::World(text.parse().expect("an address"))))
        .collect();
    for pod in &pods {
        let index = policy
            .workloads
            .iter()
            .position(|workload| workload.addresses[0].addr() == pod.address);
        let index = index.expect("the pod is there");
        for direction in [Direction::Egress, Direction::Ingress] {
            for &other in &others {
                for (protocol, port) in SERVICES {
                    let flow = Flow {
                        pod,
                        direction,
                        other,
                        protocol,
                        port,
                    };
                    let raw = RawFlow {
                        endpoint: RawEndpoint::Workload(index),
                        direction,
                        peer: RawPeer::Address(flow.address()),
                        protocol,
                        port,
                    };
                    let expected = original(&flow);
                    let found = world.judge(&raw).action == ModelAction::Allow;
                    let good = found == expected || (!whole && expected);
                    prop_assert!(
                        good,
                        "{:?} of {} ({:?}) with {} on {protocol}/{port}: {expected} there, {found} here\n{}",
                        direction,
                        pod.address,
                        pod.labels,
                        flow.address(),
                        import.yaml
                    );
                }
            }
        }
    }
    Ok(())
}
