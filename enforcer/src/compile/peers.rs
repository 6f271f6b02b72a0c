//! Which identities a selector or peer matches.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use ipnet::IpNet;

use super::image::{Identity, IdentitySubject};
use crate::policy::model::{LabelSelector, Peer};

/// Identities by what can be asked of them. A position is an index into the list of
/// identities; lists of positions are ascending.
pub(super) struct PeerIndex<'a> {
    identities: Vec<(u32, &'a Identity)>,
    hosts: Vec<u32>,
    worlds: Vec<u32>,
    workloads: Vec<u32>,
    by_namespace: HashMap<&'a str, Vec<u32>>,
    by_label: HashMap<(&'a str, &'a str), Vec<u32>>,
    by_prefix: HashMap<IpNet, Vec<u32>>,
}

impl<'a> PeerIndex<'a> {
    pub fn new(identities: &'a BTreeMap<u32, Arc<Identity>>) -> Self {
        let mut index = Self {
            identities: Vec::with_capacity(identities.len()),
            hosts: Vec::new(),
            worlds: Vec::new(),
            workloads: Vec::new(),
            by_namespace: HashMap::new(),
            by_label: HashMap::new(),
            by_prefix: HashMap::new(),
        };
        for (position, (number, identity)) in (0_u32..).zip(identities) {
            index.identities.push((*number, &**identity));
            for prefix in &identity.prefixes {
                index.by_prefix.entry(*prefix).or_default().push(position);
            }
            match &identity.subject {
                IdentitySubject::Host => index.hosts.push(position),
                IdentitySubject::World => index.worlds.push(position),
                IdentitySubject::Workload {
                    namespace, labels, ..
                } => {
                    index.workloads.push(position);
                    let same_namespace = index.by_namespace.entry(namespace).or_default();
                    same_namespace.push(position);
                    for (key, value) in labels {
                        let same_label = index.by_label.entry((key, value)).or_default();
                        same_label.push(position);
                    }
                }
            }
        }
        index
    }

    /// How many positions there are.
    pub fn len(&self) -> usize {
        self.identities.len()
    }

    /// The identity number at a position.
    pub fn number(&self, position: u32) -> u32 {
        self.identities[position as usize].0
    }

    /// The positions of the workloads that a selector matches: looks through the rarest of
    /// what it demands.
    pub fn select(&self, selector: &LabelSelector) -> Vec<u32> {
        let namespace = selector
            .namespace
            .as_deref()
            .map(|n| self.by_namespace.get(n).map_or(&[][..], Vec::as_slice));
        let labels = selector.match_labels.iter().map(|(key, value)| {
            let found = self.by_label.get(&(key.as_str(), value.as_str()));
            found.map_or(&[][..], Vec::as_slice)
        });
        let rarest = namespace.into_iter().chain(labels).min_by_key(|l| l.len());
        let candidates = rarest.unwrap_or(&self.workloads).iter().copied();
        candidates
            .filter(
                |position| match &self.identities[*position as usize].1.subject {
                    IdentitySubject::Workload {
                        namespace, labels, ..
                    } => selector.matches(namespace, labels),
                    _ => false,
                },
            )
            .collect()
    }

    /// The positions that a peer matches. Not to be asked for [`Peer::Any`], which needs no
    /// list.
    pub fn matching(&self, peer: &Peer) -> Vec<u32> {
        match peer {
            Peer::Any => (0_u32..).take(self.identities.len()).collect(),
            Peer::Host => self.hosts.clone(),
            Peer::World => self.worlds.clone(),
            Peer::Workloads(selector) => self.select(selector),
            Peer::Cidr { prefix, .. } => {
                let inside = self.by_prefix.get(&prefix.trunc());
                let inside = inside.into_iter().flatten().copied();
                inside
                    .filter(|position| matches(peer, self.identities[*position as usize].1))
                    .collect()
            }
        }
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
