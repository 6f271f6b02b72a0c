//! `connect(2)` and `sendmsg(2)`: refused at the call, where the process is known.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    bindings::bpf_sock_tuple,
    helpers::generated::{
        bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_sk_lookup_tcp,
        bpf_sk_lookup_udp, bpf_sk_release,
    },
    programs::SockAddrContext,
};
use enforcer_common::{
    Action, Direction, Judge, Protocol,
    address_entry::address_flag,
    config::Config,
    endpoint_entry::{EndpointEntry, endpoint_flag},
    event::Hook,
    flow_key::{Addr6, FlowKey, space},
    socket_entry::received,
};

use crate::{
    family::{Family, V4, V6},
    peer,
    pipeline::Place,
    report::{Facts, Report},
    table::{
        clock::now,
        config::{config, passed},
        endpoints, policy, sockets,
    },
};

const ALLOW: i32 = 1;
const REFUSE: i32 = 0;

/// The destination of a call.
pub trait Destination: Report {
    /// Reads it from the context.
    ///
    /// # Safety
    ///
    /// The context is the program's, of this family.
    unsafe fn destination(ctx: &SockAddrContext) -> Self::Addr;
    /// The call, on an endpoint that exists.
    fn judge(ctx: &SockAddrContext, config: &Config, call: &Call, address: &Self::Addr) -> i32;
}

/// A call on its way.
pub struct Call {
    cgroup: u64,
    endpoint: &'static EndpointEntry,
    hook: u8,
    protocol: u8,
    port: u16,
}

impl Destination for V4 {
    #[inline(always)]
    unsafe fn destination(ctx: &SockAddrContext) -> [u8; 4] {
        // SAFETY: by the caller's promise.
        unsafe { (*ctx.sock_addr).user_ip4 }.to_ne_bytes()
    }

    #[inline(always)]
    fn judge(ctx: &SockAddrContext, config: &Config, call: &Call, address: &[u8; 4]) -> i32 {
        judge::<V4>(ctx, config, call, address)
    }
}

impl Destination for V6 {
    #[inline(always)]
    unsafe fn destination(ctx: &SockAddrContext) -> Addr6 {
        // SAFETY: by the caller's promise.
        let words = unsafe {
            [
                (*ctx.sock_addr).user_ip6[0],
                (*ctx.sock_addr).user_ip6[1],
                (*ctx.sock_addr).user_ip6[2],
                (*ctx.sock_addr).user_ip6[3],
            ]
        };
        let mut address = [0; 16];
        let mut index = 0;
        while index < 4 {
            let bytes = words[index].to_ne_bytes();
            address[4 * index] = bytes[0];
            address[4 * index + 1] = bytes[1];
            address[4 * index + 2] = bytes[2];
            address[4 * index + 3] = bytes[3];
            index += 1;
        }
        address
    }

    #[inline(always)]
    fn judge(ctx: &SockAddrContext, config: &Config, call: &Call, address: &Addr6) -> i32 {
        let [.., a, b, c, d] = *address;
        if enforcer_common::flow_key::mapped([a, b, c, d]) == *address {
            // An IPv4 destination through an IPv6 socket: its packets will be IPv4.
            return judge::<V4>(ctx, config, call, &[a, b, c, d]);
        }
        judge::<V6>(ctx, config, call, address)
    }
}

/// `connect(2)`.
#[inline(always)]
pub fn connect<F: Destination>(ctx: &SockAddrContext) -> i32 {
    enter::<F>(ctx, Hook::Connect)
}

/// `sendmsg(2)` with an address.
#[inline(always)]
pub fn sendmsg<F: Destination>(ctx: &SockAddrContext) -> i32 {
    enter::<F>(ctx, Hook::Sendmsg)
}

#[inline(always)]
fn enter<F: Destination>(ctx: &SockAddrContext, hook: Hook) -> i32 {
    let Some(config) = config() else { return ALLOW };
    // SAFETY: the helper has no preconditions.
    let cgroup = unsafe {
        endpoints::nearest(bpf_get_current_cgroup_id(), |level| {
            bpf_get_current_ancestor_cgroup_id(level)
        })
    };
    let Some(endpoint) = endpoints::cgroup(cgroup) else {
        return ALLOW;
    };
    // A child that awaits classification is judged by its packets.
    if endpoint.flags & endpoint_flag::PENDING_CHILDREN != 0 {
        return ALLOW;
    }
    // SAFETY: the context of the program.
    let (protocol, port) = unsafe { ((*ctx.sock_addr).protocol, (*ctx.sock_addr).user_port) };
    let call = Call {
        cgroup,
        endpoint,
        hook: hook as u8,
        protocol: protocol as u8,
        port: u16::from_be(port as u16),
    };
    // Ping and raw sockets have no port here: their packets are judged.
    if !Protocol::has_ports(call.protocol) {
        return ALLOW;
    }
    // SAFETY: the context of the program, of this family.
    let address = unsafe { F::destination(ctx) };
    F::judge(ctx, config, &call, &address)
}

#[inline(always)]
fn judge<F: Report>(ctx: &SockAddrContext, config: &Config, call: &Call, address: &F::Addr) -> i32 {
    let known = peer::by_address::<F>(config, address);
    let mut peer = known.identity;
    let flow = FlowKey {
        scope: call.endpoint.id,
        // Not chosen yet.
        local: F::UNSPECIFIED,
        remote: *address,
        local_port: 0,
        remote_port: call.port,
        protocol: call.protocol,
        space: space::CGROUP,
        pad: 0,
    };
    if known.flags & address_flag::LOCAL != 0 {
        match listener::<F>(ctx.as_ptr(), &flow, config.generation) {
            Listener::None => {}
            Listener::Of(cgroup) => {
                if let Some(endpoint) = endpoints::cgroup(cgroup) {
                    peer = endpoint.identity;
                }
            }
            // Where its socket does not tell who it is, the packets will.
            Listener::Unknown => return ALLOW,
        }
    }
    if known.flags & address_flag::SHARED != 0 {
        let listener = peer::behind::<F>(address, call.protocol, call.port);
        if listener != 0 {
            peer = listener;
        }
    }
    let decision = policy::decide(&Judge {
        set: endpoints::set_after(
            call.endpoint,
            Direction::Egress,
            config,
            passed(config) as u8,
        ),
        peer,
        protocol: call.protocol,
        port: call.port,
    });
    let decision = decision.audited(call.endpoint.has(endpoint_flag::AUDIT));
    if decision.action == Action::Allow as u8 {
        return ALLOW;
    }
    // An answer needs no permission. Which of its addresses an unconnected socket will answer
    // from is not known here, so whether it is one is seen by its packet.
    if is_datagram(call.protocol) && has_received(ctx) {
        return ALLOW;
    }
    let now = now();
    let place = Place {
        now,
        cgroup: call.cgroup,
        ifindex: 0,
        scope: call.endpoint.id,
        space: space::CGROUP,
        hook: call.hook,
        direction: Direction::Egress as u8,
        reported: 0,
        first: 0,
    };
    let facts = Facts {
        decision,
        endpoint: call.endpoint.id,
        peer,
        length: 0,
        port: call.port,
        tcp_flags: 0,
        direction: Direction::Egress as u8,
        flags: 0,
        opens: 1,
        tell: 1,
        holds: 0,
    };
    F::report(&place, &flow, &facts, true);
    if !decision.passes() {
        return REFUSE;
    }
    // The packet that follows would be reported again, without its process.
    // SAFETY: the socket of the context, which is not null at these hooks.
    unsafe {
        let socket = (*ctx.sock_addr).__bindgen_anon_1.sk;
        if !socket.is_null()
            && let Some(entry) = sockets::of(socket.cast::<c_void>())
        {
            (*entry).reported = 1;
        }
    }
    ALLOW
}

/// Whether sockets of the protocol answer without a connection.
#[inline(always)]
pub const fn is_datagram(protocol: u8) -> bool {
    matches!(protocol, Protocol::UDP | Protocol::UDPLITE)
}

/// Whether a datagram has arrived at the socket of the call.
#[inline(always)]
fn has_received(ctx: &SockAddrContext) -> bool {
    // SAFETY: the socket of the context, which is not null at these hooks.
    unsafe {
        let socket = (*ctx.sock_addr).__bindgen_anon_1.sk;
        !socket.is_null()
            && sockets::existing(socket.cast::<c_void>())
                .is_some_and(|entry| (*entry).received == received::DATAGRAM)
    }
}

/// The socket on this host that a call is addressed to.
enum Listener {
    /// There is none: nobody but the host itself can answer.
    None,
    /// It belongs to this enrolled cgroup, or to none (0).
    Of(u64),
    /// Its packets were not judged since the last change, so its cgroup is not known: the walk
    /// along the ancestors of another socket is not to be had at these hooks.
    Unknown,
}

#[inline(always)]
fn listener<F: Family>(context: *mut c_void, flow: &FlowKey<F::Addr>, generation: u32) -> Listener {
    // A wildcard listener matches whatever the source is.
    // SAFETY: all bytes zero is a valid tuple.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    F::tuple(&mut tuple, &flow.remote, 1, &flow.remote, flow.remote_port);
    // SAFETY: the tuple is as large as said; the reference is released below.
    unsafe {
        let socket = match flow.protocol {
            Protocol::TCP => bpf_sk_lookup_tcp(context, &raw mut tuple, F::TUPLE_SIZE, u64::MAX, 0),
            Protocol::UDP => bpf_sk_lookup_udp(context, &raw mut tuple, F::TUPLE_SIZE, u64::MAX, 0),
            _ => return Listener::Unknown,
        };
        if socket.is_null() {
            return Listener::None;
        }
        let socket = socket.cast::<c_void>();
        let found = match sockets::existing(socket) {
            Some(entry) if (*entry).resolved == generation => Listener::Of((*entry).cgroup),
            _ => Listener::Unknown,
        };
        bpf_sk_release(socket);
        found
    }
}
