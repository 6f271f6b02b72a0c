//! The packet that an ICMP error quotes (RFC 792, RFC 4443).

use enforcer_common::{
    Direction, Protocol,
    flow_key::{Addr6, FlowKey},
};

use crate::{
    family::{Family, V4, V6},
    parse::{Parse, frame::Skb},
};

/// The flow that an ICMP error is about, seen from the endpoint, and the way of the quoted
/// packet. The error travels against it.
pub trait Quoted: Parse {
    /// Reads the quoted packet behind the ICMP header at `transport`.
    fn quoted(
        frame: &Skb,
        transport: u32,
        space: u8,
        scope: u32,
        direction: Direction,
    ) -> Option<FlowKey<Self::Addr>>;
}

impl Quoted for V4 {
    #[inline(always)]
    fn quoted(
        frame: &Skb,
        transport: u32,
        space: u8,
        scope: u32,
        direction: Direction,
    ) -> Option<FlowKey<Self::Addr>> {
        let head: [u8; 20] = frame.copy(transport + 8).ok()?;
        let header = u32::from(head[0] & 0xf) * 4;
        if head[0] >> 4 != 4 || header < 20 {
            return None;
        }
        let ports = ports(frame, head[9], transport + 8 + header)?;
        Some(flow::<V4>(
            space,
            scope,
            direction,
            head[9],
            [head[12], head[13], head[14], head[15]],
            [head[16], head[17], head[18], head[19]],
            ports,
        ))
    }
}

impl Quoted for V6 {
    #[inline(always)]
    fn quoted(
        frame: &Skb,
        transport: u32,
        space: u8,
        scope: u32,
        direction: Direction,
    ) -> Option<FlowKey<Self::Addr>> {
        let at = transport + 8;
        let head: [u8; 8] = frame.copy(at).ok()?;
        if head[0] >> 4 != 6 {
            return None;
        }
        let source: Addr6 = frame.copy(at + 8).ok()?;
        let destination: Addr6 = frame.copy(at + 24).ok()?;
        let mut protocol = head[6];
        let mut transport = at + 40;
        if protocol == Protocol::FRAGMENT {
            let fragment: [u8; 8] = frame.copy(transport).ok()?;
            protocol = fragment[0];
            transport += 8;
        }
        let ports = ports(frame, protocol, transport)?;
        Some(flow::<V6>(
            space,
            scope,
            direction,
            protocol,
            source,
            destination,
            ports,
        ))
    }
}

/// Source and destination port, in the form of flow keys.
#[inline(always)]
fn ports(frame: &Skb, protocol: u8, at: u32) -> Option<(u16, u16)> {
    let head: [u8; 8] = frame.copy(at).ok()?;
    if Protocol::has_ports(protocol) {
        return Some((
            u16::from_be_bytes([head[0], head[1]]),
            u16::from_be_bytes([head[2], head[3]]),
        ));
    }
    match (protocol, head[0]) {
        (Protocol::ICMP, 0 | 8) | (Protocol::ICMPV6, 128 | 129) => {
            let id = u16::from_be_bytes([head[4], head[5]]);
            Some((id, id))
        }
        // An error about an error is never sent (RFC 1122, 3.2.2).
        (Protocol::ICMP | Protocol::ICMPV6, _) => None,
        _ => Some((0, 0)),
    }
}

#[inline(always)]
fn flow<F: Family>(
    space: u8,
    scope: u32,
    direction: Direction,
    protocol: u8,
    source: F::Addr,
    destination: F::Addr,
    (source_port, destination_port): (u16, u16),
) -> FlowKey<F::Addr> {
    // What reaches the endpoint quotes a packet that the endpoint sent.
    match direction {
        Direction::Ingress => FlowKey {
            scope,
            local: source,
            remote: destination,
            local_port: source_port,
            remote_port: destination_port,
            protocol,
            space,
            pad: 0,
        },
        Direction::Egress => FlowKey {
            scope,
            local: destination,
            remote: source,
            local_port: destination_port,
            remote_port: source_port,
            protocol,
            space,
            pad: 0,
        },
    }
}
