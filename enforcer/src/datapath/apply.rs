//! From what the maps hold to what they should hold, so that no packet meets half a change:
//! new sets are written beside the old ones, then addresses, then each endpoint flips in one
//! map update, then the generation rises and cached decisions are judged again, and only then
//! the old is removed.

use std::{collections::HashMap, hash::Hash};

use bytemuck::Pod;

use super::{
    contents::{Contents, prefix_key},
    object::Tables,
    table::{Table, TableError},
};

/// What one table needs.
struct Change<K, V> {
    set: Vec<(K, V)>,
    remove: Vec<K>,
    /// The way back: keys that were new, and old values of those that were not.
    added: Vec<K>,
    replaced: Vec<(K, V)>,
}

impl<K: Pod, V: Pod + PartialEq> Change<K, V> {
    fn between<M: Copy + Eq + Hash>(
        old: &HashMap<M, V>,
        new: &HashMap<M, V>,
        key: impl Fn(M) -> K,
    ) -> Self {
        let mut change = Self {
            set: Vec::new(),
            remove: Vec::new(),
            added: Vec::new(),
            replaced: Vec::new(),
        };
        for (name, value) in new {
            match old.get(name) {
                Some(before) if before == value => {}
                Some(before) => {
                    change.replaced.push((key(*name), *before));
                    change.set.push((key(*name), *value));
                }
                None => {
                    change.added.push(key(*name));
                    change.set.push((key(*name), *value));
                }
            }
        }
        change.remove.extend(
            old.keys()
                .filter(|name| !new.contains_key(name))
                .map(|n| key(*n)),
        );
        change
    }

    fn is_empty(&self) -> bool {
        self.set.is_empty() && self.remove.is_empty()
    }

    fn write(&self, table: &Table<K, V>) -> Result<(), TableError> {
        table.set_all(&self.set)
    }

    /// Undoes [`Change::write`], as far as it came.
    fn undo(&self, table: &Table<K, V>) {
        for outcome in [table.set_all(&self.replaced), table.remove_all(&self.added)] {
            if let Err(error) = outcome {
                // Entries of sets that no endpoint uses do no harm, and the next change that
                // is applied removes them.
                tracing::error!(%error, "an entry of a refused change stays behind");
            }
        }
    }

    fn clean(&self, table: &Table<K, V>) -> Result<(), TableError> {
        table.remove_all(&self.remove)
    }
}

/// The difference between two contents.
pub(super) struct Plan {
    policies:
        Change<enforcer_common::policy_key::PolicyKey, enforcer_common::policy_key::PolicyEntry>,
    ports: Change<enforcer_common::policy_key::PortKey, enforcer_common::Decision>,
    addresses4:
        Change<enforcer_common::flow_key::Addr4, enforcer_common::address_entry::AddressEntry>,
    addresses6:
        Change<enforcer_common::flow_key::Addr6, enforcer_common::address_entry::AddressEntry>,
    prefixes4: Change<
        enforcer_common::flow_key::PrefixKey<[u8; 4]>,
        enforcer_common::address_entry::AddressEntry,
    >,
    prefixes6: Change<
        enforcer_common::flow_key::PrefixKey<[u8; 16]>,
        enforcer_common::address_entry::AddressEntry,
    >,
    blocked4: Change<
        enforcer_common::flow_key::PrefixKey<[u8; 4]>,
        enforcer_common::blocked_entry::BlockedEntry,
    >,
    blocked6: Change<
        enforcer_common::flow_key::PrefixKey<[u8; 16]>,
        enforcer_common::blocked_entry::BlockedEntry,
    >,
    cgroups: Change<u64, enforcer_common::endpoint_entry::EndpointEntry>,
    interfaces: Change<u32, enforcer_common::endpoint_entry::EndpointEntry>,
}

/// Calls a method on every table's change, in the order of the plan.
macro_rules! each {
    ($plan:expr, $tables:expr, [$($table:ident),*], $method:ident) => {{
        $($plan.$table.$method(&$tables.$table)?;)*
        Ok(())
    }};
}

impl Plan {
    /// What leads from `old` to `new`.
    pub fn between(old: &Contents, new: &Contents) -> Self {
        Self {
            policies: Change::between(&old.policies, &new.policies, |key| key),
            ports: Change::between(&old.ports, &new.ports, |key| key),
            addresses4: Change::between(&old.addresses4, &new.addresses4, |key| key),
            addresses6: Change::between(&old.addresses6, &new.addresses6, |key| key),
            prefixes4: Change::between(&old.prefixes4, &new.prefixes4, prefix_key),
            prefixes6: Change::between(&old.prefixes6, &new.prefixes6, prefix_key),
            blocked4: Change::between(&old.blocked4, &new.blocked4, prefix_key),
            blocked6: Change::between(&old.blocked6, &new.blocked6, prefix_key),
            cgroups: Change::between(&old.cgroups, &new.cgroups, |key| key),
            interfaces: Change::between(&old.interfaces, &new.interfaces, |key| key),
        }
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
            && self.ports.is_empty()
            && self.addresses4.is_empty()
            && self.addresses6.is_empty()
            && self.prefixes4.is_empty()
            && self.prefixes6.is_empty()
            && self.blocked4.is_empty()
            && self.blocked6.is_empty()
            && self.cgroups.is_empty()
            && self.interfaces.is_empty()
    }

    /// Writes what no endpoint uses yet: sets, port tables, and who is behind an address. An
    /// identity that is new has its entries in the sets before an address can lead to it.
    pub fn prepare(&self, tables: &Tables) -> Result<(), TableError> {
        let outcome = self.write_beside(tables);
        if outcome.is_err() {
            self.withdraw(tables);
        }
        outcome
    }

    fn write_beside(&self, tables: &Tables) -> Result<(), TableError> {
        each!(
            self,
            tables,
            [
                ports, policies, addresses4, addresses6, prefixes4, prefixes6, blocked4, blocked6
            ],
            write
        )
    }

    /// Undoes [`Plan::prepare`].
    pub fn withdraw(&self, tables: &Tables) {
        self.blocked6.undo(&tables.blocked6);
        self.blocked4.undo(&tables.blocked4);
        self.prefixes6.undo(&tables.prefixes6);
        self.prefixes4.undo(&tables.prefixes4);
        self.addresses6.undo(&tables.addresses6);
        self.addresses4.undo(&tables.addresses4);
        self.policies.undo(&tables.policies);
        self.ports.undo(&tables.ports);
    }

    /// Flips the endpoints. All or nothing.
    pub fn flip(&self, tables: &Tables) -> Result<(), TableError> {
        let outcome = self
            .cgroups
            .write(&tables.cgroups)
            .and_then(|()| self.interfaces.write(&tables.interfaces));
        if outcome.is_err() {
            self.unflip(tables);
        }
        outcome
    }

    /// Undoes [`Plan::flip`].
    pub fn unflip(&self, tables: &Tables) {
        self.interfaces.undo(&tables.interfaces);
        self.cgroups.undo(&tables.cgroups);
    }

    /// Removes what nothing uses any more.
    pub fn clean(&self, tables: &Tables) -> Result<(), TableError> {
        each!(
            self,
            tables,
            [
                interfaces, cgroups, addresses4, addresses6, prefixes4, prefixes6, blocked4,
                blocked6, policies, ports
            ],
            clean
        )
    }

    /// Interfaces whose endpoint goes.
    pub fn leaving_interfaces(&self) -> &[u32] {
        &self.interfaces.remove
    }
}
