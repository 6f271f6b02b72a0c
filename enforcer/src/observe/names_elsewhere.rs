//! Names of workloads on other hosts.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use super::{context::WorkloadName, names_here::name_of};
use crate::{
    compile::{elsewhere::Elsewhere, image::IdentitySubject},
    policy::model::Workload,
};

/// By address: those that have it alone, and those that share it.
#[derive(Debug, Default)]
pub(super) struct NamesElsewhere(HashMap<IpAddr, Vec<(IdentitySubject, Arc<WorkloadName>)>>);

impl NamesElsewhere {
    /// Of every node.
    pub fn of(elsewhere: &Elsewhere) -> Self {
        let mut names = Self::default();
        for node in &elsewhere.nodes {
            for workload in &node.workloads {
                for address in &workload.addresses {
                    names.add(address.addr(), workload);
                }
            }
            for service in &node.services {
                names.add(service.at.address, &service.workload);
            }
        }
        names
    }

    fn add(&mut self, address: IpAddr, workload: &Workload) {
        let here = self.0.entry(address).or_default();
        let known = |(_, name): &(_, Arc<WorkloadName>)| {
            (&name.namespace, &name.name) == (&workload.namespace, &workload.name)
        };
        if here.iter().any(known) {
            return;
        }
        here.push((IdentitySubject::of(workload), name_of(workload)));
    }

    /// The one workload at an address that policy sees as `subject`.
    pub fn workload(
        &self,
        subject: &IdentitySubject,
        address: IpAddr,
    ) -> Option<&Arc<WorkloadName>> {
        let mut found = self.0.get(&address)?.iter().filter(|(is, _)| is == subject);
        match (found.next(), found.next()) {
            (Some((_, name)), None) => Some(name),
            _ => None,
        }
    }
}
