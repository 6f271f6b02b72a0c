//! Who could be meant by a peer or selector, without asking everybody: a tree of ten thousand
//! policies and as many workloads must not be a hundred million questions.

use std::collections::HashMap;

use ipnet::IpNet;

use crate::{
    compile::image::{Identity, IdentitySubject},
    policy::model::{Labels, Peer, Subject, WorkloadSelector},
};

/// Places in some list, by what is there. Every list is ascending.
#[derive(Debug, Default)]
pub(super) struct Index {
    by_label: HashMap<String, HashMap<String, Vec<usize>>>,
    by_namespace: HashMap<String, Vec<usize>>,
    by_prefix: HashMap<IpNet, Vec<usize>>,
    /// What is no workload.
    others: Vec<usize>,
    all: Vec<usize>,
}

impl Index {
    /// An index of identities.
    pub fn of_identities<'i>(identities: impl Iterator<Item = &'i Identity>) -> Self {
        let mut index = Self::default();
        for (place, identity) in identities.enumerate() {
            match &identity.subject {
                IdentitySubject::Workload {
                    namespace, labels, ..
                } => index.workload(place, namespace, labels),
                _ => index.others.push(place),
            }
            for prefix in &identity.prefixes {
                index.by_prefix.entry(*prefix).or_default().push(place);
            }
            index.all.push(place);
        }
        index
    }

    /// An index of workloads.
    pub fn of_workloads<'w>(workloads: impl Iterator<Item = (&'w str, &'w Labels)>) -> Self {
        let mut index = Self::default();
        for (place, (namespace, labels)) in workloads.enumerate() {
            index.workload(place, namespace, labels);
            index.all.push(place);
        }
        index
    }

    fn workload(&mut self, place: usize, namespace: &str, labels: &Labels) {
        let of_namespace = self.by_namespace.entry(namespace.to_owned()).or_default();
        of_namespace.push(place);
        for (key, value) in labels {
            let of_key = self.by_label.entry(key.clone()).or_default();
            of_key.entry(value.clone()).or_default().push(place);
        }
    }

    /// Whoever could be meant by a peer: all that are, and some that are not.
    pub fn could_be(&self, peer: &Peer) -> Vec<usize> {
        match peer {
            Peer::Any => self.all.clone(),
            Peer::Host | Peer::RemoteHost | Peer::Hosts(_) | Peer::World => self.others.clone(),
            Peer::Workloads(selector) => self.could_select(selector).to_vec(),
            Peer::Cidr { prefix, .. } => {
                let found = self.by_prefix.get(&prefix.trunc());
                found.cloned().unwrap_or_default()
            }
            Peer::Group(group) => {
                let members = group.peers.iter().map(|member| self.could_be(member));
                merged(members)
            }
            Peer::Assured { peer, .. } => self.could_be(peer),
        }
    }

    /// Whoever could be one whom a policy is about.
    pub fn could_be_about(&self, subject: &Subject) -> Vec<usize> {
        match subject {
            Subject::Host => Vec::new(),
            Subject::Workloads(selectors) => {
                let selected = selectors.iter().map(|s| self.could_select(s).to_vec());
                merged(selected)
            }
        }
    }

    /// The shortest list of those that a selector demands.
    fn could_select(&self, selector: &WorkloadSelector) -> &[usize] {
        let labels = selector.labels.match_labels.iter().map(|(key, value)| {
            let of_key = self.by_label.get(key);
            of_key.and_then(|values| values.get(value))
        });
        let namespace = selector.namespace.iter();
        let namespace = namespace.map(|name| self.by_namespace.get(name));
        let lists = labels.chain(namespace);
        let lists = lists.map(|list| list.map_or(&[][..], Vec::as_slice));
        lists.min_by_key(|list| list.len()).unwrap_or(&self.all)
    }
}

fn merged(lists: impl Iterator<Item = Vec<usize>>) -> Vec<usize> {
    let mut all: Vec<usize> = lists.flatten().collect();
    all.sort_unstable();
    all.dedup();
    all
}
