//! What other nodes say of their addresses.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    compile::{
        elsewhere::{NodePeers, Service},
        image::IdentitySubject,
    },
    policy::model::{RemoteHost, Workload},
};

/// What other nodes say of their addresses. Where two say something of one, it counts as if
/// neither did.
#[derive(Debug, Default)]
pub(super) struct Published {
    hosts: HashMap<IpNet, Vec<PublishedHost>>,
    workloads: HashMap<IpNet, Vec<Arc<Workload>>>,
    /// By address.
    pub services: HashMap<IpAddr, Vec<Service>>,
}

/// A host, and who shares its addresses.
#[derive(Clone, Debug)]
pub(super) struct PublishedHost {
    pub host: Arc<RemoteHost>,
    pub sharing: Arc<BTreeSet<IdentitySubject>>,
}

impl PublishedHost {
    fn of(node: &NodePeers) -> Self {
        Self {
            host: Arc::clone(&node.host),
            sharing: Arc::clone(&node.sharing),
        }
    }

    /// Where it is in memory.
    fn places(&self) -> (*const RemoteHost, *const BTreeSet<IdentitySubject>) {
        (Arc::as_ptr(&self.host), Arc::as_ptr(&self.sharing))
    }
}

impl Published {
    /// Notes what nodes say no more and what they say now, and the addresses about which
    /// something changed.
    pub fn change(
        &mut self,
        gone: &[Arc<NodePeers>],
        come: &[Arc<NodePeers>],
        changed: &mut BTreeSet<IpNet>,
    ) {
        // Of a node that says something else, most is as it was.
        let kept = |nodes: &[Arc<NodePeers>]| -> HashSet<_> {
            let workloads = nodes.iter().flat_map(|node| &node.workloads);
            workloads.map(Arc::as_ptr).collect()
        };
        let (before, after) = (kept(gone), kept(come));
        let hosts = |nodes: &[Arc<NodePeers>]| -> HashSet<_> {
            let nodes = nodes.iter();
            nodes.map(|node| PublishedHost::of(node).places()).collect()
        };
        let (hosts_before, hosts_after) = (hosts(gone), hosts(come));
        let services = |nodes: &[Arc<NodePeers>]| -> HashSet<_> {
            let services = nodes.iter().flat_map(|node| &node.services);
            services.map(|s| (s.at, Arc::as_ptr(&s.workload))).collect()
        };
        let (services_before, services_after) = (services(gone), services(come));
        for node in gone {
            let host = PublishedHost::of(node);
            if !hosts_after.contains(&host.places()) {
                for prefix in &node.host.addresses {
                    drop_from(&mut self.hosts, prefix, |other| {
                        other.places() == host.places()
                    });
                    changed.insert(*prefix);
                }
            }
            for workload in &node.workloads {
                if after.contains(&Arc::as_ptr(workload)) {
                    continue;
                }
                for prefix in &workload.addresses {
                    drop_from(&mut self.workloads, prefix, |w| Arc::ptr_eq(w, workload));
                    changed.insert(*prefix);
                }
            }
            for service in &node.services {
                let is = |other: &Service| {
                    other.at == service.at && Arc::ptr_eq(&other.workload, &service.workload)
                };
                if !services_after.contains(&(service.at, Arc::as_ptr(&service.workload))) {
                    drop_from(&mut self.services, &service.at.address, is);
                    changed.insert(IpNet::from(service.at.address));
                }
            }
        }
        for node in come {
            let host = PublishedHost::of(node);
            if !hosts_before.contains(&host.places()) {
                for prefix in &node.host.addresses {
                    let hosts = self.hosts.entry(*prefix).or_default();
                    hosts.push(host.clone());
                    changed.insert(*prefix);
                }
            }
            for workload in &node.workloads {
                if before.contains(&Arc::as_ptr(workload)) {
                    continue;
                }
                for prefix in &workload.addresses {
                    let workloads = self.workloads.entry(*prefix).or_default();
                    workloads.push(Arc::clone(workload));
                    changed.insert(*prefix);
                }
            }
            for service in &node.services {
                if !services_before.contains(&(service.at, Arc::as_ptr(&service.workload))) {
                    let services = self.services.entry(service.at.address).or_default();
                    services.push(service.clone());
                    changed.insert(IpNet::from(service.at.address));
                }
            }
        }
    }

    /// Whether nodes say something of an address.
    pub fn has(&self, prefix: &IpNet) -> bool {
        let services = || {
            let single = prefix.prefix_len() == prefix.max_prefix_len();
            single && self.services.contains_key(&prefix.addr())
        };
        self.has_owner(prefix) || services()
    }

    /// Whether nodes say whose an address is.
    pub fn has_owner(&self, prefix: &IpNet) -> bool {
        self.hosts.contains_key(prefix) || self.workloads.contains_key(prefix)
    }

    /// The host or the workload that has an address.
    pub fn at(&self, prefix: &IpNet) -> (Option<&PublishedHost>, Option<&Workload>) {
        let host = self.hosts.get(prefix).map_or(&[][..], Vec::as_slice);
        let workload = self.workloads.get(prefix).map_or(&[][..], Vec::as_slice);
        match (host, workload) {
            ([host], []) => (Some(host), None),
            ([], [workload]) => (None, Some(workload)),
            _ => (None, None),
        }
    }
}

/// Takes what `is` out of a list, and the list out of the table when nothing is left.
fn drop_from<K: Eq + std::hash::Hash, V>(
    table: &mut HashMap<K, Vec<V>>,
    key: &K,
    is: impl Fn(&V) -> bool,
) {
    if let Some(list) = table.get_mut(key) {
        list.retain(|value| !is(value));
        if list.is_empty() {
            table.remove(key);
        }
    }
}
