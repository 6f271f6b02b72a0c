//! Tells telemetry what the loop puts in force: names for numbers, and metrics of policy.

use std::{collections::HashMap, sync::Arc};

use crate::{
    api::status::PlaceKind,
    metrics::{EndpointCounts, Metrics, PolicyLabels, mode_name},
    observe::context::{CgroupName, EndpointName, NameBook, NameContext, WorkloadName},
    reconcile::{in_force::InForce, observer::Observer},
};

/// See the module.
#[derive(Debug)]
pub struct Narrator {
    /// Name of the node.
    pub node: String,
    /// Names for records.
    pub names: Arc<NameBook>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
}

impl Observer for Narrator {
    fn announce(&self, in_force: &InForce) {
        self.names.publish(name_context(&self.node, in_force));
    }

    fn applied(&self, in_force: &InForce) {
        let commit = in_force.policy.commit.as_deref();
        let labels = PolicyLabels {
            digest: in_force.policy.digest.clone(),
            commit: commit.unwrap_or_default().to_owned(),
            mode: mode_name(in_force.mode.effective),
        };
        self.metrics
            .applied(in_force.generation, labels, in_force.activity.last_apply);
        let image = &in_force.image;
        self.metrics
            .moments(image.moments.len(), image.moments_beyond);
        let count = |kind| in_force.endpoints.iter().filter(|e| e.kind == kind).count();
        let counts = EndpointCounts {
            interface: count(PlaceKind::Interface),
            cgroup: count(PlaceKind::Cgroup),
            host: count(PlaceKind::Uplink),
        };
        self.metrics.placed(in_force.policy.workloads.len(), counts);
    }

    fn tree_refused(&self, refused: bool) {
        self.metrics.tree_refused(refused);
    }

    fn load_failed(&self, errors: usize) {
        self.metrics.load_failed(errors);
    }

    fn apply_failed(&self) {
        self.metrics.apply_failed();
    }
}

/// Every name that the image, the policy and the host give.
fn name_context(node: &str, in_force: &InForce) -> NameContext {
    let workloads: Vec<Arc<WorkloadName>> = in_force
        .policy
        .workloads
        .iter()
        .map(|w| {
            Arc::new(WorkloadName {
                namespace: w.namespace.clone(),
                name: w.name.clone(),
                labels: w.labels.clone(),
                spiffe_id: w.spiffe_id.clone(),
                service_account: w.service_account.clone(),
                unit: w.unit().map(str::to_owned),
                ports: w.ports.clone(),
                addresses: w.addresses.clone(),
            })
        })
        .collect();
    let by_name: HashMap<_, _> = workloads
        .iter()
        .map(|w| ((w.namespace.as_str(), w.name.as_str()), w))
        .collect();
    let endpoints = in_force
        .endpoints
        .iter()
        .map(|endpoint| {
            let workload = endpoint
                .namespace
                .as_deref()
                .and_then(|namespace| by_name.get(&(namespace, endpoint.name.as_str())))
                .map(|w| Arc::clone(w));
            let name = EndpointName {
                identity: endpoint.identity,
                workload,
                assurance: endpoint.assurance,
            };
            (endpoint.id, name)
        })
        .collect();
    let snapshot = &in_force.snapshot;
    NameContext {
        node: node.to_owned(),
        generation: in_force.generation,
        commits: in_force.commits.clone(),
        image: in_force.image.clone(),
        endpoints,
        interfaces: snapshot
            .interfaces
            .iter()
            .map(|i| (i.ifindex, Arc::from(i.name.as_str())))
            .collect(),
        cgroups: snapshot
            .cgroups
            .iter()
            .map(|(path, id)| (*id, Arc::new(CgroupName::new(path.as_str()))))
            .collect(),
        host_addresses: snapshot.host_addresses.iter().copied().collect(),
        elsewhere: in_force.elsewhere.clone(),
        host_labels: in_force.policy.node.labels.clone(),
        workloads,
    }
}
