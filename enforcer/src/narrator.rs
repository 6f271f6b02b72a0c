//! Tells telemetry what the loop puts in force: names for numbers, and metrics of policy.

use std::sync::{Arc, Mutex, PoisonError};

use crate::{
    api::status::PlaceKind,
    metrics::{EndpointCounts, Metrics, PolicyLabels, mode_name},
    observe::{
        context::{CgroupName, EndpointName, NameBook, NameContext},
        names_here::NamesHere,
    },
    reconcile::{in_force::InForce, observer::Observer},
};

/// See the module.
#[derive(Debug)]
pub struct Narrator {
    /// Name of the node.
    node: String,
    /// Names for records.
    names: Arc<NameBook>,
    metrics: Arc<Metrics>,
    /// The workloads that were announced last.
    workloads: Mutex<Arc<NamesHere>>,
}

impl Narrator {
    /// Tells these two of what happens on a node.
    pub fn new(node: String, names: Arc<NameBook>, metrics: Arc<Metrics>) -> Self {
        Self {
            node,
            names,
            metrics,
            workloads: Mutex::default(),
        }
    }
}

impl Observer for Narrator {
    fn announce(&self, in_force: &InForce) {
        // A panic while it was held has left nothing half done.
        let mut workloads = self
            .workloads
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !workloads.are_of(&in_force.policy) {
            *workloads = Arc::new(NamesHere::of(&in_force.policy));
        }
        let context = name_context(&self.node, in_force, Arc::clone(&workloads));
        drop(workloads);
        self.names.publish(context);
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
fn name_context(node: &str, in_force: &InForce, workloads: Arc<NamesHere>) -> NameContext {
    let endpoints = in_force
        .endpoints
        .iter()
        .map(|endpoint| {
            let workload = endpoint
                .namespace
                .as_deref()
                .and_then(|namespace| workloads.named(namespace, &endpoint.name));
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
