//! Which identities the peers and selectors of policies match, kept from one compilation to the
//! next.

use std::{collections::HashMap, sync::Arc};

use ipnet::IpNet;

use super::{
    image::{Identity, IdentitySubject},
    rules::count,
};
use crate::policy::model::{LabelSelector, Labels, Peer};

/// Identities by position, which follow their numbers; and the distinct peers that policies
/// name, by number, each with the (ascending) positions that it matches. Both only grow.
#[derive(Debug, Default)]
pub(super) struct PeerIndex {
    identities: Vec<(u32, Arc<Identity>)>,
    /// Positions, by what the identity has.
    having: Files,
    numbers: HashMap<Peer, u32>,
    peers: Vec<Peer>,
    matching: Vec<Vec<u32>>,
    /// Peers, by one thing that they demand of an identity.
    demanding: Files,
    /// Positions that came in the compilation at work, by the peers that match them.
    grown: HashMap<u32, Vec<u32>>,
}

/// Lists of numbers, by something that identities have.
#[derive(Debug, Default)]
struct Files {
    hosts: Vec<u32>,
    worlds: Vec<u32>,
    workloads: Vec<u32>,
    by_namespace: HashMap<String, Vec<u32>>,
    by_label: HashMap<String, HashMap<String, Vec<u32>>>,
    by_prefix: HashMap<IpNet, Vec<u32>>,
}

impl Files {
    fn with_namespace(&self, namespace: &str) -> &[u32] {
        self.by_namespace.get(namespace).map_or(&[], Vec::as_slice)
    }

    fn with_label(&self, key: &str, value: &str) -> &[u32] {
        let values = self.by_label.get(key);
        values
            .and_then(|values| values.get(value))
            .map_or(&[], Vec::as_slice)
    }

    fn with_prefix(&self, prefix: &IpNet) -> &[u32] {
        self.by_prefix.get(prefix).map_or(&[], Vec::as_slice)
    }

    fn file_namespace(&mut self, namespace: &str, number: u32) {
        if let Some(list) = self.by_namespace.get_mut(namespace) {
            list.push(number);
        } else {
            self.by_namespace.insert(namespace.to_owned(), vec![number]);
        }
    }

    fn file_label(&mut self, key: &str, value: &str, number: u32) {
        if !self.by_label.contains_key(key) {
            self.by_label.insert(key.to_owned(), HashMap::new());
        }
        if let Some(values) = self.by_label.get_mut(key) {
            if let Some(list) = values.get_mut(value) {
                list.push(number);
            } else {
                values.insert(value.to_owned(), vec![number]);
            }
        }
    }

    /// Files an identity under everything that it has.
    fn file_identity(&mut self, position: u32, identity: &Identity) {
        for prefix in &identity.prefixes {
            self.by_prefix.entry(*prefix).or_default().push(position);
        }
        match &identity.subject {
            IdentitySubject::Host => self.hosts.push(position),
            IdentitySubject::World => self.worlds.push(position),
            IdentitySubject::Workload {
                namespace, labels, ..
            } => {
                self.workloads.push(position);
                self.file_namespace(namespace, position);
                for (key, value) in labels {
                    self.file_label(key, value, position);
                }
            }
        }
    }

    /// Files a peer under one thing that it demands, so that an identity finds it once.
    fn file_peer(&mut self, number: u32, peer: &Peer) {
        match peer {
            // Is not asked for.
            Peer::Any => {}
            Peer::Host => self.hosts.push(number),
            Peer::World => self.worlds.push(number),
            Peer::Workloads(LabelSelector {
                namespace,
                match_labels,
            }) => match (match_labels.first_key_value(), namespace) {
                (Some((key, value)), _) => self.file_label(key, value, number),
                (None, Some(namespace)) => self.file_namespace(namespace, number),
                (None, None) => self.workloads.push(number),
            },
            Peer::Cidr { prefix, .. } => {
                let list = self.by_prefix.entry(prefix.trunc()).or_default();
                list.push(number);
            }
        }
    }

    /// The lists of everything that an identity has.
    fn of<'f>(&'f self, identity: &'f Identity) -> impl Iterator<Item = u32> {
        let (kind, namespace, labels) = match &identity.subject {
            IdentitySubject::Host => (&self.hosts, &[][..], None),
            IdentitySubject::World => (&self.worlds, &[][..], None),
            IdentitySubject::Workload {
                namespace, labels, ..
            } => (
                &self.workloads,
                self.with_namespace(namespace),
                Some(labels),
            ),
        };
        let labels = labels.into_iter().flat_map(Labels::iter);
        let labels = labels.flat_map(|(key, value)| self.with_label(key, value));
        let prefixes = identity.prefixes.iter();
        let prefixes = prefixes.flat_map(|prefix| self.with_prefix(prefix));
        let all = kind.iter().chain(namespace).chain(labels).chain(prefixes);
        all.copied()
    }
}

impl PeerIndex {
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
                if matches(&self.peers[peer as usize], identity) {
                    self.matching[peer as usize].push(position);
                    self.grown.entry(peer).or_default().push(position);
                }
            }
            self.identities.push((*number, identity.clone()));
        }
        true
    }

    /// The number of a peer, given if need be. Not for [`Peer::Any`].
    pub fn number_of(&mut self, peer: &Peer) -> u32 {
        if let Some(number) = self.numbers.get(peer) {
            return *number;
        }
        let number = count(self.peers.len());
        let matching = self.find(peer);
        self.matching.push(matching);
        self.demanding.file_peer(number, peer);
        self.peers.push(peer.clone());
        self.numbers.insert(peer.clone(), number);
        number
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
        let identity = &self.identities[position as usize].1;
        let peers = self.demanding.of(identity);
        peers.filter(|peer| matches(&self.peers[*peer as usize], identity))
    }

    /// Looks through the rarest of what a peer demands.
    fn find(&self, peer: &Peer) -> Vec<u32> {
        let candidates = match peer {
            Peer::Any => return (0..count(self.len())).collect(),
            Peer::Host => &self.having.hosts[..],
            Peer::World => &self.having.worlds,
            Peer::Cidr { prefix, .. } => self.having.with_prefix(&prefix.trunc()),
            Peer::Workloads(selector) => {
                let namespace = selector.namespace.as_deref();
                let namespace = namespace.map(|name| self.having.with_namespace(name));
                let labels = selector.match_labels.iter();
                let labels = labels.map(|(key, value)| self.having.with_label(key, value));
                let rarest = namespace.into_iter().chain(labels).min_by_key(|l| l.len());
                rarest.unwrap_or(&self.having.workloads)
            }
        };
        let candidates = candidates.iter().copied();
        candidates
            .filter(|position| matches(peer, &self.identities[*position as usize].1))
            .collect()
    }
}

/// Whether a peer of a rule is one with this identity.
pub(super) fn matches(peer: &Peer, identity: &Identity) -> bool {
    match peer {
        Peer::Any => true,
        Peer::Host => identity.subject == IdentitySubject::Host,
        Peer::World => identity.subject == IdentitySubject::World,
        Peer::Workloads(selector) => match &identity.subject {
            IdentitySubject::Workload {
                namespace, labels, ..
            } => selector.matches(namespace, labels),
            _ => false,
        },
        Peer::Cidr { prefix, except } => {
            let within = |prefix: &IpNet| identity.prefixes.contains(&prefix.trunc());
            within(prefix) && !except.iter().any(within)
        }
    }
}
