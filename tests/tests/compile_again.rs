//! A compiler that remembers the last tree makes the same of the next one as one that does not:
//! the same image, byte for byte, and the same numbers given out.

use std::sync::Arc;

use enforcer::{
    compile::{
        Compiler, Image, Inputs, Limits, Numbers, Subjects, compile,
        elsewhere::{Announced, Elsewhere, NodePeers, Reached, Service, ServiceAddress},
        image::{IdentitySubject, WorkloadName},
    },
    policy::model::{Assurance, Origin, RemoteHost, Workload},
};
use proptest::{collection::vec, prelude::*, sample::Index};
use tests::generate::{self, Scenario};

/// Brings a policy of another tree in, under a name of its own.
fn add_policy(scenario: &mut Scenario, other: &Scenario, which: Index, name: String) {
    let others = &other.policy.policies;
    if others.is_empty() {
        return;
    }
    let mut policy = others[which.index(others.len())].clone();
    Arc::make_mut(&mut policy).name = name;
    let policies = &mut scenario.policy.policies;
    policies.push(policy);
    policies.sort_by(|a, b| a.rank().cmp(&b.rank()));
}

/// Nodes that publish the workloads of another tree, in two forms each: with all of them, and
/// with every other one. Half of the workloads share an address with their host.
fn nodes(other: &Scenario) -> Vec<[Arc<NodePeers>; 2]> {
    let published: Vec<Arc<Workload>> = (other.policy.workloads.iter())
        .map(|workload| {
            let single = |net: &&ipnet::IpNet| net.prefix_len() == net.max_prefix_len();
            Arc::new(Workload {
                addresses: workload.addresses.iter().filter(single).copied().collect(),
                assurance: Assurance::Orchestrator,
                place: None,
                ..(**workload).clone()
            })
        })
        .collect();
    let host = |index: usize| {
        let addresses = other.host_addresses.iter().skip(index).take(1);
        Arc::new(RemoteHost {
            name: format!("node-{index}"),
            origin: Origin {
                file: "node".into(),
                line: 1,
                column: 1,
            },
            labels: [("node".to_owned(), index.to_string())].into(),
            addresses: addresses.map(|address| (*address).into()).collect(),
        })
    };
    let per_node = published.len().div_ceil(3).max(1);
    let nodes = published.chunks(per_node).enumerate();
    let nodes = nodes.map(|(index, workloads)| {
        let host = host(index);
        [1, 2].map(|step| {
            let kept = workloads.iter().step_by(step);
            let shared = kept.clone().flat_map(|workload| {
                let addresses = host.addresses.iter();
                addresses.map(|address| Service {
                    at: ServiceAddress {
                        address: address.addr(),
                        protocol: 6,
                        port: u16::try_from(workload.name.len()).unwrap_or(0),
                    },
                    workload: Arc::clone(workload),
                })
            });
            Arc::new(NodePeers {
                name: host.name.clone(),
                host: Arc::clone(&host),
                workloads: kept.clone().cloned().collect(),
                services: shared.collect(),
                sharing: Arc::new(
                    (kept.clone().step_by(2))
                        .map(|workload| IdentitySubject::of(workload).without_ports())
                        .collect(),
                ),
            })
        })
    });
    nodes.collect()
}

/// What others know of this node: some workloads by some ports, some by their addresses.
fn announced(scenario: &Scenario, choice: usize) -> Announced {
    let some = scenario.policy.workloads.iter().enumerate();
    let some = some.filter(|(index, _)| !(index + choice).is_multiple_of(3));
    let reached = some.map(|(index, workload)| {
        let name = WorkloadName {
            namespace: workload.namespace.clone(),
            name: workload.name.clone(),
        };
        let reached = if (index + choice) % 3 > 1 {
            Reached::ByAddress
        } else {
            let ports = scenario.flows.iter().map(|flow| (flow.protocol, flow.port));
            Reached::ByPort(ports.collect())
        };
        (name, reached)
    });
    Announced(reached.collect())
}

/// Some of the nodes, each in one of its forms.
fn elsewhere(nodes: &[[Arc<NodePeers>; 2]], scenario: &Scenario, choice: usize) -> Elsewhere {
    let chosen =
        nodes
            .iter()
            .enumerate()
            .filter_map(|(index, forms)| match choice >> (2 * index) & 3 {
                0 => None,
                form => Some(Arc::clone(&forms[form % 2])),
            });
    Elsewhere {
        nodes: chosen.collect(),
        own: (!choice.is_multiple_of(5)).then(|| Arc::new(announced(scenario, choice))),
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: generate::cases(2000) / 2 + 1,
        max_shrink_iters: 500,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_is_remembered_changes_nothing(
        first in generate::scenario(4),
        other in generate::scenario(0),
        steps in vec((generate::edit(), any::<Option<Index>>(), 0_u8..8, 0_usize..64), 2..10),
        subjects in prop_oneof![Just(Subjects::Placed), Just(Subjects::All)],
    ) {
        let mut scenario = first;
        let mut compiler = Compiler::default();
        let (mut remembering, mut forgetting) = (Numbers::default(), Numbers::default());
        let mut image: Option<Image> = None;
        let nodes = nodes(&other);
        for (step, (edit, added, chance, choice)) in steps.iter().enumerate() {
            scenario = edit.apply(&scenario);
            if let Some(which) = added {
                add_policy(&mut scenario, &other, *which, format!("p{chance}-{step}"));
            }
            // Sometimes it does not fit.
            let limits = match chance {
                0 => Limits { policies: 3, ..Limits::NONE },
                1..4 => Limits::NONE,
                _ => Limits { moments: 2, ..Limits::NONE },
            };
            let elsewhere = elsewhere(&nodes, &scenario, *choice);
            let inputs = Inputs {
                policy: &scenario.policy,
                mode: scenario.mode,
                now: scenario.now,
                host_addresses: &scenario.host_addresses,
                elsewhere: &elsewhere,
                attested: enforcer::compile::NOBODY,
                subjects,
                limits: &limits,
                in_force: image.as_ref(),
            };
            let again = compiler.compile(&inputs, &mut remembering);
            let afresh = compile(&inputs, &mut forgetting);
            prop_assert_eq!(&again, &afresh);
            if let Ok(new) = again {
                image = Some(new);
            }
            if let (1, Some(image)) = (chance, &image) {
                prop_assert_eq!(remembering.retire(image), forgetting.retire(image));
            }
            prop_assert_eq!(
                serde_json::to_string(&remembering).expect("JSON"),
                serde_json::to_string(&forgetting).expect("JSON")
            );
        }
    }
}
