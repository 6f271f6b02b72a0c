//! Why a flow is allowed or denied: every rule that was considered, and the one that decided.
//!
//! The verdict comes from the image, by the same [`Judge`] that the kernel runs. What is told
//! beside it comes from the documents; tests hold the two together.

use std::{fmt, net::IpAddr};

use enforcer_common::{Action, Direction, Judge, Reason, identity};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    image::{Identity, Image, RuleDirection, RuleInfo, WorkloadName},
    peers, rules,
    tiers::{Cause, Ground, Matching, Outcome},
};
use crate::policy::model::{
    LabelSelector, Mode, Origin, Peer, Place, Policy, PortMatch, ResolvedPolicy, Rule, RuleAction,
    Subject, Tier, Workload,
};

/// What a question is asked of: a policy and the image that was compiled from it.
#[derive(Clone, Copy, Debug)]
pub struct Explainer<'a> {
    /// The tree.
    pub policy: &'a ResolvedPolicy,
    /// The node's mode that `image` was compiled with.
    pub mode: Mode,
    /// The image.
    pub image: &'a Image,
}

/// One side of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Party {
    /// A workload of the tree.
    Workload(WorkloadName),
    /// This host itself.
    Host,
    /// Somebody at an address of whom nothing is known.
    World,
    /// Whoever has the address.
    Address(IpAddr),
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(name) => name.fmt(f),
            Self::Host => f.write_str("host"),
            Self::World => f.write_str("world"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// A new flow, seen from one endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowQuery {
    /// Whose endpoint judges.
    pub endpoint: Party,
    /// Seen from the endpoint.
    pub direction: RuleDirection,
    /// The other side.
    pub peer: Party,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port, or [`enforcer_common::flow_key::icmp_port`], or 0.
    pub port: u16,
}

/// Why a flow cannot be explained.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ExplainError {
    /// No such workload.
    #[error("there is no workload {0} in the policy tree")]
    NoSuchWorkload(WorkloadName),
    /// The endpoint is not enforced here.
    #[error(
        "{0} has no endpoint on this node: ask about a workload that has a place (`cgroup:`, \
         `unit:` or `interface:`), or about `host`"
    )]
    NoEndpoint(Party),
    /// The peer has neither a place nor an address.
    #[error(
        "{0} has neither a place on this node nor an address, so it cannot be told from \
         `world`: give the workload an address, or ask about an address"
    )]
    Unrecognisable(WorkloadName),
}

/// The verdict on a flow at one endpoint, and how it came about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// Whose endpoint judged.
    pub endpoint: String,
    /// Seen from the endpoint.
    pub direction: RuleDirection,
    /// The other side, as asked.
    pub peer: String,
    /// What policy sees of the other side.
    pub peer_identity: Identity,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port, or ICMP type and code.
    pub port: u16,
    /// The verdict.
    pub verdict: Answer,
    /// [`Reason::name`].
    pub reason: String,
    /// The rule that decided, with file and line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleInfo>,
    /// Where policies in audit mode make a difference: what falls without them, and what would
    /// fall if they were enforced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditView>,
    /// Every tier that has policies about the endpoint in this direction, highest first.
    pub tiers: Vec<TierView>,
}

/// A verdict, for records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// Let through.
    Allow,
    /// Dropped.
    Deny,
    /// Would be dropped if everything were enforced; let through and reported.
    Audit,
}

impl From<Action> for Answer {
    fn from(action: Action) -> Self {
        match action {
            Action::Allow => Self::Allow,
            Action::Deny => Self::Deny,
            Action::Audit => Self::Audit,
        }
    }
}

/// The two evaluations that make an audit verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditView {
    /// With the denials of policies in audit mode left out. Decides whether the flow passes.
    pub enforced: Decided,
    /// With everything enforced.
    pub all: Decided,
}

/// Where an evaluation ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// `allow` or `deny`.
    pub action: RuleAction,
    /// `None` for the node's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
    /// Policy, as `namespace/name` or `name`; `None` for the node's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Rule, `isolation` or `default`.
    pub rule: String,
    /// Where it is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// What was considered in one tier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierView {
    /// Tier.
    pub tier: Tier,
    /// Whether the flow was decided before the tier was reached. Its rules are told all the
    /// same.
    pub reached: bool,
    /// Policies about the endpoint, by (namespace, name).
    pub policies: Vec<PolicyView>,
}

/// A policy about the endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyView {
    /// Namespace; `None` for policies of all namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// The document.
    pub origin: Origin,
    /// Mode in effect.
    pub mode: Mode,
    /// Whether it denies what no rule of the tier allows.
    pub isolates: bool,
    /// Whether that isolation decided.
    pub isolation_decides: bool,
    /// Rules, as written.
    pub rules: Vec<RuleView>,
}

/// A rule that was considered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleView {
    /// Name.
    pub name: String,
    /// Where it is written.
    pub origin: Origin,
    /// What it does.
    pub action: RuleAction,
    /// Whether it is about the flow.
    pub matches: bool,
    /// Why it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mismatch: Option<Mismatch>,
    /// The same in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
    /// Whether it decided.
    pub decides: bool,
}

/// The first thing in which a rule and a flow differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mismatch {
    /// None of the rule's peers is the other side.
    Peer,
    /// The rule is about other protocols.
    Protocol,
    /// The rule is about other ports.
    Port,
}

impl Explainer<'_> {
    /// Explains a flow from one party to another at each of its sides that has an endpoint in
    /// the image: the egress of `from`, the ingress of `to`. It passes if all of them let it.
    pub fn flow(
        &self,
        from: &Party,
        to: &Party,
        protocol: u8,
        port: u16,
    ) -> Result<Vec<Explanation>, ExplainError> {
        let mut sides = Vec::new();
        for (endpoint, direction, peer) in [
            (from, RuleDirection::Egress, to),
            (to, RuleDirection::Ingress, from),
        ] {
            let query = FlowQuery {
                endpoint: endpoint.clone(),
                direction,
                peer: peer.clone(),
                protocol,
                port,
            };
            match self.explain(&query) {
                Ok(explanation) => sides.push(explanation),
                Err(ExplainError::NoEndpoint(_)) => {}
                Err(other) => return Err(other),
            }
        }
        if sides.is_empty() {
            return Err(ExplainError::NoEndpoint(from.clone()));
        }
        Ok(sides)
    }

    /// Explains a flow at one endpoint.
    pub fn explain(&self, query: &FlowQuery) -> Result<Explanation, ExplainError> {
        let direction = match query.direction {
            RuleDirection::Egress => Direction::Egress,
            RuleDirection::Ingress => Direction::Ingress,
        };
        let endpoint = self.endpoint(&query.endpoint)?;
        let endpoint_number = match endpoint {
            Some(workload) => self.image.workloads.get(&name_of(workload)).copied(),
            None => Some(identity::HOST),
        };
        let sets = endpoint_number.and_then(|number| self.image.sets.get(&number));
        let sets = sets.ok_or_else(|| ExplainError::NoEndpoint(query.endpoint.clone()))?;
        let peer = self.peer(&query.peer)?;
        let peer_identity = self.image.identities.get(&peer);
        let peer_identity = peer_identity.map_or_else(unknown_peer, |known| (**known).clone());
        let judge = Judge {
            set: sets.numbers[direction as usize],
            peer,
            protocol: query.protocol,
            port: query.port,
        };
        let decision = judge.decide(self.image);
        let reason = Reason::from_byte(decision.reason);
        let rule = self.image.rules.get(&decision.rule);
        let mut story = Story::new(self, endpoint, direction, &peer_identity, query);
        let audit = story.tell(decision.action());
        Ok(Explanation {
            endpoint: query.endpoint.to_string(),
            direction: query.direction,
            peer: query.peer.to_string(),
            protocol: query.protocol,
            port: query.port,
            verdict: decision.action().into(),
            reason: reason.map_or("unknown", Reason::name).to_owned(),
            rule: rule.map(|rule| (**rule).clone()),
            audit,
            tiers: story.tiers,
            peer_identity,
        })
    }

    /// The workload whose endpoint a party is, or `None` for the host endpoint.
    fn endpoint(&self, party: &Party) -> Result<Option<&Workload>, ExplainError> {
        match party {
            Party::Host => Ok(None),
            Party::Workload(name) => self.workload(name).map(Some),
            Party::Address(address) if self.image.host_addresses.contains_key(address) => Ok(None),
            Party::Address(address) => {
                let single = IpNet::from(*address);
                let mut workloads = self.policy.workloads.iter();
                let owner = workloads.find(|w| w.addresses.contains(&single));
                owner.map_or_else(
                    || Err(ExplainError::NoEndpoint(party.clone())),
                    |w| Ok(Some(w)),
                )
            }
            Party::World => Err(ExplainError::NoEndpoint(party.clone())),
        }
    }

    /// The identity number by which a party is known as a peer.
    fn peer(&self, party: &Party) -> Result<u32, ExplainError> {
        match party {
            Party::Host => Ok(identity::HOST),
            Party::World => Ok(identity::WORLD),
            Party::Address(address) => Ok(self.image.identity_of(*address)),
            Party::Workload(name) => {
                let workload = self.workload(name)?;
                let addresses = workload.addresses.iter().filter(|prefix| is_single(prefix));
                let mut addresses = addresses.map(IpNet::addr);
                let proven = self.image.workloads.get(name).copied();
                // A process in a cgroup is known by its socket, if it is on this host. One that
                // has an address of another host is not.
                let in_cgroup = matches!(workload.place, Some(Place::Cgroup(_) | Place::Unit(_)));
                let is_here = |address| self.image.host_addresses.contains_key(&address);
                let first = addresses.clone().next();
                match (proven, first) {
                    (Some(proven), None) => Ok(proven),
                    (Some(proven), _) if in_cgroup && addresses.any(is_here) => Ok(proven),
                    (_, Some(address)) => Ok(self.image.identity_of(address)),
                    (None, None) => {
                        let prefix = workload.addresses.first();
                        let number = prefix.and_then(|p| self.image.prefixes.get(&p.trunc()));
                        let unknown = || ExplainError::Unrecognisable(name.clone());
                        number.copied().ok_or_else(unknown)
                    }
                }
            }
        }
    }

    fn workload(&self, name: &WorkloadName) -> Result<&Workload, ExplainError> {
        let mut workloads = self.policy.workloads.iter();
        workloads
            .find(|w| w.namespace == name.namespace && w.name == name.name)
            .ok_or_else(|| ExplainError::NoSuchWorkload(name.clone()))
    }
}

/// The documents' side of an explanation.
struct Story<'a> {
    ground: Ground,
    node: &'a crate::policy::model::NodeSettings,
    /// Those about the endpoint, in the order in which they are named.
    policies: Vec<(&'a Policy, &'a [Rule])>,
    /// By number, which is the order in which they are named: policy and place in it.
    rules: Vec<(usize, usize)>,
    matching: Matching,
    tiers: Vec<TierView>,
}

impl<'a> Story<'a> {
    fn new(
        explainer: &Explainer<'a>,
        endpoint: Option<&Workload>,
        direction: Direction,
        peer: &Identity,
        query: &FlowQuery,
    ) -> Self {
        let mut policies: Vec<(&Policy, &[Rule])> = explainer
            .policy
            .policies
            .iter()
            .filter(|policy| is_about(policy, endpoint))
            .filter_map(|policy| Some((policy, policy.rules[direction as usize].as_deref()?)))
            .collect();
        policies.sort_by_key(|(p, _)| (p.tier, &p.namespace, &p.name));
        let node = &explainer.policy.node;
        let mut story = Self {
            ground: Ground {
                isolation: None,
                enforced_isolation: None,
                default: node.default[direction as usize],
                mode: explainer.mode,
            },
            node,
            policies,
            rules: Vec::new(),
            matching: Matching::default(),
            tiers: Vec::new(),
        };
        for (index, (policy, rules)) in story.policies.iter().enumerate() {
            let mode = policy.mode.unwrap_or(explainer.mode);
            let isolates = policy.tier == Tier::Application;
            let number = rules::count(index);
            if isolates {
                story.ground.isolation.get_or_insert(number);
                if mode == Mode::Enforce {
                    story.ground.enforced_isolation.get_or_insert(number);
                }
            }
            let mut views = Vec::with_capacity(rules.len());
            for (place, rule) in rules.iter().enumerate() {
                let mismatch = mismatch(rule, peer, query);
                if mismatch.is_none() {
                    let number = rules::count(story.rules.len());
                    let deny = rule.action == RuleAction::Deny;
                    let enforced = mode == Mode::Enforce;
                    story.matching.add(number, policy.tier, deny, enforced);
                }
                story.rules.push((index, place));
                views.push(RuleView {
                    name: rule.name.clone(),
                    origin: rule.origin.clone(),
                    action: rule.action,
                    matches: mismatch.is_none(),
                    mismatch,
                    why_not: mismatch.map(|mismatch| in_words(mismatch, rule)),
                    decides: false,
                });
            }
            let view = PolicyView {
                namespace: policy.namespace.clone(),
                name: policy.name.clone(),
                origin: policy.origin.clone(),
                mode,
                isolates,
                isolation_decides: false,
                rules: views,
            };
            match story.tiers.last_mut() {
                Some(tier) if tier.tier == policy.tier => tier.policies.push(view),
                _ => story.tiers.push(TierView {
                    tier: policy.tier,
                    reached: true,
                    policies: vec![view],
                }),
            }
        }
        story
    }

    /// Marks what decided; `action` is the verdict.
    fn tell(&mut self, action: Action) -> Option<AuditView> {
        let enforced = self.matching.evaluate(&self.ground, true);
        let all = self.matching.evaluate(&self.ground, false);
        let (_, cause) = if action == Action::Deny {
            enforced
        } else {
            all
        };
        let tier = match cause {
            Cause::Rule(number) => {
                let (policy, place) = self.rules[number as usize];
                if let Some(view) = self.view(policy) {
                    view.rules[place].decides = true;
                }
                Some(self.policies[policy].0.tier)
            }
            Cause::Isolation(policy) => {
                if let Some(view) = self.view(policy as usize) {
                    view.isolation_decides = true;
                }
                Some(Tier::Application)
            }
            Cause::Default => None,
        };
        for view in &mut self.tiers {
            view.reached = tier.is_none_or(|tier| view.tier <= tier);
        }
        (enforced != all).then(|| AuditView {
            enforced: self.decided(enforced),
            all: self.decided(all),
        })
    }

    fn view(&mut self, policy: usize) -> Option<&mut PolicyView> {
        let mut views = self.tiers.iter_mut().flat_map(|tier| &mut tier.policies);
        views.nth(policy)
    }

    fn decided(&self, (action, cause): Outcome) -> Decided {
        let action = match action {
            Action::Allow => RuleAction::Allow,
            Action::Deny | Action::Audit => RuleAction::Deny,
        };
        let (policy, rule, origin) = match cause {
            Cause::Rule(number) => {
                let (policy, place) = self.rules[number as usize];
                let (policy, rules) = self.policies[policy];
                let rule = &rules[place];
                (Some(policy), rule.name.as_str(), Some(&rule.origin))
            }
            Cause::Isolation(policy) => {
                let (policy, _) = self.policies[policy as usize];
                (Some(policy), "isolation", Some(&policy.origin))
            }
            Cause::Default => (None, "default", self.node.origin.as_ref()),
        };
        Decided {
            action,
            tier: policy.map(|policy| policy.tier),
            policy: policy.map(|policy| match &policy.namespace {
                Some(namespace) => format!("{namespace}/{}", policy.name),
                None => policy.name.clone(),
            }),
            rule: rule.to_owned(),
            origin: origin.cloned(),
        }
    }
}

fn is_about(policy: &Policy, endpoint: Option<&Workload>) -> bool {
    match (&policy.subject, endpoint) {
        (Subject::Host, None) => true,
        (Subject::Workloads(selector), Some(workload)) => {
            selector.matches(&workload.namespace, &workload.labels)
        }
        _ => false,
    }
}

fn is_single(prefix: &IpNet) -> bool {
    prefix.prefix_len() == prefix.max_prefix_len()
}

fn name_of(workload: &Workload) -> WorkloadName {
    WorkloadName {
        namespace: workload.namespace.clone(),
        name: workload.name.clone(),
    }
}

/// Every number that the image gives has an identity in it.
fn unknown_peer() -> Identity {
    Identity {
        subject: super::image::IdentitySubject::World,
        prefixes: std::collections::BTreeSet::new(),
    }
}

fn mismatch(rule: &Rule, peer: &Identity, query: &FlowQuery) -> Option<Mismatch> {
    if !rule.peers.iter().any(|p| peers::matches(p, peer)) {
        return Some(Mismatch::Peer);
    }
    let mut of_protocol = rule
        .ports
        .iter()
        .filter(|ports| ports.protocol.is_none_or(|p| p == query.protocol))
        .peekable();
    if of_protocol.peek().is_none() {
        return Some(Mismatch::Protocol);
    }
    let hit = of_protocol.any(|p| p.protocol.is_none() || (p.first..=p.last).contains(&query.port));
    (!hit).then_some(Mismatch::Port)
}

fn in_words(mismatch: Mismatch, rule: &Rule) -> String {
    match mismatch {
        Mismatch::Peer => {
            let peers: Vec<_> = rule.peers.iter().map(PeerText).collect();
            format!("the peer is none of: {}", joined(&peers))
        }
        Mismatch::Protocol | Mismatch::Port => {
            let ports: Vec<_> = rule.ports.iter().map(PortText).collect();
            let what = if mismatch == Mismatch::Port {
                "port"
            } else {
                "protocol"
            };
            format!("the {what} is none of: {}", joined(&ports))
        }
    }
}

/// At most this many peers or ports of a rule are listed.
const LISTED: usize = 8;

fn joined(items: &[impl fmt::Display]) -> String {
    let mut texts: Vec<_> = items.iter().take(LISTED).map(ToString::to_string).collect();
    if items.len() > LISTED {
        texts.push(format!("and {} more", items.len() - LISTED));
    }
    texts.join("; ")
}

struct PeerText<'a>(&'a Peer);

impl fmt::Display for PeerText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Peer::Any => f.write_str("any"),
            Peer::Host => f.write_str("host"),
            Peer::World => f.write_str("world"),
            Peer::Workloads(LabelSelector {
                namespace,
                match_labels,
            }) => {
                f.write_str("workloads")?;
                for (i, (key, value)) in match_labels.iter().enumerate() {
                    f.write_str(if i == 0 { " with " } else { "," })?;
                    write!(f, "{key}={value}")?;
                }
                match namespace {
                    Some(namespace) => write!(f, " in namespace {namespace}"),
                    None => f.write_str(" in any namespace"),
                }
            }
            Peer::Cidr { prefix, except } => {
                write!(f, "{prefix}")?;
                for (i, prefix) in except.iter().enumerate() {
                    f.write_str(if i == 0 { " except " } else { "," })?;
                    write!(f, "{prefix}")?;
                }
                Ok(())
            }
        }
    }
}

struct PortText<'a>(&'a PortMatch);

impl fmt::Display for PortText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use enforcer_common::Protocol;
        let PortMatch {
            protocol,
            first,
            last,
        } = *self.0;
        let Some(protocol) = protocol else {
            return f.write_str("any");
        };
        let name = match protocol {
            Protocol::TCP => "tcp",
            Protocol::UDP => "udp",
            Protocol::SCTP => "sctp",
            Protocol::UDPLITE => "udplite",
            Protocol::ICMP => "icmp",
            Protocol::ICMPV6 => "icmpv6",
            _ => "",
        };
        if first > 0 || last < u16::MAX {
            match protocol {
                Protocol::ICMP | Protocol::ICMPV6 => {
                    let [kind, code] = first.to_be_bytes();
                    write!(f, "{kind}")?;
                    if first == last {
                        write!(f, ".{code}")?;
                    }
                }
                _ if first == last => write!(f, "{first}")?,
                _ => write!(f, "{first}-{last}")?,
            }
            f.write_str("/")?;
        }
        if name.is_empty() {
            write!(f, "protocol {protocol}")
        } else {
            f.write_str(name)
        }
    }
}
