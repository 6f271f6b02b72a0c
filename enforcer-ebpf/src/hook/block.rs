//! XDP on uplinks: blocked sources go before the kernel allocates anything.

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    programs::XdpContext,
};
use enforcer_common::{
    Action, Decision, Direction, Protocol, Reason,
    config::Config,
    event::Hook,
    flow_key::space,
    identity,
};

use crate::{
    family::{Family, V4, V6},
    parse::{
        Packet,
        ethernet::{Payload, payload},
        frame::Xdp,
        ip4, ip6,
    },
    report::{Facts, report},
    table::config::{config, now},
};

/// Drops what comes from a blocked prefix, unless it is for a failsafe port.
#[inline(always)]
pub fn uplink(ctx: &XdpContext) -> u32 {
    let Some(config) = config() else {
        return XDP_PASS;
    };
    let frame = Xdp(ctx.ctx);
    let ifindex = ctx.ingress_ifindex() as u32;
    let passes = match payload(&frame) {
        Ok(Payload::Ip4(offset)) if config.blocked[0] != 0 => {
            let Ok(packet) = ip4::packet(&frame, offset) else {
                // Malformed: the next hook says so.
                return XDP_PASS;
            };
            is_welcome::<V4>(config, &packet, ifindex)
        }
        Ok(Payload::Ip6(offset)) if config.blocked[1] != 0 => {
            let Ok(packet) = ip6::packet(&frame, offset) else {
                return XDP_PASS;
            };
            is_welcome::<V6>(config, &packet, ifindex)
        }
        _ => true,
    };
    if passes { XDP_PASS } else { XDP_DROP }
}

#[inline(always)]
fn is_welcome<F: Family>(config: &Config, packet: &Packet<F>, ifindex: u32) -> bool {
    let Some(blocked) = F::blocked(&packet.source) else {
        return true;
    };
    if packet.protocol == Protocol::TCP && is_failsafe(config, packet.destination_port) {
        return true;
    }
    let decision = Decision::new(Action::Deny, Reason::Blocked, blocked.rule)
        .audited(blocked.audit != 0);
    let flow = packet.flow(space::HOST, 0, Direction::Ingress);
    let facts = Facts {
        now: now(),
        cgroup: 0,
        decision,
        endpoint: 1,
        peer: identity::WORLD,
        ifindex,
        length: packet.length,
        port: packet.policy_port(Direction::Ingress, Direction::Ingress),
        hook: Hook::Xdp as u8,
        tcp_flags: packet.tcp_flags,
        direction: Direction::Ingress as u8,
        flags: 0,
        opens: true,
    };
    report::<F>(config, &flow, &facts);
    decision.passes()
}

#[inline(always)]
fn is_failsafe(config: &Config, port: u16) -> bool {
    let mut index = 0;
    while index < config.failsafe.len() {
        let entry = &config.failsafe[index];
        if entry.port == port
            && entry.protocol == Protocol::TCP
            && entry.direction == Direction::Ingress as u8
            && (index as u32) < config.failsafe_count
        {
            return true;
        }
        index += 1;
    }
    false
}
