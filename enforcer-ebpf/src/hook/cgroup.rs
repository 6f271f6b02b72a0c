//! Packets of sockets in enrolled cgroups.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::generated::{bpf_sk_fullsock, bpf_skb_ancestor_cgroup_id, bpf_skb_cgroup_id},
    programs::SkBuffContext,
};
use enforcer_common::{
    Action, Decision, Direction, Reason,
    config::config_flag,
    endpoint_entry::endpoint_flag,
    event::Hook,
    flow_key::{FlowKey, space},
    identity,
    socket_entry::{SocketEntry, received},
};

use crate::{
    family::{V4, V6},
    hook::call::is_datagram,
    narrate,
    parse::{ethernet, frame::Skb},
    pipeline::{self, Place, Room},
    report::{Facts, Report},
    table::{clock::now, config::config, endpoints, sockets},
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
    // SAFETY: not null; what is no full socket has no storage.
    let Some(entry) = (unsafe { sockets::of(socket.cast::<c_void>()) }) else {
        return PASS;
    };
    // SAFETY: the socket's storage lives as long as the socket.
    let entry = unsafe { &mut *entry };
    if entry.resolved != config.generation {
        resolve(skb, entry, config.generation);
    }
    // SAFETY: the context of the program.
    let ifindex = unsafe { (*skb.0).ifindex };
    let enrolled = entry.cgroup != 0;
    if !enrolled
        && (config.flags & config_flag::HOST_RESTRICTED == 0
            || endpoints::interface(ifindex).is_none_or(|e| !e.has(endpoint_flag::HOST)))
    {
        return PASS;
    }
    if entry.answers != 0 {
        return PASS;
    }
    let now = now();
    let mut room = Room::new(Place {
        now,
        cgroup: entry.cgroup,
        ifindex,
        scope: if enrolled { entry.endpoint } else { 0 },
        // A socket of no workload that talks through an uplink: the host endpoint.
        space: if enrolled { space::CGROUP } else { space::HOST },
        hook: Hook::Cgroup as u8,
        direction: direction as u8,
        reported: entry.reported,
        first: u32::from(
            direction as u8 == Direction::Ingress as u8 && entry.received == received::NO,
        ),
    });
    if entry.reported != 0 {
        entry.reported = 0;
    }
    if entry.pending != 0 {
        if config.flags & config_flag::UNKNOWN_DENIES == 0 {
            return PASS;
        }
        return refuse(skb, &room.place, Reason::UnknownWorkload as u8) as i32;
    }
    // SAFETY: the context of the program.
    let code = match u16::from_be(unsafe { (*skb.0).protocol } as u16) {
        ethernet::IP4 => pipeline::enter::<V4, true>(skb, config, 0, &mut room),
        ethernet::IP6 => pipeline::enter::<V6, true>(skb, config, 0, &mut room),
        _ => return PASS,
    };
    if code == 1 && room.place.first == 1 {
        note_received(skb);
    }
    match code {
        0 => DROP,
        1 => PASS,
        reason => refuse(skb, &room.place, reason as u8) as i32,
    }
}

/// A packet has arrived at a socket for the first time.
#[inline(never)]
fn note_received(skb: Skb) -> u32 {
    // SAFETY: the context of the program.
    let socket = unsafe { (*skb.0).__bindgen_anon_2.sk };
    if socket.is_null() {
        return 0;
    }
    // SAFETY: not null; what is no full socket has no storage.
    let Some(entry) = (unsafe { sockets::existing(socket.cast::<c_void>()) }) else {
        return 0;
    };
    // SAFETY: the socket's storage lives as long as the socket.
    let entry = unsafe { &mut *entry };
    // SAFETY: not null.
    let socket = unsafe { bpf_sk_fullsock(socket) };
    if socket.is_null() {
        return 0;
    }
    // SAFETY: not null.
    let protocol = unsafe { (*socket).protocol };
    entry.received = if is_datagram(protocol as u8) {
        received::DATAGRAM
    } else {
        received::OTHER
    };
    0
}

/// Finds the nearest enrolled cgroup of the packet's socket.
#[inline(never)]
fn resolve(skb: Skb, entry: &mut SocketEntry, generation: u32) -> u32 {
    // SAFETY: the context of the program.
    let cgroup = unsafe {
        endpoints::nearest(bpf_skb_cgroup_id(skb.0), |level| {
            bpf_skb_ancestor_cgroup_id(skb.0, level)
        })
    };
    let endpoint = endpoints::cgroup(cgroup);
    entry.cgroup = if endpoint.is_some() { cgroup } else { 0 };
    entry.endpoint = endpoint.map_or(0, |endpoint| endpoint.id);
    entry.pending =
        u8::from(endpoint.is_some_and(|e| e.flags & endpoint_flag::PENDING_CHILDREN != 0));
    entry.resolved = generation;
    0
}

/// A packet that is refused for itself, whatever policy says. Returns 1 when audit mode lets
/// it through.
#[inline(never)]
fn refuse(skb: Skb, place: &Place, reason: u8) -> u32 {
    narrate::malformed(place.ifindex, place.space, reason);
    let endpoint = if place.space == space::CGROUP {
        endpoints::cgroup(place.cgroup)
    } else {
        endpoints::interface(place.ifindex)
    };
    let Some(endpoint) = endpoint else { return 1 };
    let mut decision = Decision::new(Action::Deny, Reason::Truncated, 0);
    decision.reason = reason;
    let facts = Facts {
        decision: decision.audited(endpoint.has(endpoint_flag::AUDIT)),
        endpoint: endpoint.id,
        peer: identity::WORLD,
        // SAFETY: the context of the program.
        length: unsafe { (*skb.0).len },
        port: 0,
        tcp_flags: 0,
        direction: place.direction,
        flags: 0,
        opens: 0,
        tell: 1,
        holds: 0,
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
    V4::report(place, &flow, &facts, false);
    u32::from(facts.decision.passes())
}
