//! Protocols and ports.

use serde::{Deserialize, Serialize};

/// What a rule says of protocol and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PortMatch {
    /// By number.
    Range(PortRange),
    /// By the name that the workload gives it to which the flow goes: the one that the policy is
    /// about for ingress, the peer for egress. Whoever is no workload has no names of ports.
    Named(NamedPortMatch),
}

impl PortMatch {
    /// Every protocol and port.
    pub const ANY: Self = Self::Range(PortRange::ANY);
}

/// Protocol and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    /// IP protocol number; `None`: every one (then the range is the whole).
    pub protocol: Option<u8>,
    /// First port, or ICMP type and code as [`enforcer_common::flow_key::icmp_port`].
    pub first: u16,
    /// Last one, inclusive.
    pub last: u16,
}

impl PortRange {
    /// Every protocol and port.
    pub const ANY: Self = Self {
        protocol: None,
        first: 0,
        last: u16::MAX,
    };

    /// Whether a protocol and port are meant.
    pub fn contains(&self, protocol: u8, port: u16) -> bool {
        match self.protocol {
            None => true,
            Some(own) => own == protocol && (self.first..=self.last).contains(&port),
        }
    }
}

/// A port by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamedPortMatch {
    /// IP protocol number; `None`: whichever protocol the named port has.
    pub protocol: Option<u8>,
    /// The name.
    pub name: String,
}

impl NamedPortMatch {
    /// Whether this is a port that is meant.
    pub fn matches(&self, port: &NamedPort) -> bool {
        self.name == port.name && self.protocol.is_none_or(|p| p == port.protocol)
    }
}

/// A port to which a workload gives a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NamedPort {
    /// The name; other ports of the workload may have it too.
    pub name: String,
    /// IP protocol number.
    pub protocol: u8,
    /// Port.
    pub port: u16,
}
