//! The moments ahead at which sets change by themselves, because a rule begins or ends to hold.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::{Inputs, image::Sets, known::Known, paged::Paged, peers::PeerIndex, rules::subject_of};
use crate::policy::model::{Moment, Policy};

/// The next moments, and how many more there are.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    pub moments: Vec<Moment>,
    pub beyond: usize,
}

/// The policies that begin or end to hold, or rules of which do, by place in memory.
#[derive(Debug, Default)]
pub(super) struct Timed(HashMap<usize, Arc<Policy>>);

impl Timed {
    /// Lets policies go and come.
    pub fn follow(&mut self, gone: &[Arc<Policy>], come: &[Arc<Policy>]) {
        let place = |policy: &Arc<Policy>| Arc::as_ptr(policy).addr();
        for policy in gone {
            self.0.remove(&place(policy));
        }
        let timed = come
            .iter()
            .filter(|policy| policy.boundaries().next().is_some());
        self.0
            .extend(timed.map(|policy| (place(policy), Arc::clone(policy))));
    }

    /// The moments after that of the inputs at which a policy that selects a subject of this
    /// node or a workload of another one, or a rule of one, begins or ends to hold: as many of
    /// the first as there is room for.
    pub fn ahead(&self, inputs: &Inputs<'_>, known: &Known, index: &mut PeerIndex) -> Ahead {
        let room = inputs.limits.moments;
        if room == 0 {
            return Ahead::default();
        }
        let mut all = BTreeSet::new();
        for policy in self.0.values() {
            let mut boundaries = policy.boundaries().filter(|b| *b > inputs.now).peekable();
            if boundaries.peek().is_some() && selects_here(policy, known, index) {
                all.extend(boundaries);
            }
        }
        Ahead {
            beyond: all.len().saturating_sub(room),
            moments: all.into_iter().take(room).collect(),
        }
    }
}

fn selects_here(policy: &Policy, known: &Known, index: &mut PeerIndex) -> bool {
    let Some(subject) = subject_of(policy, index) else {
        return true;
    };
    let mut selected = subject.iter().flat_map(|peer| index.matching(*peer));
    // What workloads elsewhere let in is judged here too.
    selected.any(|position| {
        let number = index.identity(*position);
        known.is_local(number) || known.is_elsewhere(number)
    })
}

/// The sets of an identity, given their numbers now and at each of the moments.
pub(super) fn sets_of(line: &[[u32; 2]], moments: &[Moment]) -> Sets {
    let changes = line.windows(2).zip(moments);
    let changes = changes.filter(|(pair, _)| pair[0] != pair[1]);
    Sets {
        numbers: line[0],
        later: changes.map(|(pair, moment)| (*moment, pair[1])).collect(),
    }
}

/// The sets of every identity, and the moments at which they change.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    pub sets: Paged<u32, Sets>,
    /// How many identities' sets change at a moment.
    uses: BTreeMap<Moment, usize>,
}

impl Schedule {
    /// Gives an identity its sets; `None`: it has none any more.
    pub fn put(&mut self, identity: u32, sets: Option<Sets>) {
        let former = self.sets.get(&identity);
        if former == sets.as_ref() {
            return;
        }
        for (moment, _) in former.iter().flat_map(|sets| &sets.later) {
            let left = self
                .uses
                .remove(moment)
                .unwrap_or_default()
                .saturating_sub(1);
            if left > 0 {
                self.uses.insert(*moment, left);
            }
        }
        for (moment, _) in sets.iter().flat_map(|sets| &sets.later) {
            *self.uses.entry(*moment).or_default() += 1;
        }
        match sets {
            Some(sets) => drop(self.sets.insert(identity, sets)),
            None => drop(self.sets.remove(&identity)),
        }
    }

    /// The moments at which something changes after all, ascending.
    pub fn moments(&self) -> Vec<Moment> {
        self.uses.keys().copied().collect()
    }
}
