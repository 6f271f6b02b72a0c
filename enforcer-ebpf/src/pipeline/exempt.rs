//! What no policy is asked about: what every host needs, and what comes from nobody whose address
//! it has.

use enforcer_common::{
    Direction, Protocol,
    address_entry::address_flag,
    config::Config,
    endpoint_entry::{EndpointEntry, endpoint_flag},
    flow_key::{FlowKey, space},
    identity,
};

use crate::{
    family::Family,
    parse::{Packet, frame::Skb},
    peer,
    pipeline::Place,
    table::{config::config, endpoints},
};

/// What every host needs before it can be asked who it is: neighbour discovery, multicast
/// listener discovery, and DHCP where it has no address yet.
#[inline(always)]
pub fn is_infrastructure<F: Family>(
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
    // A workload may ask for an address, not carry data to a server of its choice. The offer
    // comes to the very address that is offered, if the client can take it there.
    (dhcp || dhcp6)
        && (direction as u8 == Direction::Ingress as u8
            || F::is_group(&packet.destination)
            || F::is_group(&packet.source)
            || (dhcp6 && F::is_link_local(&packet.source)))
}

/// Whether a source address is the workload's own.
#[inline(always)]
pub fn is_own_source<F: Family>(
    config: &Config,
    source: &F::Addr,
    endpoint: &EndpointEntry,
) -> bool {
    if F::VERSION == 6 && F::is_link_local(source) {
        return true;
    }
    let strict = endpoint.has(endpoint_flag::STRICT_SOURCE);
    let entry = peer::by_address::<F>(config, source);
    if entry.endpoint == endpoint.id {
        return true;
    }
    // Nobody's, or that of a workload of the same identity.
    !strict
        && entry.endpoint == 0
        && entry.flags & address_flag::LOCAL == 0
        && (entry.identity < identity::FIRST
            || entry.flags & address_flag::WORLD != 0
            || entry.identity == endpoint.identity)
}

/// Whether a packet that arrives has the source of a workload inside
/// ([`address_flag::INSIDE`]), and came in by an uplink: 1 or 0. Never inlined: what it needs of
/// the stack is free again afterwards.
#[inline(never)]
pub fn is_strayed<F: Family, const AT_SOCKET: bool>(
    skb: Skb,
    place: &Place,
    flow: &FlowKey<F::Addr>,
) -> u32 {
    // SAFETY: the context of the program.
    let ifindex = unsafe { (*skb.0).ingress_ifindex };
    if place.direction != Direction::Ingress as u8
        || endpoints::interface(ifindex).is_none_or(|e| !e.has(endpoint_flag::HOST))
    {
        return 0;
    }
    let Some(config) = config() else { return 0 };
    // In another network the numbers of devices are not ours.
    if AT_SOCKET && peer::by_address::<F>(config, &flow.local).flags & address_flag::LOCAL == 0 {
        return 0;
    }
    u32::from(peer::by_address::<F>(config, &flow.remote).flags & address_flag::INSIDE != 0)
}
