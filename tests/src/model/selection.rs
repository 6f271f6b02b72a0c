//! Who and which port a rule means.

use enforcer::policy::model::{
    Assurance, LabelSelector, Labels, Operator, Peer, Place, PortMatch, Workload, WorkloadSelector,
};
use enforcer_common::Direction;

use super::{RawEndpoint, RawFlow, RawPeer, Who, World};

impl World<'_> {
    /// Whether a rule means this peer.
    pub(super) fn is_peer(&self, wanted: &Peer, peer: RawPeer) -> bool {
        let (who, assurance) = self.facts(peer);
        self.is_meant(wanted, peer, who, assurance)
    }

    fn is_meant(&self, wanted: &Peer, peer: RawPeer, who: Who<'_>, assurance: Assurance) -> bool {
        match wanted {
            Peer::Any => true,
            Peer::Host => matches!(who, Who::Host),
            Peer::RemoteHost => matches!(who, Who::RemoteHost(_)),
            Peer::World => matches!(who, Who::World),
            Peer::Hosts(selector) => match who {
                Who::Host => has_labels(selector, &self.policy.node.labels),
                Who::RemoteHost(host) => has_labels(selector, &host.labels),
                Who::Workload(_) | Who::World => false,
            },
            Peer::Workloads(selector) => match who {
                Who::Workload(workload) => self.is_selected(selector, workload),
                _ => false,
            },
            Peer::Cidr { prefix, except } => match peer {
                RawPeer::Address(address) => {
                    prefix.contains(&address) && !except.iter().any(|e| e.contains(&address))
                }
                RawPeer::Host | RawPeer::Workload(_) => false,
            },
            Peer::Group(group) => {
                let mut members = group.peers.iter();
                members.any(|member| self.is_meant(member, peer, who, assurance))
            }
            Peer::Assured {
                at_least,
                peer: wanted,
            } => {
                strength(assurance) >= strength(*at_least)
                    && self.is_meant(wanted, peer, who, assurance)
            }
        }
    }

    /// Whether a selector means this workload.
    pub(super) fn is_selected(&self, selector: &WorkloadSelector, workload: &Workload) -> bool {
        if let Some(namespace) = &selector.namespace
            && *namespace != workload.namespace
        {
            return false;
        }
        let described = self.policy.namespaces.iter();
        let mut of_namespace = described
            .filter(|(name, _)| *name == workload.namespace)
            .map(|(_, labels)| labels.clone())
            .next()
            .unwrap_or_default();
        of_namespace.insert(
            "kubernetes.io/metadata.name".to_owned(),
            workload.namespace.clone(),
        );
        if !has_labels(&selector.namespace_labels, &of_namespace)
            || !has_labels(&selector.labels, &workload.labels)
        {
            return false;
        }
        if let Some(pattern) = &selector.spiffe_id {
            let Some(id) = &workload.spiffe_id else {
                return false;
            };
            if !is_id(pattern.as_str(), id) {
                return false;
            }
        }
        if let Some(account) = &selector.service_account
            && Some(account) != workload.service_account.as_ref()
        {
            return false;
        }
        if let Some(pattern) = &selector.unit {
            let Some(Place::Unit(unit)) = &workload.place else {
                return false;
            };
            return is_text(pattern.as_str().as_bytes(), unit.as_bytes());
        }
        true
    }

    /// Whether a rule means the port that a flow goes to.
    pub(super) fn is_port(&self, wanted: &PortMatch, flow: &RawFlow) -> bool {
        match wanted {
            PortMatch::Range(range) => match range.protocol {
                None => true,
                Some(protocol) => {
                    protocol == flow.protocol && range.first <= flow.port && flow.port <= range.last
                }
            },
            PortMatch::Named(named) => {
                let workload = match (flow.direction, flow.endpoint) {
                    (Direction::Ingress, RawEndpoint::Host) => return false,
                    (Direction::Ingress, RawEndpoint::Workload(index)) => {
                        &self.policy.workloads[index]
                    }
                    (Direction::Egress, _) => match self.facts(flow.peer).0 {
                        Who::Workload(workload) => workload,
                        _ => return false,
                    },
                };
                workload.ports.iter().any(|port| {
                    port.name == named.name
                        && port.protocol == flow.protocol
                        && port.port == flow.port
                        && named.protocol.is_none_or(|p| p == flow.protocol)
                })
            }
        }
    }
}

fn strength(assurance: Assurance) -> u8 {
    match assurance {
        Assurance::Address => 0,
        Assurance::Orchestrator => 1,
        Assurance::Kernel => 2,
        Assurance::Attested => 3,
    }
}

fn has_labels(selector: &LabelSelector, labels: &Labels) -> bool {
    for (key, value) in &selector.match_labels {
        if labels.get(key) != Some(value) {
            return false;
        }
    }
    for expression in &selector.expressions {
        let found = labels.get(&expression.key);
        let listed = found.is_some_and(|found| expression.values.iter().any(|v| v == found));
        let holds = match expression.operator {
            Operator::In => listed,
            Operator::NotIn => !listed,
            Operator::Exists => found.is_some(),
            Operator::DoesNotExist => found.is_none(),
        };
        if !holds {
            return false;
        }
    }
    true
}

/// By trying everything that each `*` could stand for.
fn is_text(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|taken| is_text(rest, &text[taken..])),
        Some((b'?', rest)) => !text.is_empty() && is_text(rest, &text[1..]),
        Some((byte, rest)) => text.first() == Some(byte) && is_text(rest, &text[1..]),
    }
}

fn is_id(pattern: &str, id: &str) -> bool {
    let pattern: Vec<_> = pattern.split('/').collect();
    let id: Vec<_> = id.split('/').collect();
    are_segments(&pattern, &id)
}

fn are_segments(pattern: &[&str], id: &[&str]) -> bool {
    match pattern.split_first() {
        None => id.is_empty(),
        Some((&"**", rest)) => (0..=id.len()).any(|taken| are_segments(rest, &id[taken..])),
        Some((segment, rest)) => {
            !id.is_empty()
                && is_text(segment.as_bytes(), id[0].as_bytes())
                && are_segments(rest, &id[1..])
        }
    }
}
