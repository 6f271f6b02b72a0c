//! Who is known: the identity of every address, prefix and local workload.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use enforcer_common::identity;
use ipnet::IpNet;

use super::{
    Inputs, Subjects,
    image::{Identity, IdentitySubject, WorkloadName},
    limits::CompileError,
    numbers::Numbers,
    prefix_table::PrefixTable,
};
use crate::policy::model::{Peer, ResolvedPolicy, Workload};

/// Everybody, numbered.
pub(super) struct Known {
    /// See [`super::image::Image::addresses`].
    pub addresses: BTreeMap<IpNet, u32>,
    /// See [`super::image::Image::host_addresses`].
    pub host_addresses: BTreeMap<IpAddr, u32>,
    /// See [`super::image::Image::prefixes`].
    pub prefixes: BTreeMap<IpNet, u32>,
    /// See [`super::image::Image::workloads`].
    pub workloads: BTreeMap<WorkloadName, u32>,
    /// The numbers in `workloads`.
    local: BTreeSet<u32>,
    /// By number, live ones of earlier images included.
    pub identities: BTreeMap<u32, Arc<Identity>>,
}

impl Known {
    /// Numbers everybody that the inputs speak of.
    pub fn collect(inputs: &Inputs<'_>, numbers: &mut Numbers) -> Result<Self, CompileError> {
        let policy = inputs.policy;
        let named = named_prefixes(policy);
        let owners = declared_prefixes(policy);
        let mut number = |subject: IdentitySubject, prefix: Option<IpNet>| {
            let prefixes = prefix.map_or_else(BTreeSet::new, |prefix| {
                named.containing(prefix).map(|(named, ())| named).collect()
            });
            numbers.identity(&Arc::new(Identity { subject, prefixes }))
        };

        let mut host_addresses = BTreeMap::new();
        for address in inputs.host_addresses {
            let prefix = IpNet::from(*address);
            host_addresses.insert(*address, number(IdentitySubject::Host, Some(prefix))?);
        }
        let mut addresses = BTreeMap::new();
        let mut prefixes = BTreeMap::new();
        let all: BTreeSet<IpNet> = named.keys().chain(owners.keys()).copied().collect();
        for prefix in all {
            let owner = owners.containing(prefix).next();
            let subject = owner.map_or(IdentitySubject::World, |(_, owner)| subject_of(owner));
            if prefix.prefix_len() < prefix.max_prefix_len() {
                prefixes.insert(prefix, number(subject, Some(prefix))?);
            } else if !host_addresses.contains_key(&prefix.addr()) {
                addresses.insert(prefix, number(subject, Some(prefix))?);
            }
        }
        let mut workloads = BTreeMap::new();
        for workload in &policy.workloads {
            if workload.place.is_some() || inputs.subjects == Subjects::All {
                let name = WorkloadName {
                    namespace: workload.namespace.clone(),
                    name: workload.name.clone(),
                };
                workloads.insert(name, number(subject_of(workload), None)?);
            }
        }

        let mut identities = numbers.live_identities();
        for (number, subject) in [
            (identity::HOST, IdentitySubject::Host),
            (identity::WORLD, IdentitySubject::World),
        ] {
            let prefixes = BTreeSet::new();
            identities.insert(number, Arc::new(Identity { subject, prefixes }));
        }
        Ok(Self {
            addresses,
            host_addresses,
            prefixes,
            local: workloads.values().copied().collect(),
            workloads,
            identities,
        })
    }

    /// Whether policy sets are wanted for an identity.
    pub fn is_local(&self, number: u32) -> bool {
        self.local.contains(&number)
    }
}

/// What policy sees of a workload.
fn subject_of(workload: &Workload) -> IdentitySubject {
    IdentitySubject::Workload {
        namespace: workload.namespace.clone(),
        labels: workload.labels.clone(),
        spiffe_id: workload.spiffe_id.clone(),
    }
}

fn named_prefixes(policy: &ResolvedPolicy) -> PrefixTable<()> {
    let mut named = PrefixTable::new();
    let rules = policy.policies.iter().flat_map(|p| &p.rules).flatten();
    for peer in rules.flatten().flat_map(|rule| &rule.peers) {
        if let Peer::Cidr { prefix, except } = peer {
            for prefix in std::iter::once(prefix).chain(except) {
                named.add(*prefix, ());
            }
        }
    }
    named
}

/// Where two workloads declare one prefix, the first by (namespace, name) has it.
fn declared_prefixes(policy: &ResolvedPolicy) -> PrefixTable<&Workload> {
    let mut workloads: Vec<_> = policy.workloads.iter().collect();
    workloads.sort_by_key(|w| (&w.namespace, &w.name));
    let mut declared = PrefixTable::new();
    for workload in workloads {
        for prefix in &workload.addresses {
            declared.add(*prefix, workload);
        }
    }
    declared
}
