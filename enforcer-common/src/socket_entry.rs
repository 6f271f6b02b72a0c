//! What is remembered with a socket.

use bytemuck::{Pod, Zeroable};

/// Value of the socket storage: which endpoint the socket belongs to, so that the search for
/// the nearest enrolled cgroup is done once for each socket and generation.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct SocketEntry {
    /// Cgroup of the endpoint that the socket belongs to; 0 for none.
    pub cgroup: u64,
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
    /// Always 0.
    pub pad: [u8; 4],
}

const _: () = assert!(size_of::<SocketEntry>() == 24);

/// What has arrived at a socket.
pub mod received {
    /// Nothing.
    pub const NO: u8 = 0;
    /// A datagram, so that what is sent may be an answer.
    pub const DATAGRAM: u8 = 1;
    /// Something else.
    pub const OTHER: u8 = 2;
}
