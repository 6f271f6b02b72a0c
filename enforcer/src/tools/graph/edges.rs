//! The arrows of a graph: what is allowed beside what was seen.

use std::collections::{BTreeMap, BTreeSet};

use super::{Edge, EdgeState};
use crate::{
    compile::explain::Answer,
    tools::{
        flows::Tally,
        services::{Service, Services, in_words},
    },
};

/// What rules let pass between two nodes.
pub(super) type AllowedServices = BTreeMap<(usize, usize), Services<bool>>;

/// Services that were seen between two nodes, and what the policy says of them.
pub(super) type SeenServices = BTreeMap<(usize, usize), BTreeMap<Service, (Answer, bool, Tally)>>;

/// Whether it is not nothing.
pub(super) fn is_something(services: &Services<bool>) -> bool {
    services.iter().any(|(_, is)| *is)
}

/// What is meant.
pub(super) fn stretches(services: &Services<bool>) -> Vec<Service> {
    let meant = services.iter().filter(|(_, is)| **is);
    meant.map(|(service, _)| service).collect()
}

/// Protocols that are not meant by "every other protocol".
pub(super) fn besides(services: &Services<bool>) -> Vec<u8> {
    services.named().collect()
}

/// The arrows: what is allowed, and over it, if there are any, what was seen.
pub(super) fn edges(allowed: &AllowedServices, seen: &SeenServices, has_flows: bool) -> Vec<Edge> {
    let pairs: BTreeSet<(usize, usize)> = allowed.keys().chain(seen.keys()).copied().collect();
    let mut edges = Vec::new();
    for (from, to) in pairs {
        let mut by_state: BTreeMap<EdgeState, (BTreeSet<Service>, Tally)> = BTreeMap::new();
        let observed = seen.get(&(from, to));
        for (service, (verdict, by_rule, tally)) in observed.into_iter().flatten() {
            let state = match (verdict, by_rule) {
                (Answer::Allow, true) => EdgeState::Used,
                (Answer::Allow, false) => EdgeState::Open,
                (Answer::Deny | Answer::Audit, _) => EdgeState::Denied,
            };
            let of_state = by_state.entry(state).or_default();
            of_state.0.insert(*service);
            of_state.1.add(tally);
        }
        let between = allowed.get(&(from, to));
        let besides = between.map(besides).unwrap_or_default();
        for service in between.map(stretches).unwrap_or_default() {
            let mut observed = observed.into_iter().flat_map(BTreeMap::keys);
            let is_used = observed.any(|seen| overlaps(service, &besides, *seen));
            let state = match (has_flows, is_used) {
                (false, _) => EdgeState::Allowed,
                (true, false) => EdgeState::Unused,
                (true, true) => continue,
            };
            by_state.entry(state).or_default().0.insert(service);
        }
        for (state, (services, tally)) in by_state {
            let stretches: Vec<_> = services.into_iter().collect();
            edges.push(Edge {
                from,
                to,
                state,
                services: words(&stretches, &besides),
                stretches,
                besides: besides.clone(),
                seen: (tally.records > 0).then_some(tally),
            });
        }
    }
    edges
}

fn overlaps(allowed: Service, besides: &[u8], seen: Service) -> bool {
    match allowed.protocol {
        None => seen.protocol.is_none_or(|seen| !besides.contains(&seen)),
        protocol => {
            protocol == seen.protocol && allowed.first <= seen.last && seen.first <= allowed.last
        }
    }
}

/// Services as people write them.
pub(super) fn words(services: &[Service], besides: &[u8]) -> Vec<String> {
    services
        .iter()
        .map(|service| in_words(&[*service], besides))
        .collect()
}
