//! What the kernel is to hold, in full. The datapath finds out by itself what to change.

use std::sync::Arc;

use enforcer_common::config::FailsafePort;

use super::clock::WallClock;
use crate::compile::image::Image;

/// Everything that `Datapath::apply` makes true.
#[derive(Clone, Debug)]
pub struct Desired {
    /// Policy, addresses and prefixes.
    pub image: Arc<Image>,
    /// Every endpoint that exists now.
    pub endpoints: Vec<DesiredEndpoint>,
    /// Uplinks by interface index: the host endpoint is enforced there.
    pub uplinks: Vec<Uplink>,
    /// What holds for the whole node.
    pub node: NodeConfig,
    /// When the moments ahead will have come.
    pub clock: WallClock,
}

/// An endpoint of a local workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredEndpoint {
    /// Stable number, from 2; the host endpoint is [`HOST_ENDPOINT`].
    pub id: u32,
    /// Identity number in the image.
    pub identity: u32,
    /// Where it is.
    pub place: EndpointPlace,
    /// The endpoint's denials become audit verdicts.
    pub audit: bool,
    /// Only the addresses that the image gives to this endpoint may be its sources.
    pub strict_source: bool,
    /// The addresses that belong to this (interface) endpoint.
    pub addresses: Vec<ipnet::IpNet>,
}

/// Number of the host endpoint.
pub const HOST_ENDPOINT: u32 = 1;

/// Where an endpoint is enforced.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EndpointPlace {
    /// TC on the host's side of a link.
    Interface {
        /// Interface index.
        ifindex: u32,
        /// Name, for messages.
        name: String,
    },
    /// A cgroup below the root that the hooks are attached to.
    Cgroup {
        /// Inode number of the cgroup's directory, which is its id in the kernel.
        id: u64,
        /// Path below the root, for messages.
        path: String,
    },
    /// A cgroup that was looked at and is nobody's: ends the search for an enrolled ancestor.
    NoWorkload {
        /// Cgroup id.
        id: u64,
    },
    /// A cgroup whose children are workloads once they are classified; until then the node's
    /// choice for unknown workloads applies to them.
    Pending {
        /// Cgroup id.
        id: u64,
    },
}

/// An uplink.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uplink {
    /// Interface index.
    pub ifindex: u32,
    /// Name, for messages.
    pub name: String,
    /// Interface indices of its ports (a bridge's, a bond's), and of theirs: what they send comes
    /// in by the uplink.
    pub ports: Vec<u32>,
}

/// Settings that every program reads.
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent switches of the operator, each with a name"
)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// Node-wide audit mode: also for frames that belong to no endpoint.
    pub audit: bool,
    /// Report allowed flows.
    pub report_allowed: bool,
    /// Refuse new flows when the flow table is full.
    pub full_denies: bool,
    /// Refuse unclassified children of [`EndpointPlace::Pending`].
    pub unknown_denies: bool,
    /// At most [`enforcer_common::config::FAILSAFE_PORTS`].
    pub failsafe: Vec<FailsafePort>,
    /// Who is denied is told.
    pub reject: bool,
    /// First reports a second and CPU.
    pub report_limit: u32,
    /// Answers to denied packets a second and CPU.
    pub reject_limit: u32,
    /// Addresses of this host itself.
    pub local_addresses: Vec<std::net::IpAddr>,
}
