//! The monotonic clock, asked once a tick.

use aya_ebpf::{
    btf_maps::Array,
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns},
    macros::btf_map,
};

/// A tick, and what the clock said in it. Written by all CPUs at once: whoever mixes two ticks
/// is one tick off, which is as good as the clock is.
#[repr(C)]
#[derive(Clone, Copy)]
struct Tick {
    jiffies: u64,
    nanoseconds: u64,
}

#[btf_map]
static CLOCK: Array<Tick, 1> = Array::new();

/// Nanoseconds of the monotonic clock, good to two ticks.
///
/// The clock itself moves with the ticks only, and every question to it is a call; the number
/// of the tick is read in line.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helpers have no preconditions.
    let (jiffies, ask) = unsafe { (bpf_jiffies64(), || bpf_ktime_get_coarse_ns()) };
    let Some(tick) = CLOCK.get_ptr_mut(0) else {
        return ask();
    };
    // SAFETY: a live map value; every field is an aligned word that stands alone.
    let tick = unsafe { &mut *tick };
    if tick.jiffies != jiffies {
        tick.nanoseconds = ask();
        tick.jiffies = jiffies;
    }
    tick.nanoseconds
}
