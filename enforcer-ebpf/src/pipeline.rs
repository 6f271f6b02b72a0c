//! From a parsed packet to "passes" or "does not": conntrack first, then everything else.

use core::ffi::c_void;

use enforcer_common::{
    Action, Decision, Direction, Judge, Protocol, Reason,
    address_entry::address_flag,
    config::{Config, config_flag},
    conntrack::{FlowEntry, State, advance, flow_flag, infer_opener, tcp_flag},
    endpoint_entry::{EndpointEntry, endpoint_flag},
    event::event_flag,
    flow_key::{FlowKey, FragmentEntry, FragmentKey, space},
    identity,
};

use crate::{
    family::Family,
    parse::{Packet, frame::Skb, kind, quoted::Quoted},
    peer,
    report::{Facts, report},
    table::{endpoints, flows, fragments, policy},
};

/// The loopback device has this index in every network namespace.
const LOOPBACK: u32 = 1;

/// Where a packet is judged.
pub struct Place {
    /// Nanoseconds of the monotonic clock.
    pub now: u64,
    /// Cgroup of the endpoint, or 0.
    pub cgroup: u64,
    pub seconds: u32,
    /// Device of the packet.
    pub ifindex: u32,
    /// See [`space`].
    pub scope: u32,
    /// See [`space`].
    pub space: u8,
    /// A [`enforcer_common::event::Hook`].
    pub hook: u8,
    /// The way of the packet: a [`Direction`].
    pub direction: u8,
    /// The verdict on this packet was reported by the socket hook.
    pub reported: bool,
}

/// Whether a packet of an established, judged flow passes: one look-up. `None`: the slow way.
#[inline(always)]
pub fn established<F: Family>(
    config: &Config,
    packet: &Packet<F>,
    flow: &FlowKey<F::Addr>,
    direction: Direction,
    seconds: u32,
) -> Option<u8> {
    if packet.kind == kind::ICMP_ERROR {
        return None;
    }
    let entry = F::flow(flow)?;
    // SAFETY: a live map value. Other CPUs may change it too; every field stands alone.
    let entry = unsafe { &mut *entry };
    if entry.generation != config.generation
        || entry.flags & flow_flag::DENIED != 0
        || entry.is_expired(packet.protocol, seconds)
        || entry.is_reopened_by(direction, packet.protocol, packet.tcp_flags)
    {
        return None;
    }
    touch(entry, packet.protocol, packet.tcp_flags, direction, seconds);
    Some(entry.flags)
}

/// Moves a flow on. Writes only what changes: a hot entry's cache line stays shared.
#[inline(always)]
fn touch(entry: &mut FlowEntry, protocol: u8, tcp_flags: u8, direction: Direction, seconds: u32) {
    let before = State::from_byte(entry.state);
    let opener = Direction::from_byte(entry.opener);
    let after = advance(before, opener, direction, protocol, tcp_flags);
    if after as u8 != before as u8 {
        entry.state = after as u8;
    }
    if entry.seen != seconds {
        entry.seen = seconds;
    }
}

/// Gives later fragments the ports of the first one.
#[inline(always)]
pub fn reassemble<F: Family>(packet: &mut Packet<F>, place: &Place) -> Result<(), Reason> {
    if packet.kind != kind::FIRST_FRAGMENT && packet.kind != kind::LATER_FRAGMENT {
        return Ok(());
    }
    let key = FragmentKey {
        source: F::mapped(&packet.source),
        destination: F::mapped(&packet.destination),
        identification: packet.identification,
        ifindex: place.ifindex,
        protocol: packet.protocol,
        direction: place.direction,
        pad: [0; 2],
    };
    if packet.kind == kind::FIRST_FRAGMENT {
        let entry = FragmentEntry {
            source_port: packet.source_port,
            destination_port: packet.destination_port,
            seen: place.seconds,
        };
        fragments::keep(&key, &entry);
        return Ok(());
    }
    let Some(first) = fragments::find(&key, place.seconds) else {
        return Err(Reason::FragmentUnknown);
    };
    packet.source_port = first.source_port;
    packet.destination_port = first.destination_port;
    if packet.protocol == Protocol::TCP {
        packet.tcp_flags = tcp_flag::ACK;
    }
    Ok(())
}

/// Everything but the established case. Returns 1 when the packet passes.
#[inline(never)]
pub fn judge<F: Quoted>(
    skb: Skb,
    config: &Config,
    place: &Place,
    packet: &Packet<F>,
    flow: &FlowKey<F::Addr>,
) -> u32 {
    let direction = Direction::from_byte(place.direction);
    let endpoint = if place.space == space::CGROUP {
        endpoints::cgroup(place.cgroup)
    } else {
        endpoints::interface(place.ifindex)
    };
    // No endpoint (any more): not ours to judge.
    let Some(endpoint) = endpoint else { return 1 };

    if packet.kind == kind::ICMP_ERROR && is_related::<F>(skb, place, packet, direction) {
        return 1;
    }
    if is_infrastructure(packet, &endpoint, place, direction) {
        return 1;
    }
    let mut facts = Facts {
        now: place.now,
        cgroup: place.cgroup,
        decision: Decision::new(Action::Deny, Reason::SourceGuard, 0),
        endpoint: endpoint.id,
        peer: identity::WORLD,
        ifindex: place.ifindex,
        length: packet.length,
        port: packet.policy_port(direction, direction),
        hook: place.hook,
        tcp_flags: packet.tcp_flags,
        direction: place.direction,
        flags: 0,
        opens: true,
    };
    let audit = endpoint.has(endpoint_flag::AUDIT);
    if place.space == space::INTERFACE
        && direction as u8 == Direction::Egress as u8
        && !is_own_source::<F>(&packet.source, &endpoint)
    {
        facts.decision = facts.decision.audited(audit);
        report::<F>(config, flow, &facts);
        if !audit {
            return 0;
        }
    }

    // What the flow's entry still tells: who opened it, and whether it was denied already.
    let mut opener = opener_of::<F>(packet, flow, direction, &endpoint, place.seconds);
    let mut adopted = opener.is_none();
    let mut was_open = false;
    let mut state = State::New;
    if packet.kind != kind::ICMP_ERROR
        && let Some(entry) = F::flow(flow)
    {
        // SAFETY: as in `established`.
        let entry = unsafe { &*entry };
        if !entry.is_expired(packet.protocol, place.seconds)
            && !entry.is_reopened_by(direction, packet.protocol, packet.tcp_flags)
        {
            if entry.flags & flow_flag::DENIED != 0 && entry.generation == config.generation {
                if packet.is_reset() {
                    return 1;
                }
                facts.decision = Decision {
                    rule: entry.rule,
                    action: Action::Deny as u8,
                    reason: entry.reason,
                    flags: 0,
                    pad: 0,
                };
                facts.peer = entry.peer;
                facts.direction = entry.opener;
                facts.port = packet.policy_port(direction, Direction::from_byte(entry.opener));
                report::<F>(config, flow, &facts);
                return 0;
            }
            was_open = entry.flags & flow_flag::DENIED == 0;
            opener = Some(Direction::from_byte(entry.opener));
            adopted = entry.flags & flow_flag::ADOPTED != 0;
            state = State::from_byte(entry.state);
        }
    }

    let known = peer::by_address::<F>(config, &flow.remote);
    facts.peer = known.identity;
    let same_host = match place.space {
        // Whatever two processes of one host say to each other goes through the loopback
        // device: a fact that no address can fake.
        space::CGROUP => place.ifindex == LOOPBACK,
        space::INTERFACE => known.flags & address_flag::LOCAL != 0,
        _ => false,
    };
    if same_host {
        // SAFETY: the program's context.
        let proven =
            unsafe { peer::by_socket::<F>(skb.0.cast::<c_void>(), flow, config.generation) };
        if let Some(identity) = proven {
            facts.peer = identity;
        }
    }

    let mut way = opener.unwrap_or(direction);
    facts.decision = ask::<F>(&endpoint, facts.peer, packet, direction, way);
    if opener.is_none() && facts.decision.action != Action::Allow as u8 {
        let other = ask::<F>(&endpoint, facts.peer, packet, direction, way.reverse());
        if other.action == Action::Allow as u8 {
            facts.decision = other;
            way = way.reverse();
        }
    }
    facts.direction = way as u8;
    facts.port = packet.policy_port(direction, way);
    if facts.decision.action == Action::Deny as u8
        && endpoint.has(endpoint_flag::HOST)
        && is_failsafe(config, packet.protocol, facts.port, way)
    {
        facts.decision = Decision::new(Action::Allow, Reason::Failsafe, 0);
    }
    facts.decision = facts.decision.audited(audit);

    let passes = facts.decision.passes();
    let keeps = packet.kind == kind::PLAIN || packet.kind == kind::FIRST_FRAGMENT;
    let mut full = false;
    if keeps && (passes || was_open) {
        let mut flags = 0;
        if facts.decision.action == Action::Audit as u8 {
            flags |= flow_flag::AUDIT;
        }
        if adopted {
            flags |= flow_flag::ADOPTED;
        }
        if !passes {
            flags |= flow_flag::DENIED;
        }
        if packet.protocol == Protocol::TCP && !packet.is_open_request() && !was_open {
            state = State::Established;
        }
        let entry = FlowEntry {
            generation: config.generation,
            seen: place.seconds,
            peer: facts.peer,
            rule: facts.decision.rule,
            endpoint: endpoint.id,
            opener: way as u8,
            state: advance(state, way, direction, packet.protocol, packet.tcp_flags) as u8,
            flags,
            reason: facts.decision.reason,
        };
        full = !F::keep(flow, &entry);
    }
    if !passes && was_open {
        facts.flags |= event_flag::BROKEN;
    }
    if full && passes && config.flags & config_flag::FULL_DENIES != 0 {
        facts.decision = Decision::new(Action::Deny, Reason::FlowTableFull, 0).audited(audit);
    }
    facts.opens = !was_open;
    if !place.reported {
        report::<F>(config, flow, &facts);
    }
    if packet.is_reset() && was_open {
        return 1;
    }
    u32::from(facts.decision.passes())
}

/// The compiled policy's answer for a flow that was opened the way `way`.
#[inline(always)]
fn ask<F: Family>(
    endpoint: &EndpointEntry,
    peer: u32,
    packet: &Packet<F>,
    direction: Direction,
    way: Direction,
) -> Decision {
    let question = Judge {
        set: endpoint.set(way),
        peer,
        protocol: packet.protocol,
        port: packet.policy_port(direction, way),
    };
    let mut decision = Decision::new(Action::Deny, Reason::NoPolicy, 0);
    policy::decide(&question, &mut decision);
    decision
}

/// Who opened the flow of a packet that has no entry. `None`: cannot be told.
#[inline(always)]
fn opener_of<F: Family>(
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
    if seconds < endpoint.adopt_until || flows::is_full(seconds) {
        return None;
    }
    Some(direction)
}

/// Whether an ICMP error is about a flow that is open here.
#[inline(always)]
fn is_related<F: Quoted>(
    skb: Skb,
    place: &Place,
    packet: &Packet<F>,
    direction: Direction,
) -> bool {
    let Some(quoted) = F::quoted(&skb, packet.transport, place.space, place.scope, direction)
    else {
        return false;
    };
    let Some(entry) = F::flow(&quoted) else {
        return false;
    };
    // SAFETY: as in `established`.
    let entry = unsafe { &*entry };
    entry.flags & flow_flag::DENIED == 0 && !entry.is_expired(quoted.protocol, place.seconds)
}

/// What every host needs before it can be asked who it is: neighbour discovery, multicast
/// listener discovery, and DHCP where it has no address yet.
#[inline(always)]
fn is_infrastructure<F: Family>(
    packet: &Packet<F>,
    endpoint: &EndpointEntry,
    place: &Place,
    direction: Direction,
) -> bool {
    let host = endpoint.has(endpoint_flag::HOST);
    if packet.protocol == Protocol::ICMPV6 {
        let message = packet.icmp >> 8;
        // Router advertisements and redirects come from routers, never from workloads.
        let from_router = message == 134 || message == 137;
        let forged = from_router
            && place.space == space::INTERFACE
            && direction as u8 == Direction::Egress as u8;
        // RFC 4861: a hop limit of 255 proves that the sender is on the link.
        return match message {
            133..=137 => packet.hop_limit == 255 && !forged,
            130..=132 | 143 => packet.hop_limit == 1,
            _ => false,
        };
    }
    if packet.protocol != Protocol::UDP {
        return false;
    }
    let (client, server) = match direction {
        Direction::Egress => (packet.source_port, packet.destination_port),
        Direction::Ingress => (packet.destination_port, packet.source_port),
    };
    let dhcp = client == 68 && server == 67;
    let dhcp6 = client == 546 && server == 547;
    if host {
        return dhcp || dhcp6;
    }
    // A workload may ask for an address, not carry data to a server of its choice.
    (dhcp || dhcp6)
        && (F::is_group(&packet.destination)
            || F::is_group(&packet.source)
            || (dhcp6 && F::is_link_local(&packet.source)))
}

/// Whether a source address is the workload's own.
#[inline(always)]
fn is_own_source<F: Family>(source: &F::Addr, endpoint: &EndpointEntry) -> bool {
    if F::VERSION == 6 && F::is_link_local(source) {
        return true;
    }
    let strict = endpoint.has(endpoint_flag::STRICT_SOURCE);
    let entry = F::address(source).or_else(|| F::prefix(source));
    match entry {
        Some(entry) if entry.endpoint == endpoint.id => true,
        Some(entry) if !strict => {
            entry.endpoint == 0
                && entry.flags & address_flag::LOCAL == 0
                && (entry.identity < identity::FIRST || entry.identity == endpoint.identity)
        }
        Some(_) => false,
        None => !strict && !F::is_loopback(source),
    }
}

/// Whether the port is one that no policy can close on the host endpoint.
#[inline(always)]
fn is_failsafe(config: &Config, protocol: u8, port: u16, way: Direction) -> bool {
    let mut index = 0;
    while index < config.failsafe.len() {
        let entry = &config.failsafe[index];
        if entry.port == port
            && entry.protocol == protocol
            && entry.direction == way as u8
            && (index as u32) < config.failsafe_count
        {
            return true;
        }
        index += 1;
    }
    false
}
