//! From what the maps hold to what they should hold, so that no packet meets half a change.
//!
//! The order is that of [`crate::compile::bridge`], one [`Stage`] after the other:
//!
//! 1. `beside`: new sets and port tables, and what transient identities are judged by, beside
//!    what is in use.
//! 2. `between`: addresses and prefixes get their identity in between, then the endpoints that
//!    are there; then (`enrol`) endpoints that are new get everything. Hooks are attached.
//! 3. `flip`: each endpoint goes over to its new sets in one map update; and where a set is
//!    changed where it is ([`super::succession`]), each peer to its new entry.
//! 4. `settle`: everybody gets the identity that the new image says. The generation is raised,
//!    so that cached decisions are judged again.
//! 5. `gone`: addresses and endpoints that are no more; `clean`: sets that nothing uses.
//!
//! A program that runs reads its endpoint first and the peer's identity and the sets later. So
//! between 3 and 4, and before the last step, the kernel is asked to wait until the programs
//! that may have begun before are through ([`super::quiet`]). No later packet can then judge by
//! an old set, or keep an old decision under the new generation.
//!
//! Up to the raised generation everything can be undone, in reverse order. What a daemon that
//! died on the way has left is in the contents that the next one reads, and so is changed to
//! what is desired like everything else.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use bytemuck::Pod;
use enforcer_common::{
    Decision,
    address_entry::{AddressEntry, address_flag},
    endpoint_entry::{EndpointEntry, endpoint_flag},
    flow_key::{Addr4, Addr6},
    identity,
    policy_key::{PolicyEntry, PolicyKey, PortKey},
    service_key::ServiceKey,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::compile::bridge::{Bridge, EndpointChange, EndpointState, Held, TRANSIENT};

use super::{
    contents::{Contents, Peers, prefix_key},
    error::ApplyError,
    settings::Capacities,
    stage::{Stage, Writes, differences, differences_of_parts},
    succession::Succession,
};

/// The way from one contents to another.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub beside: Stage,
    pub between: Stage,
    pub enrol: Stage,
    pub flip: Stage,
    pub settle: Stage,
    pub gone: Stage,
    pub clean: Stage,
    /// What transient identities become.
    pub transients: Vec<(u32, u32)>,
}

impl Plan {
    /// What leads from `old` to `new`, in which sets that are made out of former ones then have
    /// their numbers. `host`: with the sets of the host in the new image, which judge the sockets
    /// of a cgroup that is no workload any more.
    pub fn between(
        old: &Contents,
        new: &mut Contents,
        host: &EndpointEntry,
        transient: u32,
    ) -> Self {
        let mut plan = Self::default();
        // As if every set that is new were written beside the others.
        let bridge = bridge(old, new, transient);
        let succession = succession(old, new, &new.named(*host));
        new.succeed(&succession);
        let new = &*new;
        let host = &new.named(*host);
        #[cfg(test)]
        let bridge = if super::tests::WITHOUT_BRIDGE.get() {
            Bridge::default()
        } else {
            bridge
        };
        plan.transients = bridge.transients().collect();
        plan.sets(old, new, &bridge, &succession);
        plan.peers(&old.peers, &new.peers, &bridge);
        plan.cgroups(old, new, host, &bridge);
        differences(&old.interfaces, &new.interfaces, |ifindex, old, new| {
            let stage = match old {
                None => &mut plan.enrol,
                Some(_) => &mut plan.flip,
            };
            stage.interfaces.put(ifindex, old, new);
        });
        differences(&old.blocked4, &new.blocked4, |key, old, new| {
            plan.flip.blocked4.put(prefix_key(key), old, new);
        });
        differences(&old.blocked6, &new.blocked6, |key, old, new| {
            plan.flip.blocked6.put(prefix_key(key), old, new);
        });
        plan
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        let stages = [
            &self.beside,
            &self.between,
            &self.enrol,
            &self.flip,
            &self.settle,
            &self.gone,
            &self.clean,
        ];
        stages.into_iter().all(Stage::is_empty)
    }

    fn sets(&mut self, old: &Contents, new: &Contents, bridge: &Bridge, succession: &Succession) {
        if !old.same_sets(new) {
            let key = |set, (peer, _): &(u32, PolicyEntry)| PolicyKey { set, peer: *peer };
            differences_of_parts(old.policies(), new.policies(), key, |key, old, new| {
                let stage = match new {
                    _ if succession.is_in_place(key.set) => &mut self.flip,
                    Some(_) => &mut self.beside,
                    None => &mut self.clean,
                };
                stage.policies.put(key, old, new);
            });
            let key = |_, (key, _): &(PortKey, Decision)| *key;
            differences_of_parts(old.ports(), new.ports(), key, |key, old, new| {
                let stage = match new {
                    Some(_) => &mut self.beside,
                    None => &mut self.clean,
                };
                stage.ports.put(key, old, new);
            });
        }
        // Where a set is made out of a former one, what both say of a transient identity stands
        // in one place, one after the other.
        let mut in_place: HashMap<PolicyKey, [Option<PolicyEntry>; 2]> = HashMap::new();
        for (key, entry) in &bridge.entries {
            if let Some(set) = succession.former(key.set) {
                let key = PolicyKey { set, ..*key };
                in_place.entry(key).or_default()[1] = Some(*entry);
            } else if succession.is_in_place(key.set) {
                in_place.entry(*key).or_default()[0] = Some(*entry);
            } else {
                self.beside.policies.put(*key, None, Some(*entry));
                self.clean.policies.put(*key, Some(*entry), None);
            }
        }
        for (key, [before, after]) in in_place {
            self.beside.policies.put(key, None, before);
            self.flip.policies.put(key, before, after);
            self.clean.policies.put(key, after, None);
        }
    }

    fn peers(&mut self, old: &Peers, new: &Peers, bridge: &Bridge) {
        if std::ptr::eq(old, new) {
            return;
        }
        let Self {
            between,
            settle,
            gone,
            ..
        } = self;
        service_moves(old, new, |key, old, new, (from, to)| {
            let in_between = Some(bridge.identity(from, to));
            between.services.put(key, old, in_between);
            match new {
                Some(_) => settle.services.put(key, in_between, new),
                None => gone.services.put(key, in_between, None),
            }
        });
        let mut walk4 = Walk {
            writes: [
                &mut between.addresses4,
                &mut settle.addresses4,
                &mut gone.addresses4,
            ],
            bridge,
        };
        differences(&old.addresses4, &new.addresses4, |address, old, new| {
            walk4.write(address, net4(32, address), old, new);
        });
        let mut walk6 = Walk {
            writes: [
                &mut between.addresses6,
                &mut settle.addresses6,
                &mut gone.addresses6,
            ],
            bridge,
        };
        differences(&old.addresses6, &new.addresses6, |address, old, new| {
            walk6.write(address, net6(128, address), old, new);
        });
        let mut walk4 = Walk {
            writes: [
                &mut between.prefixes4,
                &mut settle.prefixes4,
                &mut gone.prefixes4,
            ],
            bridge,
        };
        differences(&old.prefixes4, &new.prefixes4, |key, old, new| {
            walk4.write(prefix_key(key), net4(key.0, key.1), old, new);
        });
        let mut walk6 = Walk {
            writes: [
                &mut between.prefixes6,
                &mut settle.prefixes6,
                &mut gone.prefixes6,
            ],
            bridge,
        };
        differences(&old.prefixes6, &new.prefixes6, |key, old, new| {
            walk6.write(prefix_key(key), net6(key.0, key.1), old, new);
        });
    }

    fn cgroups(&mut self, old: &Contents, new: &Contents, host: &EndpointEntry, bridge: &Bridge) {
        differences(&old.cgroups, &new.cgroups, |id, old, new| {
            let from = workload(old).map_or(identity::HOST, |entry| entry.identity);
            let to = workload(new).map_or(identity::HOST, |entry| entry.identity);
            let identity = bridge.identity(from, to);
            match (workload(old), workload(new)) {
                (Some(_), Some(_)) => {
                    let between = old.map(|entry| EndpointEntry { identity, ..entry });
                    let flipped = new.map(|entry| EndpointEntry { identity, ..entry });
                    self.between.cgroups.put(id, old, between);
                    self.flip.cgroups.put(id, between, flipped);
                    self.settle.cgroups.put(id, flipped, new);
                }
                (None, Some(_)) => {
                    let between = new.map(|entry| EndpointEntry { identity, ..entry });
                    self.enrol.cgroups.put(id, old, between);
                    self.settle.cgroups.put(id, between, new);
                }
                (Some(_), None) => {
                    // Its sockets are the host's from the flip on, and are still known for what
                    // they were to endpoints that have not flipped yet.
                    let between = old.map(|entry| EndpointEntry { identity, ..entry });
                    let flipped = between.map(|entry| EndpointEntry {
                        sets: host.sets,
                        later: host.later,
                        ..entry
                    });
                    self.between.cgroups.put(id, old, between);
                    self.flip.cgroups.put(id, between, flipped);
                    self.gone.cgroups.put(id, flipped, new);
                }
                (None, None) => self.flip.cgroups.put(id, old, new),
            }
        });
    }

    /// Refuses what does not fit while old, new and what is in between stand side by side.
    pub fn check_room(&self, old: &Contents, room: &Capacities) -> Result<(), ApplyError> {
        let Self {
            beside,
            between,
            enrol,
            flip,
            ..
        } = self;
        let peers = &old.peers;
        let policies = (room.policies, "--max-policies");
        let ports = (room.ports, "--max-ports");
        let addresses = (room.addresses, "--max-addresses");
        let prefixes = (room.prefixes, "--max-prefixes");
        let endpoints = (room.endpoints, "--max-endpoints");
        let needs = [
            (
                "policy entries",
                old.policies().len() + beside.policies.added() + flip.policies.added(),
                policies,
            ),
            (
                "port entries",
                old.ports().len() + beside.ports.added(),
                ports,
            ),
            (
                "IPv4 addresses",
                peers.addresses4.len() + between.addresses4.added(),
                addresses,
            ),
            (
                "IPv6 addresses",
                peers.addresses6.len() + between.addresses6.added(),
                addresses,
            ),
            (
                "ports of shared addresses",
                peers.services.len() + between.services.added(),
                (room.services, "--max-services"),
            ),
            (
                "IPv4 prefixes",
                peers.prefixes4.len() + between.prefixes4.added(),
                prefixes,
            ),
            (
                "IPv6 prefixes",
                peers.prefixes6.len() + between.prefixes6.added(),
                prefixes,
            ),
            (
                "blocked IPv4 prefixes",
                old.blocked4.len() + flip.blocked4.added(),
                prefixes,
            ),
            (
                "blocked IPv6 prefixes",
                old.blocked6.len() + flip.blocked6.added(),
                prefixes,
            ),
            (
                "interface endpoints",
                old.interfaces.len() + enrol.interfaces.added(),
                endpoints,
            ),
            (
                "cgroups",
                old.cgroups.len() + enrol.cgroups.added() + flip.cgroups.added(),
                endpoints,
            ),
        ];
        for (what, needed, (capacity, setting)) in needs {
            let capacity = capacity as usize;
            if needed > capacity {
                return Err(ApplyError::TooMany {
                    what,
                    needed,
                    capacity,
                    setting,
                });
            }
        }
        Ok(())
    }
}

/// The writes for one table of peers: in between, as the new image says, and removals.
struct Walk<'a, K> {
    writes: [&'a mut Writes<K, AddressEntry>; 3],
    bridge: &'a Bridge,
}

impl<K: Pod> Walk<'_, K> {
    fn write(&mut self, key: K, net: IpNet, old: Option<AddressEntry>, new: Option<AddressEntry>) {
        let [between, settle, gone] = &mut self.writes;
        let in_between = new.or(old).map(|entry| AddressEntry {
            identity: (self.bridge.peers.get(&net).copied()).unwrap_or(entry.identity),
            // Who is behind its ports is to be known for as long as an old set asks.
            flags: entry.flags | old.map_or(0, |old| old.flags & address_flag::SHARED),
            ..entry
        });
        between.put(key, old, in_between);
        match new {
            Some(_) => settle.put(key, in_between, new),
            None => gone.put(key, in_between, None),
        }
    }
}

/// Calls `visit` for every port of a shared address behind which somebody else is, with who that
/// was and will be: where nobody is known by the port, whoever has the address.
fn service_moves(
    old: &Peers,
    new: &Peers,
    mut visit: impl FnMut(ServiceKey, Option<u32>, Option<u32>, (u32, u32)),
) {
    let at_address = |peers: &Peers, key: &ServiceKey| {
        let entry = match Ipv6Addr::from(key.address).to_canonical() {
            IpAddr::V4(address) => peers.addresses4.get(&address.octets()),
            IpAddr::V6(address) => peers.addresses6.get(&address.octets()),
        };
        entry.map_or(identity::WORLD, |entry| entry.identity)
    };
    differences(&old.services, &new.services, |key, before, after| {
        let from = before.unwrap_or_else(|| at_address(old, &key));
        let to = after.unwrap_or_else(|| at_address(new, &key));
        visit(key, before, after, (from, to));
    });
}

/// The workload behind a cgroup, if there is one.
fn workload(entry: Option<EndpointEntry>) -> Option<EndpointEntry> {
    entry.filter(|entry| !entry.has(endpoint_flag::NOT_ENROLLED))
}

/// The bridge between two contents. Addresses that do not change are left out: they neither
/// move nor contain any other.
fn bridge(old: &Contents, new: &Contents, transient: u32) -> Bridge {
    let (mut from, mut to) = (HashMap::new(), HashMap::new());
    if !Arc::ptr_eq(&old.peers, &new.peers) {
        let mut moved = |net, old: Option<AddressEntry>, new: Option<AddressEntry>| {
            from.extend(old.map(|entry| (net, entry.identity)));
            to.extend(new.map(|entry| (net, entry.identity)));
        };
        differences(
            &old.peers.addresses4,
            &new.peers.addresses4,
            |a, old, new| {
                moved(net4(32, a), old, new);
            },
        );
        differences(
            &old.peers.addresses6,
            &new.peers.addresses6,
            |a, old, new| {
                moved(net6(128, a), old, new);
            },
        );
        let prefixes = |peers: &Peers, held: &mut HashMap<IpNet, u32>| {
            add(held, &peers.prefixes4, |(bits, a)| net4(bits, a));
            add(held, &peers.prefixes6, |(bits, a)| net6(bits, a));
        };
        prefixes(&old.peers, &mut from);
        prefixes(&new.peers, &mut to);
        // What the programs take for the host where the tables say nothing.
        for net in [
            net4(8, [127, 0, 0, 0]),
            net6(128, Ipv6Addr::LOCALHOST.octets()),
        ] {
            from.entry(net).or_insert(identity::HOST);
            to.entry(net).or_insert(identity::HOST);
        }
    }
    let mut others = Vec::new();
    if !Arc::ptr_eq(&old.peers, &new.peers) {
        service_moves(&old.peers, &new.peers, |_, _, _, pair| others.push(pair));
    }
    let held = |peers, policies| Held { peers, policies };
    Bridge::between_with(
        held(&from, old.policies()),
        held(&to, new.policies()),
        &endpoint_changes(old, new),
        &others,
        transient,
    )
}

/// The sets that are made out of former ones. Sockets in a cgroup that is no workload any more
/// are the host's.
fn succession(old: &Contents, new: &Contents, host: &EndpointEntry) -> Succession {
    let ids = (old.cgroups.keys()).chain(
        new.cgroups
            .keys()
            .filter(|id| !old.cgroups.contains_key(id)),
    );
    let cgroups = ids.map(|id| {
        let before = old.cgroups.get(id).copied();
        let after = new.cgroups.get(id).copied();
        let leaves = workload(before).is_some() && workload(after).is_none();
        let leaving = before.filter(|_| leaves);
        let leaving = leaving.map(|entry| EndpointEntry {
            sets: host.sets,
            later: host.later,
            ..entry
        });
        (before, leaving.or(after))
    });
    let indices = (old.interfaces.keys()).chain(
        new.interfaces
            .keys()
            .filter(|index| !old.interfaces.contains_key(index)),
    );
    let interfaces = indices.map(|index| {
        let entry = |contents: &Contents| contents.interfaces.get(index).copied();
        (entry(old), entry(new))
    });
    Succession::new(old.policies(), new.policies(), cgroups.chain(interfaces))
}

fn endpoint_changes(old: &Contents, new: &Contents) -> Vec<EndpointChange> {
    let state = |entry: EndpointEntry, identity| EndpointState {
        identity,
        sets: entry.all_sets(),
    };
    let mut changes = Vec::new();
    differences(&old.cgroups, &new.cgroups, |_, old, new| {
        changes.push(EndpointChange {
            old: workload(old).map(|entry| state(entry, entry.identity)),
            new: workload(new).map(|entry| state(entry, entry.identity)),
        });
    });
    // That a socket is behind an interface proves nothing: its workload is known by address.
    differences(&old.interfaces, &new.interfaces, |_, old, new| {
        changes.push(EndpointChange {
            old: old.map(|entry| state(entry, identity::HOST)),
            new: new.map(|entry| state(entry, identity::HOST)),
        });
    });
    changes
}

/// The lowest transient identity that nothing in `contents` uses.
pub(super) fn free_transient(contents: &Contents) -> u32 {
    let keys = contents.policies().iter().map(|(key, _)| key.peer);
    let peers = &contents.peers;
    let peers = (peers.addresses4.values())
        .chain(peers.addresses6.values())
        .chain(peers.prefixes4.values())
        .chain(peers.prefixes6.values())
        .map(|entry| entry.identity)
        .chain(peers.services.values().copied());
    let endpoints = contents.cgroups.values().map(|entry| entry.identity);
    keys.chain(peers)
        .chain(endpoints)
        .filter(|identity| *identity >= TRANSIENT)
        .max()
        .map_or(TRANSIENT, |highest| {
            highest.checked_add(1).unwrap_or(TRANSIENT)
        })
}

fn add<M: Copy + Eq + Hash>(
    held: &mut HashMap<IpNet, u32>,
    entries: &HashMap<M, AddressEntry>,
    net: impl Fn(M) -> IpNet,
) {
    held.extend(
        entries
            .iter()
            .map(|(key, entry)| (net(*key), entry.identity)),
    );
}

fn net4(bits: u32, address: Addr4) -> IpNet {
    Ipv4Net::new_assert(address.into(), u8::try_from(bits).unwrap_or(32)).into()
}

fn net6(bits: u32, address: Addr6) -> IpNet {
    Ipv6Net::new_assert(address.into(), u8::try_from(bits).unwrap_or(128)).into()
}
