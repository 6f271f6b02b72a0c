//! Denied packets whose senders are told (`denied: reject`). The daemon answers; here it is
//! decided what may be answered.

use core::ffi::c_void;

use enforcer_common::{
    Action, Direction, Protocol, Reason,
    config::config_flag,
    conntrack::tcp_flag,
    event::Hook,
    flow_key::{FlowKey, space},
};

use crate::{
    family::Family,
    parse::{frame::Skb, kind, plain::Plain},
    pipeline::{Case, HEADER, Place},
    table::{config::config, denied, refusals, sockets},
};

/// `PACKET_BROADCAST` and `PACKET_MULTICAST` (`linux/if_packet.h`).
const GROUP: [u32; 2] = [1, 2];

/// Whether the node wants denied flows answered.
#[inline(always)]
pub fn rejects() -> bool {
    config().is_some_and(|config| config.flags & config_flag::REJECT != 0)
}

/// Hands a denied packet over to be answered, if it may be: it belongs to a flow that its sender
/// opens, policy denies it, and it is neither an error nor a reset nor for a group (RFC 1122,
/// 3.2.2). Never what is malformed, has a false source or is blocked.
#[inline(never)]
pub fn offer<F: Family>(skb: Skb, place: &Place, case: &Case<F>) -> u32 {
    if !rejects() {
        return 0;
    }
    let Case { facts, packet, .. } = case;
    if facts.decision.action != Action::Deny as u8
        || facts.direction != place.direction
        || packet.kind != kind::PLAIN && packet.kind != kind::FIRST_FRAGMENT
    {
        return 0;
    }
    let answerable = match packet.protocol {
        Protocol::TCP => packet.tcp_flags & tcp_flag::RST == 0,
        Protocol::ICMP | Protocol::ICMPV6 => packet.is_echo_request(),
        _ => true,
    };
    if !answerable
        || F::is_group(&packet.source)
        || F::is_group(&packet.destination)
        || !may_be_told(skb, place, facts.decision.reason)
    {
        return 0;
    }
    let start = u32::from(packet.start);
    refusals::send(skb, start, |record| {
        record.time = place.now;
        record.ifindex = place.ifindex;
        record.length = packet.length;
        record.transport = packet.transport.wrapping_sub(start) as u16;
        record.family = F::VERSION;
        record.protocol = packet.protocol;
    });
    0
}

/// The same for a packet of `length` bytes that is [denied again](crate::again), which is never
/// a reset or an error, where the node wants denied flows answered.
#[inline(never)]
pub fn offer_again<F: Plain, const AT_SOCKET: bool>(
    skb: Skb,
    place: &Place,
    flow: &FlowKey<F::Addr>,
    length: u32,
    reason: u8,
) -> u32 {
    if F::is_group(&flow.local) || F::is_group(&flow.remote) || !may_be_told(skb, place, reason) {
        return 0;
    }
    let start = if AT_SOCKET { 0 } else { HEADER as u32 };
    refusals::send(skb, start, |record| {
        record.time = place.now;
        record.ifindex = place.ifindex;
        record.length = length;
        record.transport = F::LENGTH as u16;
        record.family = F::VERSION;
        record.protocol = flow.protocol;
    });
    0
}

/// Whether who is denied for this reason may be told, and the limit leaves room for it.
#[inline(always)]
fn may_be_told(skb: Skb, place: &Place, reason: u8) -> bool {
    let Some(config) = config() else { return false };
    // A local process is told by its system call.
    let leaves = place.direction == Direction::Egress as u8;
    let by_call = leaves && (place.hook == Hook::Cgroup as u8 || place.space == space::HOST);
    let by_policy = reason == Reason::Rule as u8
        || reason == Reason::Isolation as u8
        || reason == Reason::NodeDefault as u8;
    // SAFETY: the context of the program.
    let packet_type = unsafe { (*skb.0).pkt_type };
    !by_call
        && by_policy
        && !GROUP.contains(&packet_type)
        && denied::take_reject_token(place.seconds(), config.reject_limit)
}

/// Whether a packet is such an answer, by the daemon's own socket: 1 or 0.
#[inline(never)]
pub fn is_answer(skb: Skb) -> u32 {
    if !rejects() {
        return 0;
    }
    // SAFETY: the context of the program.
    let socket = unsafe { (*skb.0).__bindgen_anon_2.sk };
    if socket.is_null() {
        return 0;
    }
    // SAFETY: not null; what is no full socket has no storage.
    let entry = unsafe { sockets::existing(socket.cast::<c_void>()) };
    // SAFETY: the socket's storage lives as long as the socket.
    u32::from(entry.is_some_and(|entry| unsafe { (*entry).answers } != 0))
}
