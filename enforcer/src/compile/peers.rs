//! Which identities the peers and selectors of policies match, kept from one compilation to the
//! next.

mod files;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use ipnet::IpNet;

use self::files::{Files, exact_id, namespace_of};
use super::{
    image::{Identity, IdentitySubject},
    rules::count,
};
use crate::policy::model::{
    Assurance, Labels, NamedPort, NamedPortMatch, Namespaces, Operator, Peer, ResolvedPolicy,
    WorkloadSelector,
};

/// What the tree says of namespaces and of this host.
#[derive(Clone, Copy, Debug)]
pub(super) struct Surroundings<'a> {
    namespaces: &'a Namespaces,
    host_labels: &'a Labels,
}

impl<'a> Surroundings<'a> {
    pub fn of(policy: &'a ResolvedPolicy) -> Self {
        Self {
            namespaces: &policy.namespaces,
            host_labels: &policy.node.labels,
        }
    }
}

/// A peer that is no group and not [`Peer::Any`] as such; with a port, only those of them that
/// have that named port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Wanted {
    peer: Peer,
    port: Option<NamedPort>,
}

impl Wanted {
    fn matches(&self, identity: &Identity, surroundings: Surroundings<'_>) -> bool {
        let has_port = |port: &NamedPort| {
            let ports = identity.subject.ports();
            ports.is_some_and(|ports| ports.contains(port))
        };
        self.port.as_ref().is_none_or(has_port) && matches(&self.peer, identity, surroundings)
    }
}

/// Identities by position, which follow their numbers; and the distinct peers that policies
/// name, by number, each with the (ascending) positions that it matches. Both only grow.
#[derive(Debug, Default)]
pub(super) struct PeerIndex {
    identities: Vec<(u32, Arc<Identity>)>,
    /// Positions, by what the identity has.
    having: Files,
    numbers: HashMap<Wanted, u32>,
    peers: Vec<Wanted>,
    matching: Vec<Vec<u32>>,
    /// Peers, by one thing that they demand of an identity.
    demanding: Files,
    /// Positions that came in the compilation at work, by the peers that match them.
    grown: HashMap<u32, Vec<u32>>,
    /// Every port that some identity has under a name.
    ports: HashMap<String, BTreeSet<NamedPort>>,
    /// How many they are.
    port_count: usize,
    namespaces: Namespaces,
    host_labels: Labels,
}

impl PeerIndex {
    /// An index without identities in it.
    pub fn new(policy: &ResolvedPolicy) -> Self {
        Self {
            namespaces: policy.namespaces.clone(),
            host_labels: policy.node.labels.clone(),
            ..Self::default()
        }
    }

    /// Whether the tree still says the same of namespaces and of this host.
    pub fn fits(&self, policy: &ResolvedPolicy) -> bool {
        self.namespaces == policy.namespaces && self.host_labels == policy.node.labels
    }

    fn surroundings(&self) -> Surroundings<'_> {
        Surroundings {
            namespaces: &self.namespaces,
            host_labels: &self.host_labels,
        }
    }

    /// Adds identities, in the ascending order of their numbers. `false`: one of them is not
    /// the highest yet, so that this index is of no use any more.
    pub fn add<'i>(
        &mut self,
        identities: impl Iterator<Item = (&'i u32, &'i Arc<Identity>)>,
    ) -> bool {
        for (number, identity) in identities {
            let last = self.identities.last();
            if last.is_some_and(|(last, _)| last >= number) {
                return false;
            }
            let position = count(self.identities.len());
            self.having.file_identity(position, identity);
            for peer in self.demanding.of(identity) {
                let surroundings = Surroundings {
                    namespaces: &self.namespaces,
                    host_labels: &self.host_labels,
                };
                if self.peers[peer as usize].matches(identity, surroundings) {
                    self.matching[peer as usize].push(position);
                    self.grown.entry(peer).or_default().push(position);
                }
            }
            for port in identity.subject.ports().into_iter().flatten() {
                let same_name = self.ports.entry(port.name.clone()).or_default();
                if same_name.insert(port.clone()) {
                    self.port_count += 1;
                }
            }
            self.identities.push((*number, identity.clone()));
        }
        true
    }

    /// The numbers of the peers that are in a peer, given if need be. Not for one that is
    /// everybody, unless with a port: then only those count that have it.
    pub fn numbers_of(&mut self, peer: &Peer, port: Option<&NamedPort>) -> Vec<u32> {
        let mut numbers = Vec::new();
        self.number_each(peer, Assurance::Address, port, &mut numbers);
        numbers
    }

    fn number_each(
        &mut self,
        peer: &Peer,
        at_least: Assurance,
        port: Option<&NamedPort>,
        numbers: &mut Vec<u32>,
    ) {
        match peer {
            Peer::Group(group) => {
                for member in &group.peers {
                    self.number_each(member, at_least, port, numbers);
                }
            }
            Peer::Assured {
                at_least: more,
                peer,
            } => self.number_each(peer, at_least.max(*more), port, numbers),
            plain => {
                let peer = if at_least > Assurance::Address {
                    Peer::Assured {
                        at_least,
                        peer: Box::new(plain.clone()),
                    }
                } else {
                    plain.clone()
                };
                let port = port.cloned();
                numbers.push(self.number_of(Wanted { peer, port }));
            }
        }
    }

    fn number_of(&mut self, wanted: Wanted) -> u32 {
        if let Some(number) = self.numbers.get(&wanted) {
            return *number;
        }
        let number = count(self.peers.len());
        let matching = self.find(&wanted);
        self.matching.push(matching);
        self.demanding.file_peer(number, &wanted.peer);
        self.peers.push(wanted.clone());
        self.numbers.insert(wanted, number);
        number
    }

    /// The ports that some identity has under a name, ascending.
    pub fn named_ports(&self, wanted: &NamedPortMatch) -> impl Iterator<Item = &NamedPort> {
        let ports = self.ports.get(&wanted.name).into_iter().flatten();
        ports.filter(move |port| wanted.matches(port))
    }

    /// Another number: [`PeerIndex::named_ports`] may say more than before.
    pub fn ports_known(&self) -> usize {
        self.port_count
    }

    /// The named ports of the identity at a position.
    pub fn ports_at(&self, position: u32) -> Option<&BTreeSet<NamedPort>> {
        self.identities[position as usize].1.subject.ports()
    }

    /// The position of an identity number.
    pub fn position(&self, identity: u32) -> Option<u32> {
        let found = (self.identities).binary_search_by_key(&identity, |(number, _)| *number);
        found.ok().map(count)
    }

    /// How many positions there are.
    pub fn len(&self) -> usize {
        self.identities.len()
    }

    /// How many peers there are.
    pub fn peers(&self) -> usize {
        self.peers.len()
    }

    /// The identity number at a position.
    pub fn identity(&self, position: u32) -> u32 {
        self.identities[position as usize].0
    }

    /// The positions that a peer matches, ascending.
    pub fn matching(&self, peer: u32) -> &[u32] {
        &self.matching[peer as usize]
    }

    /// The positions that came since [`PeerIndex::settle`], by peer.
    pub fn grown(&self) -> &HashMap<u32, Vec<u32>> {
        &self.grown
    }

    /// What came is there.
    pub fn settle(&mut self) {
        self.grown.clear();
    }

    /// The peers that match a position.
    pub fn matched_by(&self, position: u32) -> impl Iterator<Item = u32> {
        self.matched_by_identity(&self.identities[position as usize].1)
    }

    /// Whether a peer matches an identity.
    pub fn is_peer(&self, peer: u32, identity: &Identity) -> bool {
        self.peers[peer as usize].matches(identity, self.surroundings())
    }

    /// The peers that match an identity, whether it has a position or not.
    pub fn matched_by_identity<'i>(&'i self, identity: &'i Identity) -> impl Iterator<Item = u32> {
        let peers = self.demanding.of(identity);
        peers.filter(|peer| self.peers[*peer as usize].matches(identity, self.surroundings()))
    }

    /// Looks through the rarest of what a peer demands.
    fn find(&self, wanted: &Wanted) -> Vec<u32> {
        let candidates = self.candidates(&wanted.peer);
        let surroundings = self.surroundings();
        let mut found: Vec<u32> = candidates
            .iter()
            .flat_map(|list| list.iter().copied())
            .filter(|position| {
                let identity = &self.identities[*position as usize].1;
                wanted.matches(identity, surroundings)
            })
            .collect();
        if candidates.len() > 1 {
            found.sort_unstable();
        }
        found
    }

    /// Disjoint lists in which everybody is that a peer matches.
    fn candidates(&self, peer: &Peer) -> Vec<&[u32]> {
        let having = &self.having;
        match peer {
            Peer::Any => vec![
                &having.hosts,
                &having.remote_hosts,
                &having.worlds,
                &having.workloads,
            ],
            Peer::Host => vec![&having.hosts],
            Peer::RemoteHost => vec![&having.remote_hosts],
            Peer::Hosts(_) => vec![&having.hosts, &having.remote_hosts],
            Peer::World => vec![&having.worlds],
            Peer::Cidr { prefix, .. } => vec![having.with_prefix(&prefix.trunc())],
            Peer::Assured { peer, .. } => self.candidates(peer),
            Peer::Group(_) => Vec::new(),
            Peer::Workloads(selector) => {
                let namespace = namespace_of(selector).map(|n| vec![having.with_namespace(n)]);
                let id = exact_id(selector).map(|id| vec![having.with_spiffe_id(id)]);
                let labels = selector.labels.match_labels.iter();
                let labels = labels.map(|(key, value)| vec![having.with_label(key, value)]);
                let expressions = selector.labels.expressions.iter();
                let one_of = expressions.filter(|e| e.operator == Operator::In);
                let one_of = one_of.map(|e| {
                    let values = e.values.iter();
                    values
                        .map(|value| having.with_label(&e.key, value))
                        .collect()
                });
                let demands = namespace.into_iter().chain(id).chain(labels).chain(one_of);
                let rarest = demands.min_by_key(|lists: &Vec<&[u32]>| {
                    let lengths = lists.iter().map(|list| list.len());
                    lengths.sum::<usize>()
                });
                rarest.unwrap_or_else(|| vec![&having.workloads])
            }
        }
    }
}

/// Whether a selector selects a subject, which must be a workload for it.
pub(super) fn selects(
    selector: &WorkloadSelector,
    subject: &IdentitySubject,
    surroundings: Surroundings<'_>,
) -> bool {
    let IdentitySubject::Workload {
        namespace,
        labels,
        spiffe_id,
        service_account,
        unit,
        ports: _,
    } = subject
    else {
        return false;
    };
    let WorkloadSelector {
        namespace: wanted_namespace,
        namespace_labels,
        labels: wanted_labels,
        spiffe_id: wanted_id,
        service_account: wanted_account,
        unit: wanted_unit,
    } = selector;
    let is = |wanted: &Option<String>, found: Option<&String>| {
        wanted.as_ref().is_none_or(|wanted| Some(wanted) == found)
    };
    is(wanted_namespace, Some(namespace))
        && is(wanted_account, service_account.as_ref())
        && wanted_labels.matches(labels)
        && wanted_id.as_ref().is_none_or(|wanted| {
            let found = spiffe_id.as_ref();
            found.is_some_and(|id| wanted.matches(id))
        })
        && wanted_unit.as_ref().is_none_or(|wanted| {
            let found = unit.as_ref();
            found.is_some_and(|unit| wanted.matches(unit))
        })
        && surroundings.namespaces.matches(namespace_labels, namespace)
}

/// Whether a peer of a rule is one with this identity.
pub(super) fn matches(peer: &Peer, identity: &Identity, surroundings: Surroundings<'_>) -> bool {
    let subject = &identity.subject;
    match peer {
        Peer::Any => true,
        Peer::Host => *subject == IdentitySubject::Host,
        Peer::RemoteHost => matches!(subject, IdentitySubject::RemoteHost { .. }),
        Peer::Hosts(selector) => match subject {
            IdentitySubject::Host => selector.matches(surroundings.host_labels),
            IdentitySubject::RemoteHost { labels, .. } => selector.matches(labels),
            _ => false,
        },
        Peer::World => *subject == IdentitySubject::World,
        Peer::Workloads(selector) => selects(selector, subject, surroundings),
        Peer::Cidr { prefix, except } => {
            let within = |prefix: &IpNet| identity.prefixes.contains(&prefix.trunc());
            within(prefix) && !except.iter().any(within)
        }
        Peer::Group(group) => {
            let mut members = group.peers.iter();
            members.any(|member| matches(member, identity, surroundings))
        }
        Peer::Assured { at_least, peer } => {
            identity.assurance >= *at_least && matches(peer, identity, surroundings)
        }
    }
}
