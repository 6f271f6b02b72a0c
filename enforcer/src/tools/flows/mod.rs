//! Flows that were seen, from records of the enforcer ([`records`]) and from packet captures
//! ([`capture`]), brought to one form and counted.

pub mod capture;
pub mod place;
pub mod records;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::File,
    io::{self, BufRead, BufReader, Cursor, Read},
    net::IpAddr,
    path::{Path, PathBuf},
};

use enforcer_common::{Protocol, flow_key::icmp_port};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    compile::{
        explain::Answer,
        image::{RuleDirection, WorkloadName},
    },
    observe::record::{FlowRecord, RecordRule, Side, SideKind, Verdict},
    policy::model::Labels,
    protocol_name,
};

/// One side of a flow, as often as it was seen.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Seen {
    /// Where; empty for captures.
    pub node: String,
    /// The side that judges.
    pub endpoint: Who,
    /// Seen from the endpoint.
    pub direction: RuleDirection,
    /// The other side.
    pub peer: Who,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port, or ICMP type and code, or 0.
    pub port: u16,
    /// What became of it.
    pub verdict: Verdict,
}

/// One side of a flow, by what was known of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Who {
    /// The host, by its own socket.
    Host,
    /// The host, by its address.
    HostAddress(IpAddr),
    /// A workload by its name, on its own host.
    Proven(WorkloadName),
    /// A workload of which only namespace and labels are known.
    Described(String, Labels),
    /// Whoever has the address.
    Address(IpAddr),
    /// Nobody known, without an address.
    World,
}

/// How often something was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Records, or flows of a capture.
    pub records: u64,
    /// Packets.
    pub packets: u64,
    /// RFC 3339, UTC; empty if unknown.
    pub first: String,
    /// RFC 3339, UTC; empty if unknown.
    pub last: String,
}

impl Tally {
    /// Adds another.
    pub fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.packets += other.packets;
        if self.first.is_empty() || !other.first.is_empty() && other.first < self.first {
            self.first.clone_from(&other.first);
        }
        if other.last > self.last {
            self.last.clone_from(&other.last);
        }
    }
}

/// As in `12 times, last 2026-01-02T12:03:04Z`: to the second is enough for people.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.records {
            1 => f.write_str("once")?,
            records => write!(f, "{records} times")?,
        }
        match self.last.get(..19) {
            Some(second) => write!(f, ", last {second}Z"),
            None => Ok(()),
        }
    }
}

/// Everything that was read.
#[derive(Clone, Debug, Default)]
pub struct Flows {
    /// What was seen, how often, and the rule that decided last.
    pub seen: BTreeMap<Seen, (Tally, Option<RecordRule>)>,
    /// Addresses of hosts, by node.
    pub hosts: BTreeMap<String, BTreeSet<IpAddr>>,
    /// What is no flow that policy decides about, by why not.
    pub passed_over: BTreeMap<PassedOver, u64>,
    /// Lines and packets that could not be read.
    pub bad: Bad,
}

/// Why a record or packet says nothing about policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PassedOver {
    /// Its verdict does not come from policy: a spoofed or blocked source, a failsafe port, a
    /// reply, a malformed packet and so on.
    NotByPolicy,
    /// It does not tell enough: no protocol, or nobody at one side.
    Incomplete,
    /// Records that a reader was too slow for (`{"lost": N}`).
    Lost,
    /// It is a security event (or of a kind that is not known), not a flow.
    SecurityEvent,
    /// The capture does not have the flow's beginning, so who opened it is not known.
    BegunBefore,
    /// Packets of a capture that are no IP.
    NotIp,
    /// Replies and errors, fragments after the first, neighbour discovery.
    Accompanying,
}

impl PassedOver {
    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::NotByPolicy => "not decided by policy",
            Self::Incomplete => "without protocol or address",
            Self::Lost => "lost before they were written",
            Self::SecurityEvent => "security events",
            Self::BegunBefore => "of flows that began before the capture",
            Self::NotIp => "no IP packets",
            Self::Accompanying => "replies, errors and fragments",
        }
    }
}

/// What could not be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bad {
    /// How many lines and packets.
    pub count: u64,
    /// The first of them, as `file:line: why`.
    pub first: Vec<String>,
}

/// How many bad lines are told one by one.
const BAD_SHOWN: usize = 10;

/// Why reading ended.
#[derive(Debug, Error)]
pub enum FlowsError {
    /// The file.
    #[error("cannot read {path}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The capture.
    #[error("{path}: {problem}")]
    Capture {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A bad line, where none was to be tolerated.
    #[error("{0}")]
    Bad(String),
}

impl Flows {
    /// Reads a file, `-` for standard input: a capture if it begins like one, else records.
    /// With `strict`, the first bad line is an error.
    pub fn read(&mut self, path: &Path, strict: bool) -> Result<(), FlowsError> {
        let io = |source| FlowsError::Io {
            path: path.to_owned(),
            source,
        };
        if path == Path::new("-") {
            self.read_from(io::stdin(), path, strict)
        } else {
            self.read_from(File::open(path).map_err(io)?, path, strict)
        }
    }

    /// As [`Flows::read`], from an open file that is called `path` in errors.
    pub fn read_from(
        &mut self,
        mut input: impl Read + Send,
        path: &Path,
        strict: bool,
    ) -> Result<(), FlowsError> {
        let io = |source| FlowsError::Io {
            path: path.to_owned(),
            source,
        };
        let mut magic = Vec::new();
        input.by_ref().take(4).read_to_end(&mut magic).map_err(io)?;
        let is_capture = capture::is_capture(&magic);
        let input = Cursor::new(magic).chain(input);
        if is_capture {
            capture::read(input, path, strict, self)
        } else {
            records::read(
                &mut BufReader::new(input) as &mut dyn BufRead,
                path,
                strict,
                self,
            )
        }
    }

    /// Counts what was seen.
    pub fn see(&mut self, seen: Seen, tally: &Tally, rule: Option<RecordRule>) {
        let entry = self.seen.entry(seen).or_default();
        if rule.is_some() && tally.last >= entry.0.last {
            entry.1 = rule;
        }
        entry.0.add(tally);
    }

    /// Counts a record of the enforcer.
    pub fn record(&mut self, record: &FlowRecord) {
        for side in [&record.workload, &record.peer] {
            if let (SideKind::Host, Some(address)) = (side.kind, side.address) {
                let node = self.hosts.entry(record.node.clone()).or_default();
                node.insert(address);
            }
        }
        if !["rule", "isolation", "node-default", "unrestricted"].contains(&&*record.reason) {
            self.pass_over(PassedOver::NotByPolicy, 1);
            return;
        }
        match seen(record) {
            None => self.pass_over(PassedOver::Incomplete, 1),
            Some(seen) => {
                let tally = Tally {
                    records: 1,
                    packets: record.packets,
                    first: record.time.clone(),
                    last: record.time.clone(),
                };
                self.see(seen, &tally, record.rule.clone());
            }
        }
    }

    /// Counts what is passed over.
    pub fn pass_over(&mut self, why: PassedOver, count: u64) {
        *self.passed_over.entry(why).or_default() += count;
    }

    /// Counts, or refuses, a line that cannot be read.
    fn refuse(&mut self, what: String, strict: bool) -> Result<(), FlowsError> {
        if strict {
            return Err(FlowsError::Bad(what));
        }
        self.bad.count += 1;
        if self.bad.first.len() < BAD_SHOWN {
            self.bad.first.push(what);
        }
        Ok(())
    }
}

/// What a record says, if it says enough.
fn seen(record: &FlowRecord) -> Option<Seen> {
    let protocol = protocol_number(&record.protocol)?;
    let port = match protocol {
        Protocol::ICMP | Protocol::ICMPV6 => {
            icmp_port(record.icmp_type?, record.icmp_code.unwrap_or(0))
        }
        _ if Protocol::has_ports(protocol) => record.destination().port?,
        _ => 0,
    };
    let endpoint = match record.workload.kind {
        SideKind::Host => Who::Host,
        SideKind::Workload => Who::Proven(WorkloadName {
            namespace: record.workload.namespace.clone()?,
            name: record.workload.name.clone()?,
        }),
        SideKind::RemoteHost | SideKind::World | SideKind::Unknown => return None,
    };
    Some(Seen {
        node: record.node.clone(),
        endpoint,
        direction: record.direction,
        peer: peer(&record.peer)?,
        protocol,
        port,
        verdict: record.verdict,
    })
}

fn peer(side: &Side) -> Option<Who> {
    use crate::compile::image::Assurance;
    let by_address = side.address.map(Who::Address);
    match side.kind {
        SideKind::Host if side.identity == enforcer_common::identity::HOST => Some(Who::Host),
        SideKind::Host => side.address.map(Who::HostAddress).or(Some(Who::Host)),
        SideKind::World => by_address.or(Some(Who::World)),
        SideKind::RemoteHost | SideKind::Unknown => by_address,
        SideKind::Workload => {
            let namespace = side.namespace.clone()?;
            let by_socket = side.assurance == Some(Assurance::Kernel);
            match by_address {
                Some(by_address) if !by_socket => Some(by_address),
                _ => Some(match &side.name {
                    Some(name) => Who::Proven(WorkloadName {
                        namespace,
                        name: name.clone(),
                    }),
                    None => Who::Described(namespace, side.labels.clone()),
                }),
            }
        }
    }
}

/// The number behind a name as in records.
fn protocol_number(name: &str) -> Option<u8> {
    protocol_name::number(name).or_else(|| name.parse().ok())
}

/// A recorded verdict as the tools have it.
pub const fn as_answer(verdict: Verdict) -> Answer {
    match verdict {
        Verdict::Allow => Answer::Allow,
        Verdict::Deny => Answer::Deny,
        Verdict::Audit => Answer::Audit,
    }
}
