//! TC on interfaces: links of workloads, and uplinks of the host.

use aya_ebpf::programs::TcContext;
use enforcer_common::{
    Direction, Reason,
    config::{Config, config_flag},
    event::Hook,
    flow_key::space,
};

use crate::{
    family::{V4, V6},
    hook::{block, outright},
    narrate,
    parse::{
        ethernet::{Payload, payload_of},
        frame::Skb,
    },
    pipeline::{self, MALFORMED, Place, Room},
    table::{clock::now, config::config, endpoints},
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
    let mut room = Room::new(Place {
        now,
        cgroup: 0,
        ifindex,
        scope: if space == space::HOST { 0 } else { ifindex },
        space,
        hook: Hook::Tc as u8,
        direction: direction as u8,
        reported: 0,
        first: 0,
    });
    let code = match payload_of(&skb) {
        Ok(Payload::Ip4(offset)) => {
            if blocks(config, &room.place, 0) && block::at_tc::<V4>(skb, offset, &room.place) == 0 {
                return DROP;
            }
            pipeline::enter::<V4, false>(skb, config, offset, &mut room, None)
        }
        Ok(Payload::Ip6(offset)) => {
            if blocks(config, &room.place, 1) && block::at_tc::<V6>(skb, offset, &room.place) == 0 {
                return DROP;
            }
            pipeline::enter::<V6, false>(skb, config, offset, &mut room, None)
        }
        Ok(Payload::Other) => 1,
        Err(reason) => MALFORMED + reason as u32,
    };
    match code {
        0 => DROP,
        1 => NEXT,
        reason => malformed(skb, &room.place, reason as u8),
    }
}

/// Whether the block list has to be asked here, because XDP does not.
#[inline(always)]
fn blocks(config: &Config, place: &Place, family: usize) -> bool {
    config.flags & config_flag::BLOCK_AT_TC != 0
        && config.blocked[family] != 0
        && place.space == space::HOST
        && place.direction == Direction::Ingress as u8
}

/// A frame that contradicts itself, or a fragment without its first one.
#[inline(never)]
fn malformed(skb: Skb, place: &Place, reason: u8) -> i32 {
    narrate::malformed(place.ifindex, place.space, reason);
    let Some(endpoint) = endpoints::interface(place.ifindex) else {
        narrate::no_endpoint(place.ifindex, 0, place.space);
        return NEXT;
    };
    // On an uplink it may be somebody else's, who judges it by himself.
    if place.space == space::HOST
        && reason != Reason::Truncated as u8
        && reason != Reason::BadHeader as u8
    {
        return NEXT;
    }
    if outright::refuse(skb, place, endpoint, reason) {
        NEXT
    } else {
        DROP
    }
}
