//! Flows that were denied and reported before: the same again, by one look-up.
//!
//! A denied flow has no entry in the flow table. Its count has one in the table of denied flows,
//! by all that was found out of it; a hint says what that was, and the look-up proves it. What
//! the hint leads to is a cached decision like any other: it holds for its own generation.

use enforcer_common::{
    Action, Decision, Direction, Protocol,
    config::config_flag,
    denied_entry::DeniedKey,
    endpoint_entry::{EndpointEntry, endpoint_flag},
    flow_key::{FlowKey, space},
};

use crate::{
    family::Family,
    parse::{
        Packet,
        frame::Skb,
        plain::{Plain, Step},
    },
    pipeline::{Place, refuse::is_answer},
    report::{Facts, add, key_of},
    table::{
        config::{config, generation},
        counters,
        denied::{self, HINT_BITS, Hint},
        flows,
    },
};

/// Whether the denial of a packet would be that of every packet that opens the flow of which it
/// is counted, for as long as nothing changes.
///
/// A socket's owner may change at any time; at uplinks so may whom a packet is left to.
/// Datagrams that open nothing certain, and those that may be what every host needs
/// ([`crate::pipeline`]'s exemption, which the sender's port decides too), are told apart only
/// by what is not in the key.
#[inline(always)]
pub fn holds<F: Family>(
    packet: &Packet<F>,
    endpoint: &EndpointEntry,
    place: &Place,
    port: u16,
) -> bool {
    if place.space == space::HOST {
        return false;
    }
    match packet.protocol {
        Protocol::TCP => packet.is_open_request(),
        Protocol::UDP => {
            let adopting = place.seconds() < endpoint.adopt_until
                && endpoint.has(endpoint_flag::ADOPTS_DATAGRAMS);
            !adopting && !matches!(port, 67 | 68 | 546 | 547)
        }
        _ => false,
    }
}

/// Counts a plain packet without a flow, if such a flow was denied and reported before. Returns
/// the reason and 1 more; 0 when it was not, when that is to be judged anew, or when the packet
/// opens nothing for certain. Never inlined: the key's room on the stack is free again when the
/// packet is judged.
#[inline(never)]
pub fn count<F: Plain, const AT_SOCKET: bool>(
    skb: Skb,
    place: &Place,
    flow: &FlowKey<F::Addr>,
    step: Step,
) -> u32 {
    let opens = step.is_request() || flow.protocol == Protocol::UDP;
    let Some(config) = config() else { return 0 };
    let rejects = config.flags & config_flag::REJECT != 0;
    if !opens || place.reported != 0 || !AT_SOCKET && rejects && is_answer(skb) == 1 {
        return 0;
    }
    let length = step.length();
    let direction = Direction::from_byte(place.direction);
    let port = match direction {
        Direction::Egress => flow.remote_port,
        Direction::Ingress => flow.local_port,
    };
    let Some(hint) = denied::hint(slot::<F>(flow, place.direction, port)) else {
        return 0;
    };
    if hint.endpoint == 0 {
        return 0;
    }
    let key = DeniedKey {
        local: F::mapped(&flow.local),
        remote: F::mapped(&flow.remote),
        endpoint: hint.endpoint,
        rule: hint.rule,
        port,
        protocol: flow.protocol,
        direction: place.direction,
        reason: hint.reason,
        action: Action::Deny as u8,
        pad: [0; 2],
    };
    let Some(entry) = denied::counted(&key) else {
        return 0;
    };
    let generation = generation(config, place.now, false);
    // SAFETY: a live map value. Other CPUs may change it too; every field stands alone.
    let fresh = unsafe {
        (*entry).generation == generation
            && (*entry).ifindex == place.ifindex
            && (*entry).cgroup == place.cgroup
    };
    // While the flow table is full a datagram may be an answer: see `flow::opener_of`.
    if !fresh || (flow.protocol == Protocol::UDP && flows::is_full(place.seconds())) {
        return 0;
    }
    let decision = Decision {
        rule: key.rule,
        action: key.action,
        reason: key.reason,
        flags: 0,
        pad: 0,
    };
    counters::count(decision, direction, length);
    add(entry, place, length);
    u32::from(key.reason) + 1
}

/// Notes with the count of a denied flow that the denial [`holds`], and where to find it. Never
/// inlined, as above.
#[inline(never)]
pub fn remember<F: Family>(place: &Place, flow: &FlowKey<F::Addr>, facts: &Facts) -> u32 {
    let key = key_of::<F>(flow, facts);
    let (Some(config), Some(entry)) = (config(), denied::counted(&key)) else {
        return 0;
    };
    let generation = config.generation_after(facts.holds - 1);
    // SAFETY: a live map value. The generation comes last, for whoever looks at this moment.
    unsafe {
        (*entry).ifindex = place.ifindex;
        (*entry).cgroup = place.cgroup;
        (&raw mut (*entry).generation).write_volatile(generation);
    }
    if let Some(hint) = denied::hint(slot::<F>(flow, key.direction, key.port)) {
        *hint = Hint {
            endpoint: key.endpoint,
            rule: key.rule,
            reason: key.reason,
            pad: [0; 3],
        };
    }
    0
}

/// Where the hint for a flow is.
#[inline(always)]
fn slot<F: Family>(flow: &FlowKey<F::Addr>, direction: u8, port: u16) -> u32 {
    // The golden ratio: neighbours end up far from each other.
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let rest = u64::from(flow.scope) << 32
        | u64::from(port) << 16
        | u64::from(flow.protocol) << 8
        | u64::from(direction);
    let hash = F::folded(&flow.local).wrapping_mul(FACTOR) ^ F::folded(&flow.remote);
    let hash = hash.wrapping_mul(FACTOR) ^ rest;
    (hash.wrapping_mul(FACTOR) >> (64 - HINT_BITS)) as u32
}
