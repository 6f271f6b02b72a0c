//! The moments ahead at which sets change by themselves, because a rule begins or ends to hold.

use std::collections::{BTreeSet, HashMap};

use super::{Inputs, image::Sets, known::Known, peers::PeerIndex, rules::subject_of};
use crate::policy::model::{Moment, Policy};

/// The next moments, and how many more there are.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    pub moments: Vec<Moment>,
    pub beyond: usize,
}

/// The moments after that of the inputs at which a policy that selects a subject of this node
/// or a workload of another one,
/// or a rule of one, begins or ends to hold: as many of the first as there is room for.
pub(super) fn ahead(inputs: &Inputs<'_>, known: &Known, index: &mut PeerIndex) -> Ahead {
    let room = inputs.limits.moments;
    if room == 0 {
        return Ahead::default();
    }
    let mut all = BTreeSet::new();
    for policy in &inputs.policy.policies {
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

fn selects_here(policy: &Policy, known: &Known, index: &mut PeerIndex) -> bool {
    let Some(subject) = subject_of(policy, index) else {
        return true;
    };
    let mut selected = subject.iter().flat_map(|peer| index.matching(*peer));
    // What workloads elsewhere let in is judged here too.
    selected.any(|position| {
        let number = index.identity(*position);
        known.is_local(number) || known.elsewhere().contains(&number)
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

/// The moments at which something changes after all, ascending.
pub(super) fn in_use(sets: &HashMap<u32, Sets>) -> Vec<Moment> {
    let moments = sets.values().flat_map(|sets| &sets.later);
    let moments: BTreeSet<Moment> = moments.map(|(moment, _)| *moment).collect();
    moments.into_iter().collect()
}
