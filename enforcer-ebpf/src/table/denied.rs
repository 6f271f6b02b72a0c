//! Denied and audited flows, the tokens that bound first reports, and the ring buffer.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    btf_maps::{Array, HashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use enforcer_common::{
    Loss,
    denied_entry::{DeniedEntry, DeniedKey},
    event::Event,
};

use crate::{clear::zero, table::counters::lose};

#[btf_map]
static DENIED: HashMap<DeniedKey, DeniedEntry, 1024> = HashMap::new();

/// What was found out of a flow when it was denied last: with what the packet says of itself,
/// the key of its count. Written by all CPUs at once: a wrong one leads to no entry, or to one
/// that is right.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Hint {
    /// 0: there is no hint.
    pub endpoint: u32,
    pub rule: u32,
    pub reason: u8,
    pub pad: [u8; 3],
}

/// How many hints there are, as a power of two.
pub const HINT_BITS: u32 = 13;

#[btf_map]
static HINTS: Array<Hint, { 1 << HINT_BITS }> = Array::new();

/// The second of the monotonic clock, and what was sent in it: reports, and refused packets.
#[repr(C)]
#[derive(Clone, Copy)]
struct Tokens {
    second: u32,
    used: u32,
}

#[btf_map]
static TOKENS: PerCpuArray<Tokens, 2> = PerCpuArray::new();

#[btf_map]
static EVENTS: RingBuf<Event, 4096> = RingBuf::new();

/// Takes a token for a first report; without one the loss is counted.
#[inline(always)]
pub fn take_token(seconds: u32, limit: u32) -> bool {
    take(0, seconds, limit, Loss::ReportLimit)
}

/// Takes a token for a refused packet that is to be answered, likewise.
#[inline(always)]
pub fn take_reject_token(seconds: u32, limit: u32) -> bool {
    take(1, seconds, limit, Loss::RejectLimit)
}

#[inline(always)]
fn take(kind: u32, seconds: u32, limit: u32, loss: Loss) -> bool {
    let Some(tokens) = TOKENS.get_ptr_mut(kind) else {
        return false;
    };
    // SAFETY: this CPU's slot.
    let tokens = unsafe { &mut *tokens };
    if tokens.second != seconds {
        tokens.second = seconds;
        tokens.used = 0;
    }
    if tokens.used >= limit {
        lose(loss);
        return false;
    }
    tokens.used += 1;
    true
}

/// The count of a flow that was reported before.
#[inline(always)]
pub fn counted(key: &DeniedKey) -> Option<*mut DeniedEntry> {
    DENIED.get_ptr_mut(key)
}

/// The hint at a place.
#[inline(always)]
pub fn hint(slot: u32) -> Option<&'static mut Hint> {
    // SAFETY: a live map value of plain integers; see `Hint`.
    HINTS.get_ptr_mut(slot).map(|hint| unsafe { &mut *hint })
}

/// How an attempt to begin counting a flow ended.
pub enum Begun {
    /// This packet is the flow's first.
    First,
    /// Another CPU was faster: the packet is one more.
    Again,
    /// No room, which is counted as a loss.
    Full,
}

/// Begins to count a flow.
#[inline(always)]
pub fn begin(key: &DeniedKey, entry: &DeniedEntry) -> Begun {
    match DENIED.insert(key, entry, BPF_NOEXIST as u64) {
        Ok(()) => Begun::First,
        // -EEXIST
        Err(-17) => Begun::Again,
        Err(_) => {
            lose(Loss::DeniedTableFull);
            Begun::Full
        }
    }
}

/// Sends an event that `fill` writes in place; a full ring is counted.
#[inline(always)]
pub fn send(fill: impl FnOnce(&mut Event)) {
    let Some(mut entry) = EVENTS.reserve(0) else {
        lose(Loss::RingFull);
        return;
    };
    // SAFETY: all bytes zero is a valid event, and it is whole words.
    unsafe {
        zero(entry.as_mut_ptr().cast(), size_of::<Event>() / 4);
        fill(entry.assume_init_mut());
    }
    entry.submit(0);
}
