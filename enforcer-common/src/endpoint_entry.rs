//! What the kernel knows of an endpoint. Value of the interface and cgroup tables; replacing
//! it is the one swap by which a policy change takes effect.

use bytemuck::{Pod, Zeroable};

use crate::flow_key::Direction;

/// Value of the interface and cgroup tables.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct EndpointEntry {
    /// Number of the endpoint on this node; never 0 for an enrolled one.
    pub id: u32,
    /// Identity of the workload.
    pub identity: u32,
    /// Policy sets by [`Direction`].
    pub sets: [u32; 2],
    /// Bits of [`endpoint_flag`].
    pub flags: u32,
    /// Until this second of the monotonic clock, the ends of TCP connections from before
    /// enrolment are told, and with [`endpoint_flag::ADOPTS_DATAGRAMS`] flows of every protocol
    /// are picked up. TCP flows are picked up at any time.
    pub adopt_until: u32,
}

const _: () = assert!(size_of::<EndpointEntry>() == 24);

/// Bits of [`EndpointEntry::flags`].
pub mod endpoint_flag {
    /// Denials become audit verdicts.
    pub const AUDIT: u32 = 1;
    /// The host endpoint, on an uplink.
    pub const HOST: u32 = 2;
    /// Only addresses whose entry names this endpoint may be its sources. Without it, only
    /// sources that belong to somebody else are refused.
    pub const STRICT_SOURCE: u32 = 4;
    /// A cgroup that was looked at and is no workload: the search for the nearest enrolled
    /// ancestor ends here.
    pub const NOT_ENROLLED: u32 = 8;
    /// A parent of workloads whose children must be classified before they may talk.
    pub const PENDING_CHILDREN: u32 = 16;
    /// The endpoint was there when enforcement began on this host: its datagrams may belong to
    /// flows that were open before.
    pub const ADOPTS_DATAGRAMS: u32 = 32;
}

impl EndpointEntry {
    /// The policy set in one direction.
    #[inline(always)]
    pub const fn set(&self, direction: Direction) -> u32 {
        match direction {
            Direction::Egress => self.sets[0],
            Direction::Ingress => self.sets[1],
        }
    }

    /// Whether all of `flags` are set.
    #[inline(always)]
    pub const fn has(&self, flags: u32) -> bool {
        self.flags & flags == flags
    }
}
