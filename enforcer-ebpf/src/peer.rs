//! Who the other side is, by the best proof at hand.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::{
    bindings::bpf_sock_tuple,
    helpers::generated::{
        bpf_sk_ancestor_cgroup_id, bpf_sk_cgroup_id, bpf_sk_lookup_tcp, bpf_sk_lookup_udp,
        bpf_sk_release,
    },
};
use enforcer_common::{
    Protocol,
    address_entry::{AddressEntry, address_flag},
    config::Config,
    flow_key::FlowKey,
    identity,
    service_key::ServiceKey,
};

use crate::{
    clear::zero,
    family::Family,
    parse::frame::Skb,
    table::{addresses, endpoints, sockets},
};

/// Look-ups in the network namespace of the packet.
const CURRENT_NETNS: u64 = u64::MAX;

/// Looks an address up: exactly, then by longest prefix. Returns 1 when it is known. Never
/// inlined: the keys' room on the stack is free again afterwards.
#[inline(never)]
pub fn find<F: Family>(config: &Config, address: &F::Addr, found: &mut AddressEntry) -> u32 {
    // Map keys must be on this function's own stack (before Linux 6.2).
    let address = &core::hint::black_box(*address);
    if let Some(entry) = F::address(address) {
        *found = entry;
        return 1;
    }
    if config.prefixes[F::INDEX] != 0
        && let Some(entry) = F::prefix(address)
    {
        *found = entry;
        return 1;
    }
    0
}

/// By address; what is not known is the host (loopback) or the world.
#[inline(always)]
pub fn by_address<F: Family>(config: &Config, address: &F::Addr) -> AddressEntry {
    let mut found = AddressEntry {
        identity: identity::WORLD,
        endpoint: 0,
        flags: 0,
    };
    if find::<F>(config, address, &mut found) == 0 && F::is_loopback(address) {
        found.identity = identity::HOST;
        found.flags = address_flag::LOCAL;
    }
    found
}

/// By the port of an address that workloads share ([`address_flag::SHARED`]): the identity of
/// whoever listens there, or 0. Never inlined: as [`find`].
#[inline(never)]
pub fn behind<F: Family>(address: &F::Addr, protocol: u8, port: u16) -> u32 {
    addresses::service(&ServiceKey {
        address: F::mapped(address),
        port,
        protocol,
        pad: 0,
    })
}

/// Whether an address that one host owns is not this host's: 1 or 0.
#[inline(never)]
pub fn is_elsewhere<F: Family>(config: &Config, address: &F::Addr) -> u32 {
    let known = by_address::<F>(config, address);
    u32::from(known.flags & address_flag::LOCAL == 0 && !F::is_group(address))
}

/// By the peer's own socket on this host: its cgroup is a fact of this kernel. Returns the
/// identity, or 0 when there is no such socket or it belongs to no workload.
///
/// Programs at sockets (`AT_SOCKET`) may walk along the ancestors of the peer's cgroup; others
/// have to take what was found when the peer's own packets were judged.
#[inline(never)]
pub fn by_socket<F: Family, const AT_SOCKET: bool>(skb: Skb, flow: &FlowKey<F::Addr>) -> u32 {
    // The socket that packets from the local to the remote side are for is the peer's,
    // whichever way this packet goes.
    let mut tuple = MaybeUninit::<bpf_sock_tuple>::uninit();
    // SAFETY: all bytes zero is a valid tuple, and it is whole words.
    let tuple = unsafe {
        zero(tuple.as_mut_ptr().cast(), size_of::<bpf_sock_tuple>() / 4);
        tuple.assume_init_mut()
    };
    F::tuple(
        tuple,
        &flow.local,
        flow.local_port,
        &flow.remote,
        flow.remote_port,
    );
    // SAFETY: the tuple is as large as said; the reference is released below.
    let socket = unsafe {
        match flow.protocol {
            Protocol::TCP => {
                bpf_sk_lookup_tcp(skb.0.cast(), tuple, F::TUPLE_SIZE, CURRENT_NETNS, 0)
            }
            Protocol::UDP => {
                bpf_sk_lookup_udp(skb.0.cast(), tuple, F::TUPLE_SIZE, CURRENT_NETNS, 0)
            }
            _ => return 0,
        }
    };
    if socket.is_null() {
        return 0;
    }
    let socket = socket.cast::<c_void>();
    // SAFETY: not null, and held until the release.
    let cgroup = unsafe {
        let cgroup = if AT_SOCKET {
            endpoints::nearest(bpf_sk_cgroup_id(socket), |level| {
                bpf_sk_ancestor_cgroup_id(socket, level)
            })
        } else {
            sockets::existing(socket).map_or(0, |entry| (*entry).cgroup)
        };
        bpf_sk_release(socket);
        cgroup
    };
    endpoints::cgroup(cgroup).map_or(0, |endpoint| endpoint.identity)
}

/// Whether an arriving flow has a socket on this host: 1 or 0.
#[inline(never)]
pub fn has_receiver<F: Family>(skb: Skb, flow: &FlowKey<F::Addr>) -> u32 {
    let mut tuple = MaybeUninit::<bpf_sock_tuple>::uninit();
    // SAFETY: all bytes zero is a valid tuple, and it is whole words.
    let tuple = unsafe {
        zero(tuple.as_mut_ptr().cast(), size_of::<bpf_sock_tuple>() / 4);
        tuple.assume_init_mut()
    };
    F::tuple(
        tuple,
        &flow.remote,
        flow.remote_port,
        &flow.local,
        flow.local_port,
    );
    // SAFETY: the tuple is as large as said; the reference is released.
    unsafe {
        let socket = match flow.protocol {
            Protocol::TCP => {
                bpf_sk_lookup_tcp(skb.0.cast(), tuple, F::TUPLE_SIZE, CURRENT_NETNS, 0)
            }
            Protocol::UDP => {
                bpf_sk_lookup_udp(skb.0.cast(), tuple, F::TUPLE_SIZE, CURRENT_NETNS, 0)
            }
            _ => return 0,
        };
        if socket.is_null() {
            return 0;
        }
        bpf_sk_release(socket.cast());
    }
    1
}
