//! Egress to workloads and hosts elsewhere, with what their ingress says of who sends.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use enforcer_common::{Action, Decision, Direction, policy_key::PolicyEntry};

use super::{
    Changed, Judge, Pick, Site,
    parties::{Parties, Party},
    ruling::Ruling,
    senders::Matched,
    strictness,
};
use crate::compile::{
    limits::CompileError,
    tiers::{Cause, Outcome},
};

/// What is different in the egress of one moment, kept from one compilation to the next.
#[derive(Debug, Default)]
pub(super) struct Sending {
    /// Those elsewhere whose ingress names somebody of this host.
    destinations: BTreeMap<u32, Destination>,
    /// By identity of this host.
    pub changed: BTreeMap<u32, Changed>,
}

/// Somebody elsewhere.
#[derive(Debug)]
struct Destination {
    judge: Arc<Judge>,
    /// Whether this identity is also on this host.
    is_local: bool,
}

/// Whose entries are found anew.
#[derive(Default)]
pub(super) struct Anew {
    pub destinations: BTreeSet<u32>,
    pub parties: BTreeSet<u32>,
}

impl Sending {
    /// Takes in what is in force for an identity of this host without this; `None`: it is not
    /// of this host any more. `seen`: others see it in another way than before.
    pub fn follow(
        &mut self,
        site: &mut Site<'_, '_>,
        number: u32,
        set: Option<u32>,
        seen: bool,
        anew: &mut Anew,
    ) {
        let Some(set) = set else {
            if let Some(gone) = self.changed.remove(&number) {
                gone.end(site);
            }
            return;
        };
        match self.changed.get_mut(&number) {
            Some(known) if known.base == set && !seen => return,
            Some(known) => known.start_over(set),
            None => drop(self.changed.insert(number, Changed::new(set))),
        }
        anew.parties.insert(number);
    }

    /// Takes in who judges what comes to somebody; `None`: nobody elsewhere has this number.
    pub fn judge(
        &mut self,
        number: u32,
        judge: Option<&Arc<Judge>>,
        is_local: bool,
        parties: &Parties,
        anew: &mut Anew,
    ) {
        let judge = judge.filter(|judge| {
            let peers = judge.says.iter().flat_map(|says| says.peers());
            parties.senders.are_among(peers)
        });
        let same = match (self.destinations.get(&number), judge) {
            (None, None) => true,
            (Some(known), Some(judge)) => known.is_local == is_local && known.judge.is_same(judge),
            _ => false,
        };
        if same {
            return;
        }
        anew.destinations.insert(number);
        match judge {
            Some(judge) => {
                let judge = Arc::clone(judge);
                self.destinations
                    .insert(number, Destination { judge, is_local });
            }
            None => drop(self.destinations.remove(&number)),
        }
    }

    /// Finds the entries of some anew, and the sets that they are in.
    pub fn make(
        &mut self,
        site: &mut Site<'_, '_>,
        parties: &Parties,
        anew: &Anew,
    ) -> Result<BTreeSet<u32>, CompileError> {
        let mut touched = anew.parties.clone();
        // In the order of their numbers, so that new ones come out the same each time.
        let mut destinations = anew.destinations.clone();
        if !anew.parties.is_empty() {
            destinations.extend(self.destinations.keys());
        }
        let mut views: HashMap<(bool, Vec<u64>), View> = HashMap::new();
        for number in destinations {
            let destination = self.destinations.get(&number);
            let mut view = destination.map(|destination| {
                let judge = &destination.judge;
                let view = views.entry(judge.key());
                let view = view.or_insert_with(|| View::new(judge, parties));
                (view, destination.is_local)
            });
            let all = anew.destinations.contains(&number);
            let some = if all { None } else { Some(&anew.parties) };
            for (party, seen) in parties.all() {
                if some.is_some_and(|some| !some.contains(party)) {
                    continue;
                }
                let Some(changed) = self.changed.get_mut(party) else {
                    continue;
                };
                let entry = match &mut view {
                    Some((view, is_local)) => {
                        site.builder.work.between += 1;
                        let (entry, _) = site.said_of(changed.base, number);
                        view.entry(site, (*party, seen), &entry, *is_local)?
                    }
                    None => None,
                };
                if changed.say(number, entry) {
                    touched.insert(*party);
                }
            }
        }
        for party in &touched {
            if let Some(changed) = self.changed.get_mut(party) {
                changed.make(site)?;
            }
        }
        Ok(touched)
    }
}

/// What some policies of ingress say of those who send.
struct View {
    judge: Arc<Judge>,
    matched: Matched,
    /// By rules.
    said: HashMap<Vec<u32>, Arc<Ruling<Outcome>>>,
    /// Of those elsewhere, and of those of them who are also here.
    of_party: HashMap<u32, [Arc<Ruling<Outcome>>; 2]>,
    /// By what egress says, and by place in memory of what ingress does.
    entries: HashMap<(PolicyEntry, usize), Option<PolicyEntry>>,
}

impl View {
    fn new(judge: &Arc<Judge>, parties: &Parties) -> Self {
        Self {
            matched: Matched::of(&judge.book(), &parties.senders),
            judge: Arc::clone(judge),
            said: HashMap::new(),
            of_party: HashMap::new(),
            entries: HashMap::new(),
        }
    }

    /// An entry of egress with what ingress says of a party; `None` where that denies nothing
    /// more.
    fn entry(
        &mut self,
        site: &mut Site<'_, '_>,
        (number, party): (u32, &Party),
        egress: &PolicyEntry,
        is_local: bool,
    ) -> Result<Option<PolicyEntry>, CompileError> {
        let known = self.of_party.get(&number).cloned();
        let [elsewhere, both] = known.unwrap_or_else(|| self.of_party(site, number, party));
        let ingress = if is_local { both } else { elsewhere };
        // Told apart by where they are, and they stay there.
        let key = (*egress, Arc::as_ptr(&ingress).addr());
        if let Some(known) = self.entries.get(&key) {
            return Ok(*known);
        }
        let both = site.ruling(egress).with(&ingress, denied_by_either);
        let instead = |pick: &Pick| matches!(pick, Pick::Instead(_));
        let is_different =
            instead(&both.default) || both.differing.iter().any(|(.., pick)| instead(pick));
        let entry = if is_different {
            Some(site.entry(&self.judge.book(), &both)?)
        } else {
            None
        };
        self.entries.insert(key, entry);
        Ok(entry)
    }

    fn of_party(
        &mut self,
        site: &Site<'_, '_>,
        number: u32,
        party: &Party,
    ) -> [Arc<Ruling<Outcome>>; 2] {
        let elsewhere = self.ingress(site, &party.seen);
        // An identity that is also on this host is judged here as it is known here.
        let here = self.ingress(site, &[party.here]);
        let both = if Arc::ptr_eq(&elsewhere, &here) {
            Arc::clone(&elsewhere)
        } else {
            Arc::new(elsewhere.with(&here, more_lenient))
        };
        let of_party = [elsewhere, both];
        self.of_party.insert(number, of_party.clone());
        of_party
    }

    /// What ingress says of somebody who is seen as one of these.
    fn ingress(&mut self, site: &Site<'_, '_>, seen: &[u32]) -> Arc<Ruling<Outcome>> {
        let mut best: Option<Arc<Ruling<Outcome>>> = None;
        for sender in seen {
            let rules = self.matched.rules(*sender);
            let judge = &self.judge;
            let one = self.said.entry(rules).or_insert_with_key(|rules| {
                let ruling = site.outcomes(&judge.book(), rules);
                Arc::new(with_failsafe(site, ruling, judge.is_host))
            });
            best = Some(match best {
                Some(best) if !Arc::ptr_eq(&best, one) => Arc::new(best.with(one, more_lenient)),
                _ => Arc::clone(one),
            });
        }
        // Who is not seen at all is denied nothing; but everybody is seen in some way.
        best.unwrap_or_else(|| Arc::new(Ruling::everywhere((Action::Allow, Cause::Default))))
    }
}

/// What no policy of a host closes is open.
fn with_failsafe(site: &Site<'_, '_>, ruling: Ruling<Outcome>, is_host: bool) -> Ruling<Outcome> {
    if !is_host {
        return ruling;
    }
    let failsafe = site.ground.inputs.policy.node.failsafe_in_force().iter();
    let ingress = failsafe.filter(|f| f.direction == Direction::Ingress);
    let ports: BTreeSet<_> = ingress.map(|f| (f.protocol, f.port)).collect();
    let ports = ports.into_iter();
    let open = ports.map(|(protocol, port)| (protocol, port, port, true));
    let open = Ruling::new(false, open.collect());
    ruling.with(&open, |(action, cause), open| {
        (if open { Action::Allow } else { action }, cause)
    })
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
