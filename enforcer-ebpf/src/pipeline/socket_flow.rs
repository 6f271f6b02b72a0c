//! The flow that a socket is in, remembered with the socket: a packet in it that changes nothing
//! passes without a question to the flow table, which is asked once a second.
//!
//! What holds of the table's entry holds here, because every change of policy, and every moment,
//! is another generation; and a second later the table is asked again. A socket's first flow is
//! the one that is remembered: it is the only one of a TCP connection and of most others, and what
//! is written once cannot be read half written by another CPU. What a socket does besides goes
//! the common way.

use core::{
    intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xchg},
    ptr,
};

use enforcer_common::{
    Direction,
    config::Config,
    conntrack::flow_flag,
    flow_key::FlowKey,
    socket_entry::{CLAIMED, SocketEntry, passed_at},
};

use crate::{
    family::Family,
    parse::plain::Step,
    pipeline::{Place, flow::entry_of},
    table::config::{config, generation},
};

/// Whether the packet passes because the flow table let one of its kind pass in this second.
#[inline(always)]
pub fn has_passed<F: Family>(
    socket: &SocketEntry,
    config: &Config,
    step: Step,
    flow: &FlowKey<F::Addr>,
    direction: Direction,
    place: &Place,
) -> bool {
    // SAFETY: a reference. Other CPUs may write it; it is one word.
    let passed = unsafe { ptr::read_volatile(&raw const socket.passed) };
    let ways = u32::from(Direction::BITS);
    let now = passed_at(0, place.seconds(), F::VERSION) as u32;
    (passed as u32 ^ now) & !ways == 0
        && passed as u8 & direction.bit() != 0
        && step.is_within()
        && (passed >> 32) as u32 == generation(config, place.now, true)
        && is_of::<F>(socket, flow)
}

/// Looks once a second what the flow table has of the socket's flow. The packet has passed.
#[inline(always)]
pub fn look<F: Family>(socket: &mut SocketEntry, flow: &FlowKey<F::Addr>, place: &Place) {
    if socket.looked != place.seconds() {
        socket.looked = place.seconds();
        note::<F>(socket, flow, place);
    }
}

#[inline(never)]
fn note<F: Family>(socket: &mut SocketEntry, flow: &FlowKey<F::Addr>, place: &Place) -> u32 {
    let (Some(entry), Some(config)) = (entry_of::<F>(flow), config()) else {
        return 0;
    };
    let seconds = place.seconds();
    if entry.seen != seconds
        || entry.flags & flow_flag::DENIED != 0
        || entry.generation != generation(config, place.now, true)
    {
        return 0;
    }
    let now = passed_at(entry.generation, seconds, F::VERSION) | u64::from(entry.unchanged_ways());
    let passed = &raw mut socket.passed;
    // SAFETY: a live value; an aligned word.
    let before = unsafe { ptr::read_volatile(passed) };
    if before == 0 {
        // SAFETY: as above. Who claims it writes the flow, alone.
        let (_, mine) = unsafe {
            atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
                passed, 0, CLAIMED,
            )
        };
        if mine {
            write::<F>(socket, flow);
            // SAFETY: as above. A full barrier: whoever sees the word sees the flow.
            unsafe { atomic_xchg::<u64, { AtomicOrdering::SeqCst }>(passed, now) };
        }
    } else if before != CLAIMED && is_of::<F>(socket, flow) {
        // SAFETY: as above.
        unsafe { ptr::write_volatile(passed, now) };
    }
    0
}

/// The words of a key.
#[inline(always)]
const fn words<F: Family>() -> usize {
    size_of::<FlowKey<F::Addr>>() / 4
}

/// Whether the flow is the socket's.
#[inline(always)]
fn is_of<F: Family>(socket: &SocketEntry, flow: &FlowKey<F::Addr>) -> bool {
    let key = ptr::from_ref(flow).cast::<u32>();
    let mut differs = 0;
    let mut at = 0;
    while at < words::<F>() {
        // SAFETY: a key is words.
        differs |= socket.flow[at] ^ unsafe { key.add(at).read() };
        at += 1;
    }
    differs == 0
}

#[inline(always)]
fn write<F: Family>(socket: &mut SocketEntry, flow: &FlowKey<F::Addr>) {
    let key = ptr::from_ref(flow).cast::<u32>();
    let mut at = 0;
    while at < words::<F>() {
        // SAFETY: a key is words. In this order, and none of them taken for a call.
        unsafe { ptr::write_volatile(&raw mut socket.flow[at], key.add(at).read()) };
        at += 1;
    }
}
