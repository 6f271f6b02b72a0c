//! From one image to the next without a moment in which a peer is judged by half of each.
//!
//! Endpoints flip to their new sets one map update at a time, and addresses to their new
//! identities another update each. In between, an old set would meet an identity that it knows
//! nothing of (so a deny for some label would not bite), and a new set one that still has its
//! old labels (so what both policies allow would be cut). Therefore a peer whose identity
//! changes is known for a moment by a *transient* identity, which old sets judge as what it was
//! and new sets as what it will be. (Where no old set tells its two identities apart it has the
//! new one at once, and where no new set does it keeps the old one so long.)
//!
//! 1. Write the new sets and tables, and [`Bridge::entries`].
//! 2. Write the address and prefix tables: [`Bridge::peers`] where it names one, otherwise as
//!    the new image says. Write the endpoints, with the sets that they have and the identity
//!    that [`Bridge::identity`] says; endpoints that are new come last, with their new sets.
//! 3. Flip the endpoints to their new sets.
//! 4. Give [`Bridge::peers`] and the endpoints their identities as the new image says. Raise
//!    the generation.
//! 5. Remove addresses, prefixes, sets and entries that the new image has not.
//!
//! At every moment, every pair of endpoint and peer is judged wholly by the old policy or
//! wholly by the new one. (One exception: where endpoints trade sets in one change, each taking
//! one that the other leaves, and a peer moves between two identities that such a set tells
//! apart, the peer is judged by its new identity a moment late.)

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
};

use enforcer_common::{
    config::MOMENTS,
    identity,
    policy_key::{PolicyEntry, PolicyKey},
};
use ipnet::IpNet;

use super::{prefix_table::PrefixTable, tables::PolicySets};

/// Transient identities count from here. [`super::Numbers`] stays below.
pub const TRANSIENT: u32 = 1 << 31;

/// What the kernel holds, or is to hold.
#[derive(Clone, Copy, Debug)]
pub struct Held<'a> {
    /// Identity by address (full length) and prefix, this host's own addresses included.
    pub peers: &'a HashMap<IpNet, u32>,
    /// The policy table.
    pub policies: &'a PolicySets,
}

/// What an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EndpointState {
    /// Its workload's identity: that of a peer whose socket is in it.
    pub identity: u32,
    /// Sets by direction, now and at moments ahead; the first again where there are fewer.
    pub sets: [[u32; 2]; MOMENTS + 1],
}

/// An endpoint before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointChange {
    /// `None`: it is new.
    pub old: Option<EndpointState>,
    /// `None`: it goes.
    pub new: Option<EndpointState>,
}

/// What to write in between.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bridge {
    /// Entries of transient identities, in old and new sets.
    pub entries: HashMap<PolicyKey, PolicyEntry>,
    /// The identity in between of every address and prefix whose identity changes, also of
    /// those that only the old or only the new image has.
    pub peers: HashMap<IpNet, u32>,
    /// The identity in between by old and new identity, where it is not the new one.
    between: HashMap<(u32, u32), u32>,
}

impl Bridge {
    /// Finds what to write. Transient identities are counted from `first`: [`TRANSIENT`] or
    /// higher, and better not the ones of the last change, which packets under way may still
    /// carry.
    ///
    /// Most changes need none: a peer that old sets do not know may have its new identity at
    /// once, and one that new sets do not know may keep its old one until the end.
    pub fn between(old: Held<'_>, new: Held<'_>, endpoints: &[EndpointChange], first: u32) -> Self {
        Self::between_with(old, new, endpoints, &[], first)
    }

    /// As [`Bridge::between`], for others besides whose identity changes: old and new ones.
    pub fn between_with(
        old: Held<'_>,
        new: Held<'_>,
        endpoints: &[EndpointChange],
        others: &[(u32, u32)],
        first: u32,
    ) -> Self {
        let moves = moves(old.peers, new.peers);
        let endpoint_moves = endpoints.iter().map(|change| {
            // Where no workload is, sockets are the host's.
            let of = |state: Option<EndpointState>| state.map_or(identity::HOST, |s| s.identity);
            (of(change.old), of(change.new))
        });
        let mut pairs: Vec<(u32, u32)> = moves
            .iter()
            .map(|(_, pair)| *pair)
            .chain(endpoint_moves)
            .chain(others.iter().copied())
            .filter(|(from, to)| from != to)
            .collect();
        pairs.sort_unstable();
        pairs.dedup();
        let mut bridge = Self::default();
        if !pairs.is_empty() {
            bridge.decide(old, new, &Sides::new(old, new, endpoints), pairs, first);
        }
        bridge.peers = moves
            .into_iter()
            .map(|(prefix, (from, to))| (prefix, bridge.identity(from, to)))
            .collect();
        bridge
    }

    fn decide(
        &mut self,
        old: Held<'_>,
        new: Held<'_>,
        sides: &Sides,
        mut pairs: Vec<(u32, u32)>,
        first: u32,
    ) {
        let concerned: HashSet<u32> = pairs.iter().flat_map(|(from, to)| [*from, *to]).collect();
        let hasher = RandomState::new();
        let before = prints(old.policies, &concerned, &hasher, |set| {
            sides.is_before(set)
        });
        let after = prints(new.policies, &concerned, &hasher, |set| {
            !sides.is_before(set)
        });
        pairs.retain(|(from, to)| {
            if before.get(from) == before.get(to) {
                // Nobody who judges as before tells them apart.
                return false;
            }
            if after.get(from) == after.get(to) {
                // Nobody who judges as after does.
                self.between.insert((*from, *to), *from);
                return false;
            }
            true
        });
        if pairs.is_empty() {
            return;
        }
        let mut leaving: HashMap<u32, Vec<u32>> = HashMap::new();
        let mut coming: HashMap<u32, Vec<u32>> = HashMap::new();
        for (transient, (from, to)) in (first..).zip(pairs) {
            self.between.insert((from, to), transient);
            leaving.entry(from).or_default().push(transient);
            coming.entry(to).or_default().push(transient);
        }
        for (policies, transients, is_before) in
            [(old.policies, leaving, true), (new.policies, coming, false)]
        {
            let chosen = |set| sides.is_before(set) == is_before;
            let peers = transients.keys().copied().collect();
            about(policies, &peers, chosen, |set, peer, entry| {
                let keys = transients[&peer]
                    .iter()
                    .map(|peer| PolicyKey { set, peer: *peer });
                self.entries.extend(keys.map(|key| (key, *entry)));
            });
        }
    }

    /// The identity between an old and a new one.
    pub fn identity(&self, from: u32, to: u32) -> u32 {
        self.between.get(&(from, to)).copied().unwrap_or(to)
    }

    /// Every transient identity and the one that it becomes, for reports of that moment.
    pub fn transients(&self) -> impl Iterator<Item = (u32, u32)> {
        let between = self.between.iter();
        between
            .map(|((_, to), identity)| (*identity, *to))
            .filter(|(identity, _)| *identity >= TRANSIENT)
    }
}

/// Which sets judge a peer by its old identity while it is on the bridge, and which by its new
/// one: a set that both images have by the old one if an endpoint leaves it, and by the new one
/// if endpoints only stay or come.
struct Sides(HashMap<u32, bool>);

impl Sides {
    fn new(old: Held<'_>, new: Held<'_>, endpoints: &[EndpointChange]) -> Self {
        let mut left = HashSet::new();
        for change in endpoints {
            let sets = |state: Option<EndpointState>| {
                state.map_or([[0; 2]; MOMENTS + 1], |state| state.sets)
            };
            let (old, new) = (sets(change.old), sets(change.new));
            for way in 0..2 {
                let stays = |set| new.iter().any(|sets| sets[way] == set);
                left.extend(
                    old.map(|sets| sets[way])
                        .into_iter()
                        .filter(|set| !stays(*set)),
                );
            }
        }
        let mut sides = HashMap::new();
        for (set, _) in old.policies.parts() {
            sides.insert(set, true);
        }
        for (set, _) in new.policies.parts() {
            sides.insert(set, false);
        }
        // A set that only the new image has is nobody's to leave.
        for set in left {
            sides.insert(set, true);
        }
        Self(sides)
    }

    fn is_before(&self, set: u32) -> bool {
        self.0.get(&set).copied().unwrap_or(false)
    }
}

/// Fingerprints of what the chosen sets say of some peers in particular; absent where they say
/// nothing. The hasher's keys are random, so that nobody can write two policies that look alike.
fn prints(
    policies: &PolicySets,
    concerned: &HashSet<u32>,
    hasher: &RandomState,
    chosen: impl Fn(u32) -> bool,
) -> HashMap<u32, u64> {
    let mut prints: HashMap<u32, u64> = HashMap::new();
    about(policies, concerned, chosen, |set, peer, entry| {
        let print = prints.entry(peer).or_default();
        // In any order.
        *print = print.wrapping_add(hasher.hash_one((set, entry)));
    });
    prints
}

/// Calls `visit` with set, peer and entry for what the chosen sets say of some peers.
fn about(
    policies: &PolicySets,
    peers: &HashSet<u32>,
    chosen: impl Fn(u32) -> bool,
    mut visit: impl FnMut(u32, u32, &PolicyEntry),
) {
    for (set, entries) in policies.parts().filter(|(set, _)| chosen(*set)) {
        // A search takes about as long as a few comparisons.
        if peers.len() < entries.len() / 16 {
            for peer in peers {
                if let Some(entry) = policies.get(&PolicyKey { set, peer: *peer }) {
                    visit(set, *peer, entry);
                }
            }
        } else {
            for (peer, entry) in entries.iter().filter(|(peer, _)| peers.contains(peer)) {
                visit(set, *peer, entry);
            }
        }
    }
}

/// Old and new identity, by longest match, of every address and prefix whose identity changes.
fn moves(old: &HashMap<IpNet, u32>, new: &HashMap<IpNet, u32>) -> Vec<(IpNet, (u32, u32))> {
    // An address contains nothing but itself.
    let table = |peers: &HashMap<IpNet, u32>| {
        let mut table = PrefixTable::default();
        for (prefix, identity) in peers {
            if prefix.prefix_len() < prefix.max_prefix_len() {
                table.add(*prefix, *identity);
            }
        }
        table
    };
    let (old_table, new_table) = (table(old), table(new));
    let around = |table: &PrefixTable<u32>, prefix| {
        let found = table.containing(prefix).next();
        found.map_or(identity::WORLD, |(_, identity)| *identity)
    };
    let kept = old.iter().map(|(prefix, from)| {
        let to = new.get(prefix).copied();
        (
            *prefix,
            (*from, to.unwrap_or_else(|| around(&new_table, *prefix))),
        )
    });
    let added = new.iter().filter(|(prefix, _)| !old.contains_key(*prefix));
    let added = added.map(|(prefix, to)| (*prefix, (around(&old_table, *prefix), *to)));
    kept.chain(added)
        .filter(|(_, (from, to))| from != to)
        .collect()
}

#[cfg(test)]
mod tests {
    use enforcer_common::{Action, Decision, Reason};

    use std::collections::BTreeMap;

    use super::*;

    /// A policy table of (set, peer, deciding rule).
    fn policies(entries: &[(u32, u32, u32)]) -> PolicySets {
        let entry = |rule| PolicyEntry {
            decision: Decision::new(Action::Deny, Reason::Rule, rule),
            table: 0,
            lengths: 0,
            rule: 0,
        };
        let entries = entries.iter();
        entries
            .map(|&(set, peer, rule)| (PolicyKey { set, peer }, entry(rule)))
            .collect()
    }

    fn peers(entries: &[(&str, u32)]) -> HashMap<IpNet, u32> {
        let entries = entries.iter();
        entries
            .map(|(prefix, number)| (prefix.parse().expect("a prefix"), *number))
            .collect()
    }

    fn change(old: u32, new: u32) -> EndpointChange {
        let state = |set| EndpointState {
            identity: identity::HOST,
            sets: [[0, set]; MOMENTS + 1],
        };
        EndpointChange {
            old: Some(state(old)),
            new: Some(state(new)),
        }
    }

    /// The rules by which a transient identity is judged, by set.
    fn judged(bridge: &Bridge, peer: u32) -> BTreeMap<u32, u32> {
        let entries = bridge.entries.iter().filter(|(key, _)| key.peer == peer);
        entries.map(|(k, e)| (k.set, e.decision.rule)).collect()
    }

    #[test]
    fn old_sets_see_what_a_peer_was_and_new_sets_what_it_will_be() {
        let old = policies(&[(1, 0, 1), (1, 300, 2)]);
        let new = policies(&[(2, 0, 3), (2, 301, 4), (2, 300, 5)]);
        let (before, after) = (
            peers(&[("10.0.0.1/32", 300)]),
            peers(&[("10.0.0.1/32", 301)]),
        );
        let held = |peers, policies| Held { peers, policies };
        let bridge = Bridge::between(
            held(&before, &old),
            held(&after, &new),
            &[change(1, 2)],
            TRANSIENT,
        );
        assert_eq!(bridge.peers, peers(&[("10.0.0.1/32", TRANSIENT)]));
        assert_eq!(judged(&bridge, TRANSIENT), BTreeMap::from([(1, 2), (2, 4)]));
        assert_eq!(bridge.identity(300, 301), TRANSIENT);
        assert!(bridge.transients().eq([(TRANSIENT, 301)]));
        assert_eq!(bridge.identity(7, 8), 8);
    }

    #[test]
    fn a_set_that_stays_judges_as_its_endpoints_need_it() {
        // Set 1 tells the old identity from the new one.
        let both = policies(&[(1, 0, 1), (1, 300, 2), (1, 301, 3), (2, 0, 4), (3, 0, 5)]);
        let (before, after) = (peers(&[("fd00::/64", 300)]), peers(&[("fd00::/64", 301)]));
        let between = |changes: &[EndpointChange]| {
            let held = |peers| Held {
                peers,
                policies: &both,
            };
            Bridge::between(held(&before), held(&after), changes, TRANSIENT)
        };
        // An endpoint comes to it: it must find the new identity.
        let coming = between(&[change(2, 1), change(1, 1)]);
        assert_eq!(coming.peers, peers(&[("fd00::/64", 301)]));
        // An endpoint leaves it: it must still find the old one.
        let leaving = between(&[change(1, 2), change(1, 1)]);
        assert_eq!(leaving.peers, peers(&[("fd00::/64", 300)]));
        // One leaves it for a set that tells the two apart as well.
        let both = policies(&[(1, 0, 1), (1, 300, 2), (2, 0, 4), (2, 301, 5)]);
        let held = |peers| Held {
            peers,
            policies: &both,
        };
        let leaving = Bridge::between(held(&before), held(&after), &[change(1, 2)], TRANSIENT);
        assert_eq!(
            judged(&leaving, TRANSIENT),
            BTreeMap::from([(1, 2), (2, 5)])
        );
    }

    #[test]
    fn who_only_comes_or_goes_needs_no_transient_identity() {
        let old = policies(&[(1, 0, 1), (1, 300, 2)]);
        let new = policies(&[(2, 0, 3), (2, 301, 4)]);
        let before = peers(&[("10.0.0.1/32", 300)]);
        let after = peers(&[("10.0.0.2/32", 301)]);
        let held = |peers, policies| Held { peers, policies };
        let bridge = Bridge::between(
            held(&before, &old),
            held(&after, &new),
            &[change(1, 2)],
            TRANSIENT,
        );
        // The one is what it was to old sets, and unknown to new ones; so with the other.
        assert_eq!(
            bridge.peers,
            peers(&[("10.0.0.1/32", 300), ("10.0.0.2/32", 301)])
        );
        assert!(bridge.entries.is_empty());
        assert_eq!(bridge.transients().count(), 0);
    }

    #[test]
    fn an_unknown_prefix_moves_from_the_one_around_it() {
        let old = policies(&[(1, 0, 1), (1, 300, 2)]);
        let (before, after) = (
            peers(&[("10.0.0.0/8", 300)]),
            peers(&[("10.0.0.0/8", 300), ("10.1.0.0/16", 301)]),
        );
        let held = |peers| Held {
            peers,
            policies: &old,
        };
        let bridge = Bridge::between(held(&before), held(&after), &[], TRANSIENT);
        assert_eq!(bridge.peers, peers(&[("10.1.0.0/16", 301)]));
        // And gone again: what is inside falls back to the prefix around it.
        let bridge = Bridge::between(held(&after), held(&before), &[], TRANSIENT);
        assert_eq!(bridge.peers, peers(&[("10.1.0.0/16", 300)]));
    }
}
