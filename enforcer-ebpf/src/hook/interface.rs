//! TC on interfaces: links of workloads, and uplinks of the host.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as FibParams},
    helpers::generated::{
        bpf_fib_lookup, bpf_sk_ancestor_cgroup_id, bpf_sk_lookup_tcp, bpf_sk_lookup_udp,
        bpf_sk_release, bpf_skb_ancestor_cgroup_id,
    },
    programs::TcContext,
};
use enforcer_common::{
    Action, Decision, Direction, Protocol, Reason,
    config::Config,
    conntrack::{FlowEntry, State, flow_flag},
    endpoint_entry::endpoint_flag,
    event::Hook,
    flow_key::{FlowKey, space},
    identity,
};

use crate::{
    family::{Family, V4, V6},
    parse::{
        Packet,
        ethernet::{Payload, payload},
        frame::Skb,
        ip4, ip6, kind,
        quoted::Quoted,
    },
    pipeline::{Place, established, judge, reassemble},
    report::{Facts, report},
    table::{
        config::{config, now, seconds},
        endpoints,
    },
};

/// Lets the next program on the hook see the packet (`TC_ACT_UNSPEC`, `TCX_NEXT`).
const NEXT: i32 = -1;
/// Drops the packet (`TC_ACT_SHOT`, `TCX_DROP`).
const DROP: i32 = 2;

/// The host's side of a workload's link.
#[inline(always)]
pub fn workload(ctx: &TcContext, direction: Direction) -> i32 {
    enter(ctx, direction, space::INTERFACE)
}

/// An uplink of the host.
#[inline(always)]
pub fn uplink(ctx: &TcContext, direction: Direction) -> i32 {
    enter(ctx, direction, space::HOST)
}

#[inline(always)]
fn enter(ctx: &TcContext, direction: Direction, space: u8) -> i32 {
    let Some(config) = config() else { return NEXT };
    let skb = Skb(ctx.skb.skb);
    let now = now();
    // SAFETY: the context of the program.
    let ifindex = unsafe { (*skb.0).ifindex };
    let place = Place {
        now,
        cgroup: 0,
        seconds: seconds(now),
        ifindex,
        scope: if space == space::HOST { 0 } else { ifindex },
        space,
        hook: Hook::Tc as u8,
        direction: direction as u8,
        reported: false,
    };
    let passes = match payload(&skb) {
        Ok(Payload::Ip4(offset)) => match ip4::packet(&skb, offset) {
            Ok(mut packet) => walk::<V4>(ctx, skb, config, &place, &mut packet),
            Err(reason) => Err(reason),
        },
        Ok(Payload::Ip6(offset)) => match ip6::packet(&skb, offset) {
            Ok(mut packet) => walk::<V6>(ctx, skb, config, &place, &mut packet),
            Err(reason) => Err(reason),
        },
        Ok(Payload::Other) => Ok(true),
        Err(reason) => Err(reason),
    };
    match passes {
        Ok(true) => NEXT,
        Ok(false) => DROP,
        Err(reason) => malformed(skb, config, &place, reason as u8),
    }
}

#[inline(always)]
fn walk<F: Quoted>(
    ctx: &TcContext,
    skb: Skb,
    config: &Config,
    place: &Place,
    packet: &mut Packet<F>,
) -> Result<bool, Reason> {
    reassemble(packet, place)?;
    let direction = Direction::from_byte(place.direction);
    let flow = packet.flow(place.space, place.scope, direction);
    if established(config, packet, &flow, direction, place.seconds).is_some() {
        return Ok(true);
    }
    if place.space == space::HOST {
        let delegated = match direction {
            Direction::Egress => sent_by_other(skb),
            Direction::Ingress => received_by_other::<F>(ctx, config, place, packet, &flow),
        };
        if delegated {
            return Ok(true);
        }
    }
    Ok(judge::<F>(skb, config, place, packet, &flow) == 1)
}

/// Whether a packet that leaves through an uplink is not the host endpoint's: forwarded, or
/// of an enrolled cgroup, whose own hooks have judged it.
#[inline(always)]
fn sent_by_other(skb: Skb) -> bool {
    // SAFETY: the context of the program.
    if unsafe { (*skb.0).ingress_ifindex } != 0 {
        return true;
    }
    // SAFETY: the context of the program.
    endpoints::nearest(|level| unsafe { bpf_skb_ancestor_cgroup_id(skb.0, level) }) != 0
}

/// Whether a packet that arrives at an uplink is not the host endpoint's: to be forwarded, or
/// for a socket of an enrolled cgroup, whose own hooks will judge it.
#[inline(always)]
fn received_by_other<F: Quoted>(
    ctx: &TcContext,
    config: &Config,
    place: &Place,
    packet: &Packet<F>,
    flow: &FlowKey<F::Addr>,
) -> bool {
    let context = ctx.as_ptr();
    if packet.kind == kind::ICMP_ERROR {
        let skb = Skb(ctx.skb.skb);
        let about = F::quoted(
            &skb,
            packet.transport,
            space::HOST,
            0,
            Direction::Ingress,
        );
        if let Some(about) = about
            && cgroup_of_receiver::<F>(context, &about) != 0
        {
            return true;
        }
    } else if cgroup_of_receiver::<F>(context, flow) != 0 {
        if packet.protocol == Protocol::TCP && !packet.is_open_request() {
            // Spares later packets the socket look-up. A request to open is never answered
            // from here, so a port that changes hands is noticed.
            let entry = FlowEntry {
                generation: config.generation,
                seen: place.seconds,
                peer: 0,
                rule: 0,
                endpoint: 0,
                opener: Direction::Ingress as u8,
                state: State::Established as u8,
                flags: flow_flag::DELEGATED,
                reason: Reason::Related as u8,
            };
            F::keep(flow, &entry);
        }
        return true;
    }
    // SAFETY: all bytes zero is a valid question.
    let mut params: FibParams = unsafe { core::mem::zeroed() };
    params.family = F::AF;
    params.ifindex = place.ifindex;
    F::fib(&mut params, &packet.source, &packet.destination);
    // SAFETY: the parameters are as large as said.
    let answer = unsafe {
        bpf_fib_lookup(
            context,
            &raw mut params,
            size_of::<FibParams>() as i32,
            // Ports and policy rules do not matter: only whether it is for this host.
            0,
        )
    };
    // What has a route to elsewhere is forwarded (with or without a known neighbour, or too
    // big for the next link); everything else is for this host, or for nobody.
    answer == i64::from(BPF_FIB_LKUP_RET_SUCCESS) || answer == 7 || answer == 8
}

/// The enrolled cgroup of the socket that an arriving flow is for, or 0.
#[inline(always)]
fn cgroup_of_receiver<F: Family>(context: *mut c_void, flow: &FlowKey<F::Addr>) -> u64 {
    let mut tuple = F::tuple(&flow.remote, flow.remote_port, &flow.local, flow.local_port);
    // SAFETY: the tuple is as large as said; the reference is released below.
    unsafe {
        let socket = match flow.protocol {
            Protocol::TCP => {
                bpf_sk_lookup_tcp(context, &raw mut tuple, F::TUPLE_SIZE, u64::MAX, 0)
            }
            Protocol::UDP => {
                bpf_sk_lookup_udp(context, &raw mut tuple, F::TUPLE_SIZE, u64::MAX, 0)
            }
            _ => return 0,
        };
        if socket.is_null() {
            return 0;
        }
        let socket = socket.cast::<c_void>();
        let cgroup = endpoints::nearest(|level| bpf_sk_ancestor_cgroup_id(socket, level));
        bpf_sk_release(socket);
        cgroup
    }
}

/// A frame that contradicts itself, or a fragment without its first one.
#[inline(never)]
fn malformed(skb: Skb, config: &Config, place: &Place, reason: u8) -> i32 {
    let Some(endpoint) = endpoints::interface(place.ifindex) else {
        return NEXT;
    };
    // On an uplink it may be somebody else's, who judges it by himself.
    if place.space == space::HOST
        && reason != Reason::Truncated as u8
        && reason != Reason::BadHeader as u8
    {
        return NEXT;
    }
    let mut decision = Decision::new(Action::Deny, Reason::Truncated, 0);
    decision.reason = reason;
    let facts = Facts {
        now: place.now,
        cgroup: 0,
        decision: decision.audited(endpoint.has(endpoint_flag::AUDIT)),
        endpoint: endpoint.id,
        peer: identity::WORLD,
        ifindex: place.ifindex,
        // SAFETY: the context of the program.
        length: unsafe { (*skb.0).len },
        port: 0,
        hook: place.hook,
        tcp_flags: 0,
        direction: place.direction,
        flags: 0,
        opens: false,
    };
    let flow = FlowKey {
        scope: place.scope,
        local: [0; 4],
        remote: [0; 4],
        local_port: 0,
        remote_port: 0,
        protocol: 0,
        space: place.space,
        pad: 0,
    };
    report::<V4>(config, &flow, &facts);
    if facts.decision.passes() { NEXT } else { DROP }
}
