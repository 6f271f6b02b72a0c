//! Ingress from the shared addresses of other nodes: what one of those behind them may do.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use enforcer_common::{
    identity,
    policy_key::{ALLOW_ALL, PolicyEntry},
};

use super::{
    Changed, Ground, Judge, Pick, Site,
    ruling::Ruling,
    senders::{Matched, Senders},
    strictness,
};
use crate::compile::{
    elsewhere::{Announced, Reached},
    image::{Identity, IdentitySubject},
    limits::CompileError,
    tiers::Outcome,
};

/// The senders behind shared addresses, kept from one compilation to the next.
#[derive(Debug, Default)]
pub(super) struct Behind {
    pub senders: Senders,
    /// By identity of the address.
    members: BTreeMap<u32, Arc<[u32]>>,
}

/// What others know of how identities of this host are reached, those that are.
#[derive(Debug, Default)]
pub(super) struct Open {
    of: Option<Arc<Announced>>,
    by_identity: BTreeMap<u32, Reachable>,
}

/// `None`: by its address. Otherwise by these protocols and ports.
type Reachable = Option<BTreeSet<(u8, u16)>>;

/// What is different in the ingress of one moment, kept from one compilation to the next.
#[derive(Debug, Default)]
pub(super) struct Receiving {
    /// By identity of this host.
    receivers: BTreeMap<u32, Receiver>,
}

/// Somebody of this host who is reached from elsewhere.
#[derive(Debug)]
struct Receiver {
    judge: Arc<Judge>,
    reachable: Reachable,
    changed: Changed,
}

impl Behind {
    /// Takes in identities that came; returns those of shared addresses.
    pub fn follow<'i>(
        &mut self,
        come: impl Iterator<Item = (&'i u32, &'i Arc<Identity>)>,
        ground: &Ground<'_>,
    ) -> BTreeSet<u32> {
        let mut new = BTreeSet::new();
        for (number, identity) in come {
            let IdentitySubject::RemoteHost { sharing, .. } = &identity.subject else {
                continue;
            };
            if sharing.is_empty() {
                continue;
            }
            let members = sharing.iter().map(|subject| {
                let prefixes = identity.prefixes.clone();
                let seen = ground.known.identity_at(subject.clone(), prefixes);
                self.senders.number(seen, ground.index)
            });
            self.members.insert(*number, members.collect());
            new.insert(*number);
        }
        new
    }
}

impl Open {
    /// Returns the identities that are reached in another way than before.
    pub fn follow(&mut self, ground: &Ground<'_>) -> Vec<u32> {
        self.of.clone_from(&ground.inputs.elsewhere.own);
        let now = self.find(ground);
        let before = std::mem::replace(&mut self.by_identity, now);
        let numbers: BTreeSet<&u32> = before.keys().chain(self.by_identity.keys()).collect();
        let numbers = numbers.into_iter().copied();
        numbers
            .filter(|number| before.get(number) != self.by_identity.get(number))
            .collect()
    }

    /// Whether the others know the same of this node as in the last compilation.
    pub fn is_of(&self, own: Option<&Arc<Announced>>) -> bool {
        self.of.as_ref().map(Arc::as_ptr) == own.map(Arc::as_ptr)
    }

    fn find(&self, ground: &Ground<'_>) -> BTreeMap<u32, Reachable> {
        let mut reachable: BTreeMap<u32, Reachable> = BTreeMap::new();
        let Some(own) = &self.of else {
            return reachable;
        };
        reachable.insert(identity::HOST, None);
        let known = ground.known;
        for (name, reached) in &own.0 {
            let numbers = [&known.workloads, &known.attested];
            for number in numbers.into_iter().filter_map(|table| table.get(name)) {
                match reached {
                    Reached::ByAddress => drop(reachable.insert(*number, None)),
                    Reached::ByPort(more) => {
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

impl Receiving {
    /// The set of an identity that is not what it was without this.
    pub fn changed(&self, number: u32) -> Option<&Changed> {
        self.receivers
            .get(&number)
            .map(|receiver| &receiver.changed)
    }

    /// By identity, every set that is not what it was without this.
    pub fn into_changed(self) -> impl Iterator<Item = (u32, Changed)> {
        let receivers = self.receivers.into_iter();
        receivers.map(|(number, receiver)| (number, receiver.changed))
    }

    /// Takes in what is in force for an identity of this host without this; `None`: it is not
    /// of this host any more. Returns whether all its entries are to be found anew.
    pub fn follow(
        &mut self,
        site: &mut Site<'_, '_>,
        number: u32,
        now: Option<(u32, &Arc<Judge>)>,
        open: &Open,
    ) -> bool {
        let now = now.filter(|(set, _)| *set != ALLOW_ALL);
        let Some(((set, judge), reachable)) = now.zip(open.by_identity.get(&number)) else {
            if let Some(gone) = self.receivers.remove(&number) {
                gone.changed.end(site);
            }
            return false;
        };
        if let Some(known) = self.receivers.get_mut(&number) {
            if known.changed.base == set
                && known.judge.is_same(judge)
                && known.reachable == *reachable
            {
                return false;
            }
            known.judge = Arc::clone(judge);
            known.reachable.clone_from(reachable);
            known.changed.start_over(set);
        } else {
            let receiver = Receiver {
                judge: Arc::clone(judge),
                reachable: reachable.clone(),
                changed: Changed::new(set),
            };
            self.receivers.insert(number, receiver);
        }
        true
    }

    /// Finds all entries of some anew, and those of `new` addresses for everybody, and the sets
    /// that they are in. Returns whose sets they are.
    pub fn make(
        &mut self,
        site: &mut Site<'_, '_>,
        anew: &BTreeSet<u32>,
        new: &BTreeSet<u32>,
        behind: &Behind,
    ) -> Result<BTreeSet<u32>, CompileError> {
        let mut touched = BTreeSet::new();
        let mut views: HashMap<(u32, Vec<u64>, Reachable), View> = HashMap::new();
        // In the order of their numbers, so that new ones come out the same each time.
        for (number, receiver) in &mut self.receivers {
            let all = anew.contains(number);
            if !all && new.is_empty() {
                continue;
            }
            let Receiver {
                judge,
                reachable,
                changed,
            } = receiver;
            let (_, ids) = judge.key();
            let view = views.entry((changed.base, ids, reachable.clone()));
            let view = view.or_insert_with(|| View::new(site, judge, reachable, &behind.senders));
            let mut is_different = all;
            for (shared, members) in &behind.members {
                if all || new.contains(shared) {
                    site.builder.work.between += 1;
                    let entry = view.entry(site, changed.base, *shared, members)?;
                    is_different |= changed.say(*shared, entry);
                }
            }
            if is_different {
                changed.make(site)?;
                touched.insert(*number);
            }
        }
        Ok(touched)
    }
}

/// What some policies of ingress say of those behind shared addresses.
struct View {
    judge: Arc<Judge>,
    open: Ruling<bool>,
    /// What is said of some senders, and last of everybody of whom no rule speaks.
    said: Vec<Ruling<Outcome>>,
    /// By sender: place in `said`.
    kinds: HashMap<u32, usize>,
    /// By what is said without this, and by what is said of those behind.
    entries: HashMap<(PolicyEntry, BTreeSet<usize>), Option<PolicyEntry>>,
}

impl View {
    fn new(
        site: &Site<'_, '_>,
        judge: &Arc<Judge>,
        reachable: &Reachable,
        senders: &Senders,
    ) -> Self {
        let open = match reachable {
            None => Ruling::everywhere(true),
            Some(ports) => {
                let ports = ports.iter();
                let ports = ports.map(|(protocol, port)| (*protocol, *port, *port, true));
                Ruling::new(false, ports.collect())
            }
        };
        let book = judge.book();
        let matched = Matched::of(&book, senders);
        // By rules, so that the order does not depend on when somebody was first seen.
        let mut by_rules: BTreeMap<Vec<u32>, Vec<u32>> = BTreeMap::new();
        for sender in matched.senders() {
            let rules = matched.rules(sender);
            by_rules.entry(rules).or_default().push(sender);
        }
        let mut kinds: HashMap<u32, usize> = HashMap::new();
        let mut said = Vec::with_capacity(by_rules.len() + 1);
        for (rules, senders) in by_rules {
            kinds.extend(senders.into_iter().map(|sender| (sender, said.len())));
            said.push(site.outcomes(&book, &rules));
        }
        said.push(site.outcomes(&book, matched.for_everybody()));
        Self {
            judge: Arc::clone(judge),
            open,
            said,
            kinds,
            entries: HashMap::new(),
        }
    }

    /// The entry of a set for a shared address, if it is another one because of those behind.
    fn entry(
        &mut self,
        site: &mut Site<'_, '_>,
        set: u32,
        shared: u32,
        members: &[u32],
    ) -> Result<Option<PolicyEntry>, CompileError> {
        let others = self.said.len() - 1;
        let kinds = members.iter();
        let kinds = kinds.map(|member| self.kinds.get(member).copied().unwrap_or(others));
        let kinds: BTreeSet<usize> = kinds.collect();
        let (entry, own) = site.said_of(set, shared);
        if !own && kinds.iter().all(|kind| *kind == others) {
            // As everybody of whom no rule speaks.
            return Ok(None);
        }
        let key = (entry, kinds);
        if let Some(known) = self.entries.get(&key) {
            return Ok(*known);
        }
        let host = site.ruling(&entry);
        let keep = Ruling {
            default: Pick::Keep(host.default),
            differing: (host.differing.iter())
                .map(|(protocol, first, last, said)| (*protocol, *first, *last, Pick::Keep(*said)))
                .collect(),
        };
        let some = key.1.iter().map(|kind| &self.said[*kind]);
        let all = some.fold(keep.clone(), |all, one| all.with(one, allowed_by_either));
        // Only at the ports that are open to those elsewhere.
        let both = all
            .with(&self.open, |pick, open| (pick, open))
            .with(&keep, |(pick, open), keep| if open { pick } else { keep });
        let put = if both == keep {
            None
        } else {
            Some(site.entry(&self.judge.book(), &both)?)
        };
        self.entries.insert(key, put);
        Ok(put)
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
