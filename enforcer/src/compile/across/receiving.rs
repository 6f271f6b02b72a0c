//! Ingress from the shared addresses of other nodes: what one of those behind them may do.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use enforcer_common::{
    Direction, identity,
    policy_key::{ALLOW_ALL, PolicyEntry},
};

use super::{
    Across, Pick,
    ruling::Ruling,
    senders::{Matched, Senders},
    strictness,
};
use crate::compile::{
    elsewhere::Reached, image::IdentitySubject, limits::CompileError, tiers::Outcome,
};

/// The senders behind shared addresses, kept from one compilation to the next.
#[derive(Debug, Default)]
pub(in crate::compile) struct Behind {
    senders: Senders,
    /// By identity of the address.
    members: BTreeMap<u32, Arc<[u32]>>,
}

/// Endpoints of this host that judge alike.
type Alike = BTreeMap<(u32, Vec<u32>, Reachable), Vec<u32>>;

/// What others know of how an identity of this host is reached; `None`: by its address.
type Reachable = Option<BTreeSet<(u8, u16)>>;

impl Across<'_> {
    /// The ingress sets, by identity, that are not what they were without this.
    pub(super) fn receiving(
        &mut self,
        local: &BTreeMap<u32, [u32; 2]>,
        behind: &mut Behind,
    ) -> Result<BTreeMap<u32, u32>, CompileError> {
        behind.update(self);
        let mut alike = Alike::new();
        let mut policies = BTreeSet::new();
        for (number, reachable) in self.reachable() {
            let Some(sets) = local.get(&number) else {
                continue;
            };
            let set = sets[Direction::Ingress as usize];
            if set != ALLOW_ALL {
                let (_, about) = self.policies_of(number);
                policies.extend(about);
                let key = (set, about.to_vec(), reachable);
                alike.entry(key).or_default().push(number);
            }
        }
        let matched = Matched::of(self.book, &policies, &behind.senders);
        let mut sets = BTreeMap::new();
        for ((set, policies, reachable), numbers) in alike {
            let open = match reachable {
                None => Ruling::everywhere(true),
                Some(ports) => {
                    let ports = ports.into_iter();
                    let ports = ports.map(|(protocol, port)| (protocol, port, port, true));
                    Ruling::new(false, ports.collect())
                }
            };
            let different = self.let_in(set, &policies, &open, &matched, behind)?;
            if !different.is_empty() {
                let changed = self.changed(set, &different)?;
                sets.extend(numbers.into_iter().map(|number| (number, changed)));
            }
        }
        Ok(sets)
    }

    /// The entries of a set for shared addresses that are other ones, because of those behind.
    fn let_in(
        &mut self,
        set: u32,
        policies: &[u32],
        open: &Ruling<bool>,
        matched: &Matched,
        behind: &Behind,
    ) -> Result<BTreeMap<u32, PolicyEntry>, CompileError> {
        let for_everybody = self.for_everybody(policies);
        // By rules, so that the order does not depend on when somebody was first seen.
        let mut senders: BTreeMap<Vec<u32>, Vec<u32>> = BTreeMap::new();
        for sender in matched.senders(policies) {
            let rules = matched.rules(policies, sender, &for_everybody);
            senders.entry(rules).or_default().push(sender);
        }
        let mut kinds: HashMap<u32, usize> = HashMap::new();
        let mut said = Vec::with_capacity(senders.len() + 1);
        for (rules, senders) in senders {
            kinds.extend(senders.into_iter().map(|sender| (sender, said.len())));
            said.push(self.outcomes(policies, &rules));
        }
        let others = said.len();
        said.push(self.outcomes(policies, &for_everybody));

        let mut known: HashMap<(PolicyEntry, BTreeSet<usize>), Option<PolicyEntry>> =
            HashMap::new();
        let mut different = BTreeMap::new();
        for (shared, members) in &behind.members {
            let kinds = members
                .iter()
                .map(|m| kinds.get(m).copied().unwrap_or(others));
            let kinds: BTreeSet<usize> = kinds.collect();
            let (entry, own) = self.said_of(set, *shared);
            if !own && kinds.iter().all(|kind| *kind == others) {
                // As everybody of whom no rule speaks.
                continue;
            }
            let key = (entry, kinds);
            let put = if let Some(put) = known.get(&key) {
                *put
            } else {
                let some = key.1.iter().map(|kind| &said[*kind]);
                let put = self.with_some(&entry, some, open)?;
                known.insert(key, put);
                put
            };
            if let Some(put) = put {
                different.insert(*shared, put);
            }
        }
        Ok(different)
    }

    /// An entry with what is let through for some of those behind an address at the ports that
    /// are open to it; `None` where that is nothing more.
    fn with_some<'r>(
        &mut self,
        entry: &PolicyEntry,
        some: impl Iterator<Item = &'r Ruling<Outcome>>,
        open: &Ruling<bool>,
    ) -> Result<Option<PolicyEntry>, CompileError> {
        let host = self.ruling(entry);
        let keep = Ruling {
            default: Pick::Keep(host.default),
            differing: (host.differing.iter())
                .map(|(protocol, first, last, said)| (*protocol, *first, *last, Pick::Keep(*said)))
                .collect(),
        };
        let all = some.fold(keep.clone(), |all, one| all.with(one, allowed_by_either));
        let both = all
            .with(open, |pick, open| (pick, open))
            .with(&keep, |(pick, open), keep| if open { pick } else { keep });
        if both == keep {
            return Ok(None);
        }
        self.entry(&both).map(Some)
    }

    /// How the others reach the identities of this host, where they do.
    fn reachable(&self) -> BTreeMap<u32, Reachable> {
        let mut reachable: BTreeMap<u32, Reachable> = BTreeMap::new();
        let Some(own) = &self.inputs.elsewhere.own else {
            return reachable;
        };
        reachable.insert(identity::HOST, None);
        for table in [&self.known.workloads, &self.known.attested] {
            for (name, number) in table.iter() {
                match own.0.get(name) {
                    None => {}
                    Some(Reached::ByAddress) => drop(reachable.insert(*number, None)),
                    Some(Reached::ByPort(more)) => {
                        let ports = reachable.entry(*number).or_insert(Some(BTreeSet::new()));
                        if let Some(ports) = ports {
                            ports.extend(more);
                        }
                    }
                }
            }
        }
        reachable
    }
}

impl Behind {
    fn update(&mut self, across: &Across<'_>) {
        self.senders.catch_up(across.index);
        let known = across.known;
        let mut before = std::mem::take(&mut self.members);
        for (number, identity) in known.identities.iter() {
            let IdentitySubject::RemoteHost { sharing, .. } = &identity.subject else {
                continue;
            };
            if sharing.is_empty() {
                continue;
            }
            let members = before.remove(number).unwrap_or_else(|| {
                let members = sharing.iter().map(|subject| {
                    let prefixes = identity.prefixes.clone();
                    let seen = known.identity_at(subject.clone(), prefixes);
                    self.senders.number(seen, across.index)
                });
                members.collect()
            });
            self.members.insert(*number, members);
        }
    }
}

/// Who lets more through decides.
fn allowed_by_either(pick: Pick, some: Outcome) -> Pick {
    let action = match pick {
        Pick::Keep(decision) => decision.action(),
        Pick::Instead((action, _)) => action,
    };
    if strictness(some.0) < strictness(action) {
        Pick::Instead(some)
    } else {
        pick
    }
}
