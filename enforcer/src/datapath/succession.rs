//! Which number the kernel has for each policy set, and which sets are changed where they are.
//!
//! An image numbers sets by content, so that a new one can be written beside the one that it
//! follows. Where it says something else of a few peers only, those few entries are changed in
//! the former one instead, and the kernel goes on with its number ([`Names`]). Of a flow one
//! entry of one set decides, and a map update replaces it as a whole; so every flow is judged as
//! before or as after, just as it is while endpoints flip one after the other. That is so where
//!
//! - everybody who judges by the former set, now or from a moment on, goes over to its successor
//!   from the same moment on, and nobody else comes;
//! - the wildcard's entry is the same in both: whoever has an entry of his own in one of them
//!   only goes from or to what is there already.

use std::collections::{HashMap, HashSet, hash_map::Entry};

use enforcer_common::{Direction, endpoint_entry::EndpointEntry, policy_key::PolicyEntry};

use crate::compile::{
    image::Image,
    tables::{PolicySets, SetEntries},
};

/// In how many peers a set may differ from the one that it follows, to be made out of it. The
/// time in which both are in force, each for some of the peers, is that of one short call.
const FEW: usize = 64;

/// The kernel's numbers of an image's sets, where they are others.
#[derive(Clone, Debug, Default)]
pub(super) struct Names(HashMap<u32, u32>);

impl Names {
    /// Names the sets of an image: a set that the kernel has (under the number that `before`
    /// knows, or as that of one who is to have it) by what it is called there, and any other by
    /// a number that is free there. `wanted`: who judges by which set of the kernel, and is to
    /// judge by which of the image.
    pub fn new(
        image: &Image,
        held: &PolicySets,
        before: &Self,
        wanted: impl Iterator<Item = (Option<u32>, Option<u32>)>,
    ) -> Self {
        let mut candidates: HashMap<u32, Vec<u32>> = HashMap::new();
        for (kernel, set) in wanted.filter_map(|(kernel, set)| kernel.zip(set)) {
            let list = candidates.entry(set).or_default();
            if !list.contains(&kernel) {
                list.push(kernel);
            }
        }
        let mut names = HashMap::new();
        let mut taken: HashSet<u32> = held.parts().map(|(kernel, _)| kernel).collect();
        let mut claimed = HashSet::new();
        let mut others = Vec::new();
        for (set, entries) in image.policies.parts() {
            let known = std::iter::once(before.of(set));
            let mut known = known.chain(candidates.get(&set).into_iter().flatten().copied());
            let same = known.find(|kernel| {
                let there = held.part(*kernel);
                !claimed.contains(kernel) && there.is_some_and(|there| is_same(there, entries))
            });
            match same {
                Some(kernel) => {
                    claimed.insert(kernel);
                    names.insert(set, kernel);
                }
                None => others.push(set),
            }
        }
        for set in others {
            // Images count from below.
            let free = std::iter::once(set).chain((1..=u32::MAX).rev());
            let kernel = free.into_iter().find(|kernel| !taken.contains(kernel));
            let kernel = kernel.unwrap_or(set);
            taken.insert(kernel);
            names.insert(set, kernel);
        }
        names.retain(|set, kernel| set != kernel);
        Self(names)
    }

    /// The kernel's number of an image's set.
    pub fn of(&self, set: u32) -> u32 {
        self.0.get(&set).copied().unwrap_or(set)
    }

    /// The image's sets by the kernel's numbers.
    pub fn apply(&self, sets: &PolicySets) -> PolicySets {
        let mut named = PolicySets::default();
        for (set, entries) in sets.parts() {
            named.put(self.of(set), entries.clone());
        }
        named
    }

    /// The names once every set that follows another has its number.
    pub fn after(&self, image: &Image, succession: &Succession) -> Self {
        let sets = image.policies.parts().map(|(set, _)| set);
        let sets = sets.map(|set| (set, succession.settled(self.of(set))));
        Self(sets.filter(|(set, kernel)| set != kernel).collect())
    }
}

fn is_same(one: &SetEntries, other: &SetEntries) -> bool {
    std::sync::Arc::ptr_eq(one, other) || one == other
}

/// The sets that are made out of former ones, by the numbers that they would have beside them.
#[derive(Debug, Default)]
pub(super) struct Succession {
    former: HashMap<u32, u32>,
    in_place: HashSet<u32>,
}

impl Succession {
    /// Finds them. `endpoints`: everybody who judges, before and after.
    pub fn new(
        old: &PolicySets,
        new: &PolicySets,
        endpoints: impl Iterator<Item = (Option<EndpointEntry>, Option<EndpointEntry>)>,
    ) -> Self {
        let mut after: HashMap<u32, Option<u32>> = HashMap::new();
        let mut before: HashMap<u32, Option<u32>> = HashMap::new();
        for (old, new) in endpoints {
            for (from, to) in set_pairs(old.as_ref(), new.as_ref()) {
                note(&mut after, from, to);
                note(&mut before, to, from);
            }
        }
        let mut succession = Self::default();
        for (set, entries) in new.parts() {
            let Some(former) = before.get(&set).copied().flatten() else {
                continue;
            };
            if after.get(&former) != Some(&Some(set))
                || old.part(set).is_some()
                || new.part(former).is_some()
            {
                continue;
            }
            let Some(before) = old.part(former) else {
                continue;
            };
            if is_close(before, entries) {
                succession.former.insert(set, former);
                succession.in_place.insert(former);
            }
        }
        succession
    }

    /// The set that one is made out of.
    pub fn former(&self, set: u32) -> Option<u32> {
        self.former.get(&set).copied()
    }

    /// The number of a set in the end.
    pub fn settled(&self, set: u32) -> u32 {
        self.former(set).unwrap_or(set)
    }

    /// Whether a set is changed where it is.
    pub fn is_in_place(&self, set: u32) -> bool {
        self.in_place.contains(&set)
    }
}

/// By which sets an endpoint judges before and after, in each direction, now and whenever either
/// of the two changes by itself.
pub(super) fn set_pairs(
    old: Option<&EndpointEntry>,
    new: Option<&EndpointEntry>,
) -> Vec<(Option<u32>, Option<u32>)> {
    let mut pairs = Vec::new();
    let entries = old.into_iter().chain(new);
    let moments = entries.flat_map(|entry| entry.later.iter().map(|later| later.moment));
    // The unused ones are 0, and stand for now; so does this one.
    for moment in moments.chain([0]) {
        for direction in [Direction::Egress, Direction::Ingress] {
            let set = |entry: &EndpointEntry| entry.set_at(direction, moment);
            pairs.push((old.map(set), new.map(set)));
        }
    }
    pairs.dedup();
    pairs
}

/// Notes what `key` is to have, which must be one for all who have it.
fn note(notes: &mut HashMap<u32, Option<u32>>, key: Option<u32>, value: Option<u32>) {
    let Some(key) = key else { return };
    match notes.entry(key) {
        Entry::Vacant(place) => {
            place.insert(value);
        }
        Entry::Occupied(mut known) => {
            if *known.get() != value {
                known.insert(None);
            }
        }
    }
}

/// Whether two sets, in order, differ in a few peers only, and not in the wildcard.
fn is_close(old: &[(u32, PolicyEntry)], new: &[(u32, PolicyEntry)]) -> bool {
    if old.first() != new.first() || old.len().abs_diff(new.len()) > FEW {
        return false;
    }
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    let mut different = 0;
    loop {
        let (before, after) = match (old.peek(), new.peek()) {
            (None, None) => return true,
            (before, after) => (before.map(|e| e.0), after.map(|e| e.0)),
        };
        let peer = before.into_iter().chain(after).min();
        let before = old.next_if(|entry| Some(entry.0) == peer);
        let after = new.next_if(|entry| Some(entry.0) == peer);
        different += usize::from(before != after);
        if different > FEW {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable;
    use enforcer_common::{Action, Decision, Reason};

    use super::*;

    fn entries(peers: &[(u32, u32)]) -> Vec<(u32, PolicyEntry)> {
        let entry = |rule| PolicyEntry {
            decision: Decision::new(Action::Deny, Reason::Rule, rule),
            table: 0,
            lengths: 0,
            rule: 0,
        };
        peers
            .iter()
            .map(|(peer, rule)| (*peer, entry(*rule)))
            .collect()
    }

    #[test]
    fn sets_are_close_that_differ_in_a_few_peers() {
        let is_close = |old: &[_], new: &[_]| is_close(&entries(old), &entries(new));
        assert!(is_close(&[(0, 1), (5, 2)], &[(0, 1), (5, 2)]));
        assert!(is_close(&[(0, 1), (5, 2), (7, 2)], &[(0, 1), (6, 2)]));
        assert!(is_close(&[(0, 1), (5, 2)], &[(0, 1), (5, 3)]));
        assert!(!is_close(&[(0, 1), (5, 2)], &[(0, 2), (5, 2)]));
        let many: Vec<_> = (0..200).map(|peer| (peer, 1)).collect();
        let few = u32::try_from(FEW).unwrap();
        let other = |count| -> Vec<_> {
            let rule = |peer: u32| 1 + u32::from(peer > 0 && peer <= count);
            (0..200).map(|peer| (peer, rule(peer))).collect()
        };
        assert!(is_close(&many, &other(few)));
        assert!(!is_close(&many, &other(few + 1)));
        assert!(!is_close(&many, &many[..199 - FEW]));
    }

    fn image(sets: &[(u32, &[(u32, u32)])]) -> Image {
        let mut image = Image::default();
        for (set, peers) in sets {
            image.policies.put(*set, entries(peers).into());
        }
        image
    }

    /// A set, and others from moments on.
    type Timeline<'a> = (u32, &'a [(u64, u32)]);

    /// An endpoint with these.
    fn entry(set: u32, later: &[(u64, u32)]) -> EndpointEntry {
        let mut entry = EndpointEntry {
            id: 2,
            identity: 300,
            sets: [set, 0],
            ..EndpointEntry::zeroed()
        };
        for (slot, (moment, set)) in entry.later.iter_mut().zip(later) {
            slot.moment = *moment;
            slot.sets = [*set, 0];
        }
        entry
    }

    #[test]
    fn a_set_that_somebody_has_later_counts_as_one_that_he_has() {
        let old = image(&[(1, &[(0, 1), (5, 1)]), (2, &[(0, 2), (5, 1)])]).policies;
        let new = image(&[(3, &[(0, 1), (5, 2)]), (2, &[(0, 2), (5, 1)])]).policies;
        let former = |endpoints: &[(Timeline, Timeline)]| {
            let endpoints = endpoints.iter().map(|(old, new)| {
                let there = |(set, later): Timeline| Some(entry(set, later));
                (there(*old), there(*new))
            });
            Succession::new(&old, &new, endpoints).former(3)
        };
        // Now and later, or later only.
        assert_eq!(former(&[((1, &[]), (3, &[]))]), Some(1));
        assert_eq!(former(&[((2, &[(9, 1)]), (2, &[(9, 3)]))]), Some(1));
        assert_eq!(
            former(&[
                ((1, &[(9, 2)]), (3, &[(9, 2)])),
                ((2, &[(7, 1)]), (2, &[(7, 3)]))
            ]),
            Some(1)
        );
        let others: &[(Timeline, Timeline)] = &[
            // Somebody keeps the former one for later, or gets the successor sooner.
            ((1, &[(9, 1)]), (3, &[(9, 1)])),
            ((2, &[(9, 1)]), (2, &[(9, 1)])),
            ((2, &[(9, 1)]), (2, &[(8, 3)])),
            ((2, &[(9, 1)]), (3, &[])),
            // What follows later is another one.
            ((2, &[(9, 1)]), (2, &[])),
            ((2, &[]), (2, &[(9, 3)])),
            ((1, &[(9, 1)]), (3, &[(9, 2)])),
        ];
        for other in others {
            assert_eq!(former(&[*other]), None, "{other:?}");
            assert_eq!(former(&[((1, &[]), (3, &[])), *other]), None, "{other:?}");
        }
    }

    #[test]
    fn a_set_is_changed_in_place_where_all_of_its_endpoints_go_over_to_one() {
        let old = image(&[(1, &[(0, 1), (5, 1)]), (2, &[(0, 2), (5, 1)])]).policies;
        let new = image(&[(3, &[(0, 1), (5, 2)]), (2, &[(0, 2), (5, 1)])]).policies;
        let former = |endpoints: &[(u32, u32)]| {
            let there = |set| (set != 0).then(|| entry(set, &[]));
            let endpoints = endpoints.iter();
            let endpoints = endpoints.map(|(old, new)| (there(*old), there(*new)));
            Succession::new(&old, &new, endpoints).former(3)
        };
        assert_eq!(former(&[(1, 3)]), Some(1));
        assert_eq!(former(&[(1, 3), (1, 3), (2, 2)]), Some(1));
        // One goes elsewhere, one goes, one stays, one comes from elsewhere, one comes.
        for other in [(1, 2), (1, 0), (1, 1), (2, 3), (0, 3)] {
            assert_eq!(former(&[(1, 3), other]), None, "{other:?}");
            assert_eq!(former(&[other, (1, 3)]), None, "{other:?}");
        }
        // Another wildcard.
        assert_eq!(former(&[(2, 3)]), None);
    }

    #[test]
    fn a_set_is_called_what_the_kernel_calls_its_content() {
        let held = image(&[(1, &[(0, 1)]), (2, &[(0, 2)]), (9, &[(0, 7)])]).policies;
        let names = |image: &Image, wanted: &[(u32, u32)]| {
            let wanted = wanted
                .iter()
                .map(|(kernel, set)| (Some(*kernel), Some(*set)));
            Names::new(image, &held, &Names::default(), wanted)
        };
        // The content of 3 is under 2, in whose place its endpoint has it; what 2 and 9 are to
        // be is written elsewhere.
        let wanted = image(&[(2, &[(0, 5)]), (3, &[(0, 2)]), (9, &[(0, 8)])]);
        let given = names(&wanted, &[(2, 3), (1, 2)]);
        assert_eq!(given.of(3), 2);
        for set in [2, 9] {
            assert!(held.part(given.of(set)).is_none(), "{set}");
        }
        assert_ne!(given.of(2), given.of(9));
        let sets = given.apply(&wanted.policies);
        assert_eq!(sets.part(2), wanted.policies.part(3));
        // Nothing is known of who has it.
        assert_eq!(names(&wanted, &[]).of(3), 3);
    }
}
