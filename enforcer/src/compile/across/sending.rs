//! Egress to workloads and hosts elsewhere, with what their ingress says of who sends.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use enforcer_common::{Action, Decision, Direction, identity, policy_key::PolicyEntry};
use ipnet::IpNet;

use super::{
    Across, Pick,
    ruling::Ruling,
    senders::{Matched, Senders},
    strictness,
};
use crate::compile::{
    image::{IdentitySubject, WorkloadName},
    limits::CompileError,
    tiers::Outcome,
};

/// An identity of this host.
struct Party {
    number: u32,
    egress: u32,
    /// As it may be seen elsewhere: the address tells prefixes of policy, and a host may have
    /// several.
    seen: BTreeSet<u32>,
    /// As it is seen on this host.
    here: u32,
}

/// Those elsewhere of whom the same policies say who may come in.
type Destinations = BTreeMap<(bool, Vec<u32>), Vec<u32>>;

impl Across<'_> {
    /// The egress sets, by identity, that are not what they were without this.
    pub(super) fn sending(
        &mut self,
        local: &BTreeMap<u32, [u32; 2]>,
    ) -> Result<BTreeMap<u32, u32>, CompileError> {
        let mut senders = Senders::default();
        senders.catch_up(self.index);
        let parties = self.parties(local, &mut senders);
        let mut destinations = Destinations::new();
        let mut policies = BTreeSet::new();
        for number in self.known.elsewhere() {
            let (is_host, about) = self.policies_of(*number);
            policies.extend(about);
            let same = destinations.entry((is_host, about.to_vec())).or_default();
            same.push(*number);
        }
        let matched = Matched::of(self.book, &policies, &senders);
        destinations.retain(|(_, policies), _| matched.is_about_some(policies));

        let mut different: BTreeMap<u32, BTreeMap<u32, PolicyEntry>> = BTreeMap::new();
        for ((is_host, policies), numbers) in &destinations {
            let for_everybody = self.for_everybody(policies);
            let mut said: HashMap<Vec<u32>, Arc<Ruling<Outcome>>> = HashMap::new();
            let mut known: HashMap<(PolicyEntry, usize), Option<PolicyEntry>> = HashMap::new();
            let mut kept = Vec::new();
            for party in &parties {
                let mut ingress = |across: &Self, seen: &BTreeSet<u32>| {
                    let mut best: Option<Arc<Ruling<Outcome>>> = None;
                    for sender in seen {
                        let rules = matched.rules(policies, *sender, &for_everybody);
                        let one = said.entry(rules).or_insert_with_key(|rules| {
                            let ruling = across.outcomes(policies, rules);
                            Arc::new(across.with_failsafe(ruling, *is_host))
                        });
                        best = Some(match best {
                            Some(best) if !Arc::ptr_eq(&best, one) => {
                                Arc::new(best.with(one, more_lenient))
                            }
                            _ => Arc::clone(one),
                        });
                    }
                    best
                };
                let Some(elsewhere) = ingress(self, &party.seen) else {
                    continue;
                };
                // An identity that is also on this host is judged here as it is known here.
                let here = ingress(self, &BTreeSet::from([party.here]));
                let both = here.map(|here| Arc::new(elsewhere.with(&here, more_lenient)));
                // Told apart by where they are, so they have to stay there.
                kept.extend([Some(Arc::clone(&elsewhere)), both.clone()]);
                for number in numbers {
                    let ingress = match &both {
                        Some(both) if self.known.is_local(*number) => both,
                        _ => &elsewhere,
                    };
                    let (entry, _) = self.said_of(party.egress, *number);
                    let key = (entry, Arc::as_ptr(ingress).addr());
                    let put = if let Some(put) = known.get(&key) {
                        *put
                    } else {
                        let put = self.with_ingress(&entry, ingress)?;
                        known.insert(key, put);
                        put
                    };
                    if let Some(put) = put {
                        let of_party = different.entry(party.number).or_default();
                        of_party.insert(*number, put);
                    }
                }
            }
        }
        let mut sets = BTreeMap::new();
        for party in parties {
            if let Some(different) = different.get(&party.number) {
                sets.insert(party.number, self.changed(party.egress, different)?);
            }
        }
        Ok(sets)
    }

    fn parties(&self, local: &BTreeMap<u32, [u32; 2]>, senders: &mut Senders) -> Vec<Party> {
        let host: BTreeSet<BTreeSet<IpNet>> = (self.inputs.host_addresses.iter())
            .filter(|address| !address.is_loopback())
            .map(|address| self.known.prefixes_around(IpNet::from(*address)))
            .collect();
        let mut own: HashMap<u32, BTreeSet<BTreeSet<IpNet>>> = HashMap::new();
        for workload in &self.inputs.policy.workloads {
            let name = WorkloadName {
                namespace: workload.namespace.clone(),
                name: workload.name.clone(),
            };
            let numbers = [&self.known.workloads, &self.known.attested];
            for number in numbers.into_iter().filter_map(|table| table.get(&name)) {
                let addresses = workload.addresses.iter().map(IpNet::trunc);
                let around = addresses.map(|prefix| self.known.prefixes_around(prefix));
                own.entry(*number).or_default().extend(around);
            }
        }
        let mut parties = Vec::with_capacity(local.len());
        for (number, sets) in local {
            let Some(here) = self.known.identities.get(number) else {
                continue;
            };
            let subject = if *number == identity::HOST {
                IdentitySubject::remote_host(self.inputs.policy.node.labels.clone())
            } else {
                here.subject.clone().without_ports()
            };
            let mut prefixes = host.clone();
            prefixes.extend(own.remove(number).unwrap_or_default());
            if prefixes.is_empty() {
                prefixes.insert(BTreeSet::new());
            }
            let seen = prefixes.into_iter().map(|prefixes| {
                let identity = self.known.identity_at(subject.clone(), prefixes);
                senders.number(identity, self.index)
            });
            parties.push(Party {
                number: *number,
                egress: sets[Direction::Egress as usize],
                seen: seen.collect(),
                here: senders.number((**here).clone(), self.index),
            });
        }
        parties
    }

    /// What no policy of a host closes is open.
    fn with_failsafe(&self, ruling: Ruling<Outcome>, is_host: bool) -> Ruling<Outcome> {
        if !is_host {
            return ruling;
        }
        let failsafe = self.inputs.policy.node.failsafe_in_force().iter();
        let ingress = failsafe.filter(|f| f.direction == Direction::Ingress);
        let ports: BTreeSet<_> = ingress.map(|f| (f.protocol, f.port)).collect();
        let ports = ports.into_iter();
        let open = ports.map(|(protocol, port)| (protocol, port, port, true));
        let open = Ruling::new(false, open.collect());
        ruling.with(&open, |(action, cause), open| {
            (if open { Action::Allow } else { action }, cause)
        })
    }

    /// An entry of egress with what ingress denies; `None` where that is nothing.
    fn with_ingress(
        &mut self,
        egress: &PolicyEntry,
        ingress: &Ruling<Outcome>,
    ) -> Result<Option<PolicyEntry>, CompileError> {
        let both = self.ruling(egress).with(ingress, denied_by_either);
        let instead = |pick: &Pick| matches!(pick, Pick::Instead(_));
        if !instead(&both.default) && !both.differing.iter().any(|(.., pick)| instead(pick)) {
            return Ok(None);
        }
        self.entry(&both).map(Some)
    }
}

/// The egress names what both deny.
fn denied_by_either(egress: Decision, ingress: Outcome) -> Pick {
    if strictness(ingress.0) > strictness(egress.action()) {
        Pick::Instead(ingress)
    } else {
        Pick::Keep(egress)
    }
}

/// Of two ways in which somebody may be seen, the better one counts: the other end sees which
/// it is.
fn more_lenient(one: Outcome, other: Outcome) -> Outcome {
    if strictness(other.0) < strictness(one.0) {
        other
    } else {
        one
    }
}
