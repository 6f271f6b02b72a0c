//! Random policy trees.

use std::{net::IpAddr, sync::Arc};

use enforcer::policy::model::{
    Blocked, Fallback, LabelSelector, Labels, Mode, NodeSettings, Origin, Peer, Place, Policy,
    PortMatch, ResolvedPolicy, Rule, RuleAction, Subject, Tier, Workload,
};
use enforcer_common::flow_key::icmp_port;
use ipnet::IpNet;
use proptest::{
    collection::{btree_map, vec},
    option,
    prelude::*,
    sample::select,
};

/// A random tree: up to 6 workloads and 6 policies.
pub fn policy() -> impl Strategy<Value = ResolvedPolicy> {
    (node(), vec(workload(), 0..=6), vec(segment_policy(), 0..=6)).prop_map(
        |(node, mut workloads, mut policies)| {
            // Names and lines are given here, because they must be unique. Against the order
            // of making, so that being first by name is nothing that happens by itself.
            for (i, workload) in workloads.iter_mut().rev().enumerate() {
                workload.name = format!("w{i}");
            }
            workloads.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
            let mut line = 1;
            for (i, policy) in policies.iter_mut().rev().enumerate() {
                policy.name = format!("p{i}");
                policy.origin = origin(&mut line);
                for rule in policy.rules.iter_mut().flatten().flatten() {
                    rule.origin = origin(&mut line);
                }
            }
            policies.sort_by(|a, b| {
                (a.tier, &a.namespace, &a.name).cmp(&(b.tier, &b.namespace, &b.name))
            });
            ResolvedPolicy {
                node,
                workloads: workloads.into_iter().map(Arc::new).collect(),
                policies: policies.into_iter().map(Arc::new).collect(),
                ..ResolvedPolicy::default()
            }
        },
    )
}

/// An address from the small world of [`policy`].
pub fn address() -> impl Strategy<Value = IpAddr> {
    select(vec![
        "10.0.0.0",
        "10.0.0.1",
        "10.0.0.2",
        "10.0.0.3",
        "10.0.0.5",
        "10.0.0.9",
        "10.1.0.1",
        "192.0.2.1",
        "fd00::",
        "fd00::1",
        "fd00::2",
        "fd00::5",
        "2001:db8::1",
    ])
    .prop_map(|text| text.parse().expect("an address"))
}

/// Audit or enforce.
pub fn mode() -> impl Strategy<Value = Mode> {
    select(vec![Mode::Audit, Mode::Enforce, Mode::Enforce])
}

/// A port at which some rule may begin or end, or beside it.
pub(super) fn port() -> impl Strategy<Value = u16> {
    select(vec![
        0,
        1,
        22,
        79,
        80,
        81,
        443,
        1023,
        1024,
        8080,
        32768,
        65534,
        65535,
        icmp_port(8, 0),
        icmp_port(8, 1),
        icmp_port(3, 4),
    ])
}

/// TCP and UDP mostly.
pub(super) fn protocol() -> impl Strategy<Value = u8> {
    select(vec![6, 6, 6, 17, 17, 1, 58, 132, 47])
}

fn prefix() -> impl Strategy<Value = IpNet> {
    select(vec![
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.0.0.0/24",
        "10.0.0.0/29",
        "10.0.0.0/30",
        "10.0.0.2/31",
        "10.0.0.0/32",
        "10.0.0.1/32",
        "10.0.0.2/32",
        "10.0.0.5/32",
        // Host bits set: the same prefix as 10.0.0.0/29.
        "10.0.0.6/29",
        "192.0.2.1/32",
        "::/0",
        "fd00::/64",
        "fd00::/126",
        "fd00::/127",
        "fd00::1/128",
        "fd00::5/128",
    ])
    .prop_map(|text| text.parse().expect("a prefix"))
}

fn namespace() -> impl Strategy<Value = String> {
    select(vec!["a", "b"]).prop_map(str::to_owned)
}

pub(super) fn labels() -> impl Strategy<Value = Labels> {
    let pair = select(vec!["k", "l"]).prop_map(str::to_owned);
    btree_map(pair, select(vec!["x", "y"]).prop_map(str::to_owned), 0..=2)
}

fn selector() -> impl Strategy<Value = LabelSelector> {
    (option::of(namespace()), labels()).prop_map(|(namespace, match_labels)| LabelSelector {
        namespace,
        match_labels,
    })
}

fn fallback() -> impl Strategy<Value = Fallback> {
    select(vec![Fallback::Allow, Fallback::Deny])
}

fn node() -> impl Strategy<Value = NodeSettings> {
    (fallback(), fallback(), vec(prefix(), 0..2)).prop_map(|(egress, ingress, blocked)| {
        NodeSettings {
            default: [egress, ingress],
            blocked: blocked
                .into_iter()
                .map(|prefix| Blocked {
                    prefix,
                    origin: origin(&mut 1),
                })
                .collect(),
            ..NodeSettings::default()
        }
    })
}

fn workload() -> impl Strategy<Value = Workload> {
    let single = address().prop_map(IpNet::from);
    let addresses = vec(prop_oneof![4 => single, 1 => prefix()], 0..=2);
    let spiffe_id = option::weighted(0.1, Just("spiffe://example.org/one".to_owned()));
    let place = option::weighted(0.8, Just(Place::Cgroup("/w".to_owned())));
    (namespace(), labels(), spiffe_id, addresses, place).prop_map(
        |(namespace, labels, spiffe_id, addresses, place)| Workload {
            namespace,
            name: String::new(),
            origin: origin(&mut 1),
            labels,
            spiffe_id,
            addresses,
            place,
        },
    )
}

fn segment_policy() -> impl Strategy<Value = Policy> {
    let tier = select(vec![
        Tier::Quarantine,
        Tier::Admin,
        Tier::Application,
        Tier::Application,
        Tier::Application,
        Tier::Baseline,
    ]);
    let subject = prop_oneof![
        3 => selector().prop_map(Subject::Workloads),
        1 => Just(Subject::Host),
    ];
    let rules = || option::weighted(0.7, vec(rule(), 0..=4));
    (
        option::of(namespace()),
        tier,
        option::of(mode()),
        subject,
        rules(),
        rules(),
    )
        .prop_map(|(namespace, tier, mode, subject, egress, ingress)| Policy {
            namespace,
            name: String::new(),
            origin: origin(&mut 1),
            tier,
            mode,
            subject,
            rules: [egress, ingress],
        })
}

fn rule() -> impl Strategy<Value = Rule> {
    // Names need not be unique, nor different from what the enforcer itself names.
    let name = select(vec!["r", "s", "isolation", "default"]).prop_map(str::to_owned);
    let action = select(vec![RuleAction::Allow, RuleAction::Allow, RuleAction::Deny]);
    (name, action, vec(peer(), 1..=3), vec(ports(), 1..=3)).prop_map(
        |(name, action, peers, ports)| Rule {
            name,
            origin: origin(&mut 1),
            action,
            peers,
            ports,
        },
    )
}

fn peer() -> impl Strategy<Value = Peer> {
    prop_oneof![
        2 => Just(Peer::Any),
        1 => Just(Peer::Host),
        1 => Just(Peer::World),
        4 => selector().prop_map(Peer::Workloads),
        4 => (prefix(), vec(prefix(), 0..=2))
            .prop_map(|(prefix, except)| Peer::Cidr { prefix, except }),
    ]
}

fn ports() -> impl Strategy<Value = PortMatch> {
    let range = (protocol(), port(), port()).prop_map(|(protocol, a, b)| PortMatch {
        protocol: Some(protocol),
        first: a.min(b),
        last: a.max(b),
    });
    let single = (protocol(), port()).prop_map(|(protocol, port)| PortMatch {
        protocol: Some(protocol),
        first: port,
        last: port,
    });
    let whole = protocol().prop_map(|protocol| PortMatch {
        protocol: Some(protocol),
        ..PortMatch::ANY
    });
    prop_oneof![1 => Just(PortMatch::ANY), 1 => whole, 2 => range, 2 => single]
}

fn origin(line: &mut u32) -> Origin {
    let here = *line;
    *line += 1;
    Origin {
        file: Arc::from("generated.yaml"),
        line: here,
        column: 1,
        commit: None,
    }
}
