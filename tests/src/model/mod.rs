//! The reference model: policy semantics in the most obvious way, by walking the documents for
//! every single flow. It shares the documents' types with the enforcer, and nothing else: no
//! compiled form, no verdict code, no identities.

use std::net::IpAddr;

use enforcer::policy::model::{
    Assurance, Fallback, LabelSelector, Mode, Moment, Origin, Policy, PolicyKind, ResolvedPolicy,
    Rule, RuleAction, Subject, Tier, Validity, Workload, WorkloadSelector,
};
use enforcer_common::Direction;

mod selection;

/// What the model knows besides the flow.
#[derive(Clone, Copy, Debug)]
pub struct World<'a> {
    /// The tree.
    pub policy: &'a ResolvedPolicy,
    /// The node's mode in effect.
    pub mode: Mode,
    /// When the flow begins.
    pub now: Moment,
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
    /// Whether it is reported although it is allowed.
    pub log: bool,
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
    /// Kind of the policy.
    pub kind: PolicyKind,
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

/// A rule that matches a flow, with the policy that it is in and its place there.
type Match<'a> = (&'a Policy, &'a Rule, usize);

/// Where one evaluation ends.
struct End {
    denied: bool,
    cause: ModelCause,
    log: bool,
}

impl End {
    fn by_rule(denied: bool, (policy, rule, _): &Match<'_>) -> Self {
        Self {
            denied,
            cause: ModelCause::Rule(named(policy, &rule.name, &rule.origin)),
            log: !denied && rule.log,
        }
    }
}

/// How much a policy demands of every workload that it is about. The host's own policies demand
/// least: they are alone among themselves.
fn demands(policy: &Policy) -> usize {
    let Subject::Workloads(selectors) = &policy.subject else {
        return 0;
    };
    let of_labels = |labels: &LabelSelector| labels.match_labels.len() + labels.expressions.len();
    let one = |s: &WorkloadSelector| {
        let said = [
            s.namespace.is_some(),
            s.spiffe_id.is_some(),
            s.service_account.is_some(),
            s.unit.is_some(),
        ];
        said.into_iter().filter(|said| *said).count()
            + of_labels(&s.labels)
            + of_labels(&s.namespace_labels)
    };
    selectors.iter().map(one).min().unwrap_or(0)
}

impl World<'_> {
    /// The verdict on a flow.
    pub fn judge(&self, flow: &RawFlow) -> ModelVerdict {
        let enforced = self.evaluate(flow, true);
        let all = self.evaluate(flow, false);
        let (action, end) = if enforced.denied {
            (ModelAction::Deny, enforced)
        } else if all.denied {
            (ModelAction::Audit, all)
        } else {
            (ModelAction::Allow, all)
        };
        ModelVerdict {
            action,
            cause: end.cause,
            log: end.log,
        }
    }

    fn holds(&self, validity: Validity) -> bool {
        let begun = match validity.from {
            Some(from) => self.now.0 >= from.0,
            None => true,
        };
        let ended = match validity.until {
            Some(until) => self.now.0 >= until.0,
            None => false,
        };
        begun && !ended
    }

    /// Whether the flow is denied, and why (not).
    fn evaluate(&self, flow: &RawFlow, ignore_audited: bool) -> End {
        let mut anything_said = false;
        for tier in TIERS {
            let mut unordered: Vec<Match<'_>> = Vec::new();
            let mut ordered: Vec<Match<'_>> = Vec::new();
            let mut isolating: Vec<&Policy> = Vec::new();
            for policy in &self.policy.policies {
                if policy.tier != tier
                    || !self.holds(policy.validity)
                    || !self.selects(policy, flow.endpoint)
                {
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
                    if !self.holds(rule.validity) {
                        continue;
                    }
                    anything_said = true;
                    if !rule.peers.iter().any(|peer| self.is_peer(peer, flow.peer)) {
                        continue;
                    }
                    if !rule.ports.iter().any(|ports| self.is_port(ports, flow)) {
                        continue;
                    }
                    if rule.action == RuleAction::Deny && audited && ignore_audited {
                        continue;
                    }
                    if policy.priority.is_some() {
                        ordered.push((policy, rule, place));
                    } else {
                        unordered.push((policy, rule, place));
                    }
                }
            }
            let strongest = first(&unordered, RuleAction::Deny)
                .or(first(&unordered, RuleAction::Pass))
                .or(first(&unordered, RuleAction::Allow))
                .or(ordered.into_iter().min_by_key(|(policy, _, place)| {
                    (
                        policy.priority,
                        &policy.namespace,
                        &policy.name,
                        policy.kind,
                        *place,
                    )
                }));
            if let Some(strongest) = strongest {
                match strongest.1.action {
                    RuleAction::Deny => return End::by_rule(true, &strongest),
                    RuleAction::Allow => return End::by_rule(false, &strongest),
                    RuleAction::Pass => continue,
                }
            }
            isolating.sort_by_key(|p| (p.namespace.clone(), p.name.clone(), p.kind));
            // The one that demands most of its workloads names the denial.
            if let Some(policy) = isolating.iter().rev().max_by_key(|p| demands(p)) {
                return End {
                    denied: true,
                    cause: ModelCause::Isolation(named(policy, "isolation", &policy.origin)),
                    log: false,
                };
            }
        }
        let (denied, cause) = match self.policy.node.default[flow.direction as usize] {
            Fallback::Deny => {
                let ignored = self.mode == Mode::Audit && ignore_audited;
                (!ignored, ModelCause::NodeDefault)
            }
            Fallback::Allow if anything_said => (false, ModelCause::NodeDefault),
            Fallback::Allow => (false, ModelCause::Unrestricted),
        };
        End {
            denied,
            cause,
            log: false,
        }
    }

    fn selects(&self, policy: &Policy, endpoint: RawEndpoint) -> bool {
        match (&policy.subject, endpoint) {
            (Subject::Host, RawEndpoint::Host) => true,
            (Subject::Workloads(selectors), RawEndpoint::Workload(index)) => {
                let workload = &self.policy.workloads[index];
                selectors.iter().any(|s| self.is_selected(s, workload))
            }
            _ => false,
        }
    }

    /// Who is behind a peer, and how well that is known.
    fn facts(&self, peer: RawPeer) -> (Who<'_>, Assurance) {
        match peer {
            RawPeer::Host => (Who::Host, Assurance::Kernel),
            RawPeer::Workload(index) => (
                Who::Workload(&self.policy.workloads[index]),
                Assurance::Kernel,
            ),
            RawPeer::Address(address) if self.host_addresses.contains(&address) => {
                (Who::Host, Assurance::Kernel)
            }
            RawPeer::Address(address) => match self.owner(address) {
                Some(Who::Workload(workload)) => (Who::Workload(workload), workload.assurance),
                Some(other) => (other, Assurance::Address),
                None => (Who::World, Assurance::Address),
            },
        }
    }

    /// Who says that an address is his: the narrowest claim counts, then hosts, then the first
    /// name.
    fn owner(&self, address: IpAddr) -> Option<Who<'_>> {
        let mut claims: Vec<(u8, u8, &str, &str, Who<'_>)> = Vec::new();
        for host in &self.policy.hosts {
            for claim in host.addresses.iter().filter(|c| c.contains(&address)) {
                let who = Who::RemoteHost(host);
                claims.push((u8::MAX - claim.prefix_len(), 0, "", &host.name, who));
            }
        }
        for workload in self.policy.workloads.iter() {
            for claim in workload.addresses.iter().filter(|c| c.contains(&address)) {
                let (namespace, name) = (&workload.namespace, &workload.name);
                let who = Who::Workload(workload);
                claims.push((u8::MAX - claim.prefix_len(), 1, namespace, name, who));
            }
        }
        let best = claims
            .into_iter()
            .min_by_key(|(a, b, c, d, _)| (*a, *b, *c, *d));
        best.map(|(.., who)| who)
    }
}

/// Who is behind a peer.
#[derive(Clone, Copy)]
enum Who<'a> {
    Host,
    RemoteHost(&'a enforcer::policy::model::RemoteHost),
    Workload(&'a Workload),
    World,
}

fn named(policy: &Policy, rule: &str, origin: &Origin) -> NamedRule {
    NamedRule {
        kind: policy.kind,
        namespace: policy.namespace.clone(),
        policy: policy.name.clone(),
        rule: rule.to_owned(),
        origin: origin.clone(),
    }
}

/// The first by name of those that do this.
fn first<'a>(rules: &[Match<'a>], action: RuleAction) -> Option<Match<'a>> {
    let same = rules.iter().filter(|(_, rule, _)| rule.action == action);
    same.min_by_key(|(policy, _, place)| (&policy.namespace, &policy.name, policy.kind, *place))
        .copied()
}
