//! Policy sets and port tables, each shared by the images that have it.

use std::{collections::BTreeMap, sync::Arc};

use enforcer_common::{
    Decision,
    policy_key::{PolicyEntry, PolicyKey, PortKey},
};

use super::paged::Paged;

/// The entries of a policy set by peer, ascending: the wildcard's first.
pub type SetEntries = Arc<[(u32, PolicyEntry)]>;
/// The entries of a port table, in order.
pub type TableEntries = Arc<[(PortKey, Decision)]>;

/// Entries by number of the set or table.
#[derive(Clone, Debug, PartialEq)]
pub struct Shared<E> {
    parts: Paged<u32, Arc<[E]>>,
    /// Entries of all together.
    len: usize,
}

/// The policy table.
pub type PolicySets = Shared<(u32, PolicyEntry)>;
/// The port table.
pub type PortTables = Shared<(PortKey, Decision)>;

impl<E> Default for Shared<E> {
    fn default() -> Self {
        Self {
            parts: Paged::default(),
            len: 0,
        }
    }
}

impl<E> Shared<E> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sets or tables by number.
    pub fn parts(&self) -> impl Iterator<Item = (u32, &Arc<[E]>)> {
        self.parts
            .iter()
            .map(|(number, entries)| (*number, entries))
    }

    /// A set or table.
    pub fn part(&self, number: u32) -> Option<&Arc<[E]>> {
        self.parts.get(&number)
    }

    /// Adds a set or table, or replaces it.
    pub fn put(&mut self, number: u32, entries: Arc<[E]>) {
        self.len += entries.len();
        if let Some(former) = self.parts.insert(number, entries) {
            self.len -= former.len();
        }
    }

    /// Takes a set or table away.
    pub fn take(&mut self, number: u32) {
        if let Some(former) = self.parts.remove(&number) {
            self.len -= former.len();
        }
    }

    /// Sets or tables of which `other` has not the number: costs little where the two share
    /// most.
    pub fn parts_missing_in<'a>(
        &'a self,
        other: &'a Self,
    ) -> impl Iterator<Item = (u32, &'a Arc<[E]>)> {
        let missing = self.parts.missing_in(&other.parts);
        missing.map(|(number, entries)| (*number, entries))
    }

    /// Sets or tables that `other` has not, or may have otherwise: costs little where the two
    /// share most.
    pub fn parts_apart_from<'a>(
        &'a self,
        other: &'a Self,
    ) -> impl Iterator<Item = (u32, &'a Arc<[E]>)> {
        let apart = self.parts.apart_from(&other.parts);
        apart.map(|(number, entries)| (*number, entries))
    }
}

impl PolicySets {
    /// The entry of a peer in a set.
    pub fn get(&self, key: &PolicyKey) -> Option<&PolicyEntry> {
        let entries = self.parts.get(&key.set)?;
        let at = entries
            .binary_search_by_key(&key.peer, |(peer, _)| *peer)
            .ok()?;
        Some(&entries[at].1)
    }

    /// Every entry.
    pub fn iter(&self) -> impl Iterator<Item = (PolicyKey, &PolicyEntry)> {
        self.parts().flat_map(|(set, entries)| {
            let entries = entries.iter();
            entries.map(move |(peer, entry)| (PolicyKey { set, peer: *peer }, entry))
        })
    }
}

impl PortTables {
    /// The entry of a port prefix.
    pub fn get(&self, key: &PortKey) -> Option<&Decision> {
        let entries = self.parts.get(&key.table)?;
        let at = entries.binary_search_by_key(key, |(key, _)| *key).ok()?;
        Some(&entries[at].1)
    }

    /// Every entry.
    pub fn iter(&self) -> impl Iterator<Item = (PortKey, &Decision)> {
        let entries = self.parts.values().flat_map(|entries| entries.iter());
        entries.map(|(key, decision)| (*key, decision))
    }
}

/// Brings the entries of a port table into order.
pub(super) fn in_order(mut entries: Vec<(PortKey, Decision)>) -> TableEntries {
    entries.sort_unstable_by_key(|(key, _)| *key);
    entries.into()
}

impl FromIterator<(PolicyKey, PolicyEntry)> for PolicySets {
    fn from_iter<I: IntoIterator<Item = (PolicyKey, PolicyEntry)>>(entries: I) -> Self {
        let mut sets: BTreeMap<u32, BTreeMap<u32, PolicyEntry>> = BTreeMap::new();
        for (key, entry) in entries {
            sets.entry(key.set).or_default().insert(key.peer, entry);
        }
        let mut all = Self::default();
        for (set, entries) in sets {
            all.put(set, entries.into_iter().collect());
        }
        all
    }
}

impl FromIterator<(PortKey, Decision)> for PortTables {
    fn from_iter<I: IntoIterator<Item = (PortKey, Decision)>>(entries: I) -> Self {
        let mut tables: BTreeMap<u32, Vec<(PortKey, Decision)>> = BTreeMap::new();
        for (key, decision) in entries {
            tables.entry(key.table).or_default().push((key, decision));
        }
        let mut all = Self::default();
        for (table, entries) in tables {
            all.put(table, in_order(entries));
        }
        all
    }
}
