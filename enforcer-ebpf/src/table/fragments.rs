//! Ports of fragmented datagrams, from the first fragment to the later ones.

use aya_ebpf::{btf_maps::LruHashMap, macros::btf_map};
use enforcer_common::{
    Loss,
    flow_key::{FRAGMENT_SECONDS, FragmentEntry, FragmentKey},
};

use crate::table::counters::lose;

#[btf_map]
static FRAGMENTS: LruHashMap<FragmentKey, FragmentEntry, 1024> = LruHashMap::new();

/// Remembers a first fragment.
#[inline(always)]
pub fn keep(key: &FragmentKey, entry: &FragmentEntry) {
    if FRAGMENTS.insert(key, entry, 0).is_err() {
        lose(Loss::FragmentTableFull);
    }
}

/// The ports of the first fragment, if it passed not too long ago.
#[inline(always)]
pub fn find(key: &FragmentKey, seconds: u32) -> Option<FragmentEntry> {
    // SAFETY: copied at once.
    let entry = unsafe { FRAGMENTS.get(key) }.copied()?;
    (seconds.wrapping_sub(entry.seen) <= FRAGMENT_SECONDS).then_some(entry)
}
