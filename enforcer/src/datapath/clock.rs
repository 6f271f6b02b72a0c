//! The kernel programs' clock.

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of the monotonic clock, good to one tick (`bpf_ktime_get_coarse_ns`).
pub fn nanoseconds() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_or(0, |time| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
        let rest = u64::try_from(time.tv_nsec()).unwrap_or(0);
        seconds * 1_000_000_000 + rest
    })
}

/// Seconds of the same clock, as [`enforcer_common::clock::seconds`] counts them.
pub fn seconds() -> u32 {
    enforcer_common::clock::seconds(nanoseconds())
}
