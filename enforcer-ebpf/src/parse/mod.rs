//! From bytes to a packet. Every length and offset is checked here and nowhere else; what
//! contradicts itself leaves with its own reason.

pub mod ethernet;
pub mod frame;
pub mod ip4;
pub mod ip6;
pub mod plain;
pub mod quoted;
pub mod transport;

use aya_ebpf::bindings::__sk_buff;
use enforcer_common::{
    Direction, Protocol, Reason,
    conntrack::{is_open_request, tcp_flag},
    flow_key::{FlowKey, icmp_port},
};

use crate::{
    family::{Family, V4, V6},
    parse::frame::Skb,
};

/// What a packet says of itself. Without holes, because it crosses into global functions,
/// whose arguments the verifier wants initialised to the last byte.
#[repr(C)]
pub struct Packet<F: Family> {
    pub source: F::Addr,
    pub destination: F::Addr,
    /// Where the transport header begins, from the start of the frame.
    pub transport: u32,
    /// Bytes of the packet from the IP header on.
    pub length: u32,
    /// Identification of a fragment.
    pub identification: u32,
    /// Ports in host byte order; both the identifier for ICMP echo; for other ICMP messages
    /// [`Packet::icmp`] and 0; else 0.
    pub source_port: u16,
    pub destination_port: u16,
    /// ICMP type and code as [`icmp_port`].
    pub icmp: u16,
    pub protocol: u8,
    pub tcp_flags: u8,
    /// One of [`kind`].
    pub kind: u8,
    /// IPv4 time to live, IPv6 hop limit.
    pub hop_limit: u8,
    /// 1: TCP without data.
    pub bare: u8,
    /// Where the IP header begins, from the start of the frame.
    pub start: u8,
}

const _: () = assert!(size_of::<Packet<V4>>() == 8 + 24 && size_of::<Packet<V6>>() == 32 + 24);

/// What [`Parse::parse`] returns for a packet that is well formed: no [`Reason`] has this
/// number.
pub const OK: u32 = 0xff;

/// An address family whose packets can be parsed.
pub trait Parse: Family + Sized {
    /// Parses from the IP header at `offset` on, into a zeroed packet. Returns [`OK`] or a [`Reason`]. Never inlined:
    /// what it needs of the stack is free again when the packet is judged.
    fn parse(frame: Skb, offset: u32, packet: &mut Packet<Self>) -> u32;
}

impl Parse for V4 {
    #[inline(always)]
    fn parse(frame: Skb, offset: u32, packet: &mut Packet<Self>) -> u32 {
        parse4_global(frame.0, offset, packet)
    }
}

impl Parse for V6 {
    #[inline(always)]
    fn parse(frame: Skb, offset: u32, packet: &mut Packet<Self>) -> u32 {
        parse6_global(frame.0, offset, packet)
    }
}

macro_rules! global {
    ($name:ident, $family:ident, $parser:path) => {
        /// A global function (see [`crate::table::policy`]): however many ways lead through
        /// the parser, one leads out of it.
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $name(skb: *mut __sk_buff, offset: u32, packet: *mut Packet<$family>) -> u32 {
            // SAFETY: the caller's own; the verifier wants the question to be asked.
            let Some(packet) = (unsafe { packet.as_mut() }) else {
                return Reason::Truncated as u32;
            };
            match $parser(&Skb(skb), offset, packet) {
                Ok(()) => OK,
                Err(reason) => reason as u32,
            }
        }
    };
}

global!(parse4_global, V4, ip4::packet);
global!(parse6_global, V6, ip6::packet);

/// Kinds of packets.
pub mod kind {
    /// Begins or continues a flow.
    pub const PLAIN: u8 = 0;
    /// An ICMP error: belongs to the flow that it quotes.
    pub const ICMP_ERROR: u8 = 1;
    /// The first fragment of a datagram: has the ports.
    pub const FIRST_FRAGMENT: u8 = 2;
    /// A later one: has no transport header.
    pub const LATER_FRAGMENT: u8 = 3;
}

impl<F: Family> Packet<F> {
    /// Writes the flow, seen from the endpoint. In place: a copy would need room on the stack.
    #[inline(always)]
    pub fn write_flow(
        &self,
        space: u8,
        scope: u32,
        direction: Direction,
        flow: &mut FlowKey<F::Addr>,
    ) {
        flow.scope = scope;
        flow.protocol = self.protocol;
        flow.space = space;
        flow.pad = 0;
        match direction {
            Direction::Egress => {
                flow.local = self.source;
                flow.remote = self.destination;
                flow.local_port = self.source_port;
                flow.remote_port = self.destination_port;
            }
            Direction::Ingress => {
                flow.local = self.destination;
                flow.remote = self.source;
                flow.local_port = self.destination_port;
                flow.remote_port = self.source_port;
            }
        }
    }

    /// The port that policy is asked about when a packet of way `direction` belongs to a flow
    /// that was opened the way `opener`.
    #[inline(always)]
    pub fn policy_port(&self, direction: Direction, opener: Direction) -> u16 {
        if matches!(self.protocol, Protocol::ICMP | Protocol::ICMPV6) {
            if direction as u8 == opener as u8 {
                return self.icmp;
            }
            return request_of(self.protocol, self.icmp);
        }
        if direction as u8 == opener as u8 {
            self.destination_port
        } else {
            self.source_port
        }
    }

    /// Whether the packet opens a flow for certain.
    #[inline(always)]
    pub fn is_open_request(&self) -> bool {
        self.protocol == Protocol::TCP && is_open_request(self.tcp_flags)
    }

    /// Whether the packet resets a TCP connection.
    #[inline(always)]
    pub fn is_reset(&self) -> bool {
        self.protocol == Protocol::TCP && self.tcp_flags & tcp_flag::RST != 0
    }

    /// Whether the packet is an ICMP echo request.
    #[inline(always)]
    pub fn is_echo_request(&self) -> bool {
        let kind = self.icmp >> 8;
        self.protocol == Protocol::ICMP && kind == 8
            || self.protocol == Protocol::ICMPV6 && kind == 128
    }

    /// Whether the packet only acknowledges.
    #[inline(always)]
    pub fn is_bare_ack(&self) -> bool {
        self.bare != 0
            && self.tcp_flags & (tcp_flag::SYN | tcp_flag::FIN | tcp_flag::ACK) == tcp_flag::ACK
    }
}

/// The echo request that an echo reply answers; other messages stay what they are.
#[inline(always)]
fn request_of(protocol: u8, icmp: u16) -> u16 {
    match (protocol, icmp >> 8) {
        (Protocol::ICMP, 0) => icmp_port(8, 0),
        (Protocol::ICMPV6, 129) => icmp_port(128, 0),
        _ => icmp,
    }
}
