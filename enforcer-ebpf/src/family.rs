//! IPv4 and IPv6 as one type parameter.

use aya_ebpf::bindings::{bpf_fib_lookup, bpf_sock_tuple};
use enforcer_common::{
    address_entry::AddressEntry,
    blocked_entry::BlockedEntry,
    conntrack::FlowEntry,
    flow_key::{Addr4, Addr6, FlowKey},
};

use crate::table::{addresses, flows};

/// An address family and its tables.
pub trait Family {
    /// Address in network byte order.
    type Addr: Copy + PartialEq;
    /// 4 or 6.
    const VERSION: u8;
    /// `AF_INET` or `AF_INET6`.
    const AF: u8;
    /// Index into per-family settings.
    const INDEX: usize;
    /// The unspecified address.
    const UNSPECIFIED: Self::Addr;
    /// Bytes of a socket tuple of this family.
    const TUPLE_SIZE: u32;

    fn mapped(address: &Self::Addr) -> Addr6;
    /// An address in one word, for hashing.
    fn folded(address: &Self::Addr) -> u64;
    fn is_loopback(address: &Self::Addr) -> bool;
    /// An address that no one host owns: unspecified, multicast, broadcast.
    fn is_group(address: &Self::Addr) -> bool;
    fn is_link_local(address: &Self::Addr) -> bool;
    fn address(address: &Self::Addr) -> Option<AddressEntry>;
    fn prefix(address: &Self::Addr) -> Option<AddressEntry>;
    fn blocked(address: &Self::Addr) -> Option<BlockedEntry>;
    fn flow(key: &FlowKey<Self::Addr>) -> Option<*mut FlowEntry>;
    fn keep(key: &FlowKey<Self::Addr>, entry: &FlowEntry) -> bool;
    /// The tuple under which the stack finds the socket that packets from `source` to
    /// `destination` are for. Ports in host byte order.
    fn tuple(
        tuple: &mut bpf_sock_tuple,
        source: &Self::Addr,
        source_port: u16,
        destination: &Self::Addr,
        destination_port: u16,
    );
    fn fib(params: &mut bpf_fib_lookup, source: &Self::Addr, destination: &Self::Addr);
}

/// IPv4.
#[derive(Clone, Copy)]
pub struct V4;

/// IPv6.
#[derive(Clone, Copy)]
pub struct V6;

fn words(address: &Addr6) -> [u32; 4] {
    // SAFETY: same size, no invalid values; unaligned reads are not needed on a copy.
    unsafe { core::mem::transmute::<Addr6, [u32; 4]>(*address) }
}

impl Family for V4 {
    type Addr = Addr4;
    const VERSION: u8 = 4;
    const AF: u8 = 2;
    const INDEX: usize = 0;
    const UNSPECIFIED: Addr4 = [0; 4];
    const TUPLE_SIZE: u32 = 12;

    #[inline(always)]
    fn mapped(address: &Addr4) -> Addr6 {
        // As `flow_key::mapped`, but in words, which the compiler does not take to bytes.
        let words = [0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes(*address)];
        // SAFETY: same size, and every byte pattern is an address.
        unsafe { core::mem::transmute::<[u32; 4], Addr6>(words) }
    }

    #[inline(always)]
    fn folded(address: &Addr4) -> u64 {
        u64::from(u32::from_ne_bytes(*address))
    }

    #[inline(always)]
    fn is_loopback(address: &Addr4) -> bool {
        address[0] == 127
    }

    #[inline(always)]
    fn is_group(address: &Addr4) -> bool {
        address[0] >= 224 || address[0] == 0
    }

    #[inline(always)]
    fn is_link_local(address: &Addr4) -> bool {
        address[0] == 169 && address[1] == 254
    }

    #[inline(always)]
    fn address(address: &Addr4) -> Option<AddressEntry> {
        addresses::address4(address)
    }

    #[inline(always)]
    fn prefix(address: &Addr4) -> Option<AddressEntry> {
        addresses::prefix4(address)
    }

    #[inline(always)]
    fn blocked(address: &Addr4) -> Option<BlockedEntry> {
        addresses::blocked4(address)
    }

    #[inline(always)]
    fn flow(key: &FlowKey<Addr4>) -> Option<*mut FlowEntry> {
        flows::flow4(key)
    }

    #[inline(always)]
    fn keep(key: &FlowKey<Addr4>, entry: &FlowEntry) -> bool {
        flows::keep4(key, entry)
    }

    #[inline(always)]
    fn tuple(
        tuple: &mut bpf_sock_tuple,
        source: &Addr4,
        source_port: u16,
        destination: &Addr4,
        destination_port: u16,
    ) {
        // SAFETY: the union's parts are plain integers.
        let part = unsafe { &mut tuple.__bindgen_anon_1.ipv4 };
        part.saddr = u32::from_ne_bytes(*source);
        part.daddr = u32::from_ne_bytes(*destination);
        part.sport = source_port.to_be();
        part.dport = destination_port.to_be();
    }

    #[inline(always)]
    fn fib(params: &mut bpf_fib_lookup, source: &Addr4, destination: &Addr4) {
        params.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(*source);
        params.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(*destination);
    }
}

impl Family for V6 {
    type Addr = Addr6;
    const VERSION: u8 = 6;
    const AF: u8 = 10;
    const INDEX: usize = 1;
    const UNSPECIFIED: Addr6 = [0; 16];
    const TUPLE_SIZE: u32 = 36;

    #[inline(always)]
    fn mapped(address: &Addr6) -> Addr6 {
        *address
    }

    #[inline(always)]
    fn folded(address: &Addr6) -> u64 {
        let [a, b, c, d] = words(address);
        (u64::from(a) << 32 | u64::from(b)).rotate_left(7) ^ (u64::from(c) << 32 | u64::from(d))
    }

    #[inline(always)]
    fn is_loopback(address: &Addr6) -> bool {
        words(address) == [0, 0, 0, 1_u32.to_be()]
    }

    #[inline(always)]
    fn is_group(address: &Addr6) -> bool {
        address[0] == 0xff || words(address) == [0; 4]
    }

    #[inline(always)]
    fn is_link_local(address: &Addr6) -> bool {
        address[0] == 0xfe && address[1] & 0xc0 == 0x80
    }

    #[inline(always)]
    fn address(address: &Addr6) -> Option<AddressEntry> {
        addresses::address6(address)
    }

    #[inline(always)]
    fn prefix(address: &Addr6) -> Option<AddressEntry> {
        addresses::prefix6(address)
    }

    #[inline(always)]
    fn blocked(address: &Addr6) -> Option<BlockedEntry> {
        addresses::blocked6(address)
    }

    #[inline(always)]
    fn flow(key: &FlowKey<Addr6>) -> Option<*mut FlowEntry> {
        flows::flow6(key)
    }

    #[inline(always)]
    fn keep(key: &FlowKey<Addr6>, entry: &FlowEntry) -> bool {
        flows::keep6(key, entry)
    }

    #[inline(always)]
    fn tuple(
        tuple: &mut bpf_sock_tuple,
        source: &Addr6,
        source_port: u16,
        destination: &Addr6,
        destination_port: u16,
    ) {
        // SAFETY: the union's parts are plain integers.
        let part = unsafe { &mut tuple.__bindgen_anon_1.ipv6 };
        part.saddr = words(source);
        part.daddr = words(destination);
        part.sport = source_port.to_be();
        part.dport = destination_port.to_be();
    }

    #[inline(always)]
    fn fib(params: &mut bpf_fib_lookup, source: &Addr6, destination: &Addr6) {
        params.__bindgen_anon_3.ipv6_src = words(source);
        params.__bindgen_anon_4.ipv6_dst = words(destination);
    }
}
