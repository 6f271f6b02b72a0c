//! IPv4 (RFC 791).

use enforcer_common::Reason;

use crate::{
    family::V4,
    parse::{
        Packet,
        frame::{Frame, Skb},
        kind, transport,
    },
};

/// Parses from the IP header at `offset` on.
#[inline(always)]
pub fn packet(frame: &Skb, offset: u32, packet: &mut Packet<V4>) -> Result<(), Reason> {
    // Words keep the compiler from moving the header byte by byte.
    let words: [u32; 5] = frame.load(offset)?;
    let [version, _, total_high, total_low] = words[0].to_ne_bytes();
    let [hop_limit, protocol, ..] = words[2].to_ne_bytes();
    let header = u32::from(version & 0xf) * 4;
    let mut total = u32::from(u16::from_be_bytes([total_high, total_low]));
    if total == 0 && frame.len() - offset > 0xffff {
        // "BIG TCP": an offload super-packet too long for the field.
        total = frame.len() - offset;
    }
    if version >> 4 != 4 || header < 20 || total < header {
        return Err(Reason::BadHeader);
    }
    if offset + total > frame.len() {
        return Err(Reason::Truncated);
    }
    packet.source = words[3].to_ne_bytes();
    packet.destination = words[4].to_ne_bytes();
    packet.protocol = protocol;
    packet.hop_limit = hop_limit;
    packet.length = total;
    packet.transport = offset + header;
    let identification = (words[1].to_be() >> 16) as u16;
    let word = words[1].to_be() as u16;
    let fragment_offset = (word & 0x1fff) << 3;
    if word & 0x3fff != 0 {
        packet.identification = u32::from(identification);
        packet.kind = if fragment_offset == 0 {
            kind::FIRST_FRAGMENT
        } else {
            kind::LATER_FRAGMENT
        };
    }
    transport::header(frame, packet, total - header, fragment_offset)
}
