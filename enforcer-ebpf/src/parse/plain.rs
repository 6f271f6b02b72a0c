//! The packets that nearly all packets are: TCP and UDP, whole, without IP options or extension
//! headers, with their headers in the buffer's first part. They are read where they lie, at
//! constant offsets, without the calls that [`super::frame::Skb`] needs for all others.

use core::{arch::asm, mem::offset_of, ptr};

use enforcer_common::{
    Direction, Protocol,
    conntrack::{is_open_request, is_within, tcp_flag},
    flow_key::{Addr4, Addr6, FlowKey},
};

use crate::{
    family::{Family, V4, V6},
    parse::{Packet, frame::Skb},
    pipeline::Place,
};

/// The bytes of a packet that can be read directly.
#[derive(Clone, Copy)]
struct Bytes {
    start: usize,
    end: usize,
    /// Also those that lie in pages.
    in_all: u32,
}

/// Reads a big-endian or an opaque word at a constant offset. In assembly, because the
/// compiler takes an unaligned load to bytes, though every machine with a BPF compiler has one.
macro_rules! load {
    ($bytes:expr, $size:literal, $offset:expr) => {{
        let value: u64;
        // SAFETY: the caller has checked the end; the verifier proves it.
        unsafe {
            asm!(
                concat!("{value} = *(", $size, " *)({start} + {offset})"),
                value = out(reg) value,
                start = in(reg) $bytes.start,
                offset = const $offset,
                options(nostack, readonly, pure)
            );
        }
        value
    }};
}

/// Copies an IPv6 address from a constant offset to a field of a structure of words, word by word
/// through one register: a compiler that may order loads and stores reads everything first, and
/// then has nowhere to keep it.
macro_rules! copy_words {
    ($bytes:expr, $to:expr, $offset:expr) => {{
        let to: &mut Addr6 = $to;
        // SAFETY: four words of the packet, whose end the caller has checked, to an address, which
        // has as many and is aligned to words; the verifier proves both.
        unsafe {
            asm!(
                "{word} = *(u32 *)({start} + {o0})",
                "*(u32 *)({to} + 0) = {word}",
                "{word} = *(u32 *)({start} + {o1})",
                "*(u32 *)({to} + 4) = {word}",
                "{word} = *(u32 *)({start} + {o2})",
                "*(u32 *)({to} + 8) = {word}",
                "{word} = *(u32 *)({start} + {o3})",
                "*(u32 *)({to} + 12) = {word}",
                word = out(reg) _,
                start = in(reg) $bytes.start,
                to = in(reg) to.as_mut_ptr(),
                o0 = const $offset,
                o1 = const $offset + 4,
                o2 = const $offset + 8,
                o3 = const $offset + 12,
                options(nostack)
            );
        }
    }};
}

impl Bytes {
    #[inline(always)]
    fn of(skb: Skb) -> Self {
        // SAFETY: the context of the program.
        unsafe {
            Self {
                start: (*skb.0).data as usize,
                end: (*skb.0).data_end as usize,
                in_all: (*skb.0).len,
            }
        }
    }

    #[inline(always)]
    fn have(self, length: usize) -> bool {
        self.start + length <= self.end
    }
}

/// What the headers of a plain packet say, but for the addresses.
pub struct Head {
    /// Bytes of the packet from the IP header on.
    length: u32,
    /// Where the transport header begins.
    transport: u32,
    /// As they stand in the header: source and destination.
    ports: u32,
    protocol: u8,
    hop_limit: u8,
    tcp_flags: u8,
    bare: u8,
}

/// An address family whose plain packets can be read.
pub trait Plain: Family {
    /// Length of an IP header without options or extension headers.
    const LENGTH: usize;

    /// Reads the headers of a packet whose IP header is at `OFFSET`. `None`: it is not plain.
    fn head<const OFFSET: usize>(skb: Skb) -> Option<Head>;

    /// Reads the addresses of a packet that is plain. Straight to where they belong, because
    /// there are few registers and little stack. `false`: it is not plain.
    fn addresses<const OFFSET: usize>(
        skb: Skb,
        source: &mut Self::Addr,
        destination: &mut Self::Addr,
    ) -> bool;
}

/// Length of an IPv4 header without options.
const HEADER4: usize = 20;
/// Length of an IPv6 header.
const HEADER6: usize = 40;
/// Ports, and length and checksum of a UDP header.
const UDP: usize = 8;
/// What is read of a TCP header: until after the flags.
const TCP: usize = 14;

impl Plain for V4 {
    const LENGTH: usize = HEADER4;

    #[inline(always)]
    fn head<const OFFSET: usize>(skb: Skb) -> Option<Head> {
        let bytes = Bytes::of(skb);
        // Version 4 and five words; neither more fragments nor an offset.
        if !bytes.have(OFFSET + HEADER4 + UDP)
            || load!(bytes, "u8", OFFSET) != 0x45
            || u16::from_be(load!(bytes, "u16", OFFSET + 6) as u16) & 0x3fff != 0
        {
            return None;
        }
        let length = u32::from(u16::from_be(load!(bytes, "u16", OFFSET + 2) as u16));
        let head = Head {
            length,
            transport: (OFFSET + HEADER4) as u32,
            ports: load!(bytes, "u32", OFFSET + HEADER4) as u32,
            protocol: load!(bytes, "u8", OFFSET + 9) as u8,
            hop_limit: load!(bytes, "u8", OFFSET + 8) as u8,
            tcp_flags: 0,
            bare: 0,
        };
        if length < HEADER4 as u32 || OFFSET as u32 + length > bytes.in_all {
            return None;
        }
        let available = length - HEADER4 as u32;
        match head.protocol {
            Protocol::TCP if bytes.have(OFFSET + HEADER4 + TCP) => {
                head.tcp(load!(bytes, "u16", OFFSET + HEADER4 + 12) as u16, available)
            }
            Protocol::UDP => head.udp(load!(bytes, "u16", OFFSET + HEADER4 + 4) as u16, available),
            _ => None,
        }
    }

    #[inline(always)]
    fn addresses<const OFFSET: usize>(
        skb: Skb,
        source: &mut Addr4,
        destination: &mut Addr4,
    ) -> bool {
        let bytes = Bytes::of(skb);
        if !bytes.have(OFFSET + HEADER4) {
            return false;
        }
        *source = (load!(bytes, "u32", OFFSET + 12) as u32).to_ne_bytes();
        *destination = (load!(bytes, "u32", OFFSET + 16) as u32).to_ne_bytes();
        true
    }
}

impl Plain for V6 {
    const LENGTH: usize = HEADER6;

    #[inline(always)]
    fn head<const OFFSET: usize>(skb: Skb) -> Option<Head> {
        let bytes = Bytes::of(skb);
        if !bytes.have(OFFSET + HEADER6 + UDP) || load!(bytes, "u8", OFFSET) >> 4 != 6 {
            return None;
        }
        let available = u32::from(u16::from_be(load!(bytes, "u16", OFFSET + 4) as u16));
        let head = Head {
            length: HEADER6 as u32 + available,
            transport: (OFFSET + HEADER6) as u32,
            ports: load!(bytes, "u32", OFFSET + HEADER6) as u32,
            protocol: load!(bytes, "u8", OFFSET + 6) as u8,
            hop_limit: load!(bytes, "u8", OFFSET + 7) as u8,
            tcp_flags: 0,
            bare: 0,
        };
        if OFFSET as u32 + head.length > bytes.in_all {
            return None;
        }
        match head.protocol {
            Protocol::TCP if bytes.have(OFFSET + HEADER6 + TCP) => {
                head.tcp(load!(bytes, "u16", OFFSET + HEADER6 + 12) as u16, available)
            }
            Protocol::UDP => head.udp(load!(bytes, "u16", OFFSET + HEADER6 + 4) as u16, available),
            _ => None,
        }
    }

    #[inline(always)]
    fn addresses<const OFFSET: usize>(
        skb: Skb,
        source: &mut Addr6,
        destination: &mut Addr6,
    ) -> bool {
        let bytes = Bytes::of(skb);
        if !bytes.have(OFFSET + HEADER6) {
            return false;
        }
        copy_words!(bytes, source, OFFSET + 8);
        copy_words!(bytes, destination, OFFSET + 24);
        true
    }
}

/// Whether a TCP packet may have these flags: no SYN with FIN or RST, and never none.
#[inline(always)]
pub fn is_plausible(flags: u8) -> bool {
    let ending = flags & (tcp_flag::FIN | tcp_flag::RST) != 0;
    !(flags & tcp_flag::SYN != 0 && ending)
        && flags & (tcp_flag::SYN | tcp_flag::ACK | tcp_flag::RST | tcp_flag::FIN) != 0
}

impl Head {
    /// With what the TCP header says. `None`: not well formed, and the other parser says why.
    #[inline(always)]
    fn tcp(self, offset_and_flags: u16, available: u32) -> Option<Self> {
        let [length, flags] = offset_and_flags.to_ne_bytes();
        let length = u32::from(length >> 4) * 4;
        (length >= 20 && length <= available && is_plausible(flags)).then_some(Self {
            tcp_flags: flags,
            bare: u8::from(length == available),
            ..self
        })
    }

    /// `None`: not well formed, and the other parser says why.
    #[inline(always)]
    fn udp(self, length: u16, available: u32) -> Option<Self> {
        let length = u16::from_be(length);
        (available >= UDP as u32 && (length == 0 || length >= UDP as u16)).then_some(self)
    }

    #[inline(always)]
    fn source_port(&self) -> u16 {
        (u32::from_be(self.ports) >> 16) as u16
    }

    #[inline(always)]
    fn destination_port(&self) -> u16 {
        u32::from_be(self.ports) as u16
    }
}

/// Reads a plain packet into a zeroed one. `false`: it is not plain.
#[inline(always)]
pub fn packet<F: Plain, const OFFSET: usize>(skb: Skb, packet: &mut Packet<F>) -> bool {
    let Some(head) = F::head::<OFFSET>(skb) else {
        return false;
    };
    packet.transport = head.transport;
    packet.length = head.length;
    packet.source_port = head.source_port();
    packet.destination_port = head.destination_port();
    packet.protocol = head.protocol;
    packet.hop_limit = head.hop_limit;
    packet.tcp_flags = head.tcp_flags;
    packet.bare = head.bare;
    F::addresses::<OFFSET>(skb, &mut packet.source, &mut packet.destination)
}

/// What is to be known of a packet beside its flow, in one register: there are few.
#[derive(Clone, Copy)]
pub struct Step(pub u32);

impl Step {
    /// `length`: bytes from the IP header on, at most 65,575.
    #[inline(always)]
    pub fn new(tcp_flags: u8, length: u32) -> Self {
        let mut word = u64::from(length) << 8;
        // SAFETY: an instruction on two registers. In assembly, because a compiler that knows
        // the parts keeps them beside the whole.
        unsafe {
            asm!(
                "{word} |= {flags}",
                word = inout(reg) word,
                flags = in(reg) u64::from(tcp_flags),
                options(nomem, nostack, pure)
            );
        }
        Self(word as u32)
    }

    #[inline(always)]
    pub fn tcp_flags(self) -> u8 {
        self.0 as u8
    }

    /// Whether it asks to open a TCP connection. Other protocols have no flags.
    #[inline(always)]
    pub fn is_request(self) -> bool {
        is_open_request(self.tcp_flags())
    }

    /// Whether it neither opens nor ends a TCP connection.
    #[inline(always)]
    pub fn is_within(self) -> bool {
        is_within(self.tcp_flags())
    }

    #[inline(always)]
    pub fn length(self) -> u32 {
        self.0 >> 8
    }
}

/// Reads the flow of a plain packet, as [`Packet::write_flow`] has it. `None`: it is not plain.
#[inline(always)]
pub fn flow<F: Plain, const OFFSET: usize>(
    skb: Skb,
    place: &Place,
    direction: Direction,
    flow: &mut FlowKey<F::Addr>,
) -> Option<Step> {
    let head = F::head::<OFFSET>(skb)?;
    // In memory the source port comes behind the destination port now.
    let ports = u32::from_be(head.ports);
    let ports = match direction {
        Direction::Egress => ports.rotate_left(16),
        Direction::Ingress => ports,
    };
    let last = u32::from(head.protocol) | u32::from(place.space) << 8;
    const {
        assert!(cfg!(target_endian = "little"));
        assert!(offset_of!(FlowKey<F::Addr>, scope) == 0);
        assert!(offset_of!(FlowKey<F::Addr>, local_port) == size_of::<FlowKey<F::Addr>>() - 8);
        assert!(offset_of!(FlowKey<F::Addr>, remote_port) == size_of::<FlowKey<F::Addr>>() - 6);
        assert!(offset_of!(FlowKey<F::Addr>, protocol) == size_of::<FlowKey<F::Addr>>() - 4);
        assert!(offset_of!(FlowKey<F::Addr>, space) == size_of::<FlowKey<F::Addr>>() - 3);
    }
    // Whole words, as they are hashed: a word that is read soon after it was written in parts
    // makes the processor wait.
    let words = ptr::from_mut(flow).cast::<u32>();
    // SAFETY: a key is words, of which these are the first one and the last two.
    unsafe {
        words.write(place.scope);
        words
            .add(size_of::<FlowKey<F::Addr>>() / 4 - 2)
            .write(ports);
        words.add(size_of::<FlowKey<F::Addr>>() / 4 - 1).write(last);
    }
    let read = match direction {
        Direction::Egress => F::addresses::<OFFSET>(skb, &mut flow.local, &mut flow.remote),
        Direction::Ingress => F::addresses::<OFFSET>(skb, &mut flow.remote, &mut flow.local),
    };
    read.then(|| Step::new(head.tcp_flags, head.length))
}
