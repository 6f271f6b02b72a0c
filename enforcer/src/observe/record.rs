//! The flow record: what leaves the enforcer about a flow. A public, versioned schema
//! (docs/telemetry.md): fields may be added, none changes its meaning or goes away within a
//! version.

use std::net::IpAddr;

use enforcer_common::Action;
use serde::{Deserialize, Serialize};

use crate::{
    compile::image::{Assurance, RuleDirection},
    policy::model::{Labels, Mode, PolicyKind, Tier},
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
    /// When the daemon that made the record started, in the form of `time`: tells runs apart.
    pub run: String,
    /// Number of the record in this run, from 1. The daemon makes no gaps: a reader that finds
    /// one knows how many records were lost between the daemon and itself.
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
    /// As [`crate::protocol_name`] has it in small letters, the IP protocol number in decimal, or
    /// `unknown` where the frame does not tell.
    pub protocol: String,
    /// TCP flags of the judged packet, as `SYN`, `SYN|ACK` and so on, or `none`; absent at the
    /// socket hooks and from counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_flags: Option<String>,
    /// ICMP or ICMPv6 type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<u8>,
    /// ICMP or ICMPv6 code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_code: Option<u8>,
    /// [`enforcer_common::event::Hook::name`]. Absent from counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<String>,
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
    /// Policy generation that judged; of counts, the one in force when they were collected.
    pub generation: u32,
    /// The flow was open and is denied since a policy change.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub broken: bool,
    /// Packets (at the socket hooks: calls) that this record stands for, and no other record
    /// does: the sum over records is the kernel's count. 0 where another record counts the
    /// packet.
    pub packets: u64,
    /// Bytes that this record stands for; 0 at the socket hooks.
    pub bytes: u64,
}

impl FlowRecord {
    /// The side that opened the flow.
    pub fn source(&self) -> &Side {
        match self.direction {
            RuleDirection::Egress => &self.workload,
            RuleDirection::Ingress => &self.peer,
        }
    }

    /// The side that the flow is addressed to.
    pub fn destination(&self) -> &Side {
        match self.direction {
            RuleDirection::Egress => &self.peer,
            RuleDirection::Ingress => &self.workload,
        }
    }
}

/// A line of a stream of records: of `GET /v1/flows` and of `observe --output json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum StreamLine<R = FlowRecord> {
    /// So many records went by that this reader was too slow for.
    Lost {
        /// How many.
        lost: u64,
    },
    /// A record.
    Record(R),
}

/// Verdict in a record: what [`Action`] is to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Let through.
    Allow,
    /// Dropped.
    Deny,
    /// Would have been dropped; let through.
    Audit,
}

impl Verdict {
    /// Every value.
    pub const ALL: [Self; 3] = [Self::Allow, Self::Deny, Self::Audit];

    /// As in records, metrics and filters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Audit => "audit",
        }
    }
}

impl From<Action> for Verdict {
    fn from(action: Action) -> Self {
        match action {
            Action::Allow => Self::Allow,
            Action::Deny => Self::Deny,
            Action::Audit => Self::Audit,
        }
    }
}

/// The rule that decided.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RecordRule {
    /// Kind of the policy; absent for what is the node's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<PolicyKind>,
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
    /// Present where it is not the record's: `ingress` in a record of egress says that this host
    /// enforces what the other end lets in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<RuleDirection>,
    /// Mode of the policy.
    pub mode: Mode,
    /// Who answers for the rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The request behind the rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// Names of compliance controls that the rule serves, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub controls: Vec<String>,
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
    /// Address; absent where it could not be read, or is unspecified (0.0.0.0, ::).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Port, for protocols that have them. Counts leave out the port of the source, because
    /// they stand for every source port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// What is at this side.
    pub kind: SideKind,
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

/// What is at one side of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SideKind {
    /// The host's own processes and addresses.
    Host,
    /// Another host.
    #[serde(rename = "remote-host")]
    RemoteHost,
    /// Nobody known.
    World,
    /// A workload.
    Workload,
    /// The identity's meaning is not known (any more).
    Unknown,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process id, in the host's first pid namespace.
    pub pid: u32,
    /// User id.
    pub uid: u32,
    /// Name of the calling thread (`/proc/PID/comm`), which the program chooses itself.
    pub program: String,
    /// Target of `/proc/PID/exe`, if the process still lived when the record was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executable: Option<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::observe::fixtures;

    const DOCUMENT: &str = include_str!("../../../docs/telemetry.md");

    /// A record in which nothing is absent.
    fn full() -> FlowRecord {
        let mut record = fixtures::record();
        record.icmp_type = Some(8);
        record.icmp_code = Some(0);
        record.cgroup = Some("/x".into());
        record.unit = Some("x.service".into());
        record.process = Some(Process {
            pid: 1,
            uid: 0,
            program: "x".into(),
            executable: Some("/x".into()),
        });
        record.broken = true;
        record
    }

    #[test]
    fn every_field_is_documented() {
        let Value::Object(record) = serde_json::to_value(full()).unwrap() else {
            panic!("no object")
        };
        for (name, value) in record {
            let names: Vec<String> = match (name.as_str(), value) {
                ("workload" | "peer", Value::Object(side)) => {
                    side.keys().map(|key| format!("`….{key}`")).collect()
                }
                (_, Value::Object(part)) => {
                    part.keys().map(|key| format!("`{name}.{key}`")).collect()
                }
                _ => vec![format!("`{name}`")],
            };
            for name in names {
                assert!(
                    DOCUMENT.contains(&name),
                    "{name} is not in docs/telemetry.md"
                );
            }
        }
        for reason in enforcer_common::Reason::ALL {
            let name = format!("`{}`", reason.name());
            assert!(
                DOCUMENT.contains(&name),
                "{name} is not in docs/telemetry.md"
            );
        }
    }

    #[test]
    fn a_record_survives_json_and_tolerates_what_it_does_not_know() {
        let mut value = serde_json::to_value(full()).unwrap();
        value["new"] = 1.into();
        assert_eq!(serde_json::from_value::<FlowRecord>(value).unwrap(), full());
    }

    #[test]
    fn the_source_depends_on_the_direction() {
        let mut record = fixtures::record();
        assert_eq!(record.source(), &record.peer);
        assert_eq!(record.destination(), &record.workload);
        record.direction = RuleDirection::Egress;
        assert_eq!(record.source(), &record.workload);
    }
}
