//! Who runs on other hosts, as their own daemons say: known to policy as whoever the tree
//! declares, without a document.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use super::image::{IdentitySubject, WorkloadName};
use crate::policy::model::{RemoteHost, Workload};

/// The other nodes, in the order of their names. What did not change from one to the next is the
/// same in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elsewhere {
    /// Each node once.
    pub nodes: Vec<Arc<NodePeers>>,
    /// What the others know of this node; `None` before they know anything.
    pub own: Option<Arc<Announced>>,
}

/// Nobody.
pub static NOBODY: Elsewhere = Elsewhere {
    nodes: Vec::new(),
    own: None,
};

/// How workloads of this node can be known to the others: what these can enforce for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announced(pub BTreeMap<WorkloadName, Reached>);

/// By what others know that a flow goes to a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reached {
    /// It has an address of its own.
    ByAddress,
    /// By these ports (IP protocol number, port) of addresses that it shares with its host.
    ByPort(BTreeSet<(u8, u16)>),
}

/// What is known of one other node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePeers {
    /// Its name.
    pub name: String,
    /// The host itself, under the addresses that nobody else claims.
    pub host: Arc<RemoteHost>,
    /// Its workloads, under the addresses that are theirs alone.
    pub workloads: Vec<Arc<Workload>>,
    /// Who is behind which port of an address that workloads share with their host.
    pub services: Vec<Service>,
    /// What policy sees of the workloads that share the host's addresses, without the names of
    /// their ports: those of whom one may be behind a flow from there. Empty where the node does
    /// not enforce.
    pub sharing: Arc<BTreeSet<IdentitySubject>>,
}

/// A workload behind one port of a shared address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Where.
    pub at: ServiceAddress,
    /// Who.
    pub workload: Arc<Workload>,
}

/// Address, protocol and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceAddress {
    /// An address of a host.
    pub address: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Port.
    pub port: u16,
}

impl fmt::Display for ServiceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            address,
            protocol,
            port,
        } = self;
        write!(f, "{address}, protocol {protocol}, port {port}")
    }
}
