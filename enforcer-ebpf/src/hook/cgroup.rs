//! Packets of sockets in enrolled cgroups.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::generated::{bpf_sk_fullsock, bpf_skb_ancestor_cgroup_id},
    programs::SkBuffContext,
};
use enforcer_common::{
    Action, Decision, Direction, Reason,
    config::{Config, config_flag},
    endpoint_entry::endpoint_flag,
    event::Hook,
    flow_key::{FlowKey, space},
    identity,
    socket_entry::SocketEntry,
};

use crate::{
    family::{V4, V6},
    parse::{Packet, frame::{Frame, Skb}, ip4, ip6, quoted::Quoted},
    pipeline::{Place, established, judge},
    report::{Facts, report},
    table::{
        config::{config, now, seconds},
        endpoints, sockets,
    },
};

const PASS: i32 = 1;
const DROP: i32 = 0;

/// A packet that a socket sends or is about to receive.
#[inline(always)]
pub fn packet(ctx: &SkBuffContext, direction: Direction) -> i32 {
    let Some(config) = config() else { return PASS };
    let skb = Skb(ctx.skb.skb);
    // SAFETY: the context of the program.
    let socket = unsafe { (*skb.0).__bindgen_anon_2.sk };
    if socket.is_null() {
        return PASS;
    }
    // SAFETY: not null.
    let socket = unsafe { bpf_sk_fullsock(socket) };
    if socket.is_null() {
        return PASS;
    }
    // SAFETY: not null.
    let Some(entry) = (unsafe { sockets::of(socket.cast::<c_void>()) }) else {
        return PASS;
    };
    // SAFETY: the socket's storage lives as long as the socket.
    let entry = unsafe { &mut *entry };
    if entry.resolved != config.generation {
        resolve(skb, entry, config.generation);
    }
    if entry.cgroup == 0 {
        return PASS;
    }
    let now = now();
    let place = Place {
        now,
        cgroup: entry.cgroup,
        seconds: seconds(now),
        // SAFETY: the context of the program.
        ifindex: unsafe { (*skb.0).ifindex },
        scope: entry.endpoint,
        space: space::CGROUP,
        hook: Hook::Cgroup as u8,
        direction: direction as u8,
        reported: entry.reported != 0,
    };
    if entry.reported != 0 {
        entry.reported = 0;
    }
    if entry.pending != 0 {
        if config.flags & config_flag::UNKNOWN_DENIES == 0 {
            return PASS;
        }
        return i32::from(refuse(skb, config, &place, Reason::UnknownWorkload as u8) == 1);
    }
    let Ok(first) = skb.load::<u8>(0) else {
        return PASS;
    };
    let passes = match first >> 4 {
        4 => match ip4::packet(&skb, 0) {
            Ok(packet) => walk::<V4>(skb, config, &place, &packet, direction),
            Err(reason) => refuse(skb, config, &place, reason as u8) == 1,
        },
        6 => match ip6::packet(&skb, 0) {
            Ok(packet) => walk::<V6>(skb, config, &place, &packet, direction),
            Err(reason) => refuse(skb, config, &place, reason as u8) == 1,
        },
        _ => true,
    };
    if passes { PASS } else { DROP }
}

/// Finds the nearest enrolled cgroup of the packet's socket.
#[inline(always)]
fn resolve(skb: Skb, entry: &mut SocketEntry, generation: u32) {
    // SAFETY: the context of the program.
    let cgroup = endpoints::nearest(|level| unsafe { bpf_skb_ancestor_cgroup_id(skb.0, level) });
    let endpoint = endpoints::cgroup(cgroup);
    entry.cgroup = if endpoint.is_some() { cgroup } else { 0 };
    entry.endpoint = endpoint.map_or(0, |endpoint| endpoint.id);
    entry.pending =
        u8::from(endpoint.is_some_and(|e| e.flags & endpoint_flag::PENDING_CHILDREN != 0));
    entry.resolved = generation;
}

#[inline(always)]
fn walk<F: Quoted>(
    skb: Skb,
    config: &Config,
    place: &Place,
    packet: &Packet<F>,
    direction: Direction,
) -> bool {
    let flow = packet.flow(place.space, place.scope, direction);
    if established(config, packet, &flow, direction, place.seconds).is_some() {
        return true;
    }
    judge::<F>(skb, config, place, packet, &flow) == 1
}

/// A packet that is refused for itself, whatever policy says. Returns 1 when audit mode lets
/// it through.
#[inline(never)]
fn refuse(skb: Skb, config: &Config, place: &Place, reason: u8) -> u32 {
    let Some(endpoint) = endpoints::cgroup(place.cgroup) else {
        return 1;
    };
    let mut decision = Decision::new(Action::Deny, Reason::Truncated, 0);
    decision.reason = reason;
    let facts = Facts {
        now: place.now,
        cgroup: place.cgroup,
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
    u32::from(facts.decision.passes())
}
