//! Calico: policies in the order of their numbers, rules in the order of writing, and the first
//! that matches decides. A pod that any policy is about is isolated in the policy's directions.

use std::{collections::BTreeMap, fmt::Write, net::IpAddr};

use enforcer::tools::import::Effect;
use enforcer_common::Direction;
use ipnet::IpNet;
use proptest::{collection::vec, option, prelude::*, sample::select};
use tests::generate;

use super::{Flow, NAMESPACES, Other, compare, imported};

type Labels = BTreeMap<&'static str, &'static str>;

/// Sets of networks: namespace, labels, network.
const SETS: [(Option<&str>, &str, &str, &str); 2] = [
    (None, "app", "y", "192.0.2.0/28"),
    (Some("a"), "tier", "1", "10.9.0.0/24"),
];

#[derive(Clone, Debug)]
enum Expression {
    All,
    Equals(&'static str, &'static str),
    Differs(&'static str, &'static str),
    In(&'static str, Vec<&'static str>),
    NotIn(&'static str, Vec<&'static str>),
    Has(&'static str),
    Not(Box<Expression>),
    And(Box<Expression>, Box<Expression>),
    Or(Box<Expression>, Box<Expression>),
}

impl Expression {
    fn matches(&self, labels: &Labels) -> bool {
        match self {
            Self::All => true,
            Self::Equals(key, value) => labels.get(key) == Some(value),
            Self::Differs(key, value) => labels.get(key) != Some(value),
            Self::In(key, values) => labels.get(key).is_some_and(|v| values.contains(v)),
            Self::NotIn(key, values) => !labels.get(key).is_some_and(|v| values.contains(v)),
            Self::Has(key) => labels.contains_key(key),
            Self::Not(inner) => !inner.matches(labels),
            Self::And(one, other) => one.matches(labels) && other.matches(labels),
            Self::Or(one, other) => one.matches(labels) || other.matches(labels),
        }
    }

    fn written(&self) -> String {
        let set = |values: &[&str]| {
            let values: Vec<_> = values.iter().map(|v| format!("\"{v}\"")).collect();
            values.join(", ")
        };
        match self {
            Self::All => "all()".to_owned(),
            Self::Equals(key, value) => format!("{key} == \"{value}\""),
            Self::Differs(key, value) => format!("{key}!=\"{value}\""),
            Self::In(key, values) => format!("{key} in {{{}}}", set(values)),
            Self::NotIn(key, values) => format!("{key} not in {{{}}}", set(values)),
            Self::Has(key) => format!("has({key})"),
            Self::Not(inner) => format!("!({})", inner.written()),
            // `&&` binds more closely: only what is around `||` needs brackets.
            Self::And(one, other) => {
                let part = |inner: &Self| match inner {
                    Self::Or(..) => format!("({})", inner.written()),
                    _ => inner.written(),
                };
                format!("{} && {}", part(one), part(other))
            }
            Self::Or(one, other) => format!("{} || {}", one.written(), other.written()),
        }
    }
}

#[derive(Clone, Debug)]
enum Peers {
    Any,
    Selected(Expression, Option<&'static str>),
    Account(&'static str),
    Networks(Vec<&'static str>, Vec<&'static str>),
}

#[derive(Clone, Debug)]
struct Rule {
    action: &'static str,
    peers: Peers,
    protocol: Option<(&'static str, u8)>,
    ports: Vec<(u16, u16)>,
    not_ports: bool,
}

#[derive(Clone, Debug)]
struct Policy {
    namespace: Option<&'static str>,
    order: Option<u16>,
    selector: Expression,
    /// Egress, ingress.
    rules: [Option<Vec<Rule>>; 2],
}

fn contains(network: &str, address: IpAddr) -> bool {
    let network: IpNet = network.parse().expect("a network");
    network.contains(&address)
}

impl Rule {
    fn matches(&self, flow: &Flow<'_>, own: Option<&str>) -> bool {
        let protocol = self
            .protocol
            .is_none_or(|(_, number)| number == flow.protocol);
        let listed = self
            .ports
            .iter()
            .any(|(a, b)| (*a..=*b).contains(&flow.port));
        let ports = self.ports.is_empty() || listed != self.not_ports;
        protocol
            && ports
            && match &self.peers {
                Peers::Any => true,
                Peers::Account(account) => match flow.other {
                    Other::Pod(pod) => {
                        pod.account == *account && own.is_none_or(|own| own == pod.namespace)
                    }
                    _ => false,
                },
                Peers::Selected(expression, namespace) => {
                    let is_near = |of: &str| match (namespace, own) {
                        (Some(named), _) => *named == of,
                        (None, Some(own)) => own == of,
                        (None, None) => true,
                    };
                    let by_pod = match flow.other {
                        Other::Pod(pod) => {
                            is_near(pod.namespace) && expression.matches(&pod.labels)
                        }
                        _ => false,
                    };
                    by_pod
                        || SETS.iter().any(|(of, key, value, network)| {
                            let is_near = match of {
                                Some(of) => is_near(of),
                                None => namespace.is_none() && own.is_none(),
                            };
                            is_near
                                && expression.matches(&Labels::from([(*key, *value)]))
                                && contains(network, flow.address())
                        })
                }
                Peers::Networks(nets, not) => {
                    (nets.is_empty() || nets.iter().any(|n| contains(n, flow.address())))
                        && !not.iter().any(|n| contains(n, flow.address()))
                }
            }
    }
}

/// Whether Calico lets a flow pass.
fn allows(policies: &[Policy], flow: &Flow<'_>) -> bool {
    if matches!(flow.other, Other::Host) && flow.direction == Direction::Ingress {
        return true;
    }
    let place = match flow.direction {
        Direction::Egress => 0,
        Direction::Ingress => 1,
    };
    let mut about: Vec<_> = policies
        .iter()
        .enumerate()
        .filter(|(_, policy)| {
            policy.rules[place].is_some()
                && policy.namespace.is_none_or(|own| own == flow.pod.namespace)
                && policy.selector.matches(&flow.pod.labels)
        })
        .collect();
    if about.is_empty() {
        return true;
    }
    about.sort_by_key(|(number, policy)| (policy.order.unwrap_or(u16::MAX), *number));
    for (_, policy) in about {
        for rule in policy.rules[place].iter().flatten() {
            if rule.action != "Log" && rule.matches(flow, policy.namespace) {
                // There is no other tier: what is passed on meets the profile, which allows.
                return rule.action != "Deny";
            }
        }
    }
    false
}

fn expression() -> impl Strategy<Value = Expression> {
    let values = || vec(select(vec!["x", "y", "1"]), 1..3);
    let key = || select(vec!["app", "tier"]);
    let value = || select(vec!["x", "y", "1"]);
    let leaf = prop_oneof![
        2 => Just(Expression::All),
        4 => (key(), value()).prop_map(|(k, v)| Expression::Equals(k, v)),
        2 => (key(), value()).prop_map(|(k, v)| Expression::Differs(k, v)),
        2 => (key(), values()).prop_map(|(k, v)| Expression::In(k, v)),
        2 => (key(), values()).prop_map(|(k, v)| Expression::NotIn(k, v)),
        2 => key().prop_map(Expression::Has),
    ];
    leaf.prop_recursive(2, 6, 2, |inner| {
        prop_oneof![
            inner.clone().prop_map(|e| Expression::Not(Box::new(e))),
            (inner.clone(), inner.clone())
                .prop_map(|(a, b)| Expression::And(Box::new(a), Box::new(b))),
            (inner.clone(), inner).prop_map(|(a, b)| Expression::Or(Box::new(a), Box::new(b))),
        ]
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let networks = vec![
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.9.0.0/16",
        "192.0.2.0/24",
        "::/0",
    ];
    let inside = vec!["10.9.0.0/24", "192.0.2.64/26", "10.244.0.0/30"];
    let peers = prop_oneof![
        3 => Just(Peers::Any),
        5 => (expression(), option::weighted(0.3, select(NAMESPACES.to_vec())))
            .prop_map(|(e, n)| Peers::Selected(e, n)),
        1 => select(vec!["runner", "default"]).prop_map(Peers::Account),
        3 => (vec(select(networks), 0..3), vec(select(inside), 0..2))
            .prop_filter_map("says something", |(nets, not)| {
                (!nets.is_empty() || !not.is_empty()).then_some(Peers::Networks(nets, not))
            }),
    ];
    let action = select(vec!["Allow", "Allow", "Allow", "Deny", "Deny", "Pass"]);
    let protocol = option::of(select(vec![
        ("TCP", 6),
        ("UDP", 17),
        ("SCTP", 132),
        ("ICMP", 1),
    ]));
    let ports = vec((1_u16..12, 0_u16..6), 0..3);
    (action, peers, protocol, ports, prop::bool::weighted(0.2)).prop_map(
        |(action, peers, protocol, ports, not_ports)| {
            let has_ports = protocol.is_some_and(|(_, number)| number != 1);
            let ports = ports.into_iter().map(|(first, more)| (first, first + more));
            Rule {
                action,
                peers,
                protocol,
                ports: ports.filter(|_| has_ports).collect(),
                not_ports,
            }
        },
    )
}

fn policy() -> impl Strategy<Value = Policy> {
    let side = || option::weighted(0.7, vec(rule(), 0..4));
    let place = option::weighted(0.6, select(NAMESPACES.to_vec()));
    (place, option::of(0_u16..3), expression(), side(), side()).prop_filter_map(
        "has a type",
        |(namespace, order, selector, egress, ingress)| {
            (egress.is_some() || ingress.is_some()).then_some(Policy {
                namespace,
                order,
                selector,
                rules: [egress, ingress],
            })
        },
    )
}

fn written(policies: &[Policy]) -> String {
    let mut text = String::new();
    for (place, (namespace, key, value, network)) in SETS.iter().enumerate() {
        let (kind, namespace) = match namespace {
            Some(own) => ("NetworkSet", format!(", namespace: {own}")),
            None => ("GlobalNetworkSet", String::new()),
        };
        writeln!(
            text,
            "---\napiVersion: projectcalico.org/v3\nkind: {kind}\n\
             metadata: {{name: s{place}{namespace}, labels: {{{key}: '{value}'}}}}\n\
             spec: {{nets: ['{network}']}}"
        )
        .expect("a string");
    }
    for (number, policy) in policies.iter().enumerate() {
        let (kind, namespace) = match policy.namespace {
            Some(own) => ("NetworkPolicy", format!(", namespace: {own}")),
            None => ("GlobalNetworkPolicy", String::new()),
        };
        let mut spec = vec![format!("selector: '{}'", policy.selector.written())];
        spec.extend(policy.order.map(|order| format!("order: {order}")));
        let mut types = Vec::new();
        for ((name, key, peer), rules) in [
            ("Egress", "egress", "destination"),
            ("Ingress", "ingress", "source"),
        ]
        .into_iter()
        .zip(&policy.rules)
        {
            let Some(rules) = rules else { continue };
            types.push(name);
            let rules: Vec<_> = rules.iter().map(|rule| one(rule, peer)).collect();
            spec.push(format!("{key}: [{}]", rules.join(", ")));
        }
        spec.push(format!("types: [{}]", types.join(", ")));
        writeln!(
            text,
            "---\napiVersion: projectcalico.org/v3\nkind: {kind}\n\
             metadata: {{name: p{number}{namespace}}}\nspec: {{{}}}",
            spec.join(", ")
        )
        .expect("a string");
    }
    text
}

fn one(rule: &Rule, peer: &str) -> String {
    let mut fields = vec![format!("action: {}", rule.action)];
    fields.extend(rule.protocol.map(|(name, _)| format!("protocol: {name}")));
    let mut sides: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    match &rule.peers {
        Peers::Any => {}
        Peers::Account(account) => sides
            .entry(peer)
            .or_default()
            .push(format!("serviceAccounts: {{names: [{account}]}}")),
        Peers::Selected(expression, namespace) => {
            let side = sides.entry(peer).or_default();
            side.push(format!("selector: '{}'", expression.written()));
            side.extend(
                namespace.map(|name| {
                    format!("namespaceSelector: 'projectcalico.org/name == \"{name}\"'")
                }),
            );
        }
        Peers::Networks(nets, not) => {
            let quoted = |list: &[&str]| {
                let list: Vec<_> = list.iter().map(|n| format!("'{n}'")).collect();
                list.join(", ")
            };
            let side = sides.entry(peer).or_default();
            if !nets.is_empty() {
                side.push(format!("nets: [{}]", quoted(nets)));
            }
            if !not.is_empty() {
                side.push(format!("notNets: [{}]", quoted(not)));
            }
        }
    }
    if !rule.ports.is_empty() {
        let ports: Vec<_> = rule
            .ports
            .iter()
            .map(|(a, b)| format!("'{a}:{b}'"))
            .collect();
        let key = if rule.not_ports { "notPorts" } else { "ports" };
        sides
            .entry("destination")
            .or_default()
            .push(format!("{key}: [{}]", ports.join(", ")));
    }
    fields.extend(
        sides
            .into_iter()
            .map(|(side, inner)| format!("{side}: {{{}}}", inner.join(", "))),
    );
    format!("{{{}}}", fields.join(", "))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: generate::cases(300),
        max_shrink_iters: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// What tiers cannot say is left out, and only what is left out makes a difference.
    #[test]
    fn imported_policies_mean_what_calico_says(policies in vec(policy(), 1..4)) {
        let import = imported(&written(&policies));
        let mut effects = import.left_out.iter().map(|found| found.effect);
        let only_narrower = effects.all(|effect| effect == Effect::Narrower);
        for found in &import.left_out {
            prop_assert!(found.message.contains("order") || found.message.contains("host"), "{found}");
        }
        if only_narrower {
            let whole = import.left_out.is_empty();
            compare(&import, whole, |flow| allows(&policies, flow))?;
        }
    }
}
