//! The contents of the maps that user space writes: as they are, and as they should be.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    hash::Hash,
    net::IpAddr,
    sync::Arc,
};

use bytemuck::{Pod, Zeroable};
use enforcer_common::{
    address_entry::{AddressEntry, address_flag},
    blocked_entry::BlockedEntry,
    config::{Config, FAILSAFE_PORTS, FailsafePort, MOMENTS, config_flag},
    endpoint_entry::{EndpointEntry, LaterSets, endpoint_flag},
    flow_key::{Addr4, Addr6, PrefixKey, mapped},
    identity,
    service_key::ServiceKey,
};
use ipnet::IpNet;

use super::{
    desired::{Desired, EndpointPlace, HOST_ENDPOINT},
    object::Tables,
    succession::{Names, Succession, set_pairs},
    table::{Table, TableError},
};
use crate::compile::{
    image::{self, IdentitySubject, Image},
    tables::{PolicySets, PortTables},
};

/// Everything that user space writes, less the configuration. Cheap to keep: sets and port
/// tables are the image's own, and addresses are shared while they do not change.
#[derive(Clone, Debug)]
pub(super) struct Contents {
    pub interfaces: HashMap<u32, EndpointEntry>,
    pub cgroups: HashMap<u64, EndpointEntry>,
    pub peers: Arc<Peers>,
    pub blocked4: HashMap<(u32, Addr4), BlockedEntry>,
    pub blocked6: HashMap<(u32, Addr6), BlockedEntry>,
    sets: Sets,
    /// The kernel's numbers of the image's sets.
    names: Names,
    /// What the peers were made of, less the image.
    made_of: PeersOf,
}

/// Who is behind addresses and prefixes.
#[derive(Clone, Debug, Default)]
pub(super) struct Peers {
    pub addresses4: HashMap<Addr4, AddressEntry>,
    pub addresses6: HashMap<Addr6, AddressEntry>,
    pub services: HashMap<ServiceKey, u32>,
    pub prefixes4: HashMap<(u32, Addr4), AddressEntry>,
    pub prefixes6: HashMap<(u32, Addr6), AddressEntry>,
}

/// What the addresses depend on beside the image.
#[derive(Clone, Debug, Default, PartialEq)]
struct PeersOf {
    owners: Owners,
    local: Vec<IpAddr>,
}

/// Policy sets and port tables.
#[derive(Clone, Debug)]
enum Sets {
    /// As they were read from the kernel.
    Read(PolicySets, PortTables),
    /// Exactly the image's; the sets once more, by the kernel's numbers.
    Image(Arc<Image>, PolicySets),
}

/// For how long after enrolment flows from before are picked up, in seconds.
const ADOPT_SECONDS: u32 = 60;

impl Contents {
    /// Reads what the maps hold.
    pub fn read(tables: &Tables) -> Result<Self, TableError> {
        Ok(Self {
            interfaces: collect(&tables.interfaces, |key| key)?,
            cgroups: collect(&tables.cgroups, |key| key)?,
            peers: Arc::new(Peers {
                addresses4: collect(&tables.addresses4, |key| key)?,
                addresses6: collect(&tables.addresses6, |key| key)?,
                services: collect(&tables.services, |key| key)?,
                prefixes4: collect(&tables.prefixes4, |key| (key.bits, key.address))?,
                prefixes6: collect(&tables.prefixes6, |key| (key.bits, key.address))?,
            }),
            blocked4: collect(&tables.blocked4, |key| (key.bits, key.address))?,
            blocked6: collect(&tables.blocked6, |key| (key.bits, key.address))?,
            sets: Sets::Read(
                collect(&tables.policies, |key| key)?.into_iter().collect(),
                collect(&tables.ports, |key| key)?.into_iter().collect(),
            ),
            names: Names::default(),
            made_of: PeersOf::default(),
        })
    }

    /// What the maps should hold. `now`: second of the monotonic clock; endpoints that `old`
    /// knows keep their time of enrolment.
    pub fn desired(desired: &Desired, old: &Self, now: u32) -> Self {
        let image = &desired.image;
        let made_of = PeersOf {
            owners: Owners::new(desired),
            local: desired.node.local_addresses.clone(),
        };
        let peers = match &old.sets {
            Sets::Image(before, _) if same_peers(before, image) && made_of == old.made_of => {
                Arc::clone(&old.peers)
            }
            _ => Arc::new(Peers::of(image, &made_of)),
        };
        let mut new = Self {
            interfaces: HashMap::new(),
            cgroups: HashMap::new(),
            peers,
            blocked4: HashMap::new(),
            blocked6: HashMap::new(),
            sets: Sets::Image(Arc::clone(image), PolicySets::default()),
            names: Names::default(),
            made_of,
        };
        match &old.sets {
            Sets::Image(before, named) if Arc::ptr_eq(before, image) => {
                new.names = old.names.clone();
                new.sets = Sets::Image(Arc::clone(image), named.clone());
            }
            _ => new.name_sets(desired, old),
        }
        for (net, (rule, audit)) in &image.blocked {
            let entry = BlockedEntry {
                rule: *rule,
                audit: u32::from(*audit),
            };
            match net {
                IpNet::V4(net) => {
                    let key = (u32::from(net.prefix_len()), net.network().octets());
                    new.blocked4.insert(key, entry);
                }
                IpNet::V6(net) => {
                    let key = (u32::from(net.prefix_len()), net.network().octets());
                    new.blocked6.insert(key, entry);
                }
            }
        }
        new.add_endpoints(desired, old, now);
        new
    }

    /// The policy table.
    pub fn policies(&self) -> &PolicySets {
        match &self.sets {
            Sets::Read(policies, _) => policies,
            Sets::Image(_, named) => named,
        }
    }

    /// The port table.
    pub fn ports(&self) -> &PortTables {
        match &self.sets {
            Sets::Read(_, ports) => ports,
            Sets::Image(image, _) => &image.ports,
        }
    }

    /// Whether both hold the sets and port tables of one and the same image.
    pub fn same_sets(&self, other: &Self) -> bool {
        match (&self.sets, &other.sets) {
            (Sets::Image(one, _), Sets::Image(other, _)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// An entry with sets of the image, by the kernel's numbers.
    pub fn named(&self, entry: EndpointEntry) -> EndpointEntry {
        renumbered(entry, |set| self.names.of(set))
    }

    /// Finds the kernel's numbers of the sets, beside those that it has.
    fn name_sets(&mut self, desired: &Desired, old: &Self) {
        let image = &desired.image;
        let mut wanted = Vec::new();
        let mut wants = |old: Option<&EndpointEntry>, identity| {
            if let Some(old) = old {
                let new = with_sets(desired, identity);
                wanted.extend(set_pairs(Some(old), Some(&new)));
            }
        };
        for endpoint in &desired.endpoints {
            let old = match &endpoint.place {
                EndpointPlace::Interface { ifindex, .. } => old.interfaces.get(ifindex),
                EndpointPlace::Cgroup { id, .. }
                | EndpointPlace::NoWorkload { id }
                | EndpointPlace::Pending { id } => old.cgroups.get(id),
            };
            wants(old, endpoint.identity);
        }
        for uplink in &desired.uplinks {
            wants(old.interfaces.get(&uplink.ifindex), identity::HOST);
        }
        let names = Names::new(image, old.policies(), &old.names, wanted.into_iter());
        self.sets = Sets::Image(Arc::clone(image), names.apply(&image.policies));
        self.names = names;
    }

    /// Gives the sets that follow others the numbers of those.
    pub fn succeed(&mut self, succession: &Succession) {
        if let Sets::Image(image, named) = &mut self.sets {
            self.names = self.names.after(image, succession);
            *named = self.names.apply(&image.policies);
        }
        let entries = self.interfaces.values_mut();
        for entry in entries.chain(self.cgroups.values_mut()) {
            *entry = renumbered(*entry, |set| succession.settled(set));
        }
    }

    fn add_endpoints(&mut self, desired: &Desired, old: &Self, now: u32) {
        // Only what was there before enforcement can have datagrams under way. Whatever comes
        // later is enrolled before it talks, and a datagram that looks like an answer is none.
        let first = old.interfaces.is_empty() && old.cgroups.is_empty();
        let enrolled = |old: Option<&EndpointEntry>, id: u32| match old {
            Some(old) if old.id == id => {
                (old.adopt_until, old.flags & endpoint_flag::ADOPTS_DATAGRAMS)
            }
            _ if first => (now + ADOPT_SECONDS, endpoint_flag::ADOPTS_DATAGRAMS),
            _ => (now + ADOPT_SECONDS, 0),
        };
        for endpoint in &desired.endpoints {
            let mut entry = EndpointEntry {
                id: endpoint.id,
                ..self.named(with_sets(desired, endpoint.identity))
            };
            if endpoint.audit {
                entry.flags |= endpoint_flag::AUDIT;
            }
            if endpoint.strict_source {
                entry.flags |= endpoint_flag::STRICT_SOURCE;
            }
            let mut adopt = |old: Option<&EndpointEntry>| {
                let (until, flag) = enrolled(old, endpoint.id);
                entry.adopt_until = until;
                entry.flags |= flag;
            };
            match &endpoint.place {
                EndpointPlace::Interface { ifindex, .. } => {
                    adopt(old.interfaces.get(ifindex));
                    self.interfaces.insert(*ifindex, entry);
                }
                EndpointPlace::Cgroup { id, .. } => {
                    adopt(old.cgroups.get(id));
                    self.cgroups.insert(*id, entry);
                }
                EndpointPlace::NoWorkload { id } => {
                    entry.flags |= endpoint_flag::NOT_ENROLLED;
                    self.cgroups.insert(*id, entry);
                }
                EndpointPlace::Pending { id } => {
                    entry.flags |= endpoint_flag::PENDING_CHILDREN;
                    self.cgroups.insert(*id, entry);
                }
            }
        }
        for uplink in &desired.uplinks {
            let (adopt_until, adopts) =
                enrolled(old.interfaces.get(&uplink.ifindex), HOST_ENDPOINT);
            let mut flags = endpoint_flag::HOST | adopts;
            if desired.node.audit {
                flags |= endpoint_flag::AUDIT;
            }
            self.interfaces.insert(
                uplink.ifindex,
                EndpointEntry {
                    id: HOST_ENDPOINT,
                    flags,
                    adopt_until,
                    ..self.named(with_sets(desired, identity::HOST))
                },
            );
        }
    }

    /// The node's configuration beside these contents, at a generation.
    pub fn config(
        &self,
        desired: &Desired,
        generation: u32,
        block_at_tc: bool,
        sockets_at_tc: bool,
    ) -> Config {
        let node = &desired.node;
        let mut failsafe = [FailsafePort::default(); FAILSAFE_PORTS];
        let count = node.failsafe.len().min(FAILSAFE_PORTS);
        failsafe[..count].copy_from_slice(&node.failsafe[..count]);
        let restricted = desired
            .image
            .sets
            .get(&identity::HOST)
            .is_some_and(image::Sets::restrict);
        let mut moments = [0; MOMENTS];
        for (slot, moment) in moments.iter_mut().zip(&desired.image.moments) {
            *slot = desired.clock.boot_time(*moment);
        }
        let asks_sockets = desired
            .endpoints
            .iter()
            .any(|endpoint| matches!(endpoint.place, EndpointPlace::Interface { .. }));
        let mut flags = 0;
        for (wanted, flag) in [
            (node.report_allowed, config_flag::REPORT_ALLOWED),
            (node.full_denies, config_flag::FULL_DENIES),
            (node.audit, config_flag::AUDIT),
            (node.unknown_denies, config_flag::UNKNOWN_DENIES),
            (block_at_tc, config_flag::BLOCK_AT_TC),
            (sockets_at_tc, config_flag::SOCKETS_AT_TC),
            (restricted, config_flag::HOST_RESTRICTED),
            (node.reject, config_flag::REJECT),
            (asks_sockets, config_flag::ASKS_SOCKETS),
        ] {
            if wanted {
                flags |= flag;
            }
        }
        Config {
            generation,
            flags,
            moments,
            slept: desired.clock.slept,
            prefixes: [
                count_of(&self.peers.prefixes4),
                count_of(&self.peers.prefixes6),
            ],
            blocked: [count_of(&self.blocked4), count_of(&self.blocked6)],
            report_limit: node.report_limit,
            reject_limit: node.reject_limit,
            pad: 0,
            failsafe_count: u32::try_from(count).unwrap_or(0),
            failsafe,
        }
    }
}

/// An endpoint of which only the identity and its sets are said.
pub(super) fn with_sets(desired: &Desired, identity: u32) -> EndpointEntry {
    let mut entry = EndpointEntry {
        identity,
        ..EndpointEntry::zeroed()
    };
    if let Some(sets) = desired.image.sets.get(&identity) {
        entry.sets = sets.numbers;
        for (slot, (moment, numbers)) in entry.later.iter_mut().zip(&sets.later) {
            *slot = LaterSets {
                moment: desired.clock.boot_time(*moment),
                sets: *numbers,
            };
        }
    }
    entry
}

/// An entry with other numbers for its sets, those of now and of later.
fn renumbered(mut entry: EndpointEntry, number: impl Fn(u32) -> u32) -> EndpointEntry {
    entry.sets = entry.sets.map(&number);
    for later in &mut entry.later {
        later.sets = later.sets.map(&number);
    }
    entry
}

fn subject(image: &Image, identity: u32) -> Option<&IdentitySubject> {
    Some(&image.identities.get(&identity)?.subject)
}

/// Which interface endpoint a declared address or prefix belongs to.
#[derive(Clone, Debug, Default, PartialEq)]
struct Owners {
    declared: HashMap<IpNet, Owner>,
    /// Prefix lengths that are declared, in ascending order.
    lengths: BTreeSet<u8>,
}

/// An interface endpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Owner {
    endpoint: u32,
    identity: u32,
    /// What it sends does not come in by an uplink.
    inside: bool,
}

impl Owners {
    fn new(desired: &Desired) -> Self {
        let uplinks = desired.uplinks.iter();
        let leading_out: BTreeSet<u32> = uplinks
            .flat_map(|uplink| uplink.ports.iter().chain([&uplink.ifindex]))
            .copied()
            .collect();
        let mut declared = HashMap::new();
        for endpoint in &desired.endpoints {
            if let EndpointPlace::Interface { ifindex, .. } = &endpoint.place {
                let owner = Owner {
                    endpoint: endpoint.id,
                    identity: endpoint.identity,
                    inside: !leading_out.contains(ifindex),
                };
                declared.extend(endpoint.addresses.iter().map(|net| (net.trunc(), owner)));
            }
        }
        let lengths = declared.keys().map(IpNet::prefix_len).collect();
        Self { declared, lengths }
    }

    /// The endpoint that declares a prefix, or a wider one out of which policy names this one:
    /// then the identity is still that of the same workload.
    fn of(&self, image: &Image, net: &IpNet, identity: u32) -> Option<Owner> {
        let wider = self.lengths.range(..=net.prefix_len()).rev();
        let (exact, owner) = wider
            .filter_map(|length| IpNet::new(net.addr(), *length).ok())
            .find_map(|wide| self.declared.get(&wide.trunc()).map(|owner| (wide, *owner)))
            .map(|(wide, owner)| (wide.prefix_len() == net.prefix_len(), owner))?;
        let same = exact || subject(image, identity) == subject(image, owner.identity);
        same.then_some(owner)
    }
}

/// Whether two images know the same addresses.
fn same_peers(one: &Arc<Image>, other: &Arc<Image>) -> bool {
    Arc::ptr_eq(one, other)
        || one.host_addresses == other.host_addresses
            && one.addresses == other.addresses
            && one.prefixes == other.prefixes
            && one.services == other.services
}

impl Peers {
    fn of(image: &Image, made_of: &PeersOf) -> Self {
        let mut peers = Self::default();
        let entry = |net: &IpNet, identity: u32| {
            let owner = made_of.owners.of(image, net, identity);
            let mut flags = match subject(image, identity) {
                Some(IdentitySubject::World) => address_flag::WORLD,
                _ => 0,
            };
            if owner.is_some_and(|owner| owner.inside) {
                flags |= address_flag::INSIDE;
            }
            AddressEntry {
                identity,
                endpoint: owner.map_or(0, |owner| owner.endpoint),
                flags,
            }
        };
        for (net, identity) in image.prefixes.iter() {
            peers.add_prefix(net, entry(net, *identity));
        }
        let mut shared = HashSet::new();
        for (at, identity) in image.services.iter() {
            shared.insert(at.address);
            let key = ServiceKey {
                address: match at.address {
                    IpAddr::V4(address) => mapped(address.octets()),
                    IpAddr::V6(address) => address.octets(),
                },
                port: at.port,
                protocol: at.protocol,
                pad: 0,
            };
            peers.services.insert(key, *identity);
        }
        for (net, identity) in image.addresses.iter() {
            let mut entry = entry(net, *identity);
            if shared.contains(&net.addr()) {
                entry.flags |= address_flag::SHARED;
            }
            peers.add_address(net.addr(), entry);
        }
        for address in &made_of.local {
            let identity = image.host_addresses.get(address).copied();
            let entry = AddressEntry {
                identity: identity.unwrap_or(identity::HOST),
                endpoint: 0,
                flags: address_flag::LOCAL,
            };
            peers.add_address(*address, entry);
        }
        peers
    }

    fn add_address(&mut self, address: IpAddr, entry: AddressEntry) {
        match address {
            IpAddr::V4(address) => {
                self.addresses4.insert(address.octets(), entry);
            }
            IpAddr::V6(address) => {
                self.addresses6.insert(address.octets(), entry);
            }
        }
    }

    fn add_prefix(&mut self, net: &IpNet, entry: AddressEntry) {
        match net {
            IpNet::V4(net) => {
                let key = (u32::from(net.prefix_len()), net.network().octets());
                self.prefixes4.insert(key, entry);
            }
            IpNet::V6(net) => {
                let key = (u32::from(net.prefix_len()), net.network().octets());
                self.prefixes6.insert(key, entry);
            }
        }
    }
}

fn count_of<K, V>(map: &HashMap<K, V>) -> u32 {
    u32::try_from(map.len()).unwrap_or(u32::MAX)
}

fn collect<K: Pod, V: Pod, M: Eq + Hash>(
    table: &Table<K, V>,
    key: impl Fn(K) -> M,
) -> Result<HashMap<M, V>, TableError> {
    let mut entries = HashMap::new();
    table.for_each(|k, v| {
        entries.insert(key(k), v);
    })?;
    Ok(entries)
}

/// Key of a prefix table.
pub(super) fn prefix_key<A>((bits, address): (u32, A)) -> PrefixKey<A> {
    PrefixKey { bits, address }
}
