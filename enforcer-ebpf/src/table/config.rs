//! What holds for the whole node, and the clock.

use aya_ebpf::{
    btf_maps::Array,
    helpers::generated::bpf_ktime_get_coarse_ns,
    macros::btf_map,
};
use enforcer_common::config::Config;

#[btf_map]
static CONFIG: Array<Config, 1> = Array::new();

/// The node's configuration.
#[inline(always)]
pub fn config() -> Option<&'static Config> {
    CONFIG.get(0)
}

/// Nanoseconds of the monotonic clock, good to one tick.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// Seconds of the same clock.
#[inline(always)]
pub fn seconds(now: u64) -> u32 {
    (now / 1_000_000_000) as u32
}
