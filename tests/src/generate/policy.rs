//! Random policy trees.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use enforcer::policy::model::{
    Accountability, Assurance, Blocked, Fallback, LOCAL_NODE, Labels, Mode, Moment, Namespaces,
    NodeSettings, Origin, Place, Policy, PolicyKind, RemoteHost, ResolvedPolicy, Rule, RuleAction,
    Subject, Tier, Validity, Workload,
};
use enforcer_common::flow_key::icmp_port;
use ipnet::IpNet;
use proptest::{
    collection::{btree_map, vec},
    option,
    prelude::*,
    sample::select,
};

use super::peer::{account, named_ports, peer, ports, selector, spiffe_id};

/// A random tree: up to 6 workloads and 6 policies.
pub fn policy() -> impl Strategy<Value = ResolvedPolicy> {
    (
        node(),
        namespaces(),
        vec(host(), 0..=2),
        vec(workload(), 0..=6),
        vec(segment_policy(), 0..=6),
    )
        .prop_map(
            |(node, namespaces, mut hosts, mut workloads, mut policies)| {
                for (i, host) in hosts.iter_mut().enumerate() {
                    host.name = format!("h{i}");
                }
                // Names and lines are given here, because they must be unique. Against the order
                // of making, so that being first by name is nothing that happens by itself.
                for (i, workload) in workloads.iter_mut().rev().enumerate() {
                    workload.name = format!("w{i}");
                }
                workloads.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
                let mut line = 1;
                let mut taken = BTreeSet::new();
                for (i, policy) in policies.iter_mut().rev().enumerate() {
                    // Policies of two kinds, and of two namespaces, may share a name.
                    let shared = format!("p{}", i / 2);
                    let is_free = taken.insert((policy.kind, policy.namespace.clone(), i / 2));
                    policy.name = if is_free { shared } else { format!("q{i}") };
                    policy.origin = origin(&mut line);
                    for rule in policy.rules.iter_mut().flatten().flatten() {
                        rule.origin = origin(&mut line);
                    }
                }
                policies.sort_by(|a, b| a.rank().cmp(&b.rank()));
                ResolvedPolicy {
                    node,
                    namespaces,
                    hosts: hosts.into_iter().map(Arc::new).collect(),
                    workloads: Arc::new(workloads.into_iter().map(Arc::new).collect()),
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
    select(vec![6, 6, 6, 17, 17, 1, 58, 132, 136, 47])
}

pub(super) fn prefix() -> impl Strategy<Value = IpNet> {
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

pub(super) fn namespace() -> impl Strategy<Value = String> {
    select(vec!["a", "b"]).prop_map(str::to_owned)
}

pub(super) fn labels() -> impl Strategy<Value = Labels> {
    let pair = select(vec!["k", "l"]).prop_map(str::to_owned);
    let value = select(vec!["x", "y"]).prop_map(str::to_owned);
    btree_map(pair, value, 0..=2).prop_map(Labels::from)
}

fn fallback() -> impl Strategy<Value = Fallback> {
    select(vec![Fallback::Allow, Fallback::Deny])
}

fn node() -> impl Strategy<Value = NodeSettings> {
    let blocked = vec(prefix(), 0..2);
    (fallback(), fallback(), labels(), blocked).prop_map(|(egress, ingress, labels, blocked)| {
        NodeSettings {
            labels,
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

fn host() -> impl Strategy<Value = RemoteHost> {
    let single = address().prop_map(IpNet::from);
    let addresses = vec(prop_oneof![4 => single, 1 => prefix()], 1..=2);
    (labels(), addresses).prop_map(|(labels, addresses)| RemoteHost {
        name: String::new(),
        origin: origin(&mut 1),
        labels,
        addresses,
    })
}

fn namespaces() -> impl Strategy<Value = Namespaces> {
    vec((namespace(), labels()), 0..=2).prop_map(|described| {
        let mut namespaces = Namespaces::default();
        for (name, labels) in described {
            namespaces.insert(name, labels);
        }
        namespaces
    })
}

fn workload() -> impl Strategy<Value = Workload> {
    let single = address().prop_map(IpNet::from);
    let addresses = vec(prop_oneof![4 => single, 1 => prefix()], 0..=2);
    let known = select(vec![
        Assurance::Address,
        Assurance::Address,
        Assurance::Orchestrator,
        Assurance::Attested,
    ]);
    let unit = select(vec!["w.service", "w@1.service", "w@*.service", "v.slice"]);
    let place = prop_oneof![
        3 => Just(Place::Cgroup("/w".to_owned())),
        1 => unit.prop_map(|unit| Place::Unit(unit.to_owned())),
        1 => Just(Place::Interface("veth".to_owned())),
    ];
    (
        namespace(),
        labels(),
        option::weighted(0.3, spiffe_id()),
        option::weighted(0.3, account()),
        named_ports(),
        addresses,
        known,
        option::weighted(0.8, place),
    )
        .prop_map(
            |(namespace, labels, spiffe_id, service_account, ports, addresses, known, place)| {
                Workload {
                    namespace,
                    name: String::new(),
                    origin: origin(&mut 1),
                    labels,
                    spiffe_id,
                    service_account,
                    ports,
                    addresses,
                    assurance: known,
                    place,
                    unit_elsewhere: None,
                }
            },
        )
}

/// A moment before, at, between or after those at which random rules begin and end.
pub fn moment() -> impl Strategy<Value = Moment> {
    (0_i64..=5).prop_map(Moment)
}

fn validity() -> impl Strategy<Value = Validity> {
    let end = || option::weighted(0.15, (1_i64..=4).prop_map(Moment));
    (end(), end()).prop_map(|(from, until)| Validity { from, until })
}

fn accountability() -> impl Strategy<Value = Accountability> {
    let word = |words: &'static [&'static str]| {
        option::weighted(0.1, select(words).prop_map(str::to_owned))
    };
    (
        word(&["ann", "bob"]),
        word(&["T-1", "T-2"]),
        word(&["c1", "c2"]),
    )
        .prop_map(|(owner, ticket, control)| Accountability {
            owner,
            ticket,
            controls: control.into_iter().collect(),
        })
}

fn segment_policy() -> impl Strategy<Value = Policy> {
    let tier = select(vec![
        Tier::Quarantine,
        Tier::Admin,
        Tier::Admin,
        Tier::Application,
        Tier::Application,
        Tier::Application,
        Tier::Baseline,
        Tier::Baseline,
    ]);
    let subject = prop_oneof![
        3 => vec(selector(), 1..=2).prop_map(Subject::Workloads),
        1 => Just(Subject::Host),
    ];
    let rules = || option::weighted(0.7, vec(rule(), 0..=4));
    (
        option::of(namespace()),
        tier,
        (option::weighted(0.6, 0_u32..3), any::<bool>()),
        option::of(mode()),
        (validity(), accountability()),
        subject,
        rules(),
        rules(),
    )
        .prop_map(
            |(
                namespace,
                tier,
                (priority, other_kind),
                mode,
                (validity, accountability),
                subject,
                egress,
                ingress,
            )| {
                let has_order = matches!(tier, Tier::Admin | Tier::Baseline);
                let priority = priority.filter(|_| has_order);
                Policy {
                    kind: match (priority, tier) {
                        (Some(_), Tier::Admin) if other_kind => PolicyKind::AdminNetworkPolicy,
                        (Some(_), _) if other_kind => PolicyKind::BaselineAdminNetworkPolicy,
                        (Some(_), _) => PolicyKind::ClusterNetworkPolicy,
                        (None, Tier::Application) if other_kind => PolicyKind::NetworkPolicy,
                        (None, _) => PolicyKind::SegmentPolicy,
                    },
                    namespace,
                    name: String::new(),
                    origin: origin(&mut 1),
                    tier,
                    priority,
                    mode,
                    validity,
                    accountability,
                    subject,
                    rules: [egress, ingress],
                }
            },
        )
}

fn rule() -> impl Strategy<Value = Rule> {
    // Names need not be unique, nor different from what the enforcer itself names.
    let name = select(vec!["r", "s", "isolation", "default", LOCAL_NODE]);
    let name = name.prop_map(str::to_owned);
    let action = select(vec![
        RuleAction::Allow,
        RuleAction::Allow,
        RuleAction::Allow,
        RuleAction::Deny,
        RuleAction::Deny,
        RuleAction::Pass,
    ]);
    (
        name,
        action,
        any::<bool>(),
        validity(),
        accountability(),
        vec(peer(), 1..=3),
        vec(ports(), 1..=3),
    )
        .prop_map(
            |(name, action, log, validity, accountability, peers, ports)| Rule {
                name,
                origin: origin(&mut 1),
                action,
                log,
                validity,
                accountability,
                peers,
                ports,
            },
        )
}

fn origin(line: &mut u32) -> Origin {
    let here = *line;
    *line += 1;
    Origin {
        file: Arc::from("generated.yaml"),
        line: here,
        column: 1,
    }
}
