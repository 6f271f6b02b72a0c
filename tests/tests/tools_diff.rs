//! `diff` finds what the reference model says differs between two trees, and nothing else.
//!
//! `ENFORCER_CASES` sets the number of pairs of trees tried.

use std::net::IpAddr;

use enforcer::{
    policy::model::{Mode, ResolvedPolicy},
    tools::{
        diff::{ChangeKind, Difference, diff},
        parties::{self, GroupKind},
        tree::Tree,
    },
};
use enforcer_common::Direction;
use ipnet::IpNet;
use proptest::{collection::vec, prelude::*};
use tests::{
    generate::{self, Edit, Scenario},
    model::{ModelAction, RawEndpoint, RawFlow, RawPeer, World},
};

/// Flows asked about for each pair of trees.
const FLOWS: usize = 24;

/// A flow between two addresses.
#[derive(Clone, Debug)]
struct Flow {
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    port: u16,
}

fn flow() -> impl Strategy<Value = Flow> {
    let service = generate::flow_seed().prop_map(|seed| {
        let flow = seed.flow(&ResolvedPolicy::default());
        (flow.protocol, flow.port)
    });
    (generate::address(), generate::address(), service).prop_map(|(from, to, (protocol, port))| {
        Flow {
            from,
            to,
            protocol,
            port,
        }
    })
}

/// Index of the workload that an address belongs to: the longest network that declares it,
/// then the first name.
fn owner(policy: &ResolvedPolicy, address: IpAddr) -> Option<usize> {
    let claims = policy
        .workloads
        .iter()
        .enumerate()
        .flat_map(|(i, workload)| {
            let claims = workload
                .addresses
                .iter()
                .filter(move |c| c.contains(&address));
            claims.map(move |c| {
                (
                    std::cmp::Reverse(c.prefix_len()),
                    &workload.namespace,
                    &workload.name,
                    i,
                )
            })
        });
    claims.min().map(|(.., i)| i)
}

/// What becomes of a flow, by the model: the worse of both sides.
fn by_model(scenario: &Scenario, mode: Mode, flow: &Flow) -> ModelAction {
    let world = World {
        mode,
        host_addresses: &[],
        ..scenario.world()
    };
    let sides = [
        (flow.from, Direction::Egress, flow.to),
        (flow.to, Direction::Ingress, flow.from),
    ];
    let mut worst = ModelAction::Allow;
    for (endpoint, direction, peer) in sides {
        let Some(index) = owner(&scenario.policy, endpoint) else {
            continue;
        };
        let verdict = world.judge(&RawFlow {
            endpoint: RawEndpoint::Workload(index),
            direction,
            peer: RawPeer::Address(peer),
            protocol: flow.protocol,
            port: flow.port,
        });
        worst = match (worst, verdict.action) {
            (ModelAction::Deny, _) | (_, ModelAction::Deny) => ModelAction::Deny,
            (ModelAction::Audit, _) | (_, ModelAction::Audit) => ModelAction::Audit,
            _ => ModelAction::Allow,
        };
    }
    worst
}

fn tree(scenario: &Scenario) -> Tree {
    Tree::new(scenario.policy.clone(), Mode::Enforce, scenario.now, &[])
        .expect("nothing is too large")
}

/// The longest network of both trees that has the address.
fn known_as(trees: [&Tree; 2], address: IpAddr) -> Option<IpNet> {
    let networks = trees.into_iter().flat_map(Tree::networks);
    let around = networks.filter(|network| network.contains(&address));
    around.max_by_key(IpNet::prefix_len)
}

/// The name of the group that an address is in.
fn group_of(groups: &[parties::Group], trees: [&Tree; 2], address: IpAddr) -> String {
    let network = known_as(trees, address);
    let group = groups.iter().find(|group| match network {
        Some(network) => group.networks.contains(&network),
        None => group.kind == GroupKind::World,
    });
    let group = group.unwrap_or_else(|| panic!("{address} ({network:?}) is in no group"));
    group.name.clone()
}

/// What the difference says of a pair and service.
fn told(difference: &Difference, from: &str, to: &str, flow: &Flow) -> Option<ChangeKind> {
    let changes = difference
        .changes
        .iter()
        .filter(|c| c.from == from && c.to == to);
    let mut found = changes.filter(|change| {
        change
            .stretches
            .iter()
            .any(|service| match service.protocol {
                None => !change.besides.contains(&flow.protocol),
                Some(protocol) => {
                    protocol == flow.protocol && (service.first..=service.last).contains(&flow.port)
                }
            })
    });
    let first = found.next();
    assert!(
        found.next().is_none(),
        "told twice: {flow:?} {from} -> {to}"
    );
    first.map(|change| change.change)
}

/// What becomes of a tree.
#[derive(Clone, Debug)]
enum Change {
    Edits(Vec<Edit>),
    WhollyOther(Box<Scenario>),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        7 => vec(generate::edit(), 1..4).prop_map(Change::Edits),
        3 => generate::scenario(0).prop_map(|other| Change::WhollyOther(Box::new(other))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        // Two trees each.
        cases: generate::cases(10_000) / 2 + 1,
        max_shrink_iters: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_differs_is_told(
        old in generate::scenario(0),
        change in change(),
        flows in vec(flow(), FLOWS..=FLOWS),
    ) {
        let new = match change {
            Change::WhollyOther(other) => *other,
            Change::Edits(edits) => {
                edits.iter().fold(old.clone(), |scenario, edit| edit.apply(&scenario))
            }
        };
        let (before, after) = (tree(&old), tree(&new));
        let difference = diff(&before, &after);
        let trees = [&before, &after];
        let groups = parties::groups(&trees);
        for flow in &flows {
            let from = group_of(&groups, trees, flow.from);
            let to = group_of(&groups, trees, flow.to);
            let group = |name: &str| groups.iter().find(|g| g.name == name).expect("a group");
            let (opens, serves) = (group(&from), group(&to));
            if opens.has_endpoint() && !opens.can_open_to(serves) {
                // One workload, which has no other of its kind to talk to.
                prop_assert_eq!(&opens.workloads, &serves.workloads);
                continue;
            }
            let [a, b] = [&old, &new].map(|scenario| by_model(scenario, Mode::Enforce, flow));
            let expected = match (a, b) {
                (a, b) if a == b => None,
                (_, ModelAction::Allow) => Some(ChangeKind::Gained),
                (ModelAction::Allow, _) => Some(ChangeKind::Lost),
                _ => Some(ChangeKind::Changed),
            };
            prop_assert_eq!(told(&difference, &from, &to, flow), expected, "{:?} {} -> {}", flow, from, to);
        }
        // Of every tenth tree, as it costs as much as all the rest.
        if flows[0].port % 10 == 0 {
            prop_assert!(diff(&after, &after).is_empty());
        }
    }
}
