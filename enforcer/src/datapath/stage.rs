//! Writes to the maps that may happen in any order, with the way back.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use bytemuck::Pod;
use enforcer_common::{
    Decision,
    address_entry::AddressEntry,
    blocked_entry::BlockedEntry,
    endpoint_entry::EndpointEntry,
    flow_key::{Addr4, Addr6, PrefixKey},
    policy_key::{PolicyEntry, PolicyKey, PortKey},
    service_key::ServiceKey,
};

use super::{
    object::Tables,
    table::{Table, TableError},
};
use crate::compile::tables::Shared;

/// Writes to one table.
#[derive(Debug)]
pub(super) struct Writes<K, V> {
    set: Vec<(K, V)>,
    remove: Vec<K>,
    /// The way back: keys that were new, and the values of those that were not.
    added: Vec<K>,
    replaced: Vec<(K, V)>,
}

impl<K, V> Default for Writes<K, V> {
    fn default() -> Self {
        Self {
            set: Vec::new(),
            remove: Vec::new(),
            added: Vec::new(),
            replaced: Vec::new(),
        }
    }
}

impl<K: Pod, V: Pod + PartialEq> Writes<K, V> {
    /// Sets `key` from what it is to `new`; `None` is absence.
    pub fn put(&mut self, key: K, old: Option<V>, new: Option<V>) {
        if old == new {
            return;
        }
        match old {
            Some(old) => self.replaced.push((key, old)),
            None => self.added.push(key),
        }
        match new {
            Some(new) => self.set.push((key, new)),
            None => self.remove.push(key),
        }
    }

    /// How many entries more there are afterwards, at the most.
    pub fn added(&self) -> usize {
        self.added.len()
    }

    fn is_empty(&self) -> bool {
        self.set.is_empty() && self.remove.is_empty()
    }

    fn write(&self, table: &Table<K, V>) -> Result<(), TableError> {
        table.set_all(&self.set)?;
        table.remove_all(&self.remove)
    }

    fn undo(&self, table: &Table<K, V>) -> Result<(), TableError> {
        table.set_all(&self.replaced)?;
        table.remove_all(&self.added)
    }
}

/// Calls `visit` with every name that `old` or `new` has and that they do not agree about.
pub(super) fn differences<M: Copy + Eq + Hash, V: Copy + PartialEq>(
    old: &HashMap<M, V>,
    new: &HashMap<M, V>,
    mut visit: impl FnMut(M, Option<V>, Option<V>),
) {
    if std::ptr::eq(old, new) {
        return;
    }
    for (name, value) in new {
        let before = old.get(name).copied();
        if before != Some(*value) {
            visit(*name, before, Some(*value));
        }
    }
    for (name, value) in old {
        if !new.contains_key(name) {
            visit(*name, Some(*value), None);
        }
    }
}

/// As [`differences`], for tables in parts of which most are the same.
pub(super) fn differences_of_parts<M: Copy + Ord, K: Copy + PartialEq, V: Copy + PartialEq>(
    old: &Shared<(K, V)>,
    new: &Shared<(K, V)>,
    name: impl Fn(u32, &(K, V)) -> M,
    mut visit: impl FnMut(M, Option<V>, Option<V>),
) {
    for (number, entries) in new.parts() {
        let Some(before) = old.part(number) else {
            for entry in entries.iter() {
                visit(name(number, entry), None, Some(entry.1));
            }
            continue;
        };
        if Arc::ptr_eq(before, entries) {
            continue;
        }
        // Both are in order.
        let mut before = before.iter().peekable();
        let mut gone = |below: Option<M>, visit: &mut dyn FnMut(M, Option<V>, Option<V>)| {
            while let Some(entry) =
                before.next_if(|e| below.is_none_or(|below| name(number, e) < below))
            {
                visit(name(number, entry), Some(entry.1), None);
            }
            below.and_then(|at| before.next_if(|e| name(number, e) == at))
        };
        for entry in entries.iter() {
            let at = name(number, entry);
            let same = gone(Some(at), &mut visit).map(|(_, value)| *value);
            if same != Some(entry.1) {
                visit(at, same, Some(entry.1));
            }
        }
        gone(None, &mut visit);
    }
    for (number, entries) in old.parts() {
        if new.part(number).is_none() {
            for entry in entries.iter() {
                visit(name(number, entry), Some(entry.1), None);
            }
        }
    }
}

/// Writes to all tables, which no packet can tell the order of.
#[derive(Debug, Default)]
pub(super) struct Stage {
    pub policies: Writes<PolicyKey, PolicyEntry>,
    pub ports: Writes<PortKey, Decision>,
    pub services: Writes<ServiceKey, u32>,
    pub addresses4: Writes<Addr4, AddressEntry>,
    pub addresses6: Writes<Addr6, AddressEntry>,
    pub prefixes4: Writes<PrefixKey<Addr4>, AddressEntry>,
    pub prefixes6: Writes<PrefixKey<Addr6>, AddressEntry>,
    pub blocked4: Writes<PrefixKey<Addr4>, BlockedEntry>,
    pub blocked6: Writes<PrefixKey<Addr6>, BlockedEntry>,
    pub cgroups: Writes<u64, EndpointEntry>,
    pub interfaces: Writes<u32, EndpointEntry>,
}

/// An array of what `$visit` returns for the writes and the table of every map.
macro_rules! each {
    ($stage:expr, $tables:expr, |$writes:ident, $table:ident| $visit:expr) => {
        each!(@ $stage, $tables, $writes, $table, $visit,
            ports, policies, blocked4, blocked6, services, addresses4, addresses6, prefixes4,
            prefixes6, cgroups, interfaces)
    };
    (@ $stage:expr, $tables:expr, $writes:ident, $table:ident, $visit:expr, $($name:ident),*) => {
        [$({
            let ($writes, $table) = (&$stage.$name, &$tables.$name);
            $visit
        }),*]
    };
}

impl Stage {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
            && self.ports.is_empty()
            && self.services.is_empty()
            && self.addresses4.is_empty()
            && self.addresses6.is_empty()
            && self.prefixes4.is_empty()
            && self.prefixes6.is_empty()
            && self.blocked4.is_empty()
            && self.blocked6.is_empty()
            && self.cgroups.is_empty()
            && self.interfaces.is_empty()
    }

    /// Writes everything, until the first error.
    pub fn write(&self, tables: &Tables) -> Result<(), TableError> {
        each!(self, tables, |writes, table| writes.write(table)?);
        Ok(())
    }

    /// Undoes [`Stage::write`], as far as it came and as far as it can.
    pub fn undo(&self, tables: &Tables) -> Result<(), TableError> {
        each!(self, tables, |writes, table| writes.undo(table))
            .into_iter()
            .collect()
    }
}
