//! The policies of one direction: whom each of them selects, and what it says. Kept from one
//! compilation to the next, with a list of those for whom something may be different. In the book
//! of egress are the identities of this host, in that of ingress also those elsewhere.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use enforcer_common::Direction;

use super::{
    peers::PeerIndex,
    rules::{PolicyRules, names_ports, ports_asked, says_something, subject_of},
};
use crate::policy::model::{Mode, Moment, NamedPort, Policy};

/// Whose sets are looked at again.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    /// The host's.
    pub host: bool,
    /// Those of workloads, by position.
    pub positions: BTreeSet<u32>,
}

/// Policies that say something in one direction.
#[derive(Debug)]
pub(super) struct Book {
    direction: Direction,
    /// What policies without a mode of their own have.
    mode: Mode,
    /// By place in memory: while a policy is here, nothing else can be where it is.
    policies: HashMap<Place, BookPolicy>,
    /// Policies by the peers that they select.
    selecting: HashMap<u32, HashSet<Place>>,
    /// Policies whose rules are about a peer, each with the [`PolicyRules::id`]s of those.
    about: HashMap<u32, HashMap<u64, Place>>,
    /// By position of everybody in the book: the policies that select it, in the order of
    /// [`Policy::rank`].
    selected: HashMap<u32, Vec<Arc<Policy>>>,
    /// The same of the host.
    of_host: Vec<Arc<Policy>>,
    /// Policies that begin or end to hold, or rules of which do.
    timed: HashSet<Place>,
    /// Policies whose rules of egress name ports, which [`PeerIndex::ports_known`] gave meaning.
    asking: HashSet<Place>,
    ports_known: usize,
    /// The moments of the last compilation.
    moments: Vec<Moment>,
    last_id: u64,
    /// [`PolicyRules::id`]s of which a peer matches more than in the last compilation.
    pub grown: HashSet<u64>,
    pub dirty: Dirty,
}

type Place = usize;

fn place_of(policy: &Arc<Policy>) -> Place {
    Arc::as_ptr(policy).addr()
}

#[derive(Debug)]
struct BookPolicy {
    policy: Arc<Policy>,
    /// The peer numbers of its selectors; `None`: the host.
    subject: Option<Arc<[u32]>>,
    /// Rules of ingress name ports, so that they say something else of each list of ports.
    asks_subjects: bool,
    timed: bool,
    /// What it says, by the ports of whom it selects; more than once where it is timed.
    says: HashMap<Vec<NamedPort>, Vec<Arc<PolicyRules>>>,
}

impl Book {
    pub fn new(direction: Direction, mode: Mode) -> Self {
        Self {
            direction,
            mode,
            policies: HashMap::new(),
            selecting: HashMap::new(),
            about: HashMap::new(),
            selected: HashMap::new(),
            of_host: Vec::new(),
            timed: HashSet::new(),
            asking: HashSet::new(),
            ports_known: 0,
            moments: Vec::new(),
            last_id: 0,
            grown: HashSet::new(),
            // Nobody has looked yet.
            dirty: Dirty {
                host: true,
                positions: BTreeSet::new(),
            },
        }
    }

    /// Takes a policy out.
    pub fn remove(&mut self, policy: &Arc<Policy>, index: &PeerIndex) {
        let place = place_of(policy);
        let Some(gone) = self.policies.remove(&place) else {
            return;
        };
        self.timed.remove(&place);
        self.asking.remove(&place);
        self.forget(gone.says.into_values().flatten());
        let Some(subject) = gone.subject else {
            take_out(&mut self.of_host, policy);
            self.dirty.host = true;
            return;
        };
        for peer in subject.iter() {
            if let Some(places) = self.selecting.get_mut(peer) {
                places.remove(&place);
                if places.is_empty() {
                    self.selecting.remove(peer);
                }
            }
            for position in index.matching(*peer) {
                if let Some(list) = self.selected.get_mut(position) {
                    take_out(list, policy);
                    self.dirty.positions.insert(*position);
                }
            }
        }
    }

    /// Puts a policy in.
    pub fn add(&mut self, policy: &Arc<Policy>, index: &mut PeerIndex) {
        if policy.rules[self.direction as usize].is_none() {
            return;
        }
        let place = place_of(policy);
        let subject = subject_of(policy, index);
        let names_ports = names_ports(policy, self.direction);
        let timed = policy.boundaries().next().is_some();
        if timed {
            self.timed.insert(place);
        }
        if names_ports && self.direction == Direction::Egress {
            self.asking.insert(place);
        }
        match &subject {
            None => {
                put_in(&mut self.of_host, policy);
                self.dirty.host = true;
            }
            Some(peers) => {
                for peer in peers.iter() {
                    self.selecting.entry(*peer).or_default().insert(place);
                    for position in index.matching(*peer) {
                        if let Some(list) = self.selected.get_mut(position) {
                            put_in(list, policy);
                            self.dirty.positions.insert(*position);
                        }
                    }
                }
            }
        }
        let known = BookPolicy {
            policy: Arc::clone(policy),
            asks_subjects: names_ports && self.direction == Direction::Ingress && subject.is_some(),
            subject,
            timed,
            says: HashMap::new(),
        };
        self.policies.insert(place, known);
    }

    /// Looks at identities again, and brings those in who are in this book, and takes those out
    /// who are not.
    pub fn follow_identities(
        &mut self,
        numbers: impl Iterator<Item = u32>,
        is_in: impl Fn(u32) -> bool,
        index: &PeerIndex,
    ) {
        for number in numbers {
            let Some(position) = index.position(number) else {
                continue;
            };
            if is_in(number) {
                self.enroll(position, index);
            } else {
                self.dismiss(position);
            }
        }
    }

    /// Somebody is looked at again, or the host (`None`).
    pub fn look_at(&mut self, position: Option<u32>) {
        match position {
            Some(position) => drop(self.dirty.positions.insert(position)),
            None => self.dirty.host = true,
        }
    }

    /// Everybody in this book is looked at again.
    pub fn look_at_all(&mut self) {
        self.dirty.host = true;
        self.dirty.positions.extend(self.selected.keys());
    }

    /// Everybody is looked at again whose policies are about one of these peers.
    pub fn look_at_those_about(&mut self, peers: &BTreeSet<u32>, index: &PeerIndex) {
        let about = peers.iter().filter_map(|peer| self.about.get(peer));
        let places: HashSet<Place> = about.flat_map(HashMap::values).copied().collect();
        self.look_at_those_of(places, index);
    }

    /// Everybody is looked at again whom one of these policies selects.
    fn look_at_those_of(&mut self, places: HashSet<Place>, index: &PeerIndex) {
        for place in places {
            let Some(subject) = &self.policies[&place].subject else {
                self.dirty.host = true;
                continue;
            };
            let positions = subject.iter().flat_map(|peer| index.matching(*peer));
            let inside = positions.filter(|position| self.selected.contains_key(position));
            self.dirty.positions.extend(inside);
        }
    }

    /// The identity at a position is in the book.
    fn enroll(&mut self, position: u32, index: &PeerIndex) {
        let mut list = Vec::new();
        for peer in index.matched_by(position) {
            for place in self.selecting.get(&peer).into_iter().flatten() {
                put_in(&mut list, &self.policies[place].policy);
            }
        }
        self.selected.insert(position, list);
        self.dirty.positions.insert(position);
    }

    /// The identity at a position is not in the book any more.
    fn dismiss(&mut self, position: u32) {
        self.selected.remove(&position);
        self.dirty.positions.insert(position);
    }

    /// Finds out what is different because of whom peers match now, and of time: `moments` are
    /// that of the inputs and those ahead. To be called when policies and workloads are in.
    pub fn follow(&mut self, index: &PeerIndex, moments: &[Moment]) {
        self.grown.clear();
        let mut concerned = HashSet::new();
        for (id, place) in index
            .grown()
            .keys()
            .filter_map(|peer| self.about.get(peer))
            .flatten()
        {
            self.grown.insert(*id);
            concerned.insert(*place);
        }
        if self.ports_known != index.ports_known() {
            self.ports_known = index.ports_known();
            for place in self.asking.clone() {
                let Some(policy) = self.policies.get_mut(&place) else {
                    continue;
                };
                let says = std::mem::take(&mut policy.says);
                self.forget(says.into_values().flatten());
                concerned.insert(place);
            }
        }
        let ahead = |moments: &[Moment]| moments.get(1..).unwrap_or_default().to_vec();
        let another_ahead = ahead(&self.moments) != ahead(moments);
        let both_now = self.moments.first().zip(moments.first());
        for place in &self.timed {
            let policy = &self.policies[place].policy;
            let same_now = both_now.is_some_and(|(one, other)| policy.means_the_same(*one, *other));
            if another_ahead || !same_now {
                concerned.insert(*place);
            }
        }
        self.moments = moments.to_vec();
        self.look_at_those_of(concerned, index);
    }

    /// Whether something that selects a workload, or the host (`None`), begins or ends to hold.
    pub fn is_timed(&self, position: Option<u32>) -> bool {
        let list = self.selecting_list(position);
        list.iter()
            .any(|policy| self.policies[&place_of(policy)].timed)
    }

    /// Whether the identity at a position is in the book.
    pub fn is_enrolled(&self, position: u32) -> bool {
        self.selected.contains_key(&position)
    }

    fn selecting_list(&self, position: Option<u32>) -> &[Arc<Policy>] {
        match position {
            None => &self.of_host,
            Some(position) => self.selected.get(&position).map_or(&[], Vec::as_slice),
        }
    }

    /// What the policies say at a moment that select a workload, or the host (`None`), in order.
    pub fn says(
        &mut self,
        position: Option<u32>,
        now: Moment,
        index: &mut PeerIndex,
    ) -> Vec<Arc<PolicyRules>> {
        let places: Vec<_> = self.selecting_list(position).iter().map(place_of).collect();
        let mut all = Vec::with_capacity(places.len());
        for place in places {
            let Some(known) = self.policies.get_mut(&place) else {
                continue;
            };
            if !says_something(&known.policy, self.direction, now) {
                continue;
            }
            let ports = match position {
                Some(position) if known.asks_subjects => {
                    ports_asked(&known.policy, index, position)
                }
                _ => Vec::new(),
            };
            let found = known.says.get(&ports).into_iter().flatten();
            let mut found =
                found.filter(|says| !known.timed || known.policy.means_the_same(says.as_of, now));
            if let Some(says) = found.next() {
                all.push(Arc::clone(says));
                continue;
            }
            self.last_id += 1;
            let mode = known.policy.mode.unwrap_or(self.mode);
            let says = PolicyRules::new(
                &known.policy,
                (self.last_id, mode, now),
                &ports,
                self.direction,
                index,
            );
            let says = Arc::new(says);
            for peer in says.peers() {
                self.about.entry(peer).or_default().insert(says.id, place);
            }
            known.says.entry(ports).or_default().push(Arc::clone(&says));
            all.push(says);
        }
        all
    }

    /// The compilation ends: forgets what policies said at moments that have passed.
    pub fn settle(&mut self) {
        self.dirty = Dirty::default();
        let mut past = Vec::new();
        for place in &self.timed {
            let Some(known) = self.policies.get_mut(place) else {
                continue;
            };
            let BookPolicy { policy, says, .. } = known;
            for list in says.values_mut() {
                list.retain(|says| {
                    let mut moments = self.moments.iter();
                    let of_use = moments.any(|moment| policy.means_the_same(says.as_of, *moment));
                    if !of_use {
                        past.push(Arc::clone(says));
                    }
                    of_use
                });
            }
            says.retain(|_, list| !list.is_empty());
        }
        self.forget(past.into_iter());
    }

    fn forget(&mut self, gone: impl Iterator<Item = Arc<PolicyRules>>) {
        for says in gone {
            for peer in says.peers() {
                if let Some(ids) = self.about.get_mut(&peer) {
                    ids.remove(&says.id);
                    if ids.is_empty() {
                        self.about.remove(&peer);
                    }
                }
            }
        }
    }
}

/// Puts a policy into a list in the order of [`Policy::rank`], unless it is there.
fn put_in(list: &mut Vec<Arc<Policy>>, policy: &Arc<Policy>) {
    let at = list.partition_point(|other| other.rank() < policy.rank());
    let mut namesakes = list[at..]
        .iter()
        .take_while(|other| other.rank() == policy.rank());
    if !namesakes.any(|other| Arc::ptr_eq(other, policy)) {
        list.insert(at, Arc::clone(policy));
    }
}

/// Takes a policy out of a list in the order of [`Policy::rank`].
fn take_out(list: &mut Vec<Arc<Policy>>, policy: &Arc<Policy>) {
    let at = list.partition_point(|other| other.rank() < policy.rank());
    let namesakes = list[at..]
        .iter()
        .position(|other| Arc::ptr_eq(other, policy));
    if let Some(after) = namesakes {
        list.remove(at + after);
    }
}
