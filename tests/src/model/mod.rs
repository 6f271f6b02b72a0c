//! The reference model: policy semantics in the most obvious way, by walking the documents for
//! every single flow. It shares the documents' types with the enforcer, and nothing else: no
//! compiled form, no verdict code, no identities.

use std::net::IpAddr;

use enforcer::policy::model::{
    Fallback, Mode, Origin, Peer, Policy, PortMatch, ResolvedPolicy, Rule, RuleAction, Subject,
    Tier, Workload,
};
use enforcer_common::Direction;

/// What the model knows besides the flow.
#[derive(Clone, Copy, Debug)]
pub struct World<'a> {
    /// The tree.
    pub policy: &'a ResolvedPolicy,
    /// The node's mode in effect.
    pub mode: Mode,
    /// Addresses of the host itself.
    pub host_addresses: &'a [IpAddr],
}

/// A new flow, in raw facts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RawFlow {
    /// Whose endpoint judges.
    pub endpoint: RawEndpoint,
    /// Seen from the endpoint.
    pub direction: Direction,
    /// The other side.
    pub peer: RawPeer,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port, or ICMP type and code, or 0.
    pub port: u16,
}

/// Whose endpoint judges a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RawEndpoint {
    /// The host endpoint.
    Host,
    /// Index into [`ResolvedPolicy::workloads`].
    Workload(usize),
}

/// The other side of a flow, by what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RawPeer {
    /// A process of this host in no workload, known by its socket.
    Host,
    /// A workload of this host, known by its socket: an index into
    /// [`ResolvedPolicy::workloads`].
    Workload(usize),
    /// Known by its address only.
    Address(IpAddr),
}

/// What becomes of a flow, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelVerdict {
    /// What happens.
    pub action: ModelAction,
    /// Why.
    pub cause: ModelCause,
}

/// What happens to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ModelAction {
    /// Passes.
    Allow,
    /// Is dropped.
    Deny,
    /// Passes, but would be dropped if everything were enforced.
    Audit,
}

/// Why a flow is allowed or denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelCause {
    /// A rule.
    Rule(NamedRule),
    /// A policy isolates the endpoint.
    Isolation(NamedRule),
    /// The node's default, after some policy about the endpoint had nothing to say.
    NodeDefault,
    /// No policy is about the endpoint in this direction, and the default is to allow.
    Unrestricted,
}

/// A rule, or the isolation by a policy, as reports name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamedRule {
    /// Namespace of the policy.
    pub namespace: Option<String>,
    /// Policy.
    pub policy: String,
    /// Rule, or `isolation`.
    pub rule: String,
    /// The rule's place, or the policy's.
    pub origin: Origin,
}

const TIERS: [Tier; 4] = [
    Tier::Quarantine,
    Tier::Admin,
    Tier::Application,
    Tier::Baseline,
];

impl World<'_> {
    /// The verdict on a flow.
    pub fn judge(&self, flow: &RawFlow) -> ModelVerdict {
        let (enforced_deny, enforced_cause) = self.evaluate(flow, true);
        let (deny, cause) = self.evaluate(flow, false);
        if enforced_deny {
            ModelVerdict {
                action: ModelAction::Deny,
                cause: enforced_cause,
            }
        } else if deny {
            ModelVerdict {
                action: ModelAction::Audit,
                cause,
            }
        } else {
            ModelVerdict {
                action: ModelAction::Allow,
                cause,
            }
        }
    }

    /// Whether the flow is denied, and why (not).
    fn evaluate(&self, flow: &RawFlow, ignore_audited: bool) -> (bool, ModelCause) {
        let mut anything_said = false;
        for tier in TIERS {
            let mut denying: Vec<(&Policy, &Rule, usize)> = Vec::new();
            let mut allowing: Vec<(&Policy, &Rule, usize)> = Vec::new();
            let mut isolating: Vec<&Policy> = Vec::new();
            for policy in &self.policy.policies {
                if policy.tier != tier || !self.selects(policy, flow.endpoint) {
                    continue;
                }
                let Some(rules) = &policy.rules[flow.direction as usize] else {
                    continue;
                };
                let audited = policy.mode.unwrap_or(self.mode) == Mode::Audit;
                if tier == Tier::Application {
                    anything_said = true;
                    if !(audited && ignore_audited) {
                        isolating.push(policy);
                    }
                }
                for (place, rule) in rules.iter().enumerate() {
                    anything_said = true;
                    if !rule.peers.iter().any(|peer| self.is_peer(peer, flow.peer)) {
                        continue;
                    }
                    if !rule.ports.iter().any(|ports| is_port(*ports, flow)) {
                        continue;
                    }
                    match rule.action {
                        RuleAction::Allow => allowing.push((policy, rule, place)),
                        RuleAction::Deny if audited && ignore_audited => {}
                        RuleAction::Deny => denying.push((policy, rule, place)),
                    }
                }
            }
            if let Some(rule) = first(&denying) {
                return (true, ModelCause::Rule(rule));
            }
            if let Some(rule) = first(&allowing) {
                return (false, ModelCause::Rule(rule));
            }
            if let Some(policy) = isolating.iter().min_by_key(|p| (&p.namespace, &p.name)) {
                let isolation = NamedRule {
                    namespace: policy.namespace.clone(),
                    policy: policy.name.clone(),
                    rule: "isolation".to_owned(),
                    origin: policy.origin.clone(),
                };
                return (true, ModelCause::Isolation(isolation));
            }
        }
        match self.policy.node.default[flow.direction as usize] {
            Fallback::Deny => {
                let ignored = self.mode == Mode::Audit && ignore_audited;
                (!ignored, ModelCause::NodeDefault)
            }
            Fallback::Allow if anything_said => (false, ModelCause::NodeDefault),
            Fallback::Allow => (false, ModelCause::Unrestricted),
        }
    }

    fn selects(&self, policy: &Policy, endpoint: RawEndpoint) -> bool {
        match (&policy.subject, endpoint) {
            (Subject::Host, RawEndpoint::Host) => true,
            (Subject::Workloads(selector), RawEndpoint::Workload(index)) => {
                let workload = &self.policy.workloads[index];
                is_selected(
                    selector.namespace.as_ref(),
                    selector.match_labels.iter(),
                    workload,
                )
            }
            _ => false,
        }
    }

    fn is_peer(&self, wanted: &Peer, peer: RawPeer) -> bool {
        let workload = match peer {
            RawPeer::Host => None,
            RawPeer::Workload(index) => Some(&*self.policy.workloads[index]),
            RawPeer::Address(address) => self.owner(address),
        };
        let is_host = match peer {
            RawPeer::Host => true,
            RawPeer::Workload(_) => false,
            RawPeer::Address(address) => self.host_addresses.contains(&address),
        };
        match wanted {
            Peer::Any => true,
            Peer::Host => is_host,
            Peer::World => !is_host && workload.is_none(),
            Peer::Workloads(selector) => workload.is_some_and(|workload| {
                is_selected(
                    selector.namespace.as_ref(),
                    selector.match_labels.iter(),
                    workload,
                )
            }),
            Peer::Cidr { prefix, except } => match peer {
                RawPeer::Address(address) => {
                    prefix.contains(&address) && !except.iter().any(|e| e.contains(&address))
                }
                RawPeer::Host | RawPeer::Workload(_) => false,
            },
        }
    }

    /// Who says that an address is his: the narrowest claim counts, then the first name. The
    /// host's own addresses are nobody else's.
    fn owner(&self, address: IpAddr) -> Option<&Workload> {
        if self.host_addresses.contains(&address) {
            return None;
        }
        let mut best: Option<(u8, &Workload)> = None;
        for workload in &self.policy.workloads {
            for claim in &workload.addresses {
                if !claim.contains(&address) {
                    continue;
                }
                let better = best.is_none_or(|(length, other)| {
                    claim.prefix_len() > length
                        || claim.prefix_len() == length
                            && (&workload.namespace, &workload.name)
                                < (&other.namespace, &other.name)
                });
                if better {
                    best = Some((claim.prefix_len(), workload));
                }
            }
        }
        best.map(|(_, workload)| workload)
    }
}

fn is_selected<'a>(
    namespace: Option<&String>,
    mut labels: impl Iterator<Item = (&'a String, &'a String)>,
    workload: &Workload,
) -> bool {
    namespace.is_none_or(|n| *n == workload.namespace)
        && labels.all(|(key, value)| workload.labels.get(key) == Some(value))
}

fn is_port(ports: PortMatch, flow: &RawFlow) -> bool {
    match ports.protocol {
        None => true,
        Some(protocol) => {
            protocol == flow.protocol && ports.first <= flow.port && flow.port <= ports.last
        }
    }
}

fn first(rules: &[(&Policy, &Rule, usize)]) -> Option<NamedRule> {
    let (policy, rule, _) = rules
        .iter()
        .min_by_key(|(policy, _, place)| (&policy.namespace, &policy.name, *place))?;
    Some(NamedRule {
        namespace: policy.namespace.clone(),
        policy: policy.name.clone(),
        rule: rule.name.clone(),
        origin: rule.origin.clone(),
    })
}
