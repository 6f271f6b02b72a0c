//! What the kernel knows of an endpoint. Value of the interface and cgroup tables; replacing
//! it is the one swap by which a policy change takes effect.

use bytemuck::{Pod, Zeroable};

use crate::{config::MOMENTS, flow_key::Direction};

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
    /// What `sets` become with time, ascending; unused ones are zero and stand last.
    pub later: [LaterSets; MOMENTS],
}

/// The sets of an endpoint from a moment on: rules with a validity begin and end by themselves,
/// whether a daemon runs or not.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct LaterSets {
    /// The moment, as [`crate::config::Config::moments`].
    pub moment: u64,
    /// As [`EndpointEntry::sets`].
    pub sets: [u32; 2],
}

const _: () = assert!(size_of::<EndpointEntry>() == 24 + 16 * MOMENTS);

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
    /// The policy set in one direction at a moment ([`crate::config::Config::moments`]).
    #[inline(always)]
    pub const fn set_at(&self, direction: Direction, moment: u64) -> u32 {
        let way = direction as usize;
        let mut set = self.sets[way];
        let mut index = 0;
        while index < MOMENTS {
            let later = &self.later[index];
            if later.moment == 0 || later.moment > moment {
                break;
            }
            set = later.sets[way];
            index += 1;
        }
        set
    }

    /// All sets that it has now or later; the first ones again where there are fewer.
    pub fn all_sets(&self) -> [[u32; 2]; MOMENTS + 1] {
        let mut all = [self.sets; MOMENTS + 1];
        let later = self.later.iter().take_while(|later| later.moment != 0);
        for (sets, later) in all[1..].iter_mut().zip(later) {
            *sets = later.sets;
        }
        all
    }

    /// Whether all of `flags` are set.
    #[inline(always)]
    pub const fn has(&self, flags: u32) -> bool {
        self.flags & flags == flags
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sets_are_those_of_the_latest_moment_passed() {
        let mut entry: EndpointEntry = Zeroable::zeroed();
        entry.sets = [1, 2];
        let later = |moment, sets| LaterSets { moment, sets };
        entry.later[0] = later(100, [3, 4]);
        entry.later[1] = later(200, [0, 5]);
        let at = |moment| {
            let ways = [Direction::Egress, Direction::Ingress];
            ways.map(|way| entry.set_at(way, moment))
        };
        assert_eq!(at(0), [1, 2]);
        assert_eq!(at(99), [1, 2]);
        assert_eq!(at(100), [3, 4]);
        assert_eq!(at(199), [3, 4]);
        assert_eq!(at(200), [0, 5]);
        assert_eq!(at(u64::MAX), [0, 5]);
        assert_eq!(entry.all_sets()[..4], [[1, 2], [3, 4], [0, 5], [1, 2]]);
    }
}
