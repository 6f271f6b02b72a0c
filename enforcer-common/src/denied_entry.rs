//! Denied and audited flows, counted in the kernel and drained by the daemon.

use bytemuck::{Pod, Zeroable};

use crate::flow_key::Addr6;

/// What denials are gathered by. The port of the side that opens flows is not part of it: a
/// client that tries again and again is one entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct DeniedKey {
    /// Address of the workload's side, IPv4 mapped.
    pub local: Addr6,
    /// Address of the peer's side, IPv4 mapped.
    pub remote: Addr6,
    /// Number of the endpoint, or 0.
    pub endpoint: u32,
    /// Number of the rule, or 0.
    pub rule: u32,
    /// The port that the flow is addressed to, or ICMP type and code.
    pub port: u16,
    /// IP protocol number, 0 where it is not known.
    pub protocol: u8,
    /// A [`crate::Direction`].
    pub direction: u8,
    /// A [`crate::Reason`].
    pub reason: u8,
    /// A [`crate::Action`]: deny or audit.
    pub action: u8,
    /// Always 0.
    pub pad: [u8; 2],
}

/// How often, and when.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct DeniedEntry {
    /// Packets, the first included.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
    /// Nanoseconds of the monotonic clock at the first packet.
    pub first: u64,
    /// Nanoseconds of the monotonic clock at the last packet.
    pub last: u64,
    /// Identity of the peer.
    pub peer: u32,
    /// Interface, or 0.
    pub ifindex: u32,
    /// Cgroup, or 0.
    pub cgroup: u64,
    /// The generation whose judgement holds for every packet that opens the flow at this
    /// interface and cgroup; 0: each packet is judged by itself.
    pub generation: u32,
    /// Always 0.
    pub pad: u32,
}

const _: () = assert!(size_of::<DeniedKey>() == 48 && size_of::<DeniedEntry>() == 56);
