//! The flow record: what leaves the enforcer about a flow. A public, versioned schema
//! (docs/telemetry.md): fields may be added, none changes its meaning or goes away within a
//! version.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{
    compile::image::{Assurance, RuleDirection},
    policy::model::{Labels, Mode, Tier},
};

/// Version of [`FlowRecord`], in its field `version`.
pub const RECORD_VERSION: u32 = 1;

/// A flow, or repetitions of one, and the verdict on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowRecord {
    /// [`RECORD_VERSION`].
    pub version: u32,
    /// RFC 3339 with microseconds, UTC: when the (last counted) packet was judged.
    pub time: String,
    /// Number of the record since the daemon's first start; gaps do not occur.
    pub sequence: u64,
    /// Name of the node.
    pub node: String,
    /// Seen from the workload.
    pub direction: RuleDirection,
    /// The verdict.
    pub verdict: Verdict,
    /// [`enforcer_common::Reason::name`].
    pub reason: String,
    /// The rule that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RecordRule>,
    /// The side whose endpoint judged.
    pub workload: Side,
    /// The other side.
    pub peer: Side,
    /// `tcp`, `udp`, `icmp`, `icmpv6`, `sctp`, or the IP protocol number in decimal.
    pub protocol: String,
    /// TCP flags of the judged packet, as `SYN`, `SYN|ACK` and so on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_flags: Option<String>,
    /// ICMP or ICMPv6 type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    /// ICMP or ICMPv6 code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<u8>,
    /// [`enforcer_common::event::Hook::name`].
    pub hook: String,
    /// Name of the interface, at packet hooks of interfaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Path of the cgroup below the cgroup root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// systemd unit, where the cgroup is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The process that made the call, at the socket hooks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// Policy generation that judged.
    pub generation: u32,
    /// The flow was open and is denied since a policy change.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub broken: bool,
    /// Packets that this record stands for.
    pub packets: u64,
    /// Bytes that this record stands for.
    pub bytes: u64,
}

/// Verdict in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Let through.
    Allow,
    /// Dropped.
    Deny,
    /// Would have been dropped.
    Audit,
}

/// The rule that decided.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RecordRule {
    /// Namespace of the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Policy.
    pub policy: String,
    /// Rule.
    pub name: String,
    /// Tier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
    /// Mode of the policy.
    pub mode: Mode,
    /// File.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// Git commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
}

/// One side of a flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// Address.
    pub address: IpAddr,
    /// Port, for protocols that have them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// `host`, `world` or `workload`.
    pub kind: String,
    /// Name of the workload: exact for the judging side and wherever one workload has the
    /// identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Labels.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// SPIFFE ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spiffe_id: Option<String>,
    /// Node-local identity number.
    pub identity: u32,
    /// How the identity is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assurance: Option<Assurance>,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process id, in the daemon's pid namespace.
    pub pid: u32,
    /// User id.
    pub uid: u32,
    /// `/proc/PID/comm`.
    pub program: String,
    /// Target of `/proc/PID/exe`, if the process still lived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executable: Option<String>,
}
