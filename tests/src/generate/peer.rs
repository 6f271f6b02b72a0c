//! Random peers, selectors and ports.

use std::{collections::BTreeSet, sync::Arc};

use enforcer::policy::model::{
    Assurance, Expression, Group, LabelSelector, NamedPort, NamedPortMatch, Operator, Peer,
    PortMatch, PortRange, SpiffePattern, UnitPattern, WorkloadSelector,
};
use enforcer_common::flow_key::icmp_port;
use proptest::{
    collection::{btree_set, vec},
    option,
    prelude::*,
    sample::select,
};

use super::policy::{labels, namespace, port, prefix, protocol};

pub(super) fn assurance() -> impl Strategy<Value = Assurance> {
    select(vec![
        Assurance::Address,
        Assurance::Orchestrator,
        Assurance::Kernel,
        Assurance::Attested,
    ])
}

pub(super) fn label_selector() -> impl Strategy<Value = LabelSelector> {
    let values = btree_set(select(vec!["x", "y", "z"]).prop_map(str::to_owned), 1..=2);
    let operator = select(vec![
        Operator::In,
        Operator::NotIn,
        Operator::Exists,
        Operator::DoesNotExist,
    ]);
    let key = select(vec!["k", "l", "m"]).prop_map(str::to_owned);
    let expression = (key, operator, values).prop_map(|(key, operator, values)| Expression {
        key,
        operator,
        values: match operator {
            Operator::In | Operator::NotIn => values,
            Operator::Exists | Operator::DoesNotExist => BTreeSet::new(),
        },
    });
    let expressions = prop_oneof![2 => Just(Vec::new()), 1 => vec(expression, 1..=2)];
    (labels(), expressions).prop_map(|(match_labels, expressions)| LabelSelector {
        match_labels,
        expressions,
    })
}

pub(super) fn selector() -> impl Strategy<Value = WorkloadSelector> {
    let by_name = select(vec!["a", "b"]).prop_map(|name| {
        LabelSelector::of([("kubernetes.io/metadata.name".to_owned(), name.to_owned())].into())
    });
    let namespace_labels = prop_oneof![
        6 => Just(LabelSelector::default()),
        2 => label_selector(),
        1 => by_name,
    ];
    let spiffe_id = select(vec![
        "spiffe://example.org/one",
        "spiffe://example.org/*",
        "spiffe://example.org/**",
        "spiffe://example.org/a/*/c",
        "spiffe://example.org/**/c",
        "spiffe://example.org/t*o",
    ]);
    let unit = select(vec!["w.service", "*.service", "w@?.service", "w@*"]);
    (
        option::of(namespace()),
        namespace_labels,
        label_selector(),
        option::weighted(0.15, spiffe_id.prop_map(SpiffePattern::new)),
        option::weighted(0.15, account()),
        option::weighted(0.15, unit.prop_map(UnitPattern::new)),
    )
        .prop_map(
            |(namespace, namespace_labels, labels, spiffe_id, service_account, unit)| {
                WorkloadSelector {
                    namespace,
                    namespace_labels,
                    labels,
                    spiffe_id,
                    service_account,
                    unit,
                }
            },
        )
}

pub(super) fn account() -> impl Strategy<Value = String> {
    select(vec!["one", "two"]).prop_map(str::to_owned)
}

pub(super) fn spiffe_id() -> impl Strategy<Value = String> {
    select(vec![
        "spiffe://example.org/one",
        "spiffe://example.org/two",
        "spiffe://example.org/a/b/c",
    ])
    .prop_map(str::to_owned)
}

fn plain_peer() -> impl Strategy<Value = Peer> {
    prop_oneof![
        2 => Just(Peer::Any),
        1 => Just(Peer::Host),
        1 => Just(Peer::RemoteHost),
        1 => label_selector().prop_map(Peer::Hosts),
        1 => Just(Peer::World),
        5 => selector().prop_map(Peer::Workloads),
        4 => (prefix(), vec(prefix(), 0..=2))
            .prop_map(|(prefix, except)| Peer::Cidr { prefix, except }),
    ]
}

fn assured_peer() -> impl Strategy<Value = Peer> {
    prop_oneof![
        6 => plain_peer(),
        1 => (assurance(), plain_peer()).prop_map(|(at_least, peer)| Peer::Assured {
            at_least,
            peer: Box::new(peer),
        }),
    ]
}

fn group(members: impl Strategy<Value = Peer>) -> impl Strategy<Value = Peer> {
    vec(members, 1..=3).prop_map(|peers| {
        Peer::Group(Arc::new(Group {
            namespace: None,
            name: "g".to_owned(),
            peers,
        }))
    })
}

pub(super) fn peer() -> impl Strategy<Value = Peer> {
    let nested = prop_oneof![3 => assured_peer(), 1 => group(assured_peer())];
    let assured_group =
        (assurance(), group(assured_peer())).prop_map(|(at_least, peer)| Peer::Assured {
            at_least,
            peer: Box::new(peer),
        });
    prop_oneof![
        12 => assured_peer(),
        2 => group(nested),
        1 => assured_group,
    ]
}

fn port_name() -> impl Strategy<Value = String> {
    select(vec!["http", "dns"]).prop_map(str::to_owned)
}

pub(super) fn named_ports() -> impl Strategy<Value = BTreeSet<NamedPort>> {
    let number = select(vec![53, 80, 81, 443]);
    let protocol = select(vec![6, 6, 17, 132]);
    let port = (port_name(), protocol, number).prop_map(|(name, protocol, port)| NamedPort {
        name,
        protocol,
        port,
    });
    btree_set(port, 0..=2)
}

pub(super) fn ports() -> impl Strategy<Value = PortMatch> {
    let range = (protocol(), port(), port()).prop_map(|(protocol, a, b)| PortRange {
        protocol: Some(protocol),
        first: a.min(b),
        last: a.max(b),
    });
    let single = (protocol(), port()).prop_map(|(protocol, port)| PortRange {
        protocol: Some(protocol),
        first: port,
        last: port,
    });
    // A type of ICMP with every code of it.
    let kind = (select(vec![1, 58]), select(vec![0, 3, 8, 128, 255]));
    let kind = kind.prop_map(|(protocol, kind)| PortRange {
        protocol: Some(protocol),
        first: icmp_port(kind, 0),
        last: icmp_port(kind, 255),
    });
    let whole = protocol().prop_map(|protocol| PortRange {
        protocol: Some(protocol),
        ..PortRange::ANY
    });
    let named = (option::weighted(0.8, select(vec![6, 6, 17])), port_name());
    let named = named.prop_map(|(protocol, name)| NamedPortMatch { protocol, name });
    prop_oneof![
        1 => Just(PortMatch::ANY),
        1 => whole.prop_map(PortMatch::Range),
        2 => range.prop_map(PortMatch::Range),
        1 => kind.prop_map(PortMatch::Range),
        2 => single.prop_map(PortMatch::Range),
        2 => named.prop_map(PortMatch::Named),
    ]
}
