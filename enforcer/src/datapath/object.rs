//! The embedded object: loaded with the maps of a layout, and taken apart into typed tables.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use aya::{
    Btf, Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{Map, MapData, RingBuf},
};
use enforcer_common::{
    Decision,
    abi::map,
    address_entry::AddressEntry,
    blocked_entry::BlockedEntry,
    config::Config,
    conntrack::FlowEntry,
    counter::Counter,
    denied_entry::{DeniedEntry, DeniedKey},
    endpoint_entry::EndpointEntry,
    flow_key::{Addr4, Addr6, FlowKey, PrefixKey},
    policy_key::{PolicyEntry, PolicyKey, PortKey},
    service_key::ServiceKey,
};

use super::{
    error::DatapathError,
    settings::Capacities,
    table::{Measured, PerCpuTable, Table},
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/enforcer-ebpf"));

/// The maps, typed.
#[derive(Debug)]
pub(super) struct Tables {
    pub config: Table<u32, Config>,
    pub interfaces: Table<u32, EndpointEntry>,
    pub cgroups: Table<u64, EndpointEntry>,
    pub addresses4: Table<Addr4, AddressEntry>,
    pub addresses6: Table<Addr6, AddressEntry>,
    pub services: Table<ServiceKey, u32>,
    pub prefixes4: Table<PrefixKey<Addr4>, AddressEntry>,
    pub prefixes6: Table<PrefixKey<Addr6>, AddressEntry>,
    pub policies: Table<PolicyKey, PolicyEntry>,
    pub ports: Table<PortKey, Decision>,
    pub flows4: Table<FlowKey<Addr4>, FlowEntry>,
    pub flows6: Table<FlowKey<Addr6>, FlowEntry>,
    pub blocked4: Table<PrefixKey<Addr4>, BlockedEntry>,
    pub blocked6: Table<PrefixKey<Addr6>, BlockedEntry>,
    pub denied: Table<DeniedKey, DeniedEntry>,
    pub rules: PerCpuTable<Counter>,
    pub verdicts: PerCpuTable<Counter>,
    pub losses: PerCpuTable<u64>,
}

/// Loads the object. Maps that are pinned in `maps` are used, others are made and pinned.
pub(super) fn load(maps: &Path, capacities: &Capacities) -> Result<Ebpf, DatapathError> {
    let sizes = capacities.by_map();
    let pins: Vec<_> = ALL.iter().map(|name| (*name, maps.join(name))).collect();
    let mut loader = EbpfLoader::new();
    let btf = Btf::from_sys_fs().ok();
    loader.btf(btf.as_ref());
    loader.verifier_log_level(VerifierLogLevel::STATS);
    for (name, size) in sizes {
        loader.map_max_entries(name, size);
    }
    for (name, path) in &pins {
        loader.map_pin_path(name, path);
    }
    loader
        .load(OBJECT)
        .map_err(|error| DatapathError::Load(Box::new(error)))
}

/// Every map of the object.
const ALL: [&str; 26] = [
    map::CONFIG,
    map::INTERFACES,
    map::CGROUPS,
    map::ADDRESSES4,
    map::ADDRESSES6,
    map::SERVICES,
    map::PREFIXES4,
    map::PREFIXES6,
    map::POLICIES,
    map::PORTS,
    map::FLOWS4,
    map::FLOWS6,
    map::FULL,
    map::FRAGMENTS,
    map::SOCKETS,
    map::BLOCKED4,
    map::BLOCKED6,
    map::DENIED,
    map::HINTS,
    map::TOKENS,
    map::CLOCK,
    map::EVENTS,
    map::REFUSALS,
    map::RULES,
    map::VERDICTS,
    map::LOSSES,
];

impl Tables {
    /// Takes the maps that user space reads and writes out of a loaded object.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        let cpus = aya::util::nr_cpus().map_err(|(path, source)| DatapathError::File {
            action: "read",
            path: path.into(),
            source,
        })?;
        Ok(Self {
            config: Table::new(map::CONFIG, descriptor(ebpf, map::CONFIG)?, false),
            interfaces: Table::new(map::INTERFACES, descriptor(ebpf, map::INTERFACES)?, true),
            cgroups: Table::new(map::CGROUPS, descriptor(ebpf, map::CGROUPS)?, true),
            addresses4: Table::new(map::ADDRESSES4, descriptor(ebpf, map::ADDRESSES4)?, true),
            addresses6: Table::new(map::ADDRESSES6, descriptor(ebpf, map::ADDRESSES6)?, true),
            services: Table::new(map::SERVICES, descriptor(ebpf, map::SERVICES)?, true),
            prefixes4: Table::new(map::PREFIXES4, descriptor(ebpf, map::PREFIXES4)?, false),
            prefixes6: Table::new(map::PREFIXES6, descriptor(ebpf, map::PREFIXES6)?, false),
            policies: Table::new(map::POLICIES, descriptor(ebpf, map::POLICIES)?, true),
            ports: Table::new(map::PORTS, descriptor(ebpf, map::PORTS)?, true),
            flows4: Table::new(map::FLOWS4, descriptor(ebpf, map::FLOWS4)?, true),
            flows6: Table::new(map::FLOWS6, descriptor(ebpf, map::FLOWS6)?, true),
            blocked4: Table::new(map::BLOCKED4, descriptor(ebpf, map::BLOCKED4)?, false),
            blocked6: Table::new(map::BLOCKED6, descriptor(ebpf, map::BLOCKED6)?, false),
            denied: Table::new(map::DENIED, descriptor(ebpf, map::DENIED)?, true),
            rules: PerCpuTable::new(map::RULES, descriptor(ebpf, map::RULES)?, cpus),
            verdicts: PerCpuTable::new(map::VERDICTS, descriptor(ebpf, map::VERDICTS)?, cpus),
            losses: PerCpuTable::new(map::LOSSES, descriptor(ebpf, map::LOSSES)?, cpus),
        })
    }
}

impl Tables {
    /// Kernel memory of a map in bytes; 0 where it is not known.
    pub fn memory(&self, name: &str) -> u64 {
        let table: &dyn Measured = match name {
            map::INTERFACES => &self.interfaces,
            map::CGROUPS => &self.cgroups,
            map::ADDRESSES4 => &self.addresses4,
            map::ADDRESSES6 => &self.addresses6,
            map::SERVICES => &self.services,
            map::PREFIXES4 => &self.prefixes4,
            map::PREFIXES6 => &self.prefixes6,
            map::POLICIES => &self.policies,
            map::PORTS => &self.ports,
            map::FLOWS4 => &self.flows4,
            map::FLOWS6 => &self.flows6,
            map::BLOCKED4 => &self.blocked4,
            map::BLOCKED6 => &self.blocked6,
            map::DENIED => &self.denied,
            map::RULES => &self.rules,
            _ => return 0,
        };
        table.memory()
    }
}

/// A ring buffer of a loaded object.
pub(super) fn ring(ebpf: &mut Ebpf, name: &'static str) -> Result<RingBuf<MapData>, DatapathError> {
    let map = ebpf.take_map(name).ok_or(DatapathError::Missing { name })?;
    RingBuf::try_from(map).map_err(|_| DatapathError::Missing { name })
}

fn descriptor(ebpf: &Ebpf, name: &'static str) -> Result<OwnedFd, DatapathError> {
    let Some(
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LpmTrie(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data),
    ) = ebpf.map(name)
    else {
        return Err(DatapathError::Missing { name });
    };
    data.fd()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|source| DatapathError::File {
            action: "duplicate the descriptor of",
            path: name.into(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ring of aya-log, which is there if any program has a line to write.
    #[test]
    fn the_programs_write_lines_only_where_they_were_built_for_it() {
        let ring = b"AYA_LOGS";
        let has_lines = OBJECT.windows(ring.len()).any(|bytes| bytes == ring);
        assert_eq!(has_lines, cfg!(feature = "ebpf-log"));
    }
}
