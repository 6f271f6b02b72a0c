//! Names of the workloads that the policy tree declares. A change of the host or of the kernel's
//! state has the same ones as before it, and they are sorted only when somebody asks.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use super::context::WorkloadName;
use crate::{
    compile::image::IdentitySubject,
    policy::model::{ResolvedPolicy, Workload},
};

/// Every workload of a tree.
#[derive(Debug, Default)]
pub struct NamesHere {
    policy: Arc<ResolvedPolicy>,
    sorted: OnceLock<Sorted>,
}

#[derive(Debug, Default)]
struct Sorted {
    by_subject: HashMap<IdentitySubject, Vec<Arc<WorkloadName>>>,
    /// `None` where several workloads declare the address.
    by_address: HashMap<IpAddr, Option<Arc<WorkloadName>>>,
}

impl NamesHere {
    /// The names of a tree.
    pub fn of(policy: &Arc<ResolvedPolicy>) -> Self {
        Self {
            policy: Arc::clone(policy),
            sorted: OnceLock::new(),
        }
    }

    /// Whether these are the names of that very tree.
    pub fn are_of(&self, policy: &Arc<ResolvedPolicy>) -> bool {
        Arc::ptr_eq(&self.policy, policy)
    }

    /// The workload with a name.
    pub fn named(&self, namespace: &str, name: &str) -> Option<Arc<WorkloadName>> {
        let key = (namespace, name);
        // Workloads of a tree are in the order of their names.
        let found = (self.policy.workloads)
            .binary_search_by(|w| (w.namespace.as_str(), w.name.as_str()).cmp(&key));
        found.ok().map(|at| name_of(&self.policy.workloads[at]))
    }

    /// Those that policy sees as `subject`.
    pub(super) fn with(&self, subject: &IdentitySubject) -> Option<&[Arc<WorkloadName>]> {
        let found = self.sorted().by_subject.get(subject);
        found.map(Vec::as_slice)
    }

    /// The one workload that declares an address.
    pub(super) fn at(&self, address: IpAddr) -> Option<&Arc<WorkloadName>> {
        self.sorted().by_address.get(&address)?.as_ref()
    }

    fn sorted(&self) -> &Sorted {
        let names = || self.policy.workloads.iter().map(|w| name_of(w));
        self.sorted.get_or_init(|| Sorted::of(names()))
    }
}

impl From<Vec<Arc<WorkloadName>>> for NamesHere {
    fn from(names: Vec<Arc<WorkloadName>>) -> Self {
        Self {
            policy: Arc::default(),
            sorted: OnceLock::from(Sorted::of(names.into_iter())),
        }
    }
}

impl Sorted {
    fn of(names: impl Iterator<Item = Arc<WorkloadName>>) -> Self {
        let mut sorted = Self::default();
        for workload in names {
            for net in &workload.addresses {
                if net.prefix_len() == net.max_prefix_len() {
                    sorted
                        .by_address
                        .entry(net.addr())
                        .and_modify(|owner| *owner = None)
                        .or_insert_with(|| Some(Arc::clone(&workload)));
                }
            }
            let subject = IdentitySubject::Workload {
                namespace: workload.namespace.clone(),
                labels: workload.labels.clone(),
                spiffe_id: workload.spiffe_id.clone(),
                service_account: workload.service_account.clone(),
                unit: workload.unit.clone(),
                ports: workload.ports.clone(),
            };
            sorted.by_subject.entry(subject).or_default().push(workload);
        }
        sorted
    }
}

/// What is said of a workload by name.
pub(super) fn name_of(workload: &Workload) -> Arc<WorkloadName> {
    Arc::new(WorkloadName {
        namespace: workload.namespace.clone(),
        name: workload.name.clone(),
        labels: workload.labels.clone(),
        spiffe_id: workload.spiffe_id.clone(),
        service_account: workload.service_account.clone(),
        unit: workload.unit().map(str::to_owned),
        ports: workload.ports.clone(),
        addresses: workload.addresses.clone(),
    })
}
