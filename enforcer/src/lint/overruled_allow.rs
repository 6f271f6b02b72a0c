//! Allow rules against which a higher tier has decided.

use super::{
    Finding, Lint, Related,
    ground::{Ground, Place, decider, matches},
};
use crate::{
    compile::explain::{Party, peer_in_words, ports_in_words},
    policy::model::{Peer, PortMatch, RuleAction},
};

/// Of every rule that allows: whether all of it, or all of one of the ports or peers that it
/// names, is denied by a higher tier. A wide rule from which a higher tier takes a part away is
/// what tiers are for, and no finding.
pub(super) fn find(ground: &Ground<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut effort = ground.effort();
    for place in ground.rules() {
        if effort == 0 {
            break;
        }
        if place.rule.action != RuleAction::Allow || !ground.is_below_denials(&place) {
            continue;
        }
        let rule = place.rule;
        let endpoints = ground.endpoints(place.policy, place.direction);
        let mut search = Search {
            ground,
            place,
            endpoints: &endpoints,
            effort: &mut effort,
        };
        if let Some(by) = search.denier(&rule.peers, &rule.ports) {
            findings.push(finding(&place, "what it allows", by));
            continue;
        }
        if rule.ports.len() > 1 {
            for ports in &rule.ports {
                if let Some(by) = search.denier(&rule.peers, std::slice::from_ref(ports)) {
                    let what = format!("its port {}", ports_in_words(ports));
                    findings.push(finding(&place, &what, by));
                }
            }
        }
        if rule.peers.len() > 1 {
            for peer in &rule.peers {
                if let Some(by) = search.denier(std::slice::from_ref(peer), &rule.ports) {
                    let what = format!("its peer {}", peer_in_words(peer));
                    findings.push(finding(&place, &what, by));
                }
            }
        }
    }
    findings
}

fn finding(place: &Place<'_>, what: &str, by: Related) -> Finding {
    Finding::new(
        Lint::OverruledAllow,
        &place.rule.origin,
        &place.policy.origin,
        format!(
            "rule {} allows nothing there: {what} is denied in a higher tier by {}",
            place.rule.name, by.message
        ),
        "remove it, or have the higher tier make an exception",
    )
    .of_rule(&place.rule.name)
    .with(vec![by])
}

struct Search<'a, 'g> {
    ground: &'a Ground<'g>,
    place: Place<'a>,
    endpoints: &'a [Party],
    effort: &'a mut usize,
}

impl Search<'_, '_> {
    /// The first rule of a higher tier that denies, if such rules deny all of it.
    fn denier(&mut self, peers: &[Peer], ports: &[PortMatch]) -> Option<Related> {
        let mut by = None;
        for ports in ports {
            let (services, complete) = self.ground.services(self.place.direction, ports);
            if !complete {
                return None;
            }
            for peer in peers.iter().flat_map(|peer| self.ground.meant(peer)) {
                for endpoint in self.endpoints {
                    for service in &services {
                        *self.effort = self.effort.checked_sub(1)?;
                        let direction = self.place.direction;
                        let said = self.ground.ask(endpoint, direction, peer, *service)?;
                        if !matches(&said, &self.place) {
                            continue;
                        }
                        let decides = decider(&said)?;
                        if !decides.denies() || decides.tier >= self.place.policy.tier {
                            return None;
                        }
                        by.get_or_insert_with(|| Related::new(decides.name(), decides.origin()));
                    }
                }
            }
        }
        by
    }
}
