//! Denied packets on their way to the daemon, which answers them.

use aya_ebpf::{btf_maps::RingBuf, helpers::generated::bpf_skb_load_bytes, macros::btf_map};
use enforcer_common::{
    Loss,
    refused_packet::{KEPT, RefusedPacket},
};

use crate::{
    clear::zero,
    parse::frame::{Frame, Skb},
    table::counters::lose,
};

#[btf_map]
static REFUSALS: RingBuf<RefusedPacket, 4096> = RingBuf::new();

/// Lengths of what is kept: constants, because the verifier wants to see the end of the buffer.
/// The least is a datagram without data.
const LENGTHS: [u32; 6] = [KEPT as u32, 96, 64, 48, 40, 28];

/// Hands a packet over whose IP header is at `offset`; `fill` writes all but its bytes. A full
/// ring is counted.
#[inline(always)]
pub fn send(skb: Skb, offset: u32, fill: impl FnOnce(&mut RefusedPacket)) {
    let Some(mut entry) = REFUSALS.reserve(0) else {
        lose(Loss::RejectRingFull);
        return;
    };
    let available = skb.len().saturating_sub(offset);
    // SAFETY: all bytes zero is a valid record, and it is whole words; of its bytes no more are
    // written than it has.
    let loaded = unsafe {
        zero(entry.as_mut_ptr().cast(), size_of::<RefusedPacket>() / 4);
        let record = entry.assume_init_mut();
        fill(record);
        let bytes = record.bytes.as_mut_ptr();
        let mut loaded = -1;
        let mut index = 0;
        while index < LENGTHS.len() {
            if available >= LENGTHS[index] {
                record.kept = LENGTHS[index] as u16;
                loaded = bpf_skb_load_bytes(skb.0.cast(), offset, bytes.cast(), LENGTHS[index]);
                break;
            }
            index += 1;
        }
        loaded
    };
    if loaded == 0 {
        entry.submit(0);
    } else {
        entry.discard(0);
    }
}
