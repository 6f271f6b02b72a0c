//! Who there is to reach and be reached, in groups that policy cannot tell apart. One tree, or
//! two trees side by side: then what one of them tells apart is apart.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use enforcer_common::{
    identity,
    policy_key::{ALLOW_ALL, PolicyEntry},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::tree::{Tree, name_of};
use crate::{
    compile::image::WorkloadName,
    policy::model::{Place, Workload},
};

/// How somebody is known to policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Party {
    /// This host itself.
    Host,
    /// Any address of which nothing is said.
    World,
    /// Whoever has an address in the network, and in no longer one that is known.
    Network(IpNet),
    /// A workload, by its socket or interface on this host.
    Proven(WorkloadName),
}

/// What a tree has of a party.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InTree {
    /// Who is there.
    pub owner: Owner,
    /// Policy sets of its endpoint (egress, ingress); `None` where nothing judges.
    pub sets: Option<[u32; 2]>,
    /// Identity as a peer.
    pub peer: u32,
}

/// Who is behind a party.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owner {
    /// This host.
    Host,
    /// Nobody known.
    Nobody,
    /// A workload.
    Workload(WorkloadName),
}

/// What a group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupKind {
    /// Workloads.
    Workload,
    /// This host.
    Host,
    /// Networks that belong to no workload.
    Network,
    /// Everybody else.
    World,
}

/// Parties that no policy of the trees tells apart.
#[derive(Clone, Debug)]
pub struct Group {
    /// What it is.
    pub kind: GroupKind,
    /// How it is called: unique.
    pub name: String,
    /// The same without what tells two groups of the same workloads apart.
    pub plain_name: String,
    /// Everybody in it.
    pub members: Vec<String>,
    /// The networks by which they are known; none where sockets prove all, and the world has no
    /// end.
    pub networks: Vec<IpNet>,
    /// By tree, what all of them have. Of the owners, those of the first.
    pub in_trees: Vec<InTree>,
    /// Workloads in it, by any of the trees.
    pub workloads: BTreeSet<WorkloadName>,
    /// Whether it is one workload with at most one address of each family: nobody who could
    /// talk to another of its kind.
    pub is_one: bool,
    /// Whether workloads in it are in no earlier tree.
    pub is_new: bool,
    /// Whether workloads in it are in no later tree.
    pub is_gone: bool,
}

/// Finds everybody and groups them.
pub fn groups(trees: &[&Tree]) -> Vec<Group> {
    let classes: Vec<Classes> = trees.iter().map(|tree| Classes::new(tree)).collect();
    let mut by_key: HashMap<Vec<Key>, Vec<(Party, Vec<InTree>)>> = HashMap::new();
    let mut order: Vec<Vec<Key>> = Vec::new();
    for party in parties(trees) {
        let views: Vec<InTree> = trees.iter().map(|tree| in_tree(tree, &party)).collect();
        let key: Vec<Key> = views
            .iter()
            .zip(&classes)
            .map(|(view, classes)| Key {
                kind: match &view.owner {
                    Owner::Workload(_) => GroupKind::Workload,
                    Owner::Host => GroupKind::Host,
                    Owner::Nobody => GroupKind::World,
                },
                sets: view.sets,
                class: classes.of(view.peer),
            })
            .collect();
        let group = by_key.entry(key.clone()).or_insert_with(|| {
            order.push(key);
            Vec::new()
        });
        group.push((party, views));
    }
    let mut groups: Vec<Group> = order
        .iter()
        .filter_map(|key| by_key.remove(key))
        .map(|parties| {
            let mut group = group(parties);
            let mut workloads = group.workloads.iter();
            group.is_one = group.workloads.len() == 1
                && workloads.all(|name| trees.iter().all(|tree| is_one(tree.workload(name))));
            group
        })
        .collect();
    groups.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    name_apart(&mut groups);
    groups
}

/// A workload may be in several groups: by its socket here, by an address there.
fn name_apart(groups: &mut [Group]) {
    let mut count: HashMap<String, u32> = HashMap::new();
    for group in &*groups {
        *count.entry(group.name.clone()).or_default() += 1;
    }
    for group in groups {
        if count[&group.name] > 1 {
            let how = match group.networks.first() {
                Some(network) => format!("at {}", shortest(*network)),
                None => "by its socket".to_owned(),
            };
            group.name = format!("{} {how}", group.name);
        }
    }
}

/// What parties must share in a tree to be of one group.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    kind: GroupKind,
    sets: Option<[u32; 2]>,
    class: usize,
}

/// Identities of which every set says the same, as peers.
struct Classes {
    by_peer: HashMap<u32, usize>,
}

impl Classes {
    fn new(tree: &Tree) -> Self {
        let mut said: BTreeMap<u32, Vec<(u32, PolicyEntry)>> = BTreeMap::new();
        for (key, entry) in tree.image.policies.iter() {
            if key.peer != identity::ANY {
                said.entry(key.peer).or_default().push((key.set, *entry));
            }
        }
        let mut classes: HashMap<Vec<(u32, PolicyEntry)>, usize> = HashMap::new();
        let mut by_peer = HashMap::new();
        for (peer, mut entries) in said {
            entries.sort_unstable_by_key(|(set, _)| *set);
            let next = classes.len() + 1;
            by_peer.insert(peer, *classes.entry(entries).or_insert(next));
        }
        Self { by_peer }
    }

    /// 0 for those of whom no set says anything in particular.
    fn of(&self, peer: u32) -> usize {
        self.by_peer.get(&peer).copied().unwrap_or(0)
    }
}

/// Everybody that one of the trees knows.
fn parties(trees: &[&Tree]) -> BTreeSet<Party> {
    let mut parties = BTreeSet::from([Party::Host, Party::World]);
    let networks: BTreeSet<IpNet> = trees.iter().flat_map(|tree| tree.networks()).collect();
    parties.extend(
        networks
            .iter()
            .filter(|n| !is_full(**n, &networks))
            .map(|n| Party::Network(*n)),
    );
    for tree in trees {
        let by_address: BTreeSet<WorkloadName> = networks
            .iter()
            .filter_map(|network| tree.owner(*network).map(name_of))
            .collect();
        for workload in tree.policy.workloads.iter() {
            let name = name_of(workload);
            if is_in_cgroup(workload) || !by_address.contains(&name) {
                parties.insert(Party::Proven(name));
            }
        }
    }
    parties
}

/// Whether longer networks leave no address of this one.
fn is_full(network: IpNet, all: &BTreeSet<IpNet>) -> bool {
    let width = u32::from(network.max_prefix_len() - network.prefix_len());
    if width == 0 {
        return false;
    }
    // In units of the largest share that is less than the whole.
    let mut covered: u128 = 0;
    let mut end: Option<std::net::IpAddr> = None;
    for inner in all.range(network..) {
        if !network.contains(inner) {
            // Ordered by address first, so nothing further is inside.
            if inner.network() > network.broadcast() {
                break;
            }
            continue;
        }
        if *inner == network || end.is_some_and(|end| inner.network() <= end) {
            continue;
        }
        let bits = u32::from(inner.max_prefix_len() - inner.prefix_len());
        covered = covered.saturating_add(1_u128.checked_shl(bits).unwrap_or(u128::MAX));
        end = Some(inner.broadcast());
    }
    1_u128
        .checked_shl(width)
        .is_some_and(|whole| covered >= whole)
}

/// Whether a workload has at most one address of each family.
fn is_one(workload: Option<&Workload>) -> bool {
    let addresses = workload.map_or(&[][..], |workload| &workload.addresses);
    let of = |ipv6| {
        addresses
            .iter()
            .filter(move |a| a.addr().is_ipv6() == ipv6)
            .count()
    };
    let single = |prefix: &IpNet| prefix.prefix_len() == prefix.max_prefix_len();
    addresses.iter().all(single) && of(false) <= 1 && of(true) <= 1
}

fn is_in_cgroup(workload: &Workload) -> bool {
    matches!(workload.place, Some(Place::Cgroup(_) | Place::Unit(_)))
}

fn in_tree(tree: &Tree, party: &Party) -> InTree {
    let host = || InTree {
        owner: Owner::Host,
        sets: Some(tree.host_sets()),
        peer: identity::HOST,
    };
    match party {
        Party::Host => host(),
        Party::World => InTree {
            owner: Owner::Nobody,
            sets: None,
            peer: identity::WORLD,
        },
        Party::Network(network) => {
            let owner = tree.owner(*network).map(name_of);
            InTree {
                sets: owner.as_ref().and_then(|name| tree.sets_of(name)),
                owner: owner.map_or(Owner::Nobody, Owner::Workload),
                peer: tree.peer_at(*network),
            }
        }
        Party::Proven(name) => match tree.peer_proven(name) {
            Some(peer) => InTree {
                owner: Owner::Workload(name.clone()),
                sets: tree.sets_of(name),
                peer,
            },
            // Its processes are then the host's own.
            None => host(),
        },
    }
}

fn group(parties: Vec<(Party, Vec<InTree>)>) -> Group {
    let owners =
        |views: &[InTree]| -> Vec<Owner> { views.iter().map(|v| v.owner.clone()).collect() };
    let mut workloads = BTreeSet::new();
    let (mut is_new, mut is_gone) = (false, false);
    for (_, views) in &parties {
        for view in views {
            if let Owner::Workload(name) = &view.owner {
                workloads.insert(name.clone());
            }
        }
        if let [first, .., last] = &views[..] {
            let is_workload = |view: &InTree| matches!(view.owner, Owner::Workload(_));
            is_new |= !is_workload(first) && is_workload(last);
            is_gone |= is_workload(first) && !is_workload(last);
        }
    }
    let kind = if !workloads.is_empty() {
        GroupKind::Workload
    } else if parties.iter().any(|(party, _)| *party == Party::World) {
        GroupKind::World
    } else if parties.iter().any(|(party, _)| *party == Party::Host) {
        GroupKind::Host
    } else {
        GroupKind::Network
    };
    let mut members: Vec<String> = Vec::new();
    for (party, views) in &parties {
        let member = match party {
            Party::Host => "host".to_owned(),
            Party::World => "world".to_owned(),
            Party::Proven(name) => name.to_string(),
            Party::Network(network) => {
                let network = shortest(*network);
                match &owners(views)[..] {
                    [Owner::Workload(first), rest @ ..] => match rest.last() {
                        Some(Owner::Workload(last)) if last != first => {
                            format!("{first} (then {last}) at {network}")
                        }
                        _ => first.to_string(),
                    },
                    [.., Owner::Workload(name)] => name.to_string(),
                    _ => network,
                }
            }
        };
        members.push(member);
    }
    members.sort();
    members.dedup();
    let first = match kind {
        GroupKind::World => "world",
        GroupKind::Host => "host",
        GroupKind::Workload | GroupKind::Network => members.first().map_or("", String::as_str),
    };
    let name = match members.len() {
        _ if matches!(kind, GroupKind::World | GroupKind::Host) => first.to_owned(),
        0 | 1 => first.to_owned(),
        count => format!("{first} and {} more", count - 1),
    };
    let networks = parties.iter().filter_map(|(party, _)| match party {
        Party::Network(network) => Some(*network),
        _ => None,
    });
    let networks = networks.collect();
    Group {
        kind,
        plain_name: name.clone(),
        name,
        members,
        networks,
        in_trees: parties
            .into_iter()
            .next()
            .map(|(_, views)| views)
            .unwrap_or_default(),
        workloads,
        is_one: false,
        is_new,
        is_gone,
    }
}

/// An address without its length, a network with it.
fn shortest(network: IpNet) -> String {
    if network.prefix_len() == network.max_prefix_len() {
        network.addr().to_string()
    } else {
        network.to_string()
    }
}

impl Group {
    /// Whether some endpoint of it judges in one of the trees.
    pub fn has_endpoint(&self) -> bool {
        self.in_trees.iter().any(|view| view.sets.is_some())
    }

    /// Whether some policy or default restricts its endpoint in a direction, in a tree.
    pub fn is_restricted(&self, tree: usize, direction: usize) -> bool {
        self.in_trees
            .get(tree)
            .and_then(|view| view.sets)
            .is_some_and(|sets| sets[direction] != ALLOW_ALL)
    }

    /// Whether a flow from this group to `other` can be between two of them.
    pub fn can_open_to(&self, other: &Self) -> bool {
        if !self.has_endpoint() && !other.has_endpoint() {
            return false;
        }
        match (self.kind, other.kind) {
            (GroupKind::Workload, GroupKind::Workload) => {
                !(self.is_one && other.is_one && self.workloads == other.workloads)
            }
            (one, other) => one != other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_that_longer_ones_fill_is_nobody() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let all: BTreeSet<IpNet> = [
            "10.0.0.0/30",
            "10.0.0.0/31",
            "10.0.0.2/32",
            "10.0.0.3/32",
            "10.0.0.0/24",
            "10.0.0.0/32",
        ]
        .map(net)
        .into();
        assert!(is_full(net("10.0.0.0/30"), &all));
        assert!(!is_full(net("10.0.0.0/31"), &all));
        assert!(!is_full(net("10.0.0.0/24"), &all));
        assert!(!is_full(net("10.0.0.3/32"), &all));
    }
}
