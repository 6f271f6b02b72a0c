//! XDP on uplinks: blocked sources go before the kernel allocates anything.

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    programs::XdpContext,
};
use enforcer_common::{
    Action, Decision, Direction, Protocol, Reason,
    address_entry::address_flag,
    event::Hook,
    flow_key::{FlowKey, space},
    identity,
};

use crate::{
    family::{V4, V6},
    parse::{
        ethernet::{Payload, payload},
        frame::{Frame, Skb, Xdp},
    },
    peer,
    pipeline::Place,
    report::{Facts, Report},
    table::{
        clock::now,
        config::{config, is_failsafe},
    },
};

/// Drops what comes from a blocked prefix, unless it is for a failsafe port of the host itself.
#[inline(always)]
pub fn uplink(ctx: &XdpContext) -> u32 {
    let Some(config) = config() else {
        return XDP_PASS;
    };
    let frame = Xdp(ctx.ctx);
    // Offsets are constants, tag by tag: see `Frame for Xdp`.
    let passes = match payload(&frame) {
        Ok(Payload::Ip4(offset)) if config.blocked[0] != 0 => match offset {
            14 => at_xdp::<V4, 14>(frame),
            18 => at_xdp::<V4, 18>(frame),
            _ => at_xdp::<V4, 22>(frame),
        },
        Ok(Payload::Ip6(offset)) if config.blocked[1] != 0 => match offset {
            14 => at_xdp::<V6, 14>(frame),
            18 => at_xdp::<V6, 18>(frame),
            _ => at_xdp::<V6, 22>(frame),
        },
        _ => 1,
    };
    if passes == 1 { XDP_PASS } else { XDP_DROP }
}

#[inline(never)]
fn at_xdp<F: Source, const OFFSET: u32>(frame: Xdp) -> u32 {
    let now = now();
    let place = Place {
        now,
        cgroup: 0,
        // SAFETY: the context of the program.
        ifindex: unsafe { (*frame.0).ingress_ifindex },
        scope: 0,
        space: space::HOST,
        hook: Hook::Xdp as u8,
        direction: Direction::Ingress as u8,
        reported: 0,
        first: 0,
    };
    u32::from(is_welcome::<F>(&frame, OFFSET, &place))
}

/// The same at TC, where XDP is turned off.
#[inline(never)]
pub fn at_tc<F: Source>(frame: Skb, offset: u32, place: &Place) -> u32 {
    u32::from(is_welcome::<F>(&frame, offset, place))
}

/// The little that a block list needs of a packet.
pub trait Source: Report {
    /// Offsets of the source, of the destination, and of the protocol, in the IP header, and
    /// the length of a header without options.
    const OFFSETS: [u32; 4];
    /// Reads an address.
    fn load(frame: &impl Frame, offset: u32) -> Result<Self::Addr, Reason>;
}

impl Source for V4 {
    const OFFSETS: [u32; 4] = [12, 16, 9, 20];

    #[inline(always)]
    fn load(frame: &impl Frame, offset: u32) -> Result<Self::Addr, Reason> {
        frame.load(offset)
    }
}

impl Source for V6 {
    const OFFSETS: [u32; 4] = [8, 24, 6, 40];

    #[inline(always)]
    fn load(frame: &impl Frame, offset: u32) -> Result<Self::Addr, Reason> {
        frame.load(offset)
    }
}

#[inline(always)]
fn is_welcome<F: Source>(frame: &impl Frame, offset: u32, place: &Place) -> bool {
    let [source, destination, protocol, length] = F::OFFSETS;
    // What is cut short is told by the next hook.
    let Ok(source) = F::load(frame, offset + source) else {
        return true;
    };
    let Some(blocked) = F::blocked(&source) else {
        return true;
    };
    let Ok(destination) = F::load(frame, offset + destination) else {
        return true;
    };
    let protocol = frame.load::<u8>(offset + protocol).unwrap_or(0);
    let mut ports = [0, 0];
    if Protocol::has_ports(protocol) {
        // A header with options has its ports elsewhere, and a later fragment has none: then no
        // port is a failsafe one.
        let plain = F::VERSION == 6
            || matches!(
                (frame.load::<u8>(offset), frame.load::<[u8; 2]>(offset + 6)),
                (Ok(0x45), Ok(fragment)) if u16::from_be_bytes(fragment) & 0x1fff == 0
            );
        if plain && let Ok(bytes) = frame.load::<[u8; 4]>(offset + length) {
            ports = [
                u16::from_be_bytes([bytes[0], bytes[1]]),
                u16::from_be_bytes([bytes[2], bytes[3]]),
            ];
        }
    }
    // A way in for the operator, not into what is behind the host.
    if protocol == Protocol::TCP
        && is_failsafe(Protocol::TCP, ports[1], Direction::Ingress)
        && is_own::<F>(&destination) == 1
    {
        return true;
    }
    let decision =
        Decision::new(Action::Deny, Reason::Blocked, blocked.rule).audited(blocked.audit != 0);
    let flow = FlowKey {
        scope: 0,
        local: destination,
        remote: source,
        local_port: ports[1],
        remote_port: ports[0],
        protocol,
        space: space::HOST,
        pad: 0,
    };
    let facts = Facts {
        decision,
        endpoint: 1,
        peer: identity::WORLD,
        length: frame.len().saturating_sub(offset),
        port: ports[1],
        tcp_flags: 0,
        direction: Direction::Ingress as u8,
        flags: 0,
        opens: 1,
        tell: 1,
        holds: 0,
    };
    F::report(place, &flow, &facts, false);
    decision.passes()
}

/// Whether an address is one of this host's own: 1 or 0. What is translated to another address
/// on the way (a published port of a container) is addressed to the host as long as it is here.
#[inline(never)]
fn is_own<F: Source>(address: &F::Addr) -> u32 {
    let Some(config) = config() else { return 0 };
    u32::from(peer::by_address::<F>(config, address).flags & address_flag::LOCAL != 0)
}
