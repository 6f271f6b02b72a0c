//! A flow as its endpoint sees it.

use bytemuck::{Pod, Zeroable};

/// The way of a packet, or of the packet that opened a flow, seen from the endpoint.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// From the workload to its peer.
    Egress = 0,
    /// From the peer to the workload.
    Ingress = 1,
}

impl Direction {
    /// The other way.
    #[inline(always)]
    #[must_use]
    pub const fn reverse(self) -> Self {
        match self {
            Self::Egress => Self::Ingress,
            Self::Ingress => Self::Egress,
        }
    }

    /// The bits of both.
    pub const BITS: u8 = Self::Egress.bit() | Self::Ingress.bit();

    /// A bit of its own.
    #[inline(always)]
    #[must_use]
    pub const fn bit(self) -> u8 {
        1 << self as u8
    }

    /// From the byte that maps and events carry; anything but 0 is ingress.
    #[inline(always)]
    pub const fn from_byte(byte: u8) -> Self {
        if byte == 0 {
            Self::Egress
        } else {
            Self::Ingress
        }
    }
}

/// IP protocol numbers (IANA "Assigned Internet Protocol Numbers") that the datapath knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol;

impl Protocol {
    /// IPv6 hop-by-hop options, an extension header.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// IPsec authentication header, passed over like an extension header.
    pub const AUTHENTICATION: u8 = 51;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6: no next header.
    pub const NO_NEXT: u8 = 59;
    /// IPv6 destination options.
    pub const DESTINATION: u8 = 60;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// Mobility header.
    pub const MOBILITY: u8 = 135;
    /// UDP-Lite.
    pub const UDPLITE: u8 = 136;

    /// Whether the protocol starts with two 16-bit ports.
    #[inline(always)]
    pub const fn has_ports(protocol: u8) -> bool {
        matches!(protocol, Self::TCP | Self::UDP | Self::SCTP | Self::UDPLITE)
    }
}

/// Which table of endpoints a flow's scope counts in.
pub mod space {
    /// Scope is an interface index.
    pub const INTERFACE: u8 = 0;
    /// Scope is an endpoint number of a cgroup endpoint.
    pub const CGROUP: u8 = 1;
    /// The host endpoint; scope is 0, so that a flow may change its uplink.
    pub const HOST: u8 = 2;
}

/// Key of the flow tables. Both ways of a flow have the same key, because addresses are named
/// by side and not by packet: one look-up a packet.
///
/// For ICMP and ICMPv6 echo both ports are the identifier; for other ICMP messages they are
/// the type and code ([`icmp_port`]) and 0; for other protocols both are 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey<A> {
    /// See [`space`].
    pub scope: u32,
    /// Address of the workload's side, network byte order.
    pub local: A,
    /// Address of the peer's side, network byte order.
    pub remote: A,
    /// Port of the workload's side, host byte order.
    pub local_port: u16,
    /// Port of the peer's side, host byte order.
    pub remote_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// See [`space`].
    pub space: u8,
    /// Always 0.
    pub pad: u16,
}

/// An IPv4 address as maps hold it.
pub type Addr4 = [u8; 4];
/// An IPv6 address as maps hold it.
pub type Addr6 = [u8; 16];

const _: () = assert!(size_of::<FlowKey<Addr4>>() == 20 && size_of::<FlowKey<Addr6>>() == 44);

// bytemuck's derive does not see through type parameters, so the two instances are vouched for.
// SAFETY: `repr(C)`, every field is plain bytes, and the sizes asserted above leave no padding.
#[expect(unsafe_code, reason = "see above")]
unsafe impl Zeroable for FlowKey<Addr4> {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "see above")]
unsafe impl Pod for FlowKey<Addr4> {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "see above")]
unsafe impl Zeroable for FlowKey<Addr6> {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "see above")]
unsafe impl Pod for FlowKey<Addr6> {}

/// The port number under which policy and flow keys hold an ICMP type and code.
#[inline(always)]
pub const fn icmp_port(kind: u8, code: u8) -> u16 {
    (kind as u16) << 8 | code as u16
}

/// The IPv4-mapped form (RFC 4291, 2.5.5.2) in which events and reports carry IPv4.
#[inline(always)]
pub const fn mapped(address: Addr4) -> Addr6 {
    let [a, b, c, d] = address;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// A fragmented datagram (RFC 791: source, destination, protocol and identification), at one
/// interface. IPv4 addresses are mapped.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct FragmentKey {
    /// Source address.
    pub source: Addr6,
    /// Destination address.
    pub destination: Addr6,
    /// IPv4: 16 bits; IPv6: 32 bits.
    pub identification: u32,
    /// Where the fragment was seen.
    pub ifindex: u32,
    /// IP protocol number.
    pub protocol: u8,
    /// 0 for egress, 1 for ingress.
    pub direction: u8,
    /// Always 0.
    pub pad: [u8; 2],
}

/// What later fragments borrow from the first one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct FragmentEntry {
    /// Source port, host byte order.
    pub source_port: u16,
    /// Destination port, host byte order.
    pub destination_port: u16,
    /// Seconds of the monotonic clock when the first fragment passed.
    pub seen: u32,
}

/// Seconds for which a first fragment's ports are good (`net.ipv4.ipfrag_time`).
pub const FRAGMENT_SECONDS: u32 = 30;

/// Key of an LPM trie over `A`: the prefix length in bits, then the address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixKey<A> {
    /// Length in bits.
    pub bits: u32,
    /// Network byte order.
    pub address: A,
}

const _: () = assert!(size_of::<PrefixKey<Addr4>>() == 8 && size_of::<PrefixKey<Addr6>>() == 20);

// bytemuck's derive does not see through type parameters, so the two instances are vouched for.
// SAFETY: `repr(C)`, every field is plain bytes, and the sizes asserted above leave no padding.
#[expect(unsafe_code, reason = "see above")]
unsafe impl Zeroable for PrefixKey<Addr4> {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "see above")]
unsafe impl Pod for PrefixKey<Addr4> {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "see above")]
unsafe impl Zeroable for PrefixKey<Addr6> {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "see above")]
unsafe impl Pod for PrefixKey<Addr6> {}

const _: () = assert!(size_of::<FragmentKey>() == 44 && size_of::<FragmentEntry>() == 8);
