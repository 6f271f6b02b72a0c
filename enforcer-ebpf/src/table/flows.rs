//! Connection tracking tables.

use aya_ebpf::{
    btf_maps::{Array, HashMap},
    macros::btf_map,
};
use enforcer_common::{
    Loss,
    conntrack::FlowEntry,
    flow_key::{Addr4, Addr6, FlowKey},
};

use crate::table::counters::lose;

#[btf_map]
static FLOWS4: HashMap<FlowKey<Addr4>, FlowEntry, 1024> = HashMap::new();

#[btf_map]
static FLOWS6: HashMap<FlowKey<Addr6>, FlowEntry, 1024> = HashMap::new();

/// Second of the monotonic clock until which flows are judged packet by packet, because an
/// entry found no room shortly before.
#[btf_map]
static FULL: Array<u32, 1> = Array::new();

/// How long a full table is remembered, in seconds.
const FULL_SECONDS: u32 = 10;

/// The entry of a flow, for reading and for changing in place.
#[inline(always)]
pub fn flow4(key: &FlowKey<Addr4>) -> Option<*mut FlowEntry> {
    FLOWS4.get_ptr_mut(key)
}

/// The entry of a flow, for reading and for changing in place.
#[inline(always)]
pub fn flow6(key: &FlowKey<Addr6>) -> Option<*mut FlowEntry> {
    FLOWS6.get_ptr_mut(key)
}

/// Keeps a flow. `false`: no room, which is counted and remembered.
#[inline(always)]
pub fn keep4(key: &FlowKey<Addr4>, entry: &FlowEntry) -> bool {
    let kept = FLOWS4.insert(key, entry, 0).is_ok();
    if !kept {
        note_full(entry.seen);
    }
    kept
}

/// Keeps a flow. `false`: no room, which is counted and remembered.
#[inline(always)]
pub fn keep6(key: &FlowKey<Addr6>, entry: &FlowEntry) -> bool {
    let kept = FLOWS6.insert(key, entry, 0).is_ok();
    if !kept {
        note_full(entry.seen);
    }
    kept
}

#[inline(always)]
fn note_full(seconds: u32) {
    lose(Loss::FlowTableFull);
    if let Some(until) = FULL.get_ptr_mut(0) {
        // SAFETY: an aligned word of an array map; the last writer wins.
        unsafe { *until = seconds + FULL_SECONDS }
    }
}

/// Whether the tables were full a moment ago.
#[inline(always)]
pub fn is_full(seconds: u32) -> bool {
    FULL.get(0).is_some_and(|until| seconds < *until)
}
