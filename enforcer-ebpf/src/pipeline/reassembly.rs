//! Fragments and the ports of their first one.

use enforcer_common::{
    Protocol, Reason,
    conntrack::tcp_flag,
    flow_key::{FragmentEntry, FragmentKey},
};

use crate::{
    family::Family,
    parse::{Packet, kind},
    pipeline::{MALFORMED, Place},
    table::fragments,
};

/// Gives later fragments the ports of the first one. Returns 1, or [`MALFORMED`] plus a reason.
#[inline(never)]
pub fn reassemble<F: Family>(packet: &mut Packet<F>, place: &Place) -> u32 {
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
            seen: place.seconds(),
        };
        fragments::keep(&key, &entry);
        return 1;
    }
    let Some(first) = fragments::find(&key, place.seconds()) else {
        return MALFORMED + Reason::FragmentUnknown as u32;
    };
    packet.source_port = first.source_port;
    packet.destination_port = first.destination_port;
    if packet.protocol == Protocol::TCP {
        packet.tcp_flags = tcp_flag::ACK;
    }
    1
}
