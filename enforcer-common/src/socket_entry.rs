//! What is remembered with a socket.

use bytemuck::{Pod, Zeroable};

use crate::flow_key::{Addr6, FlowKey};

/// Value of the socket storage: which endpoint the socket belongs to, so that the search for
/// the nearest enrolled cgroup is done once for each socket and generation; and the socket's first
/// flow, so that the flow table is asked for it once a second and not for each packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct SocketEntry {
    /// Cgroup of the endpoint that the socket belongs to; 0 for none.
    pub cgroup: u64,
    /// When the flow table last let a packet of `flow` pass: [`passed_at`], with the bits
    /// ([`crate::Direction::bit`]) of the ways that change nothing in its entry. 0: there is no
    /// flow yet; [`CLAIMED`]: it is being written.
    pub passed: u64,
    /// The generation at which `cgroup` was found. Cgroups are enrolled by a change too.
    pub resolved: u32,
    /// Number of the endpoint.
    pub endpoint: u32,
    /// 1: the socket hook has reported the verdict on the next packet, and knew the process.
    pub reported: u8,
    /// 1: the endpoint is a parent whose children await classification.
    pub pending: u8,
    /// One of [`received`].
    pub received: u8,
    /// 1: by this socket the daemon answers what is refused, and no policy is asked.
    pub answers: u8,
    /// The second in which `passed` was last looked at.
    pub looked: u32,
    /// The socket's first flow, written once: the words of a [`FlowKey`] of either family.
    pub flow: [u32; FLOW_WORDS],
    /// Always 0.
    pub pad: [u8; 4],
}

const _: () = assert!(size_of::<SocketEntry>() == 80);

/// Words of the longest flow key.
pub const FLOW_WORDS: usize = size_of::<FlowKey<Addr6>>() / 4;

/// [`SocketEntry::passed`] while the flow is written.
pub const CLAIMED: u64 = u64::MAX;

/// A generation, a second as [`crate::clock::seconds`] has it, and the version of IP, in which
/// nothing is said of ways yet.
#[inline(always)]
#[must_use]
pub const fn passed_at(generation: u32, seconds: u32, version: u8) -> u64 {
    (generation as u64) << 32 | (seconds << 3 | ((version == 6) as u32) << 2) as u64
}

/// What has arrived at a socket.
pub mod received {
    /// Nothing.
    pub const NO: u8 = 0;
    /// A datagram, so that what is sent may be an answer.
    pub const DATAGRAM: u8 = 1;
    /// Something else.
    pub const OTHER: u8 = 2;
}
