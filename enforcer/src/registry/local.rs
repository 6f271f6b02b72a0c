//! This node's own record: from what is in force here.

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    listening::Listening,
    record::{NodeRecord, PublishedWorkload, is_of_one_host},
};
use crate::{
    api::status::PlaceKind,
    compile::image::{Assurance, WorkloadName},
    policy::model::Workload,
    reconcile::in_force::InForce,
};

/// What this node has to say; who it is, and when, is filled in when it is signed. Workloads
/// without an address or port by which others could know them are left out.
pub fn record(now: &InForce, listening: &Listening) -> NodeRecord {
    let documents: BTreeMap<_, &Workload> = (now.policy.workloads.iter())
        .map(|w| ((w.namespace.as_str(), w.name.as_str()), &**w))
        .collect();
    let host = |address: &IpAddr| now.snapshot.host_addresses.contains(address);
    let mut workloads: BTreeMap<WorkloadName, PublishedWorkload> = BTreeMap::new();
    for endpoint in now.endpoints.iter() {
        let Some(namespace) = endpoint.namespace.clone() else {
            continue;
        };
        let name = WorkloadName {
            namespace,
            name: endpoint.name.clone(),
        };
        // The tree in force has every endpoint's document.
        let key = (name.namespace.as_str(), name.name.as_str());
        let Some(document) = documents.get(&key) else {
            continue;
        };
        let published = workloads.entry(name.clone()).or_insert_with(|| {
            let Workload {
                namespace,
                name,
                labels,
                spiffe_id,
                service_account,
                ports,
                ..
            } = (*document).clone();
            PublishedWorkload {
                namespace,
                name,
                labels,
                spiffe_id,
                service_account,
                unit: document.unit().map(str::to_owned),
                ports,
                assurance: Assurance::Kernel,
                addresses: Vec::new(),
                listens: Vec::new(),
            }
        });
        match endpoint.kind {
            PlaceKind::Interface => {
                let single = document.addresses.iter();
                let single = single.filter(|net| net.prefix_len() == net.max_prefix_len());
                published.addresses = single
                    .map(ipnet::IpNet::addr)
                    .filter(|address| is_of_one_host(*address) && !host(address))
                    .collect();
            }
            PlaceKind::Cgroup => {
                let ports = listening.get(&name).into_iter().flatten();
                published.listens = ports.cloned().collect();
            }
            PlaceKind::Uplink => {}
        }
    }
    let known = |w: &PublishedWorkload| !(w.addresses.is_empty() && w.listens.is_empty());
    let addresses = now.snapshot.host_addresses.iter().copied();
    NodeRecord {
        node: String::new(),
        sequence: 0,
        issued: 0,
        expires: 0,
        addresses: addresses
            .filter(|address| is_of_one_host(*address))
            .collect(),
        labels: now.policy.node.labels.clone(),
        workloads: workloads.into_values().filter(known).collect(),
    }
}
