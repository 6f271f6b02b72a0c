//! Whether two things could match the same flow. Where that is not known, the answer is yes.

use std::collections::{BTreeMap, BTreeSet};

use crate::policy::model::{
    LabelSelector, NAME_LABEL, Operator, Peer, PortMatch, Rule, WorkloadSelector,
};

/// Whether a flow could match both rules, each in policies about these workloads.
pub(super) fn rules(
    (workloads, rule): (&[WorkloadSelector], &Rule),
    (others, other): (&[WorkloadSelector], &Rule),
) -> bool {
    any_pair(workloads, others, selectors)
        && any_pair(&rule.peers, &other.peers, peers)
        && any_pair(&rule.ports, &other.ports, ports)
}

fn any_pair<T>(some: &[T], others: &[T], overlap: fn(&T, &T) -> bool) -> bool {
    some.iter()
        .any(|one| others.iter().any(|other| overlap(one, other)))
}

fn selectors(one: &WorkloadSelector, other: &WorkloadSelector) -> bool {
    let both_differ = |one: &Option<String>, other: &Option<String>| matches!((one, other), (Some(one), Some(other)) if one != other);
    let namespace = |selector: &WorkloadSelector| {
        let mut labels = selector.namespace_labels.clone();
        if let Some(name) = &selector.namespace {
            labels.expressions.push(crate::policy::model::Expression {
                key: NAME_LABEL.to_owned(),
                operator: Operator::In,
                values: [name.clone()].into(),
            });
        }
        labels
    };
    !both_differ(&one.service_account, &other.service_account)
        && labels(&namespace(one), &namespace(other))
        && labels(&one.labels, &other.labels)
}

/// What demands leave of one label.
#[derive(Default)]
struct Allowed<'a> {
    values: Option<BTreeSet<&'a str>>,
    others: BTreeSet<&'a str>,
    there: bool,
    absent: bool,
}

impl<'a> Allowed<'a> {
    fn within(&mut self, values: BTreeSet<&'a str>) {
        self.values = Some(match self.values.take() {
            Some(old) => old.intersection(&values).copied().collect(),
            None => values,
        });
    }

    fn is_possible(&self) -> bool {
        let is_left = self
            .values
            .as_ref()
            .is_none_or(|values| values.iter().any(|value| !self.others.contains(value)));
        is_left && !(self.absent && (self.there || self.values.is_some()))
    }
}

/// Whether labels could meet both selectors.
pub(super) fn labels(one: &LabelSelector, other: &LabelSelector) -> bool {
    let mut keys: BTreeMap<&str, Allowed<'_>> = BTreeMap::new();
    for selector in [one, other] {
        for (key, value) in &selector.match_labels {
            keys.entry(key).or_default().within([value.as_str()].into());
        }
        for expression in &selector.expressions {
            let allowed = keys.entry(&expression.key).or_default();
            let values = expression.values.iter().map(String::as_str);
            match expression.operator {
                Operator::In => allowed.within(values.collect()),
                Operator::NotIn => allowed.others.extend(values),
                Operator::Exists => allowed.there = true,
                Operator::DoesNotExist => allowed.absent = true,
            }
        }
    }
    keys.values().all(Allowed::is_possible)
}

fn peers(one: &Peer, other: &Peer) -> bool {
    match (one, other) {
        (Peer::Group(group), peer) | (peer, Peer::Group(group)) => {
            group.peers.iter().any(|member| peers(member, peer))
        }
        (Peer::Workloads(one), Peer::Workloads(other)) => selectors(one, other),
        (Peer::Workloads(_), Peer::Host | Peer::RemoteHost | Peer::World)
        | (Peer::Host | Peer::RemoteHost | Peer::World, Peer::Workloads(_)) => false,
        (
            Peer::Cidr { prefix, except },
            Peer::Cidr {
                prefix: other,
                except: other_except,
            },
        ) => {
            let inner = if prefix.contains(other) {
                other
            } else if other.contains(prefix) {
                prefix
            } else {
                return false;
            };
            let mut except = except.iter().chain(other_except);
            !except.any(|outside| outside.contains(inner))
        }
        (
            Peer::Host | Peer::RemoteHost | Peer::World,
            Peer::Host | Peer::RemoteHost | Peer::World,
        ) => one == other,
        _ => true,
    }
}

fn ports(one: &PortMatch, other: &PortMatch) -> bool {
    let protocol = |ports: &PortMatch| match ports {
        PortMatch::Range(range) => range.protocol,
        PortMatch::Named(named) => named.protocol,
    };
    if let (Some(one), Some(other)) = (protocol(one), protocol(other))
        && one != other
    {
        return false;
    }
    match (one, other) {
        (PortMatch::Range(one), PortMatch::Range(other)) => {
            one.protocol.is_none()
                || other.protocol.is_none()
                || one.first <= other.last && other.first <= one.last
        }
        _ => true,
    }
}
