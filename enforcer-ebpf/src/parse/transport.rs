//! Transport headers: ports, TCP flags, ICMP types.

use enforcer_common::{Protocol, Reason, flow_key::icmp_port};

use crate::{
    family::Family,
    parse::{
        Packet,
        frame::{Frame, Skb},
        kind,
        plain::is_plausible,
    },
};

/// Reads what the transport header of `available` bytes says into the packet.
/// `fragment_offset`: place of the packet in its datagram, in bytes.
#[inline(always)]
pub fn header<F: Family>(
    frame: &Skb,
    packet: &mut Packet<F>,
    available: u32,
    fragment_offset: u16,
) -> Result<(), Reason> {
    if packet.kind == kind::LATER_FRAGMENT {
        // RFC 3128: a TCP fragment at offset 8 would overwrite the flags of the first one.
        if packet.protocol == Protocol::TCP && fragment_offset < 20 {
            return Err(Reason::FragmentTiny);
        }
        return Ok(());
    }
    let short = if packet.kind == kind::FIRST_FRAGMENT {
        Reason::FragmentTiny
    } else {
        Reason::Truncated
    };
    match packet.protocol {
        Protocol::TCP => {
            if available < 20 {
                return Err(short);
            }
            let words: [u16; 7] = frame.load(packet.transport)?;
            packet.source_port = u16::from_be(words[0]);
            packet.destination_port = u16::from_be(words[1]);
            let [length, flags] = words[6].to_ne_bytes();
            let length = u32::from(length >> 4) * 4;
            packet.tcp_flags = flags;
            if length < 20 || !is_plausible(flags) {
                return Err(Reason::BadHeader);
            }
            if length > available {
                return Err(short);
            }
            packet.bare = u8::from(length == available);
        }
        Protocol::UDP | Protocol::UDPLITE => {
            if available < 8 {
                return Err(short);
            }
            let words: [u16; 3] = frame.load(packet.transport)?;
            packet.source_port = u16::from_be(words[0]);
            packet.destination_port = u16::from_be(words[1]);
            let length = u16::from_be(words[2]);
            // UDP-Lite has its checksum coverage there; 0 means all (RFC 3828) and, for UDP
            // over IPv6, a jumbogram or an offload super-packet.
            if packet.protocol == Protocol::UDP && length != 0 && length < 8 {
                return Err(Reason::BadHeader);
            }
        }
        Protocol::SCTP => {
            if available < 12 {
                return Err(short);
            }
            let words: [u16; 2] = frame.load(packet.transport)?;
            packet.source_port = u16::from_be(words[0]);
            packet.destination_port = u16::from_be(words[1]);
        }
        Protocol::ICMP | Protocol::ICMPV6 => {
            if available < 8 && !(packet.protocol == Protocol::ICMPV6 && available >= 4) {
                return Err(short);
            }
            let head: [u8; 2] = frame.load(packet.transport)?;
            packet.icmp = icmp_port(head[0], head[1]);
            match message(packet.protocol, head[0]) {
                Message::Echo => {
                    let id: [u8; 2] = frame.load(packet.transport + 4)?;
                    packet.source_port = u16::from_be_bytes(id);
                    packet.destination_port = packet.source_port;
                }
                Message::Error => packet.kind = kind::ICMP_ERROR,
                Message::Other => packet.source_port = packet.icmp,
            }
        }
        _ => {}
    }
    Ok(())
}

enum Message {
    Echo,
    Error,
    Other,
}

#[inline(always)]
fn message(protocol: u8, kind: u8) -> Message {
    if protocol == Protocol::ICMP {
        match kind {
            0 | 8 => Message::Echo,
            3 | 4 | 5 | 11 | 12 => Message::Error,
            _ => Message::Other,
        }
    } else {
        match kind {
            128 | 129 => Message::Echo,
            1..=4 => Message::Error,
            _ => Message::Other,
        }
    }
}
