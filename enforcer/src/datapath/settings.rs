//! What the datapath is opened with.

use std::path::PathBuf;

use sha2::{Digest, Sha256};

use enforcer_common::{
    abi::{self, map},
    config::MOMENTS,
};

use crate::compile::Limits;

/// Where and how large.
#[derive(Clone, Debug)]
pub struct DatapathSettings {
    /// Directory on a bpffs for maps and links.
    pub pin_dir: PathBuf,
    /// The cgroup v2 directory whose hooks judge everything below it; `None`: no cgroup
    /// endpoints.
    pub cgroup_root: Option<PathBuf>,
    /// Sizes of the maps.
    pub capacities: Capacities,
    /// When XDP is attached to uplinks.
    pub xdp: XdpMode,
    /// Names the numbering (identities, rules, sets) that the maps' contents follow. Maps of
    /// another numbering are replaced, never reused.
    pub numbering: u64,
}

/// Bytes of the ring of refused packets: more than a thousand of them.
const REFUSALS_BYTES: u32 = 1 << 18;

/// When XDP is attached to uplinks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// Never: blocked sources are dropped at TC.
    Off,
    /// While there is something to block.
    #[default]
    OnDemand,
    /// Always.
    Always,
}

/// Sizes of the maps, in entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacities {
    /// Connection tracking, IPv4 and IPv6 each (96 and 120 bytes an entry, allocated at once).
    pub flows: u32,
    /// Policy entries (peers by policy set), allocated as needed.
    pub policies: u32,
    /// Port entries, allocated as needed.
    pub ports: u32,
    /// Single addresses, IPv4 and IPv6 each, allocated as needed.
    pub addresses: u32,
    /// Ports of addresses that workloads share, allocated as needed.
    pub services: u32,
    /// Prefixes, IPv4 and IPv6 each, allocated as needed; blocked prefixes as many again.
    pub prefixes: u32,
    /// Rules with a counter (16 bytes an entry and CPU).
    pub rules: u32,
    /// Denied flows between two drains (170 bytes an entry).
    pub denied: u32,
    /// Fragmented datagrams under way.
    pub fragments: u32,
    /// Interface endpoints, and cgroups, each.
    pub endpoints: u32,
    /// Bytes of the event ring: a power of two, at least one page.
    pub events_bytes: u32,
}

impl Default for Capacities {
    fn default() -> Self {
        Self {
            flows: 131_072,
            policies: 262_144,
            ports: 262_144,
            addresses: 131_072,
            services: 131_072,
            prefixes: 16_384,
            rules: 16_384,
            denied: 16_384,
            fragments: 4096,
            endpoints: 16_384,
            events_bytes: 1 << 20,
        }
    }
}

impl Capacities {
    /// What the compiler may fill.
    pub fn limits(&self) -> Limits {
        Limits {
            policies: self.policies as usize,
            ports: self.ports as usize,
            addresses: self.addresses as usize,
            services: self.services as usize,
            prefixes: self.prefixes as usize,
            rules: self.rules as usize,
            moments: MOMENTS,
        }
    }

    /// The size of each map that has one to choose.
    pub(super) fn by_map(&self) -> [(&'static str, u32); 19] {
        [
            (map::INTERFACES, self.endpoints),
            (map::CGROUPS, self.endpoints),
            (map::ADDRESSES4, self.addresses),
            (map::ADDRESSES6, self.addresses),
            (map::SERVICES, self.services),
            (map::PREFIXES4, self.prefixes),
            (map::PREFIXES6, self.prefixes),
            (map::POLICIES, self.policies),
            (map::PORTS, self.ports),
            (map::FLOWS4, self.flows),
            (map::FLOWS6, self.flows),
            (map::FRAGMENTS, self.fragments),
            (map::BLOCKED4, self.prefixes),
            (map::BLOCKED6, self.prefixes),
            (map::DENIED, self.denied),
            (map::EVENTS, self.events_bytes.next_power_of_two().max(4096)),
            // Number 0 stands for "no rule".
            (map::RULES, self.rules.saturating_add(1)),
            // Of reports, and of answers.
            (map::TOKENS, 2),
            (map::REFUSALS, REFUSALS_BYTES),
        ]
    }
}

impl DatapathSettings {
    /// Names the maps: everything that decides whether contents written before can be used.
    pub(super) fn layout(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(abi::ABI_VERSION.to_le_bytes());
        hash.update(self.numbering.to_le_bytes());
        for (name, size) in self.capacities.by_map() {
            hash.update(name);
            hash.update(size.to_le_bytes());
        }
        let digest = hash.finalize();
        let digest = digest[..6]
            .iter()
            .fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        format!("maps-{}-{digest:012x}", abi::ABI_VERSION)
    }
}
