//! Resolved policy: what a tree of documents means, with every name looked up, every default
//! filled in and every value in its type. Nothing after this stage sees YAML.

use std::{collections::BTreeMap, fmt, sync::Arc};

use enforcer_common::{Direction, Protocol};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Labels of a workload or demanded by a selector.
pub type Labels = BTreeMap<String, String>;

/// Where in the tree something is written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Origin {
    /// Path below the root of the tree (or as given on the command line).
    pub file: Arc<str>,
    /// 1-based.
    pub line: u32,
    /// 1-based.
    pub column: u32,
    /// The git commit of the tree, where it is a git work tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<Arc<str>>,
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
    /// In the order of (namespace, name). What did not change from one reading of a tree to the
    /// next is the same in memory.
    pub workloads: Vec<Arc<Workload>>,
    /// In the order of (tier, namespace, name), and as the workloads.
    pub policies: Vec<Arc<Policy>>,
    /// SHA-256 over the files' paths and contents, as 64 hex digits.
    pub digest: String,
    /// The git commit of the tree, where it is in a git work tree.
    pub commit: Option<Arc<str>>,
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
    /// Its addresses: single ones are prefixes of full length.
    pub addresses: Vec<IpNet>,
    /// Where it runs, if it can run on this node.
    pub place: Option<Place>,
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

/// A policy (kind `SegmentPolicy`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `None`: every namespace (its selectors too).
    pub namespace: Option<String>,
    /// Unique in its namespace.
    pub name: String,
    /// The document.
    pub origin: Origin,
    /// Tier.
    pub tier: Tier,
    /// `None`: as the node.
    pub mode: Option<Mode>,
    /// Which workloads it is about.
    pub subject: Subject,
    /// By direction (egress, ingress). `Some`, even empty, isolates in tier `application`.
    pub rules: [Option<Vec<Rule>>; 2],
}

/// What a policy selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Workloads by labels, in the policy's namespace or in all.
    Workloads(LabelSelector),
    /// The host endpoint.
    Host,
}

/// Selects workloads by labels and namespace. (Expressions come with the full language.)
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LabelSelector {
    /// `None`: every namespace.
    pub namespace: Option<String>,
    /// Every one must be there. Empty: every workload.
    pub match_labels: Labels,
}

impl LabelSelector {
    /// Whether a workload with these facts is selected.
    pub fn matches(&self, namespace: &str, labels: &Labels) -> bool {
        self.namespace.as_deref().is_none_or(|n| n == namespace)
            && self
                .match_labels
                .iter()
                .all(|(k, v)| labels.get(k) == Some(v))
    }
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleAction {
    /// Let through: no lower tier is asked.
    Allow,
    /// Drop; beats allow in the same tier.
    Deny,
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
    /// Any of them matches. Never empty: a rule without peers is `[Peer::Any]`.
    pub peers: Vec<Peer>,
    /// Any of them matches. Never empty: a rule without ports is `[PortMatch::ANY]`.
    pub ports: Vec<PortMatch>,
}

/// The other side of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Peer {
    /// Everybody.
    Any,
    /// This host's own processes that belong to no workload, and its addresses.
    Host,
    /// Whatever belongs to no workload and is not this host.
    World,
    /// Workloads.
    Workloads(LabelSelector),
    /// Peers known by an address in `prefix` and in none of `except`, workload or not. A peer
    /// that its own socket proves (a cgroup workload of this host) is matched by labels only.
    Cidr {
        /// Network.
        prefix: IpNet,
        /// Networks inside `prefix` that do not count.
        except: Vec<IpNet>,
    },
}

/// Protocol and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortMatch {
    /// IP protocol number; `None`: every one (then the range is the whole).
    pub protocol: Option<u8>,
    /// First port, or ICMP type and code as [`enforcer_common::flow_key::icmp_port`].
    pub first: u16,
    /// Last one, inclusive.
    pub last: u16,
}

impl PortMatch {
    /// Every protocol and port.
    pub const ANY: Self = Self {
        protocol: None,
        first: 0,
        last: u16::MAX,
    };
}
