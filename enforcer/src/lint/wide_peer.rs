//! Rules that allow anybody, though only few come.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
};

use enforcer_common::{Direction, flow_key::icmp_port};

use super::{
    Finding, Lint,
    ground::{Ground, decider},
};
use crate::{
    api::question::Service,
    compile::{
        explain::Party,
        image::{RuleDirection, WorkloadName},
    },
    observe::record::{FlowRecord, Side, SideKind},
    policy::model::{Origin, Peer, RuleAction},
};

/// Where flows show more peers than these, "anybody" may be the best description.
const FEW: usize = 3;

pub(super) fn find(ground: &Ground<'_>, flows: &[FlowRecord]) -> Vec<Finding> {
    let mut seen: BTreeMap<(Origin, RuleDirection, usize), BTreeSet<String>> = BTreeMap::new();
    for flow in flows {
        let Some((endpoint, peer, service)) = asked(flow) else {
            continue;
        };
        let direction = match flow.direction {
            RuleDirection::Egress => Direction::Egress,
            RuleDirection::Ingress => Direction::Ingress,
        };
        // A workload that is gone from the tree is still somebody at an address.
        let address = flow.peer.address.map(Party::Address);
        let said = ground.ask(&endpoint, direction, &peer, service);
        let said = said.or_else(|| ground.ask(&endpoint, direction, &address?, service));
        let Some(said) = said else { continue };
        let Some(decides) = decider(&said).filter(|decides| decides.rule.is_some()) else {
            continue;
        };
        let Some(index) = decides.policy.rules.iter().position(|rule| rule.decides) else {
            continue;
        };
        let key = (decides.policy.origin.clone(), flow.direction, index);
        seen.entry(key).or_default().insert(peer.to_string());
    }
    let mut findings = Vec::new();
    for place in ground.rules() {
        if place.rule.action != RuleAction::Allow || !place.rule.peers.iter().any(Peer::is_any) {
            continue;
        }
        let key = (
            place.policy.origin.clone(),
            place.direction.into(),
            place.index,
        );
        let Some(peers) = seen.get(&key).filter(|peers| peers.len() <= FEW) else {
            continue;
        };
        let peers: Vec<_> = peers.iter().map(String::as_str).collect();
        let finding = Finding::new(
            Lint::WidePeer,
            &place.rule.origin,
            &place.policy.origin,
            format!(
                "rule {} allows anybody, and the flows show {} only: {}",
                place.rule.name,
                match peers.len() {
                    1 => "one peer".to_owned(),
                    count => format!("{count} peers"),
                },
                peers.join(", ")
            ),
            "name the peers that are meant",
        );
        findings.push(finding.of_rule(&place.rule.name));
    }
    findings
}

/// Endpoint, peer and service of a record, if it tells them.
fn asked(flow: &FlowRecord) -> Option<(Party, Party, (u8, u16))> {
    let port = match (flow.icmp_type, flow.destination().port) {
        (Some(kind), _) => icmp_port(kind, flow.icmp_code.unwrap_or(0)),
        (None, port) => port.unwrap_or(0),
    };
    // Names and numbers of protocols are those of questions.
    let protocol = Service::from_str(&format!("1/{}", flow.protocol));
    let protocol = protocol.or_else(|_| Service::from_str(&format!("*/{}", flow.protocol)));
    let endpoint = party(&flow.workload)?;
    Some((
        endpoint,
        party(&flow.peer)?,
        (protocol.ok()?.protocol, port),
    ))
}

fn party(side: &Side) -> Option<Party> {
    match (side.kind, &side.namespace, &side.name) {
        (SideKind::Host, ..) => Some(Party::Host),
        (SideKind::Workload, Some(namespace), Some(name)) => Some(Party::Workload(WorkloadName {
            namespace: namespace.clone(),
            name: name.clone(),
        })),
        _ => side.address.map(Party::Address),
    }
}
