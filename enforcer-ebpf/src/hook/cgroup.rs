//! Packets of sockets in enrolled cgroups.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::generated::{
        bpf_sk_fullsock, bpf_skb_ancestor_cgroup_id, bpf_skb_cgroup_id, bpf_tcp_sock,
    },
    programs::SkBuffContext,
};
use enforcer_common::{
    Direction, Reason,
    config::{Config, config_flag},
    endpoint_entry::endpoint_flag,
    event::Hook,
    flow_key::space,
    socket_entry::{SocketEntry, received},
};

use crate::{
    family::{V4, V6},
    hook::{call::is_datagram, outright},
    narrate,
    parse::{ethernet, frame::Skb},
    pipeline::{self, Place, Room},
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
    let Some(owner) = owner(skb, config, socket.cast::<c_void>(), direction) else {
        return PASS;
    };
    // SAFETY: the context of the program.
    let ifindex = unsafe { (*skb.0).ifindex };
    let enrolled = owner.cgroup != 0;
    if !enrolled
        && (config.flags & config_flag::HOST_RESTRICTED == 0
            || endpoints::interface(ifindex).is_none_or(|e| !e.has(endpoint_flag::HOST)))
    {
        return PASS;
    }
    let mut room = Room::new(Place {
        now: now(),
        cgroup: owner.cgroup,
        ifindex,
        scope: if enrolled { owner.endpoint } else { 0 },
        // A socket of no workload that talks through an uplink: the host endpoint.
        space: if enrolled { space::CGROUP } else { space::HOST },
        hook: Hook::Cgroup as u8,
        direction: direction as u8,
        reported: owner.reported,
        first: owner.first,
    });
    if owner.pending != 0 {
        if config.flags & config_flag::UNKNOWN_DENIES == 0 {
            return PASS;
        }
        return refuse(skb, &room.place, Reason::UnknownWorkload as u8) as i32;
    }
    // SAFETY: the context of the program.
    let code = match u16::from_be(unsafe { (*skb.0).protocol } as u16) {
        ethernet::IP4 => pipeline::enter::<V4, true>(skb, config, 0, &mut room, owner.entry),
        ethernet::IP6 => pipeline::enter::<V6, true>(skb, config, 0, &mut room, owner.entry),
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

/// Whose socket a packet is of, and what is remembered with it.
struct Owner {
    /// As in [`SocketEntry`].
    cgroup: u64,
    endpoint: u32,
    pending: u8,
    reported: u8,
    /// As in [`Place`].
    first: u32,
    entry: Option<&'static mut SocketEntry>,
}

/// `None`: the packet passes, whosesoever it is.
#[inline(always)]
fn owner(skb: Skb, config: &Config, socket: *mut c_void, direction: Direction) -> Option<Owner> {
    // SAFETY: not null; what is no full socket has no storage.
    let entry = match unsafe { sockets::existing(socket) } {
        None if config.flags & config_flag::ASKS_SOCKETS == 0 => {
            let endpoint = endpoint_of_young(skb);
            if endpoint != NOT_TOLD {
                return Some(Owner {
                    cgroup: if endpoint == 0 {
                        0
                    } else {
                        // SAFETY: the context of the program.
                        unsafe { bpf_skb_cgroup_id(skb.0) }
                    },
                    endpoint,
                    pending: 0,
                    reported: 0,
                    first: 0,
                    entry: None,
                });
            }
            None
        }
        found => found,
    };
    // SAFETY: as above.
    let entry = entry.or_else(|| unsafe { sockets::of(socket) })?;
    // SAFETY: the socket's storage lives as long as the socket.
    let entry = unsafe { &mut *entry };
    if entry.resolved != config.generation {
        resolve(skb, entry, config.generation);
    }
    if entry.answers != 0 {
        return None;
    }
    let reported = entry.reported;
    if reported != 0 {
        entry.reported = 0;
    }
    Some(Owner {
        cgroup: entry.cgroup,
        endpoint: entry.endpoint,
        pending: entry.pending,
        reported,
        first: u32::from(
            direction as u8 == Direction::Ingress as u8 && entry.received == received::NO,
        ),
        entry: Some(entry),
    })
}

/// How many segments a TCP connection receives before it is worth a storage: to make one costs more
/// than it saves in a few packets, and most connections end before.
const YOUNG: u32 = 12;
/// `TCP_LISTEN` (`net/tcp_states.h`).
const LISTEN: u32 = 10;
/// The socket is to have a storage.
const NOT_TOLD: u32 = u32::MAX;

/// The endpoint of a young TCP connection whose cgroup is a known one itself: its number, 0 for
/// none, [`NOT_TOLD`] for every other socket. Listeners live long, and calls ask for them.
#[inline(never)]
fn endpoint_of_young(skb: Skb) -> u32 {
    // SAFETY: the context of the program.
    let socket = unsafe { (*skb.0).__bindgen_anon_2.sk };
    if socket.is_null() {
        return NOT_TOLD;
    }
    // SAFETY: not null.
    let (state, tcp) = unsafe { ((*socket).state, bpf_tcp_sock(socket)) };
    if state == LISTEN || tcp.is_null() {
        return NOT_TOLD;
    }
    // SAFETY: not null.
    if unsafe { (*tcp).segs_in } > YOUNG {
        return NOT_TOLD;
    }
    // SAFETY: the context of the program.
    match endpoints::cgroup(unsafe { bpf_skb_cgroup_id(skb.0) }) {
        Some(entry) if entry.has(endpoint_flag::NOT_ENROLLED) => 0,
        Some(entry) if !entry.has(endpoint_flag::PENDING_CHILDREN) => entry.id,
        _ => NOT_TOLD,
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
    u32::from(outright::refuse(skb, place, endpoint, reason))
}
