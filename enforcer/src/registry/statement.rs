//! What an accepted record says, in the words of policy.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    listeners::{Contested, Listener, ports_of},
    record::{Listen, NodeRecord, PublishedWorkload},
    shared_labels::SharedLabels,
};
use crate::{
    compile::{
        elsewhere::{Announced, NodePeers, Reached, Service, ServiceAddress},
        image::{IdentitySubject, WorkloadName},
    },
    policy::model::{Assurance, Origin, RemoteHost, Workload},
};

/// How well a peer can be known at most by what another node says of it.
const AT_MOST: Assurance = Assurance::Orchestrator;

/// What a node says of itself. What is as in its last record is the same in memory, and what
/// the peers are made of is not copied for them.
#[derive(Debug)]
pub(super) struct Statement {
    /// See [`NodeRecord`].
    pub sequence: u64,
    pub issued: u64,
    pub expires: u64,
    pub enforces: bool,
    /// The host, under all addresses that it claims.
    host: Arc<RemoteHost>,
    /// See [`NodePeers::sharing`].
    sharing: Arc<BTreeSet<IdentitySubject>>,
    /// Boxed, because a list that is made of the record's would keep the record's memory.
    workloads: Box<[Stated]>,
    claims: Box<[IpAddr]>,
    /// Addresses that it claims for two purposes.
    twice: BTreeSet<IpAddr>,
    /// Ports at which several of its workloads listen.
    pub contested: Contested,
}

/// A workload.
#[derive(Debug)]
struct Stated {
    /// Under all addresses that its node claims for it.
    workload: Arc<Workload>,
    listens: Box<[Listen]>,
}

impl Stated {
    fn listener(&self) -> Listener<'_> {
        (&self.workload, &self.listens)
    }
}

impl Statement {
    /// What a record says. `former`: what the last one said.
    pub fn of(record: NodeRecord, former: Option<&Self>, labels: &mut SharedLabels) -> Self {
        let NodeRecord {
            node,
            sequence,
            issued,
            expires,
            addresses,
            labels: host_labels,
            enforces,
            workloads,
        } = record;
        let mut sharing = BTreeSet::new();
        if enforces {
            let subjects = workloads.iter().filter(|w| w.shares_host());
            sharing.extend(subjects.map(|w| w.subject().without_ports()));
        }
        let same_sharing = former.filter(|former| *former.sharing == sharing);
        let (mut claims, mut twice) = (BTreeSet::new(), BTreeSet::new());
        let theirs = workloads.iter().flat_map(|w| &w.addresses);
        for address in addresses.iter().chain(theirs) {
            if !claims.insert(*address) {
                twice.insert(*address);
            }
        }
        let origin = match former {
            Some(former) => former.host.origin.clone(),
            None => Origin {
                file: format!("node {node}").into(),
                line: 1,
                column: 1,
            },
        };
        let host = RemoteHost {
            name: node,
            origin: origin.clone(),
            labels: labels.share(host_labels),
            addresses: addresses.into_iter().map(IpNet::from).collect(),
        };
        let same_host = former.filter(|former| *former.host == host);
        let known = former.into_iter().flat_map(|former| &former.workloads);
        let known = ByName::of(known.map(|stated| &stated.workload));
        let workloads = workloads.into_iter().map(|published| {
            let (made, listens) = as_declared(published, &origin, labels);
            Stated {
                workload: known.same(made),
                listens: listens.into(),
            }
        });
        let workloads: Box<[Stated]> = workloads.collect();
        let listeners = workloads.iter().map(Stated::listener);
        let contested = Contested::of(&host.addresses, listeners);
        Self {
            sequence,
            issued,
            expires,
            enforces,
            host: same_host.map_or_else(|| Arc::new(host), |former| Arc::clone(&former.host)),
            sharing: same_sharing
                .map_or_else(|| Arc::new(sharing), |former| Arc::clone(&former.sharing)),
            workloads,
            claims: claims.into_iter().collect(),
            twice,
            contested,
        }
    }

    /// Every address that the node claims for itself or a workload, each once, ascending.
    pub fn claims(&self) -> &[IpAddr] {
        &self.claims
    }

    /// The node's own addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.host.addresses.iter().map(IpNet::addr)
    }

    /// How many workloads there are.
    pub fn len(&self) -> usize {
        self.workloads.len()
    }

    /// Whom others are to know. `former`: whom they knew. `contested`: whether another node claims
    /// an address too.
    pub fn peers(
        &self,
        former: Option<&NodePeers>,
        contested: impl Fn(&IpAddr) -> bool,
    ) -> NodePeers {
        // Claimed by nobody else, and by this node for one purpose.
        let undisputed = |net: &IpNet| {
            let address = net.addr();
            !contested(&address) && !self.twice.contains(&address)
        };
        let known = former.into_iter().flat_map(|former| &former.workloads);
        let known = ByName::of(known);
        let host = without(&self.host, &self.host.addresses, undisputed, |addresses| {
            let host = RemoteHost {
                addresses,
                ..RemoteHost::clone(&self.host)
            };
            let same = former.filter(|former| *former.host == host);
            same.map_or_else(|| Arc::new(host), |former| Arc::clone(&former.host))
        });
        let mut workloads = Vec::with_capacity(self.workloads.len());
        let mut services: BTreeMap<ServiceAddress, Arc<Workload>> = BTreeMap::new();
        for Stated { workload, listens } in &self.workloads {
            let workload = without(workload, &workload.addresses, undisputed, |addresses| {
                known.same(Workload {
                    addresses,
                    ..Workload::clone(workload)
                })
            });
            let ports = ports_of(listens, &host.addresses);
            let known = ports.filter(|at| !self.contested.contains(at));
            services.extend(known.map(|at| (at, Arc::clone(&workload))));
            workloads.push(workload);
        }
        let services = services.into_iter();
        let services = services.map(|(at, workload)| Service { at, workload });
        NodePeers {
            name: self.host.name.clone(),
            host,
            sharing: Arc::clone(&self.sharing),
            workloads,
            services: services.collect(),
        }
    }

    /// What others know of the node that says it. `contested` as in [`Self::peers`].
    pub fn announced(&self, contested: impl Fn(&IpAddr) -> bool) -> Announced {
        let nobodys = |net: &IpNet| contested(&net.addr()) || self.twice.contains(&net.addr());
        let host_is_known = !self.host.addresses.iter().any(nobodys);
        let workloads = self.workloads.iter().map(|Stated { workload, listens }| {
            let name = WorkloadName {
                namespace: workload.namespace.clone(),
                name: workload.name.clone(),
            };
            let reached = if workload.addresses.is_empty() {
                let ports = listens.iter().map(|l| (l.protocol, l.port));
                let known = ports.filter(|(protocol, port)| {
                    host_is_known && !self.contested.anywhere(*protocol, *port)
                });
                Reached::ByPort(known.collect())
            } else if workload.addresses.iter().any(nobodys) {
                Reached::ByPort(BTreeSet::new())
            } else {
                Reached::ByAddress
            };
            (name, reached)
        });
        Announced(workloads.collect())
    }
}

/// The same in memory if all its addresses are good, else `other` with those that are.
fn without<T>(
    whole: &Arc<T>,
    addresses: &[IpNet],
    good: impl Fn(&IpNet) -> bool,
    other: impl FnOnce(Vec<IpNet>) -> Arc<T>,
) -> Arc<T> {
    if addresses.iter().all(&good) {
        return Arc::clone(whole);
    }
    other(addresses.iter().copied().filter(good).collect())
}

/// Workloads that were known, by (namespace, name).
struct ByName<'a>(HashMap<(&'a str, &'a str), Vec<&'a Arc<Workload>>>);

impl<'a> ByName<'a> {
    fn of(workloads: impl Iterator<Item = &'a Arc<Workload>>) -> Self {
        let mut known: HashMap<_, Vec<_>> = HashMap::new();
        for workload in workloads {
            let name = (workload.namespace.as_str(), workload.name.as_str());
            known.entry(name).or_default().push(workload);
        }
        Self(known)
    }

    /// The same in memory, if it was known.
    fn same(&self, made: Workload) -> Arc<Workload> {
        let name = (made.namespace.as_str(), made.name.as_str());
        let mut same = self.0.get(&name).into_iter().flatten();
        let same = same.find(|former| ****former == made).copied().cloned();
        same.unwrap_or_else(|| Arc::new(made))
    }
}

/// As policy would know it by a document, and where it listens.
fn as_declared(
    published: PublishedWorkload,
    origin: &Origin,
    shared: &mut SharedLabels,
) -> (Workload, Vec<Listen>) {
    let PublishedWorkload {
        namespace,
        name,
        labels,
        spiffe_id,
        service_account,
        unit,
        ports,
        assurance,
        addresses,
        listens,
    } = published;
    let workload = Workload {
        namespace,
        name,
        origin: origin.clone(),
        labels: shared.share(labels),
        spiffe_id,
        service_account,
        ports,
        addresses: addresses.into_iter().map(IpNet::from).collect(),
        assurance: assurance.min(AT_MOST),
        place: None,
        unit_elsewhere: unit,
    };
    (workload, listens)
}
