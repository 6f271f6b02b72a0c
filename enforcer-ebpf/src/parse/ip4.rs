//! IPv4 (RFC 791).

use enforcer_common::Reason;

use crate::{
    family::V4,
    parse::{
        Packet,
        frame::Frame,
        kind,
        transport::{self, Fragment},
    },
};

/// Parses from the IP header at `offset` on.
#[inline(always)]
pub fn packet(frame: &impl Frame, offset: u32) -> Result<Packet<V4>, Reason> {
    let head: [u8; 20] = frame.load(offset)?;
    let header = u32::from(head[0] & 0xf) * 4;
    let mut total = u32::from(u16::from_be_bytes([head[2], head[3]]));
    if total == 0 && frame.len() - offset > 0xffff {
        // "BIG TCP": an offload super-packet too long for the field.
        total = frame.len() - offset;
    }
    if head[0] >> 4 != 4 || header < 20 || total < header {
        return Err(Reason::BadHeader);
    }
    if offset + total > frame.len() {
        return Err(Reason::Truncated);
    }
    let mut packet = Packet::new(
        [head[12], head[13], head[14], head[15]],
        [head[16], head[17], head[18], head[19]],
    );
    packet.protocol = head[9];
    packet.hop_limit = head[8];
    packet.length = total;
    packet.transport = offset + header;
    let word = u16::from_be_bytes([head[6], head[7]]);
    let fragment = Fragment {
        offset: (word & 0x1fff) << 3,
        more: word & 0x2000 != 0,
    };
    if word & 0x3fff != 0 {
        packet.identification = u32::from(u16::from_be_bytes([head[4], head[5]]));
        packet.kind = if fragment.offset == 0 {
            kind::FIRST_FRAGMENT
        } else {
            kind::LATER_FRAGMENT
        };
    }
    transport::header(frame, &mut packet, total - header, fragment)?;
    Ok(packet)
}
