//! Names of workloads on other hosts.

use std::{net::IpAddr, sync::Arc};

use crate::{
    compile::{elsewhere::Elsewhere, image::IdentitySubject},
    policy::model::Workload,
};

/// In the order of addresses: those that have one alone, and those that share one.
#[derive(Debug, Default)]
pub(super) struct NamesElsewhere(Vec<(IpAddr, Arc<Workload>)>);

impl NamesElsewhere {
    /// Of every node.
    pub fn of(elsewhere: &Elsewhere) -> Self {
        let mut names = Vec::new();
        for node in &elsewhere.nodes {
            for workload in &node.workloads {
                let addresses = workload.addresses.iter();
                names.extend(addresses.map(|net| (net.addr(), Arc::clone(workload))));
            }
            let services = node.services.iter();
            names.extend(services.map(|s| (s.at.address, Arc::clone(&s.workload))));
        }
        let key = |(address, workload): &(IpAddr, Arc<Workload>)| (*address, Arc::as_ptr(workload));
        names.sort_unstable_by_key(key);
        // Those with several ports.
        names.dedup_by_key(|entry| key(entry));
        names.shrink_to_fit();
        Self(names)
    }

    /// The name of the one workload at an address that policy sees as `subject`.
    pub fn workload(&self, subject: &IdentitySubject, address: IpAddr) -> Option<&str> {
        let from = self.0.partition_point(|(other, _)| *other < address);
        let here = self.0[from..].iter().take_while(|(at, _)| *at == address);
        let mut found = here.filter(|(_, workload)| IdentitySubject::of(workload) == *subject);
        match (found.next(), found.next()) {
            (Some((_, workload)), None) => Some(&workload.name),
            _ => None,
        }
    }
}
