//! What the flow table knows of a packet's flow.

use enforcer_common::{
    Direction, Protocol,
    config::Config,
    conntrack::{FlowEntry, State, advance, flow_flag, infer_opener, tcp_flag},
    endpoint_entry::{EndpointEntry, endpoint_flag},
    flow_key::FlowKey,
};

use crate::{
    family::Family,
    parse::{Packet, frame::Skb, kind, plain::Step, quoted::Quoted},
    pipeline::Place,
    table::{
        config::{config, generation},
        flows,
    },
};

/// What the flow table says to a packet.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// It was not asked yet.
    Unasked,
    /// It belongs to an established, judged flow, and passes.
    Established,
    /// Its flow is to be judged anew.
    Stale,
    /// It has no flow.
    Unknown,
}

/// Looks the flow of a packet up: all that an established flow costs.
#[inline(always)]
pub fn known<F: Family>(
    config: &Config,
    step: Step,
    flow: &FlowKey<F::Addr>,
    direction: Direction,
    place: &Place,
) -> Known {
    let Some(entry) = F::flow(flow) else {
        return Known::Unknown;
    };
    // SAFETY: a live map value. Other CPUs may change it too; every field stands alone.
    let entry = unsafe { &mut *entry };
    let seconds = place.seconds();
    if entry.generation != generation(config, place.now, entry.seen == seconds)
        || entry.flags & flow_flag::DENIED != 0
    {
        return Known::Stale;
    }
    if entry.is_unchanged_by(direction, step.tcp_flags(), seconds) {
        return Known::Established;
    }
    // SAFETY: a reference. Read from where it is: it need not be kept elsewhere until here.
    let protocol = unsafe { (&raw const flow.protocol).read_volatile() };
    if move_on(entry, protocol, step.tcp_flags(), direction, seconds) == 1 {
        Known::Established
    } else {
        Known::Stale
    }
}

/// As [`known`], for packets of which there are few. Its own key, as in [`entry_of`].
#[inline(never)]
pub fn known_apart<F: Family>(step: Step, flow: &FlowKey<F::Addr>, place: &Place) -> Known {
    let Some(config) = config() else {
        return Known::Unknown;
    };
    let key = FlowKey { ..*flow };
    let direction = Direction::from_byte(place.direction);
    known::<F>(config, step, &key, direction, place)
}

/// Moves a flow on. Returns 0 when the packet is to be judged anew. Writes only what changes: a
/// hot entry's cache line stays shared.
#[inline(never)]
fn move_on(
    entry: &mut FlowEntry,
    protocol: u8,
    tcp_flags: u8,
    direction: Direction,
    seconds: u32,
) -> u32 {
    if entry.is_expired(protocol, seconds) || entry.is_reopened_by(direction, protocol, tcp_flags) {
        return 0;
    }
    let before = State::from_byte(entry.state);
    let opener = Direction::from_byte(entry.opener);
    let after = advance(before, opener, direction, protocol, tcp_flags);
    if after as u8 != before as u8 {
        entry.state = after as u8;
    }
    if entry.seen != seconds {
        entry.seen = seconds;
    }
    1
}

/// The entry of a flow. Map keys must be on a function's own stack (before Linux 6.2), and the
/// room for this one is free again afterwards; so with [`keep`].
#[inline(never)]
pub fn entry_of<F: Family>(flow: &FlowKey<F::Addr>) -> Option<&'static mut FlowEntry> {
    let key = FlowKey { ..*flow };
    // SAFETY: a live map value. Other CPUs may change it too; every field stands alone.
    F::flow(&key).map(|entry| unsafe { &mut *entry })
}

/// Keeps the entry of a flow. Returns 0 when there is no room.
#[inline(never)]
pub fn keep<F: Family>(flow: &FlowKey<F::Addr>, entry: &FlowEntry) -> u32 {
    let key = FlowKey { ..*flow };
    u32::from(F::keep(&key, entry))
}

/// A reset has passed on a denied connection. The time of the first one counts.
#[inline(always)]
pub fn close(entry: &mut FlowEntry, seconds: u32) {
    if entry.state != State::Closed as u8 {
        entry.state = State::Closed as u8;
        entry.seen = seconds;
    }
}

/// Who opened the flow of a packet that has no entry. `None`: cannot be told.
#[inline(always)]
pub fn opener_of<F: Family>(
    packet: &Packet<F>,
    flow: &FlowKey<F::Addr>,
    direction: Direction,
    endpoint: &EndpointEntry,
    seconds: u32,
) -> Option<Direction> {
    if packet.protocol == Protocol::TCP {
        let flags = packet.tcp_flags & (tcp_flag::SYN | tcp_flag::ACK);
        if flags == tcp_flag::SYN {
            return Some(direction);
        }
        if flags == tcp_flag::SYN | tcp_flag::ACK {
            return Some(direction.reverse());
        }
        return infer_opener(flow.local_port, flow.remote_port);
    }
    if packet.kind == kind::ICMP_ERROR {
        return Some(direction);
    }
    // A request shows who asks.
    if packet.is_echo_request() {
        return Some(direction);
    }
    if seconds < endpoint.adopt_until && endpoint.has(endpoint_flag::ADOPTS_DATAGRAMS)
        || flows::is_full(seconds)
    {
        return infer_opener(flow.local_port, flow.remote_port);
    }
    Some(direction)
}

/// Whether an ICMP error is about a flow that is open here.
#[inline(never)]
pub fn is_related<F: Quoted>(skb: Skb, place: &Place, packet: &Packet<F>) -> u32 {
    let direction = Direction::from_byte(place.direction);
    let Some(quoted) = F::quoted(&skb, packet.transport, place.space, place.scope, direction)
    else {
        return 0;
    };
    let Some(entry) = F::flow(&quoted) else {
        return 0;
    };
    // SAFETY: as in `known`.
    let entry = unsafe { &*entry };
    let open =
        entry.flags & flow_flag::DENIED == 0 && !entry.is_expired(quoted.protocol, place.seconds());
    u32::from(open)
}
