//! What is remembered with a socket.

use bytemuck::{Pod, Zeroable};

/// Value of the socket storage. A connected TCP socket is its own conntrack entry: the stack
/// has already matched the packet to it, so an established packet ends here.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct SocketEntry {
    /// Cgroup of the endpoint that the socket belongs to; 0 for none.
    pub cgroup: u64,
    /// The generation at which `cgroup` was found. Cgroups are enrolled by a change too.
    pub resolved: u32,
    /// The generation at which the connection was judged; 0 for never.
    pub judged: u32,
    /// Number of the rule that decided.
    pub rule: u32,
    /// Identity of the peer.
    pub peer: u32,
    /// A [`crate::Direction`]: who opened the connection.
    pub opener: u8,
    /// 0: not judged yet; 1: passes; 2: denied, only a reset may pass.
    pub verdict: u8,
    /// Always 0.
    pub pad: [u8; 6],
}

const _: () = assert!(size_of::<SocketEntry>() == 32);
