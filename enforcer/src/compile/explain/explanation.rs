//! What is asked about a flow, and what is answered.

use std::sync::Arc;

use std::{fmt, net::IpAddr};

use enforcer_common::Action;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    compile::image::{Identity, RuleDirection, RuleInfo, WorkloadName},
    policy::model::{Accountability, Mode, Origin, PolicyKind, RuleAction, Tier},
};

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

fn meant(closest: Option<&str>) -> String {
    closest.map_or_else(String::new, |name| format!(": did you mean `{name}`?"))
}

/// Why a flow cannot be explained.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ExplainError {
    /// No such workload.
    #[error("there is no workload {name} in the policy tree{}", meant(.closest.as_deref()))]
    NoSuchWorkload {
        /// As it was asked for.
        name: WorkloadName,
        /// The one that was probably meant.
        closest: Option<String>,
    },
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
    /// [`enforcer_common::Reason::name`].
    pub reason: String,
    /// The rule that decided, with file and line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleInfo>,
    /// The git commit of the tree, where it is in a git work tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<Arc<str>>,
    /// Where policies in audit mode make a difference: what falls without them, and what would
    /// fall if they were enforced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditView>,
    /// Between hosts: whose policies `tiers` has, where these are not those of the endpoint, and
    /// which of several possible senders is told about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Every tier that has policies about the endpoint in this direction, highest first.
    pub tiers: Vec<TierView>,
}

/// A verdict, for records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
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
    /// Policies about the endpoint, in the order in which they are asked.
    pub policies: Vec<PolicyView>,
}

/// A policy about the endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyView {
    /// Kind.
    #[serde(default)]
    pub kind: PolicyKind,
    /// Namespace; `None` for policies of all namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// The document.
    pub origin: Origin,
    /// Its place among the policies of the tier that have an order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// Mode in effect.
    pub mode: Mode,
    /// Who answers for it.
    #[serde(flatten)]
    pub accountability: Accountability,
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
    /// Whether flows that it allows are reported.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub log: bool,
    /// Who answers for it: what the policy says and what the rule says.
    #[serde(flatten)]
    pub accountability: Accountability,
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
    /// The rule or its policy does not hold yet, or no more.
    Time,
    /// None of the rule's peers is the other side.
    Peer,
    /// The rule is about other protocols.
    Protocol,
    /// The rule is about other ports.
    Port,
}
