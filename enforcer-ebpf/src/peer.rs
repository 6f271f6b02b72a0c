//! Who the other side is, by the best proof at hand.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{
    bpf_sk_ancestor_cgroup_id, bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release,
};
use enforcer_common::{
    Protocol,
    address_entry::{AddressEntry, address_flag},
    config::Config,
    flow_key::FlowKey,
    identity,
};

use crate::{
    family::Family,
    table::{endpoints, sockets},
};

/// Look-ups in the network namespace of the packet.
const CURRENT_NETNS: u64 = u64::MAX;

/// By exact address, then by longest prefix; else the host (loopback) or the world.
#[inline(always)]
pub fn by_address<F: Family>(config: &Config, address: &F::Addr) -> AddressEntry {
    if let Some(entry) = F::address(address) {
        return entry;
    }
    if config.prefixes[F::INDEX] != 0
        && let Some(entry) = F::prefix(address)
    {
        return entry;
    }
    if F::is_loopback(address) {
        return AddressEntry {
            identity: identity::HOST,
            endpoint: 0,
            flags: address_flag::LOCAL,
        };
    }
    AddressEntry {
        identity: identity::WORLD,
        endpoint: 0,
        flags: 0,
    }
}

/// By the peer's own socket on this host: its cgroup is a fact of this kernel. `None` when
/// there is no such socket or it belongs to no workload.
///
/// # Safety
///
/// `context` is the context of a program that may look up sockets.
#[inline(always)]
pub unsafe fn by_socket<F: Family>(
    context: *mut c_void,
    flow: &FlowKey<F::Addr>,
    generation: u32,
) -> Option<u32> {
    // The socket that packets from the local to the remote side are for is the peer's,
    // whichever way this packet goes.
    let mut tuple = F::tuple(&flow.local, flow.local_port, &flow.remote, flow.remote_port);
    // SAFETY: the tuple is as large as said; the reference is released below.
    let socket = unsafe {
        match flow.protocol {
            Protocol::TCP => {
                bpf_sk_lookup_tcp(context, &raw mut tuple, F::TUPLE_SIZE, CURRENT_NETNS, 0)
            }
            Protocol::UDP => {
                bpf_sk_lookup_udp(context, &raw mut tuple, F::TUPLE_SIZE, CURRENT_NETNS, 0)
            }
            _ => return None,
        }
    };
    if socket.is_null() {
        return None;
    }
    let socket = socket.cast::<c_void>();
    // SAFETY: not null, and held until the release.
    let cgroup = unsafe {
        let remembered = sockets::existing(socket).and_then(|entry| {
            ((*entry).resolved == generation).then(|| (*entry).cgroup)
        });
        let cgroup = match remembered {
            Some(cgroup) => cgroup,
            None => endpoints::nearest(|level| bpf_sk_ancestor_cgroup_id(socket, level)),
        };
        bpf_sk_release(socket);
        cgroup
    };
    endpoints::cgroup(cgroup).map(|endpoint| endpoint.identity)
}
