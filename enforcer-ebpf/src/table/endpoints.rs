//! Endpoints by interface and by cgroup.

use aya_ebpf::{bindings::BPF_F_NO_PREALLOC, btf_maps::HashMap, macros::btf_map};
use enforcer_common::{
    Direction,
    config::Config,
    endpoint_entry::{EndpointEntry, endpoint_flag},
};

#[btf_map]
static INTERFACES: HashMap<u32, EndpointEntry, 1024, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

#[btf_map]
static CGROUPS: HashMap<u64, EndpointEntry, 1024, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

/// How deep below the root of the hierarchy a workload's cgroup may be.
pub const DEPTH: i32 = 16;

/// The endpoint behind an interface.
#[inline(always)]
pub fn interface(ifindex: u32) -> Option<&'static EndpointEntry> {
    // SAFETY: an update puts a new entry in the place of the old one, which lives on until no
    // program reads it (the map is not preallocated).
    unsafe { INTERFACES.get(ifindex) }
}

/// The endpoint of a cgroup itself.
#[inline(always)]
pub fn cgroup(id: u64) -> Option<&'static EndpointEntry> {
    // SAFETY: as above.
    unsafe { CGROUPS.get(id) }
}

/// The policy set of an endpoint in one direction, when so many moments have passed
/// ([`crate::table::config::passed`]). Never inlined: the verifier walks the loop in few states.
#[inline(never)]
pub fn set_after(endpoint: &EndpointEntry, way: Direction, config: &Config, passed: u8) -> u32 {
    endpoint.set_at(way, config.last_moment(passed))
}

/// The nearest enrolled one in a chain of cgroups, given the id of the last one and the
/// ancestor's at each level (0 past the last). Returns its cgroup id, or 0.
///
/// A child of a cgroup that awaits classification is answered with that cgroup, flagged
/// [`endpoint_flag::PENDING_CHILDREN`]: the caller applies the node's choice.
#[inline(always)]
pub fn nearest(last: u64, ancestor: impl Fn(i32) -> u64) -> u64 {
    // Most are enrolled themselves, and nobody further up comes before that.
    if let Some(entry) = cgroup(last) {
        return if entry.flags & endpoint_flag::NOT_ENROLLED != 0 {
            0
        } else {
            last
        };
    }
    let mut found = 0;
    let mut level = 1;
    while level < DEPTH {
        let id = ancestor(level);
        if id == 0 {
            break;
        }
        if let Some(entry) = cgroup(id) {
            found = if entry.flags & endpoint_flag::NOT_ENROLLED != 0 {
                0
            } else {
                id
            };
        }
        level += 1;
    }
    found
}
