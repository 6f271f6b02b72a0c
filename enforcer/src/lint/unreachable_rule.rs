//! Rules that decide about nothing.

use enforcer_common::Direction;

use super::{
    Finding, Lint, Related,
    ground::{Ground, Place, decider, matches},
};
use crate::policy::model::RuleAction;

/// At most this many of those that decide instead are named.
const NAMED: usize = 3;

/// That a rule decides about nothing is read from the image, which has every decision. Who
/// decides instead is asked.
pub(super) fn find(ground: &Ground<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut effort = ground.effort();
    for place in ground.rules().filter(|place| is_candidate(ground, place)) {
        if effort == 0 {
            break;
        }
        let shadow = shadow(ground, &place, &mut effort);
        // A rule that matches nothing is one of `empty-selector`.
        let Some(shadow) = shadow else { continue };
        if shadow.overruled {
            continue;
        }
        let direction = match place.direction {
            Direction::Egress => "egress",
            Direction::Ingress => "ingress",
        };
        let finding = Finding::new(
            Lint::UnreachableRule,
            &place.rule.origin,
            &place.policy.origin,
            format!(
                "{direction} rule {} decides about no flow: what it matches is decided by {}",
                place.rule.name, shadow.names
            ),
            "remove the rule, or correct its peers and ports",
        );
        findings.push(finding.of_rule(&place.rule.name).with(shadow.related));
    }
    findings
}

/// What hands on decides about nothing, and does something all the same.
fn is_candidate(ground: &Ground<'_>, place: &Place<'_>) -> bool {
    place.rule.action != RuleAction::Pass && !ground.decides(place)
}

struct Shadow {
    names: String,
    related: Vec<Related>,
    /// The rule allows, and only rules of higher tiers that deny stand before it.
    overruled: bool,
}

fn shadow(ground: &Ground<'_>, place: &Place<'_>, effort: &mut usize) -> Option<Shadow> {
    let mut names: Vec<String> = Vec::new();
    let mut related = Vec::new();
    let mut overruled = place.rule.action == RuleAction::Allow;
    let ports = place.rule.ports.iter();
    let services = ports.flat_map(|ports| ground.services(place.direction, ports).0);
    let services: Vec<_> = services.collect();
    'all: for endpoint in ground.endpoints(place.policy, place.direction) {
        for peer in place.rule.peers.iter().flat_map(|peer| ground.meant(peer)) {
            for service in &services {
                if *effort == 0 {
                    break 'all;
                }
                *effort -= 1;
                let Some(said) = ground.ask(&endpoint, place.direction, peer, *service) else {
                    continue;
                };
                let Some(instead) = decider(&said).filter(|_| matches(&said, place)) else {
                    continue;
                };
                overruled &= instead.denies() && instead.tier < place.policy.tier;
                let name = instead.name();
                if names.contains(&name) {
                    continue;
                }
                if names.len() == NAMED {
                    names.push("others".to_owned());
                    break 'all;
                }
                related.push(Related::new(name.clone(), instead.origin()));
                names.push(name);
            }
        }
    }
    let names = match names.as_slice() {
        [] => return None,
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    };
    Some(Shadow {
        names,
        related,
        overruled,
    })
}
