//! The arrows of `graph` are what the reference model says that rules allow, and nothing else.
//!
//! `ENFORCER_CASES` sets the number of trees tried.

use std::net::IpAddr;

use enforcer::{
    policy::model::{Mode, ResolvedPolicy},
    tools::{
        graph::{EdgeState, Graph, Wanted, graph},
        parties::{self, GroupKind},
        tree::Tree,
    },
};
use enforcer_common::Direction;
use ipnet::IpNet;
use proptest::{collection::vec, prelude::*};
use tests::{
    generate::{self, Scenario},
    model::{ModelAction, ModelCause, RawEndpoint, RawFlow, RawPeer, World},
};

/// Flows asked about for each tree.
const FLOWS: usize = 60;

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

/// Index of the workload that an address belongs to.
fn owner(policy: &ResolvedPolicy, address: IpAddr) -> Option<usize> {
    let claims = policy.workloads.iter().enumerate().flat_map(|(i, w)| {
        let claims = w.addresses.iter().filter(move |c| c.contains(&address));
        claims.map(move |c| (std::cmp::Reverse(c.prefix_len()), &w.namespace, &w.name, i))
    });
    claims.min().map(|(.., i)| i)
}

/// Whether both sides let a flow pass, and a rule of at least one says so.
fn by_model(scenario: &Scenario, flow: &Flow) -> bool {
    let world = World {
        mode: Mode::Enforce,
        host_addresses: &[],
        ..scenario.world()
    };
    let sides = [
        (flow.from, Direction::Egress, flow.to),
        (flow.to, Direction::Ingress, flow.from),
    ];
    let mut by_rule = false;
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
        if verdict.action != ModelAction::Allow {
            return false;
        }
        by_rule |= matches!(verdict.cause, ModelCause::Rule(_));
    }
    by_rule
}

/// The group that an address is in.
fn group_of<'g>(groups: &'g [parties::Group], tree: &Tree, address: IpAddr) -> &'g parties::Group {
    let around = tree.networks().filter(|network| network.contains(&address));
    let network = around.max_by_key(IpNet::prefix_len);
    let group = groups.iter().find(|group| match network {
        Some(network) => group.networks.contains(&network),
        None => group.kind == GroupKind::World,
    });
    group.unwrap_or_else(|| panic!("{address} is in no group"))
}

/// Whether the picture says that one may use this at the other.
fn is_drawn(graph: &Graph, from: &str, to: &str, flow: &Flow) -> bool {
    let node = graph.nodes.iter().find(|node| node.name == to);
    if node.is_some_and(|node| *node.everybody_may.at(flow.protocol, flow.port)) {
        return true;
    }
    graph.edges.iter().any(|edge| {
        assert_eq!(edge.state, EdgeState::Allowed);
        let names = (&*graph.nodes[edge.from].name, &*graph.nodes[edge.to].name);
        names == (from, to)
            && edge.stretches.iter().any(|service| match service.protocol {
                None => !edge.besides.contains(&flow.protocol),
                Some(protocol) => {
                    protocol == flow.protocol && (service.first..=service.last).contains(&flow.port)
                }
            })
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: generate::cases(1000),
        max_shrink_iters: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn arrows_are_what_rules_allow(
        scenario in generate::scenario(0),
        flows in vec(flow(), FLOWS..=FLOWS),
    ) {
        let wanted = Wanted { policy: true, flows: false };
        let drawn = graph(&scenario.policy, Mode::Enforce, scenario.now, None, wanted)
            .expect("nothing is too large");
        let tree = Tree::new(scenario.policy.clone(), Mode::Enforce, scenario.now, &[])
            .expect("nothing is too large");
        let groups = parties::groups(&[&tree]);
        for flow in &flows {
            let [from, to] = [flow.from, flow.to].map(|address| group_of(&groups, &tree, address));
            // What is within a group is not drawn.
            if from.plain_name == to.plain_name || !from.can_open_to(to) {
                continue;
            }
            let expected = by_model(&scenario, flow);
            let found = is_drawn(&drawn, &from.plain_name, &to.plain_name, flow);
            // A node stands for all faces of its workloads: what only another face may is drawn
            // too.
            let faces = |name: &str| groups.iter().filter(|g| g.plain_name == name).count();
            let is_one = faces(&from.plain_name) == 1 && faces(&to.plain_name) == 1;
            prop_assert!(
                found == expected || (!is_one && found),
                "{flow:?} {} -> {}: {expected} by the model, drawn {found}",
                from.name,
                to.name
            );
        }
    }
}
