//! IPv6 and its extension headers (RFC 8200).

use enforcer_common::{Protocol, Reason, flow_key::Addr6};

use crate::{
    family::V6,
    parse::{
        Packet,
        frame::Frame,
        kind,
        transport::{self, Fragment},
    },
};

/// More extension headers than this are refused; real packets have one or two.
const EXTENSIONS: u32 = 6;

/// Parses from the IP header at `offset` on.
#[inline(always)]
pub fn packet(frame: &impl Frame, offset: u32) -> Result<Packet<V6>, Reason> {
    let head: [u8; 8] = frame.load(offset)?;
    if head[0] >> 4 != 6 {
        return Err(Reason::BadHeader);
    }
    let mut payload = u32::from(u16::from_be_bytes([head[4], head[5]]));
    if payload == 0 && frame.len() - offset > 0xffff {
        // "BIG TCP": an offload super-packet too long for the field.
        payload = frame.len() - offset - 40;
    }
    if offset + 40 + payload > frame.len() {
        return Err(Reason::Truncated);
    }
    let source: Addr6 = frame.load(offset + 8)?;
    let destination: Addr6 = frame.load(offset + 24)?;
    let mut packet = Packet::new(source, destination);
    packet.hop_limit = head[7];
    packet.length = 40 + payload;
    let end = offset + 40 + payload;

    let mut next = head[6];
    let mut at = offset + 40;
    let mut fragment = Fragment::NONE;
    let mut count = 0;
    loop {
        if !is_extension(next) {
            break;
        }
        if count == EXTENSIONS || at > 500 {
            return Err(Reason::ExtensionHeaders);
        }
        count += 1;
        let header: [u8; 8] = frame.load(at)?;
        let length = match next {
            Protocol::FRAGMENT => {
                let word = u16::from_be_bytes([header[2], header[3]]);
                fragment = Fragment {
                    offset: word & 0xfff8,
                    more: word & 1 != 0,
                };
                // An "atomic" fragment (RFC 6946) is whole.
                if word & 0xfff9 != 0 {
                    packet.identification =
                        u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                    packet.kind = if fragment.offset == 0 {
                        kind::FIRST_FRAGMENT
                    } else {
                        kind::LATER_FRAGMENT
                    };
                }
                8
            }
            Protocol::AUTHENTICATION => (u32::from(header[1]) + 2) * 4,
            _ => (u32::from(header[1]) + 1) * 8,
        };
        next = header[0];
        at += length;
        if at > end {
            return Err(Reason::Truncated);
        }
        if packet.kind == kind::LATER_FRAGMENT {
            break;
        }
    }
    packet.protocol = next;
    packet.transport = at;
    transport::header(frame, &mut packet, end - at, fragment)?;
    Ok(packet)
}

#[inline(always)]
fn is_extension(next: u8) -> bool {
    matches!(
        next,
        Protocol::HOP_BY_HOP
            | Protocol::ROUTING
            | Protocol::FRAGMENT
            | Protocol::AUTHENTICATION
            | Protocol::DESTINATION
            | Protocol::MOBILITY
    )
}
