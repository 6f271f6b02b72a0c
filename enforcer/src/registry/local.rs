//! This node's own record: from what is in force here.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    listening::Listening,
    record::{NodeRecord, PublishedWorkload, is_of_one_host},
};
use crate::{
    api::status::PlaceKind,
    compile::image::{Assurance, WorkloadName},
    policy::model::{Mode, Workload},
    reconcile::in_force::InForce,
};

/// What this node has to say; who it is, and when, is filled in when it is signed. Workloads
/// behind interfaces without an address by which others could know them are left out.
pub fn record(now: &InForce, listening: &Listening) -> NodeRecord {
    let documents: BTreeMap<_, &Workload> = (now.policy.workloads.iter())
        .map(|w| ((w.namespace.as_str(), w.name.as_str()), &**w))
        .collect();
    let host = |address: &IpAddr| now.snapshot.host_addresses.contains(address);
    let mut workloads: BTreeMap<WorkloadName, PublishedWorkload> = BTreeMap::new();
    let mut in_cgroups: BTreeSet<WorkloadName> = BTreeSet::new();
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
                in_cgroups.insert(name);
            }
            PlaceKind::Uplink => {}
        }
    }
    workloads.retain(|name, w| !w.addresses.is_empty() || in_cgroups.contains(name));
    let addresses = now.snapshot.host_addresses.iter().copied();
    // Without an uplink what the host itself sends is not judged.
    let judges_itself = (now.endpoints.iter()).any(|e| e.kind == PlaceKind::Uplink);
    NodeRecord {
        node: String::new(),
        sequence: 0,
        issued: 0,
        expires: 0,
        addresses: addresses
            .filter(|address| is_of_one_host(*address))
            .collect(),
        labels: now.policy.node.labels.clone(),
        enforces: now.mode.effective == Mode::Enforce && judges_itself,
        workloads: workloads.into_values().collect(),
    }
}
