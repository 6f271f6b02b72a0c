//! Denied packets whose senders are to be told, on their way to the daemon, which answers.

use bytemuck::{Pod, Zeroable};

/// What is kept of a packet: enough of it for the answer, which quotes it.
pub const KEPT: usize = 128;

/// A denied packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct RefusedPacket {
    /// Nanoseconds of the monotonic clock (coarse).
    pub time: u64,
    /// Interface where it was met.
    pub ifindex: u32,
    /// Bytes of the whole packet, from the IP header on.
    pub length: u32,
    /// Where the transport header begins, from the IP header on.
    pub transport: u16,
    /// How many of `bytes` are the packet's.
    pub kept: u16,
    /// 4 or 6.
    pub family: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// Always 0.
    pub pad: [u8; 2],
    /// The packet's first bytes, from the IP header on.
    pub bytes: [u8; KEPT],
}

const _: () = assert!(size_of::<RefusedPacket>() == 24 + KEPT);
