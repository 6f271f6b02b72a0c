//! IPv6 and its extension headers (RFC 8200).

use aya_ebpf::bindings::__sk_buff;
use enforcer_common::{Protocol, Reason, flow_key::Addr6};

use crate::{
    family::V6,
    parse::{
        Packet,
        frame::{Frame, Skb},
        kind, transport,
    },
};

/// More extension headers than this are refused; real packets have one or two.
const EXTENSIONS: u32 = 6;

/// Parses from the IP header at `offset` on.
#[inline(always)]
pub fn packet(frame: &Skb, offset: u32, packet: &mut Packet<V6>) -> Result<(), Reason> {
    // Words keep the compiler from moving the header byte by byte.
    let words: [u32; 10] = frame.load(offset)?;
    if words[0].to_ne_bytes()[0] >> 4 != 6 {
        return Err(Reason::BadHeader);
    }
    let [high, low, next, hop_limit] = words[1].to_ne_bytes();
    let mut payload = u32::from(u16::from_be_bytes([high, low]));
    if payload == 0 && frame.len() - offset > 0xffff {
        // "BIG TCP": an offload super-packet too long for the field.
        payload = frame.len() - offset - 40;
    }
    if offset + 40 + payload > frame.len() {
        return Err(Reason::Truncated);
    }
    packet.source = address([words[2], words[3], words[4], words[5]]);
    packet.destination = address([words[6], words[7], words[8], words[9]]);
    packet.hop_limit = hop_limit;
    packet.length = 40 + payload;
    packet.protocol = next;
    packet.transport = offset + 40;
    let end = offset + 40 + payload;

    let mut fragment_offset = 0;
    if is_extension(next) {
        let chain = Chain::from_bits(extensions_global(
            frame.0,
            offset + 40,
            u32::from(next),
            end,
        ))?;
        packet.protocol = chain.protocol;
        packet.transport = chain.transport;
        if chain.fragment != 0 {
            let header: [u8; 8] = frame.copy(chain.fragment)?;
            let word = u16::from_be_bytes([header[2], header[3]]);
            fragment_offset = word & 0xfff8;
            packet.identification =
                u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            packet.kind = if fragment_offset == 0 {
                kind::FIRST_FRAGMENT
            } else {
                kind::LATER_FRAGMENT
            };
        }
    }
    let available = end.saturating_sub(packet.transport);
    transport::header(frame, packet, available, fragment_offset)
}

#[inline(always)]
fn address(words: [u32; 4]) -> Addr6 {
    // SAFETY: same size, and every byte pattern is an address.
    unsafe { core::mem::transmute(words) }
}

/// Where a chain of extension headers leads.
struct Chain {
    protocol: u8,
    transport: u32,
    /// Where the fragment header is, if the packet is a fragment.
    fragment: u32,
}

const FAILED: u64 = 1 << 63;

impl Chain {
    /// Unpacks what [`extensions_global`] returns.
    #[inline(always)]
    fn from_bits(bits: u64) -> Result<Self, Reason> {
        if bits & FAILED != 0 {
            return Err(if bits as u8 == Reason::ExtensionHeaders as u8 {
                Reason::ExtensionHeaders
            } else {
                Reason::Truncated
            });
        }
        Ok(Self {
            protocol: bits as u8,
            transport: (bits >> 8) as u32 & 0xffff,
            fragment: (bits >> 24) as u32 & 0xffff,
        })
    }
}

/// Follows the chain of extension headers. A global function (see [`crate::table::policy`]):
/// the verifier walks the loop once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn extensions_global(skb: *mut __sk_buff, start: u32, first: u32, end: u32) -> u64 {
    let frame = Skb(skb);
    let mut next = first as u8;
    let mut at = start;
    let mut fragment = 0;
    let mut count = 0;
    while is_extension(next) {
        if count == EXTENSIONS {
            return FAILED | Reason::ExtensionHeaders as u64;
        }
        count += 1;
        let Ok(header) = frame.copy::<[u8; 8]>(at) else {
            return FAILED | Reason::Truncated as u64;
        };
        let mut later = false;
        let length = match next {
            Protocol::FRAGMENT => {
                let word = u16::from_be_bytes([header[2], header[3]]);
                // An "atomic" fragment (RFC 6946) is whole.
                if word & 0xfff9 != 0 {
                    fragment = at;
                    later = word & 0xfff8 != 0;
                }
                8
            }
            Protocol::AUTHENTICATION => (u32::from(header[1]) + 2) * 4,
            _ => (u32::from(header[1]) + 1) * 8,
        };
        next = header[0];
        at += length;
        if at > end || at > 0xffff {
            return FAILED | Reason::Truncated as u64;
        }
        if later {
            break;
        }
    }
    u64::from(next) | u64::from(at) << 8 | u64::from(fragment) << 24
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
