//! Which sets everybody has, now and at the moments ahead; and the sets and tables that this
//! makes. Kept from one compilation to the next: what nobody has any more goes.

use std::{collections::HashMap, sync::Arc};

use enforcer_common::policy_key::ALLOW_ALL;

use super::{KnownSet, SetBuilder};
use crate::{
    compile::{
        limits::CompileError,
        rules::PolicyRules,
        tables::{PolicySets, PortTables, TableEntries},
    },
    policy::model::Fallback,
};

/// The sets and tables of the image.
#[derive(Debug, Default)]
pub(in crate::compile) struct Contents {
    pub policies: PolicySets,
    pub ports: PortTables,
    /// How many sets have a number; sets of other policies may say the same.
    set_uses: HashMap<u32, usize>,
    /// How many of these have a port table.
    table_uses: HashMap<u32, usize>,
    /// Numbers of sets and tables that may have no use any more.
    idle: (Vec<u32>, Vec<u32>),
}

impl Contents {
    /// Notes a port table that a set will have.
    pub fn table(&mut self, number: u32, make: impl FnOnce() -> TableEntries) {
        if self.ports.part(number).is_none() {
            self.ports.put(number, make());
            self.idle.1.push(number);
        }
    }

    /// Somebody has a set.
    pub fn hold(&mut self, set: &KnownSet) {
        *self.set_uses.entry(set.number).or_default() += 1;
        if self.policies.part(set.number).is_none() {
            self.policies.put(set.number, Arc::clone(&set.entries));
        }
        for table in &set.tables {
            *self.table_uses.entry(*table).or_default() += 1;
        }
    }

    /// Somebody has a set no more.
    pub fn release(&mut self, set: &KnownSet) {
        let less = |uses: &mut HashMap<u32, usize>, number, idle: &mut Vec<u32>| {
            let left = uses.remove(&number).unwrap_or_default().saturating_sub(1);
            if left > 0 {
                uses.insert(number, left);
            } else {
                idle.push(number);
            }
        };
        less(&mut self.set_uses, set.number, &mut self.idle.0);
        for table in &set.tables {
            less(&mut self.table_uses, *table, &mut self.idle.1);
        }
    }

    /// The compilation ends: what nothing uses goes.
    pub fn settle(&mut self) {
        let (sets, tables) = std::mem::take(&mut self.idle);
        for number in sets.into_iter().filter(|n| !self.set_uses.contains_key(n)) {
            self.policies.take(number);
        }
        for number in tables
            .into_iter()
            .filter(|n| !self.table_uses.contains_key(n))
        {
            self.ports.take(number);
        }
    }
}

/// The sets of an identity in one direction: now and at each of the moments ahead, or once where
/// they do not change. `None`: nothing restricts it.
pub(in crate::compile) type Line = Vec<Option<Arc<KnownSet>>>;

/// The number of a line's set at a moment.
pub(in crate::compile) fn number_of(line: Option<&Line>, moment: usize) -> u32 {
    let set = line.and_then(|line| line.get(moment).or(line.last()));
    set.and_then(Option::as_ref)
        .map_or(ALLOW_ALL, |set| set.number)
}

/// The sets of one direction.
#[derive(Debug, Default)]
pub(in crate::compile) struct Lines {
    by_identity: HashMap<u32, Line>,
    /// By [`PolicyRules::id`] of what they are made of, and how often each is in a line.
    sets: HashMap<Vec<u64>, (Arc<KnownSet>, usize)>,
    /// Sets that may be in no line any more.
    idle: Vec<Vec<u64>>,
}

impl Lines {
    /// The sets that an identity has.
    pub fn of(&self, identity: u32) -> Option<&Line> {
        self.by_identity.get(&identity)
    }

    /// The set that policies make, for an identity that has it from now on. `former`: the one
    /// that it has, or one that is like it.
    pub fn set(
        &mut self,
        says: Vec<Arc<PolicyRules>>,
        former: Option<&KnownSet>,
        builder: &mut SetBuilder<'_>,
    ) -> Result<Option<Arc<KnownSet>>, CompileError> {
        if says.is_empty() && builder.default() == Fallback::Allow {
            return Ok(None);
        }
        let ids: Vec<u64> = says.iter().map(|says| says.id).collect();
        let known = self.sets.get_mut(&ids);
        if let Some((set, uses)) = known {
            if !builder.is_current(set) {
                let again = Arc::new(builder.make(says, Some(&**set))?);
                builder.contents.hold(&again);
                builder.contents.release(set);
                *set = again;
            }
            *uses += 1;
            return Ok(Some(Arc::clone(set)));
        }
        let set = Arc::new(builder.make(says, former)?);
        builder.contents.hold(&set);
        self.sets.insert(ids, (Arc::clone(&set), 1));
        Ok(Some(set))
    }

    /// Gives an identity the sets that were made for it; `None`: it has none any more.
    pub fn put(&mut self, identity: u32, line: Option<Line>) {
        let former = match line {
            Some(line) => self.by_identity.insert(identity, line),
            None => self.by_identity.remove(&identity),
        };
        for set in former.into_iter().flatten().flatten() {
            let ids: Vec<u64> = set.policies.iter().map(|says| says.id).collect();
            if let Some((_, uses)) = self.sets.get_mut(&ids) {
                *uses -= 1;
                if *uses == 0 {
                    self.idle.push(ids);
                }
            }
        }
    }

    /// The compilation ends: sets that are in no line go.
    pub fn settle(&mut self, contents: &mut Contents) {
        for ids in self.idle.drain(..) {
            if let Some((set, 0)) = self.sets.get(&ids) {
                contents.release(set);
                self.sets.remove(&ids);
            }
        }
    }
}
