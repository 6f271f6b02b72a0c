//! Identities and peers, filed by what they have or demand.

use std::collections::HashMap;

use ipnet::IpNet;

use crate::{
    compile::image::Identity,
    compile::image::IdentitySubject,
    policy::model::{Labels, NAME_LABEL, Operator, Peer, SpiffePattern, WorkloadSelector},
};

/// Lists of numbers, by something that identities have.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub hosts: Vec<u32>,
    pub remote_hosts: Vec<u32>,
    pub worlds: Vec<u32>,
    pub workloads: Vec<u32>,
    by_namespace: HashMap<String, Vec<u32>>,
    by_spiffe_id: HashMap<String, Vec<u32>>,
    by_label: HashMap<String, HashMap<String, Vec<u32>>>,
    by_prefix: HashMap<IpNet, Vec<u32>>,
}

impl Files {
    pub fn with_namespace(&self, namespace: &str) -> &[u32] {
        self.by_namespace.get(namespace).map_or(&[], Vec::as_slice)
    }

    pub fn with_label(&self, key: &str, value: &str) -> &[u32] {
        let values = self.by_label.get(key);
        values
            .and_then(|values| values.get(value))
            .map_or(&[], Vec::as_slice)
    }

    pub fn with_spiffe_id(&self, id: &str) -> &[u32] {
        self.by_spiffe_id.get(id).map_or(&[], Vec::as_slice)
    }

    pub fn with_prefix(&self, prefix: &IpNet) -> &[u32] {
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
    pub fn file_identity(&mut self, position: u32, identity: &Identity) {
        for prefix in &identity.prefixes {
            self.by_prefix.entry(*prefix).or_default().push(position);
        }
        match &identity.subject {
            IdentitySubject::Host => self.hosts.push(position),
            IdentitySubject::RemoteHost { .. } => self.remote_hosts.push(position),
            IdentitySubject::World => self.worlds.push(position),
            IdentitySubject::Workload {
                namespace,
                labels,
                spiffe_id,
                ..
            } => {
                self.workloads.push(position);
                self.file_namespace(namespace, position);
                for (key, value) in labels {
                    self.file_label(key, value, position);
                }
                if let Some(id) = spiffe_id {
                    let same_id = self.by_spiffe_id.entry(id.clone()).or_default();
                    same_id.push(position);
                }
            }
        }
    }

    /// Files a peer under what an identity has at most one of, so that an identity finds it
    /// once.
    pub fn file_peer(&mut self, number: u32, wanted: &Peer) {
        match wanted {
            Peer::Any => {
                self.hosts.push(number);
                self.remote_hosts.push(number);
                self.worlds.push(number);
                self.workloads.push(number);
            }
            Peer::Host => self.hosts.push(number),
            Peer::RemoteHost => self.remote_hosts.push(number),
            Peer::Hosts(_) => {
                self.hosts.push(number);
                self.remote_hosts.push(number);
            }
            Peer::World => self.worlds.push(number),
            Peer::Workloads(selector) => self.file_selector(number, selector),
            Peer::Cidr { prefix, .. } => {
                let list = self.by_prefix.entry(prefix.trunc()).or_default();
                list.push(number);
            }
            Peer::Assured { peer, .. } => self.file_peer(number, peer),
            // Its members have numbers.
            Peer::Group(_) => {}
        }
    }

    fn file_selector(&mut self, number: u32, selector: &WorkloadSelector) {
        let mut expressions = selector.labels.expressions.iter();
        if let Some((key, value)) = selector.labels.match_labels.first_key_value() {
            self.file_label(key, value, number);
        } else if let Some(one_of) = expressions.find(|e| e.operator == Operator::In) {
            for value in &one_of.values {
                self.file_label(&one_of.key, value, number);
            }
        } else if let Some(id) = exact_id(selector) {
            let same_id = self.by_spiffe_id.entry(id.to_owned()).or_default();
            same_id.push(number);
        } else if let Some(namespace) = namespace_of(selector) {
            self.file_namespace(namespace, number);
        } else {
            self.workloads.push(number);
        }
    }

    /// The lists of everything that an identity has.
    pub fn of<'f>(&'f self, identity: &'f Identity) -> impl Iterator<Item = u32> {
        let (kind, namespace, labels, id) = match &identity.subject {
            IdentitySubject::Host => (&self.hosts, &[][..], None, None),
            IdentitySubject::RemoteHost { .. } => (&self.remote_hosts, &[][..], None, None),
            IdentitySubject::World => (&self.worlds, &[][..], None, None),
            IdentitySubject::Workload {
                namespace,
                labels,
                spiffe_id,
                ..
            } => (
                &self.workloads,
                self.with_namespace(namespace),
                Some(labels),
                spiffe_id.as_deref(),
            ),
        };
        let labels = labels.into_iter().flat_map(Labels::iter);
        let labels = labels.flat_map(|(key, value)| self.with_label(key, value));
        let id = id.map_or(&[][..], |id| self.with_spiffe_id(id));
        let prefixes = identity.prefixes.iter();
        let prefixes = prefixes.flat_map(|prefix| self.with_prefix(prefix));
        let all = kind.iter().chain(namespace).chain(id).chain(labels);
        all.chain(prefixes).copied()
    }
}

/// The namespace that a selector demands, by its name or by the label that says it.
pub(super) fn namespace_of(selector: &WorkloadSelector) -> Option<&str> {
    let by_label = || selector.namespace_labels.match_labels.get(NAME_LABEL);
    let namespace = selector.namespace.as_ref().or_else(by_label);
    namespace.map(String::as_str)
}

pub(super) fn exact_id(selector: &WorkloadSelector) -> Option<&str> {
    selector.spiffe_id.as_ref().and_then(SpiffePattern::exact)
}
