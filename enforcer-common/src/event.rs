//! Events of the ring buffer.

use bytemuck::{Pod, Zeroable};

use crate::flow_key::Addr6;

/// One report. A denied or audited flow is reported when it is first seen; repetitions are
/// counted in the table of denied flows.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Event {
    /// Nanoseconds of the monotonic clock (coarse).
    pub time: u64,
    /// Cgroup of the socket or process, or 0.
    pub cgroup: u64,
    /// Address of the workload's side, IPv4 mapped.
    pub local: Addr6,
    /// Address of the peer's side, IPv4 mapped.
    pub remote: Addr6,
    /// Number of the endpoint, or 0.
    pub endpoint: u32,
    /// Identity of the peer.
    pub peer: u32,
    /// Number of the rule, or 0.
    pub rule: u32,
    /// Policy generation.
    pub generation: u32,
    /// Interface, or 0.
    pub ifindex: u32,
    /// Process (thread group) that made the call; 0 at packet hooks.
    pub pid: u32,
    /// User of that process.
    pub uid: u32,
    /// Bytes of the packet; 0 at the socket hooks.
    pub length: u32,
    /// Host byte order.
    pub local_port: u16,
    /// Host byte order; for ICMP, type and code.
    pub remote_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// TCP flags.
    pub tcp_flags: u8,
    /// A [`crate::Direction`]: the way of the flow.
    pub direction: u8,
    /// A [`crate::Action`].
    pub action: u8,
    /// A [`crate::Reason`].
    pub reason: u8,
    /// A [`Hook`].
    pub hook: u8,
    /// Bits of [`event_flag`].
    pub flags: u8,
    /// Ethernet type's IP version: 4, 6, or 0 for other frames.
    pub family: u8,
    /// Name of the thread, as in `/proc/PID/comm`; empty at packet hooks.
    pub program: [u8; 16],
    /// Always 0.
    pub pad: u32,
}

const _: () = assert!(size_of::<Event>() == 112);

/// Bits of [`Event::flags`].
pub mod event_flag {
    /// An open flow that a policy change now denies: its sockets are to be closed.
    pub const BROKEN: u8 = 1;
    /// The same flow is counted in the table of denied flows; this event is its first packet.
    pub const COUNTED: u8 = 2;
}

/// Where a verdict fell.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// XDP on an uplink.
    Xdp = 0,
    /// TC on an interface.
    Tc = 1,
    /// `connect(2)`.
    Connect = 2,
    /// `sendmsg(2)` or `sendto(2)` on an unconnected datagram socket.
    Sendmsg = 3,
    /// A packet of a socket in a cgroup.
    Cgroup = 4,
}

impl Hook {
    /// The name used in records and filters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Tc => "tc",
            Self::Connect => "connect",
            Self::Sendmsg => "sendmsg",
            Self::Cgroup => "cgroup",
        }
    }

    /// From the byte that events carry.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Xdp),
            1 => Some(Self::Tc),
            2 => Some(Self::Connect),
            3 => Some(Self::Sendmsg),
            4 => Some(Self::Cgroup),
            _ => None,
        }
    }
}
