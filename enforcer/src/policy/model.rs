//! Resolved policy: what a tree of documents means, with every name looked up, every default
//! filled in and every value in its type. Nothing after this stage sees YAML.

mod labels;
mod moment;
mod pattern;
mod peer;
mod port;
mod selector;
mod trust_domain;

use std::{cmp::Reverse, collections::BTreeSet, fmt, net::IpAddr, sync::Arc};

use enforcer_common::{Direction, Protocol};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use self::{
    labels::Labels,
    moment::{Moment, MomentError, Validity},
    pattern::{SpiffePattern, UnitPattern},
    peer::{Group, Peer},
    port::{NamedPort, NamedPortMatch, PortMatch, PortRange},
    selector::{Expression, LabelSelector, NAME_LABEL, Namespaces, Operator, WorkloadSelector},
    trust_domain::{BundleSource, TrustDomainSettings},
};

/// Where in the tree something is written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Origin {
    /// Path below the root of the tree (or as given on the command line).
    pub file: Arc<str>,
    /// 1-based.
    pub line: u32,
    /// 1-based.
    pub column: u32,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Everything that a tree says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvedPolicy {
    /// The node's settings; [`NodeSettings::default`] where no document gives them.
    pub node: NodeSettings,
    /// Labels of namespaces.
    pub namespaces: Namespaces,
    /// Other hosts, by name.
    pub hosts: Vec<Arc<RemoteHost>>,
    /// Trust domains, by name.
    pub trust_domains: Vec<Arc<TrustDomainSettings>>,
    /// In the order of (namespace, name). What did not change from one reading of a tree to the
    /// next is the same in memory: each of them, and all together.
    pub workloads: Arc<Vec<Arc<Workload>>>,
    /// In the order of [`Policy::rank`]. Each that did not change is the same in memory.
    pub policies: Vec<Arc<Policy>>,
    /// SHA-256 over the files' paths and contents, as 64 hex digits.
    pub digest: String,
    /// The git commit of the tree, where it is in a git work tree.
    pub commit: Option<Arc<str>>,
}

impl ResolvedPolicy {
    /// Every moment at which a policy or rule begins or ends to hold, ascending. Between two of
    /// them, and before the first and after the last, the meaning of the tree does not change.
    pub fn boundaries(&self) -> BTreeSet<Moment> {
        let policies = self.policies.iter();
        policies.flat_map(|policy| policy.boundaries()).collect()
    }

    /// Whether the same policies and rules hold at both moments.
    pub fn means_the_same(&self, one: Moment, other: Moment) -> bool {
        let mut policies = self.policies.iter();
        policies.all(|policy| policy.means_the_same(one, other))
    }
}

/// How an identity is known, weakest first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Assurance {
    /// By its address, as declared.
    #[default]
    Address,
    /// By what an orchestrator says.
    Orchestrator,
    /// By a fact of this kernel: interface or cgroup.
    Kernel,
    /// By mTLS.
    Attested,
}

impl Assurance {
    /// As written in policy and records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Orchestrator => "orchestrator",
            Self::Kernel => "kernel",
            Self::Attested => "attested",
        }
    }
}

/// Whether denials are carried out.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Report what would be denied; cut nothing.
    #[default]
    Audit,
    /// Deny.
    Enforce,
}

/// What happens to a flow that no tier decides, and similar choices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fallback {
    /// Let through.
    #[default]
    Allow,
    /// Drop.
    Deny,
}

/// Settings of the node (kind `Node`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSettings {
    /// Name of the `Node` document, or empty.
    pub name: String,
    /// Where the document is.
    pub origin: Option<Origin>,
    /// Labels of the host endpoint.
    pub labels: Labels,
    /// `None`: as the command line says, else audit.
    pub mode: Option<Mode>,
    /// For flows that no tier decides, by direction (egress, ingress).
    pub default: [Fallback; 2],
    /// When the flow table is full: `Allow` judges packet by packet, `Deny` refuses new flows.
    pub flow_table_full: Fallback,
    /// For processes in a cgroup that a glob covers but that is not classified yet.
    pub unknown_workload: Fallback,
    /// `None`: [`BUILT_IN_FAILSAFE`] (see [`NodeSettings::failsafe_in_force`]).
    pub failsafe: Option<Vec<Failsafe>>,
    /// Source prefixes dropped at the uplinks, before anything else.
    pub blocked: Vec<Blocked>,
    /// Whether who is denied is told.
    pub denied: Denied,
}

/// What becomes of packets that policy denies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Denied {
    /// They are dropped in silence.
    #[default]
    Drop,
    /// They are dropped, and their sender is told, by a reset or an ICMP error.
    Reject,
}

impl Default for NodeSettings {
    fn default() -> Self {
        Self {
            name: String::new(),
            origin: None,
            labels: Labels::new(),
            mode: None,
            default: [Fallback::Allow; 2],
            flow_table_full: Fallback::Allow,
            unknown_workload: Fallback::Allow,
            failsafe: None,
            blocked: Vec::new(),
            denied: Denied::default(),
        }
    }
}

impl NodeSettings {
    /// The failsafe ports that hold: as the document says, else the built-in ones.
    pub fn failsafe_in_force(&self) -> &[Failsafe] {
        self.failsafe.as_deref().unwrap_or(BUILT_IN_FAILSAFE)
    }
}

/// What a host must keep: a way in for its operator, and what it needs for its address, for
/// names and for the time (docs/policy.md, "Failsafe ports"). Short on purpose: each entry is a
/// way around policy.
pub const BUILT_IN_FAILSAFE: &[Failsafe] = &[
    // SSH.
    Failsafe::new(Direction::Ingress, Protocol::TCP, 22),
    // DHCP and DHCPv6 (RFC 2131, RFC 8415).
    Failsafe::new(Direction::Ingress, Protocol::UDP, 68),
    Failsafe::new(Direction::Ingress, Protocol::UDP, 546),
    Failsafe::new(Direction::Egress, Protocol::UDP, 67),
    Failsafe::new(Direction::Egress, Protocol::UDP, 547),
    // DNS.
    Failsafe::new(Direction::Egress, Protocol::UDP, 53),
    Failsafe::new(Direction::Egress, Protocol::TCP, 53),
    // NTP: certificates are worthless on a host whose clock is wrong.
    Failsafe::new(Direction::Egress, Protocol::UDP, 123),
];

/// A port of the host endpoint that no policy can close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Failsafe {
    /// Ingress: a service of this host. Egress: a service that it needs.
    pub direction: Direction,
    /// IP protocol number.
    pub protocol: u8,
    /// Port.
    pub port: u16,
}

impl Failsafe {
    /// A failsafe port.
    pub const fn new(direction: Direction, protocol: u8, port: u16) -> Self {
        Self {
            direction,
            protocol,
            port,
        }
    }
}

/// A blocked source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// The prefix.
    pub prefix: IpNet,
    /// Where it is written.
    pub origin: Origin,
}

/// A workload (kind `Workload`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// `default` where the document gives none.
    pub namespace: String,
    /// Unique in its namespace.
    pub name: String,
    /// The document.
    pub origin: Origin,
    /// Labels, as written.
    pub labels: Labels,
    /// SPIFFE ID, as `spiffe://trust-domain/path`.
    pub spiffe_id: Option<String>,
    /// Service account, in its namespace.
    pub service_account: Option<String>,
    /// Ports by name.
    pub ports: BTreeSet<NamedPort>,
    /// Its addresses: single ones are prefixes of full length.
    pub addresses: Vec<IpNet>,
    /// How well a peer is known that has one of `addresses`.
    pub assurance: Assurance,
    /// Where it runs, if it can run on this node.
    pub place: Option<Place>,
    /// The systemd unit that the daemon of another host names; `None` for documents of the tree.
    pub unit_elsewhere: Option<String>,
}

impl Workload {
    /// The systemd unit (a name or glob) that its document or its host's daemon names.
    pub fn unit(&self) -> Option<&str> {
        match &self.place {
            Some(Place::Unit(unit)) => Some(unit),
            _ => self.unit_elsewhere.as_deref(),
        }
    }
}

/// Another host (kind `Host`), known by its addresses. On the host whose own addresses they
/// are, they are its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteHost {
    /// Unique among hosts.
    pub name: String,
    /// The document.
    pub origin: Origin,
    /// Labels.
    pub labels: Labels,
    /// Its addresses: single ones are prefixes of full length.
    pub addresses: Vec<IpNet>,
}

/// Where a workload runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// Path or glob below the cgroup root, with a leading `/`.
    Cgroup(String),
    /// systemd unit name or glob.
    Unit(String),
    /// The host's side of the workload's interface (a name, no glob).
    Interface(String),
    /// The interface behind which an address of the workload is: the one that the host's own
    /// route to it leaves by, without a gateway.
    Route(IpAddr),
}

/// Tiers, highest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Answers to attacks.
    Quarantine,
    /// The security team.
    Admin,
    /// The workloads' owners; isolates, as Kubernetes NetworkPolicy does.
    Application,
    /// What holds where nobody said anything else.
    Baseline,
}

/// Which language a policy is written in. Policies of two kinds may share a name.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub enum PolicyKind {
    /// Our own.
    #[default]
    SegmentPolicy,
    /// `networking.k8s.io/v1`.
    NetworkPolicy,
    /// `policy.networking.k8s.io`.
    ClusterNetworkPolicy,
    /// `policy.networking.k8s.io`, the older form of tier `admin`.
    AdminNetworkPolicy,
    /// `policy.networking.k8s.io`, the older form of tier `baseline`.
    BaselineAdminNetworkPolicy,
}

/// A policy, of whatever kind.
///
/// # Precedence
/// For one endpoint and direction, tiers are asked from the highest to the lowest. In a tier:
///
/// 1. All policies without a priority are one level without an order. If any of their rules
///    that match denies, the flow is denied; else if any passes, the next tier is asked; else if
///    any allows, it is allowed.
/// 2. Then policies with a priority, the smallest number first; those of one priority by
///    (namespace, name, kind). The rules of each in the order in which they are written: the
///    first that matches decides (allow, deny), or hands on to the next tier (pass).
/// 3. Then, in tier `application`, isolation: a policy that says anything in the direction denies.
///
/// What is handed on by the last tier, or decided by none, falls to the node's default. In the
/// evaluation that carries denials out, denials of policies in audit mode (rules and isolation)
/// are passed over as if they were not written; their allow and pass rules count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Kind.
    pub kind: PolicyKind,
    /// `None`: every namespace (its selectors too).
    pub namespace: Option<String>,
    /// Unique in its namespace, among those of its kind.
    pub name: String,
    /// The document.
    pub origin: Origin,
    /// Tier.
    pub tier: Tier,
    /// `None`: unordered. Policies of Kubernetes have one in the tiers `admin` and `baseline`.
    pub priority: Option<u32>,
    /// `None`: as the node.
    pub mode: Option<Mode>,
    /// When it holds. Outside of it, it is as if it were not there: it does not isolate either.
    pub validity: Validity,
    /// Who is to answer for it.
    pub accountability: Accountability,
    /// Which workloads it is about.
    pub subject: Subject,
    /// By direction (egress, ingress). `Some`, even empty, isolates in tier `application`.
    pub rules: [Option<Vec<Rule>>; 2],
}

impl PolicyKind {
    /// As documents write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SegmentPolicy => "SegmentPolicy",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Self::AdminNetworkPolicy => "AdminNetworkPolicy",
            Self::BaselineAdminNetworkPolicy => "BaselineAdminNetworkPolicy",
        }
    }
}

impl Policy {
    /// The order in which policies are asked, and, among those that have none, named.
    pub fn rank(&self) -> (Tier, Option<u32>, Option<&str>, &str, PolicyKind) {
        let namespace = self.namespace.as_deref();
        (self.tier, self.priority, namespace, &self.name, self.kind)
    }

    /// Of several policies that isolate a workload, the default deny is named after the one that
    /// comes first in this order: the one that demands most of whom it is about was written for
    /// fewest, and is where a reader would look first.
    pub fn isolation_rank(&self) -> impl Ord + '_ {
        let demands = match &self.subject {
            Subject::Workloads(selectors) => selectors.iter().map(WorkloadSelector::demands).min(),
            Subject::Host => None,
        };
        (Reverse(demands), self.rank())
    }

    /// Whether a rule of it is one that nobody wrote: what Kubernetes always allows.
    pub fn adds(&self, rule: &Rule) -> bool {
        self.kind == PolicyKind::NetworkPolicy && rule.name == LOCAL_NODE
    }

    /// Every moment at which it or a rule of it begins or ends to hold, in no order.
    pub fn boundaries(&self) -> impl Iterator<Item = Moment> {
        let rules = self.rules.iter().flatten().flatten();
        let validities = std::iter::once(self.validity).chain(rules.map(|rule| rule.validity));
        validities
            .flat_map(|validity| [validity.from, validity.until])
            .flatten()
    }

    /// Whether it and the same of its rules hold at both moments.
    pub fn means_the_same(&self, one: Moment, other: Moment) -> bool {
        let same = |validity: Validity| validity.holds(one) == validity.holds(other);
        let mut rules = self.rules.iter().flatten().flatten();
        one == other || same(self.validity) && rules.all(|rule| same(rule.validity))
    }
}

/// Who answers for a policy or rule, and what it is for: carried to every denial and report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Accountability {
    /// A person or team.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The request behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// Names of compliance controls that it serves, each once.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub controls: BTreeSet<String>,
}

impl Accountability {
    /// That of a rule in a policy that says `self`: the rule's own owner and ticket are
    /// stronger, and it serves the controls of both.
    #[must_use]
    pub fn with(&self, rule: &Self) -> Self {
        Self {
            owner: rule.owner.as_ref().or(self.owner.as_ref()).cloned(),
            ticket: rule.ticket.as_ref().or(self.ticket.as_ref()).cloned(),
            controls: self.controls.union(&rule.controls).cloned().collect(),
        }
    }
}

/// Name of the rule that every NetworkPolicy has besides its own: a pod and the node on which it
/// runs may always talk to each other.
pub const LOCAL_NODE: &str = "local-node";

/// What a policy selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Workloads that any of these selects.
    Workloads(Vec<WorkloadSelector>),
    /// The host endpoint.
    Host,
}

/// What a rule does; see [`Policy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleAction {
    /// Let through: no lower tier is asked.
    Allow,
    /// Drop; beats pass and allow in the same tier.
    Deny,
    /// Hand on to the next tier; beats allow in the same tier.
    Pass,
}

impl RuleAction {
    /// As written in policy, metrics and records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Pass => "pass",
        }
    }
}

/// A rule of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// As written, or `ingress[0]` and so on.
    pub name: String,
    /// The rule's first line.
    pub origin: Origin,
    /// Action.
    pub action: RuleAction,
    /// Report flows that it allows. (Denials are always reported.)
    pub log: bool,
    /// When it holds.
    pub validity: Validity,
    /// Who is to answer for it, besides what the policy says.
    pub accountability: Accountability,
    /// Any of them matches. Never empty: a rule without peers is `[Peer::Any]`.
    pub peers: Vec<Peer>,
    /// Any of them matches. Never empty: a rule without ports is `[PortMatch::ANY]`.
    pub ports: Vec<PortMatch>,
}
