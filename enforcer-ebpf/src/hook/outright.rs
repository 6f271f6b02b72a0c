//! Packets that are refused for themselves, whatever policy says.

use enforcer_common::{
    Action, Decision, Reason,
    endpoint_entry::{EndpointEntry, endpoint_flag},
    flow_key::FlowKey,
    identity,
};

use crate::{
    family::V4,
    parse::frame::Skb,
    pipeline::Place,
    report::{Facts, Report},
};

/// Reports it. Whether it passes all the same, because the endpoint is in audit mode.
#[inline(always)]
pub fn refuse(skb: Skb, place: &Place, endpoint: &EndpointEntry, reason: u8) -> bool {
    let mut decision = Decision::new(Action::Deny, Reason::Truncated, 0);
    decision.reason = reason;
    let facts = Facts {
        decision: decision.audited(endpoint.has(endpoint_flag::AUDIT)),
        endpoint: endpoint.id,
        peer: identity::WORLD,
        // SAFETY: the context of the program.
        length: unsafe { (*skb.0).len },
        port: 0,
        tcp_flags: 0,
        direction: place.direction,
        flags: 0,
        opens: 0,
        tell: 1,
        holds: 0,
    };
    let flow = FlowKey {
        scope: place.scope,
        local: [0; 4],
        remote: [0; 4],
        local_port: 0,
        remote_port: 0,
        protocol: 0,
        space: place.space,
        pad: 0,
    };
    V4::report(place, &flow, &facts, false);
    facts.decision.passes()
}
