//! Who is known: the identity of every address, prefix and local workload.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use enforcer_common::identity;
use ipnet::IpNet;

use super::{
    Inputs, Subjects,
    elsewhere::{NodePeers, Service, ServiceAddress},
    image::{Assurance, Identity, IdentitySubject, WorkloadName},
    limits::CompileError,
    numbered::Numbered,
    numbers::Numbers,
    prefix_table::PrefixTable,
};
use crate::policy::model::{Peer, Policy, RemoteHost, Workload};

/// Everybody, numbered. Kept from one compilation to the next: what did not change is not
/// looked at again.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// See [`super::image::Image::addresses`].
    pub addresses: Arc<BTreeMap<IpNet, u32>>,
    /// See [`super::image::Image::host_addresses`].
    pub host_addresses: BTreeMap<IpAddr, u32>,
    /// See [`super::image::Image::prefixes`].
    pub prefixes: Arc<BTreeMap<IpNet, u32>>,
    /// See [`super::image::Image::services`].
    pub services: Arc<BTreeMap<ServiceAddress, u32>>,
    /// See [`super::image::Image::workloads`].
    pub workloads: Arc<BTreeMap<WorkloadName, u32>>,
    /// See [`super::image::Image::attested`].
    pub attested: Arc<BTreeMap<WorkloadName, u32>>,
    /// By number, live ones of earlier images included.
    pub identities: Numbered<Arc<Identity>>,
    /// See [`Inputs::attested`].
    proven: BTreeSet<WorkloadName>,
    /// The numbers in `workloads` and `attested`, ascending.
    local: Vec<u32>,
    /// How often policy names a prefix.
    named: PrefixTable<usize>,
    /// How often policy names a minimum of assurance.
    minimums: BTreeMap<Assurance, usize>,
    /// Which other host declares a prefix: the first by name.
    hosts: PrefixTable<Arc<RemoteHost>>,
    /// Who declares a prefix, by (namespace, name): the first has it.
    declared: PrefixTable<Vec<Arc<Workload>>>,
    /// What other nodes say.
    published: Published,
    /// See [`Known::elsewhere`].
    elsewhere: BTreeSet<u32>,
    /// What all this was made of.
    of: MadeOf,
}

/// Policies, workloads of the tree, and other nodes.
type MadeOf = (Vec<Arc<Policy>>, Vec<Arc<Workload>>, Vec<Arc<NodePeers>>);

/// What other nodes say of their addresses. Where two say something of one, it counts as if
/// neither did.
#[derive(Debug, Default)]
struct Published {
    hosts: HashMap<IpNet, Vec<PublishedHost>>,
    workloads: HashMap<IpNet, Vec<Arc<Workload>>>,
    services: HashMap<IpAddr, Vec<Service>>,
}

/// A host, and who shares its addresses.
#[derive(Clone, Debug)]
struct PublishedHost {
    host: Arc<RemoteHost>,
    sharing: Arc<BTreeSet<IdentitySubject>>,
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

impl Known {
    /// Numbers everybody that the inputs speak of. Between calls nothing changes but policies
    /// and workloads. `false`: what is remembered does not fit any more.
    pub fn update(
        &mut self,
        inputs: &Inputs<'_>,
        numbers: &mut Numbers,
    ) -> Result<bool, CompileError> {
        let (policies, workloads, nodes) = std::mem::take(&mut self.of);
        let first = self.identities.is_empty();
        let mut changed = BTreeSet::new();
        let (gone, come) = differences(&policies, &inputs.policy.policies);
        if !self.count_minimums(&gone, &come) && !first {
            return Ok(false);
        }
        self.rename(&gone, &come, &mut changed);
        if first {
            self.declare_hosts(&inputs.policy.hosts, &mut changed);
        }
        let named_as_before = changed.is_empty();
        let (gone, come) = differences(&workloads, &inputs.policy.workloads);
        self.declare(&gone, &come, &mut changed);
        let (nodes_gone, nodes_come) = differences(&nodes, &inputs.elsewhere.nodes);
        self.published
            .change(&nodes_gone, &nodes_come, &mut changed);
        self.prove(inputs, &mut changed);

        if first || !named_as_before {
            for address in inputs.host_addresses {
                let prefix = IpNet::from(*address);
                let subject = IdentitySubject::Host;
                let number = self.number(subject, Assurance::Kernel, Some(prefix), numbers)?;
                self.host_addresses.insert(*address, number);
            }
        }
        let concerned = self.concerned(&changed, first);
        for prefix in &concerned {
            self.know(*prefix, numbers)?;
            self.know_services(*prefix, numbers)?;
        }
        if !concerned.is_empty() {
            self.elsewhere = self.find_elsewhere();
        }
        self.place(inputs, &gone, &come, numbers)?;
        self.of = (
            inputs.policy.policies.clone(),
            inputs.policy.workloads.clone(),
            inputs.elsewhere.nodes.clone(),
        );

        self.identities = numbers.live_identities().clone();
        for (number, subject, assurance) in [
            (identity::HOST, IdentitySubject::Host, Assurance::Kernel),
            (identity::WORLD, IdentitySubject::World, Assurance::Address),
        ] {
            let identity = Identity {
                subject,
                prefixes: BTreeSet::new(),
                assurance,
            };
            self.identities.insert(number, Arc::new(identity));
        }
        Ok(true)
    }

    /// The identities of what other nodes say of themselves, and of their workloads: those whose
    /// own daemons judge what comes to them.
    pub fn elsewhere(&self) -> &BTreeSet<u32> {
        &self.elsewhere
    }

    /// Whether it is the identity of another host.
    pub fn is_host(&self, number: u32) -> bool {
        let known = self.identities.get(&number);
        known.is_some_and(|known| matches!(known.subject, IdentitySubject::RemoteHost { .. }))
    }

    fn find_elsewhere(&self) -> BTreeSet<u32> {
        let hosts = self.published.hosts.keys();
        let published = hosts.chain(self.published.workloads.keys());
        let known = published.filter_map(|prefix| self.addresses.get(prefix));
        known.chain(self.services.values()).copied().collect()
    }

    /// What policy sees of a workload whose address tells who it is at most by the word of
    /// another node.
    pub fn identity_at(&self, subject: IdentitySubject, prefixes: BTreeSet<IpNet>) -> Identity {
        let assurance = match subject {
            IdentitySubject::Workload { .. } => self.met(Assurance::Orchestrator),
            _ => Assurance::Orchestrator,
        };
        Identity {
            subject,
            prefixes,
            assurance,
        }
    }

    /// The prefixes named in policy that contain an address.
    pub fn prefixes_around(&self, prefix: IpNet) -> BTreeSet<IpNet> {
        let around = self.named.containing(prefix);
        around.map(|(named, _)| named).collect()
    }

    /// The highest minimum named in policy that somebody meets who is known so well.
    fn met(&self, known: Assurance) -> Assurance {
        let met = self.minimums.range(..=known).next_back();
        met.map(|(minimum, _)| *minimum).unwrap_or_default()
    }

    /// Whether policy sets are wanted for an identity.
    pub fn is_local(&self, number: u32) -> bool {
        self.local.binary_search(&number).is_ok()
    }

    /// Counts the minimums that policies name. `false`: others are named than before.
    fn count_minimums(&mut self, gone: &[&Arc<Policy>], come: &[&Arc<Policy>]) -> bool {
        let before: Vec<_> = self.minimums.keys().copied().collect();
        for policy in come {
            each_peer(policy, |peer| {
                peer.each_assurance(&mut |minimum| {
                    *self.minimums.entry(minimum).or_default() += 1;
                });
            });
        }
        for policy in gone {
            each_peer(policy, |peer| {
                peer.each_assurance(&mut |minimum| {
                    let times = self.minimums.entry(minimum).or_default();
                    *times = times.saturating_sub(1);
                });
            });
        }
        self.minimums.retain(|_, times| *times > 0);
        self.minimums.keys().copied().eq(before)
    }

    /// Notes which prefixes other hosts declare.
    fn declare_hosts(&mut self, hosts: &[Arc<RemoteHost>], changed: &mut BTreeSet<IpNet>) {
        let mut hosts: Vec<_> = hosts.iter().collect();
        hosts.sort_by_key(|host| &host.name);
        for host in hosts {
            for prefix in host.addresses.iter().map(IpNet::trunc) {
                self.hosts.add(prefix, Arc::clone(host));
                changed.insert(prefix);
            }
        }
    }

    /// Counts the prefixes that policies name, and notes those that are new or not named any
    /// more.
    fn rename(
        &mut self,
        gone: &[&Arc<Policy>],
        come: &[&Arc<Policy>],
        changed: &mut BTreeSet<IpNet>,
    ) {
        for prefix in come.iter().flat_map(|policy| prefixes_of(policy)) {
            let times = self.named.add(prefix, 0);
            *times += 1;
            if *times == 1 {
                changed.insert(prefix);
            }
        }
        for prefix in gone.iter().flat_map(|policy| prefixes_of(policy)) {
            let times = self.named.add(prefix, 0);
            *times = times.saturating_sub(1);
            if *times == 0 {
                self.named.remove(&prefix);
                changed.insert(prefix);
            }
        }
    }

    /// Notes who declares what, and the prefixes about which something changed.
    fn declare(
        &mut self,
        gone: &[&Arc<Workload>],
        come: &[&Arc<Workload>],
        changed: &mut BTreeSet<IpNet>,
    ) {
        for workload in gone {
            for prefix in workload.addresses.iter().map(IpNet::trunc) {
                let owners = self.declared.add(prefix, Vec::new());
                owners.retain(|owner| !Arc::ptr_eq(owner, workload));
                if owners.is_empty() {
                    self.declared.remove(&prefix);
                }
                changed.insert(prefix);
            }
        }
        for workload in come {
            for prefix in workload.addresses.iter().map(IpNet::trunc) {
                let owners = self.declared.add(prefix, Vec::new());
                owners.push(Arc::clone(workload));
                owners.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
                changed.insert(prefix);
            }
        }
    }

    /// Notes whose proof came or went, and the prefixes by which they are known.
    fn prove(&mut self, inputs: &Inputs<'_>, changed: &mut BTreeSet<IpNet>) {
        if self.proven == *inputs.attested {
            return;
        }
        let workloads = &inputs.policy.workloads;
        for name in self.proven.symmetric_difference(inputs.attested) {
            let key = (name.namespace.as_str(), name.name.as_str());
            let found =
                workloads.binary_search_by(|w| (w.namespace.as_str(), w.name.as_str()).cmp(&key));
            if let Ok(index) = found {
                changed.extend(workloads[index].addresses.iter().map(IpNet::trunc));
            }
        }
        self.proven.clone_from(inputs.attested);
    }

    /// The prefixes whose identity may be another one: those that changed and those inside.
    fn concerned(&self, changed: &BTreeSet<IpNet>, first: bool) -> BTreeSet<IpNet> {
        if first {
            return changed.clone();
        }
        let mut concerned = changed.clone();
        for prefix in changed {
            if prefix.prefix_len() == prefix.max_prefix_len() {
                continue;
            }
            let end = IpNet::from(prefix.broadcast());
            for known in [&self.addresses, &self.prefixes] {
                concerned.extend(known.range(*prefix..=end).map(|(inside, _)| *inside));
            }
        }
        concerned
    }

    /// Finds the identity of an address or prefix, if it is still one.
    fn know(&mut self, prefix: IpNet, numbers: &mut Numbers) -> Result<(), CompileError> {
        let single = prefix.prefix_len() == prefix.max_prefix_len();
        let named = self.named.has(&prefix);
        let wanted = (named
            || self.declared.has(&prefix)
            || self.hosts.has(&prefix)
            || self.published.has(&prefix))
            && !(single && self.host_addresses.contains_key(&prefix.addr()));
        let number = if wanted {
            let (subject, assurance) = self.owner(prefix);
            Some(self.number(subject, assurance, Some(prefix), numbers)?)
        } else {
            None
        };
        let table = if single {
            &mut self.addresses
        } else {
            &mut self.prefixes
        };
        if table.get(&prefix) != number.as_ref() {
            let table = Arc::make_mut(table);
            match number {
                Some(number) => table.insert(prefix, number),
                None => table.remove(&prefix),
            };
        }
        Ok(())
    }

    /// Finds who is behind the ports of an address. Where a document declares a workload there,
    /// that is who.
    fn know_services(&mut self, prefix: IpNet, numbers: &mut Numbers) -> Result<(), CompileError> {
        let address = prefix.addr();
        if prefix.prefix_len() < prefix.max_prefix_len() {
            return Ok(());
        }
        let mut wanted = BTreeMap::new();
        if !self.declared.has(&prefix) && !self.host_addresses.contains_key(&address) {
            let mut services: BTreeMap<ServiceAddress, Vec<&Arc<Workload>>> = BTreeMap::new();
            for service in self.published.services.get(&address).into_iter().flatten() {
                services
                    .entry(service.at)
                    .or_default()
                    .push(&service.workload);
            }
            for (at, workloads) in services {
                if let [workload] = workloads.as_slice() {
                    let subject = IdentitySubject::of(workload);
                    let assurance = workload.assurance;
                    let number = self.number(subject, assurance, Some(prefix), numbers)?;
                    wanted.insert(at, number);
                }
            }
        }
        let at = |protocol, port| ServiceAddress {
            address,
            protocol,
            port,
        };
        let known = self.services.range(at(0, 0)..=at(u8::MAX, u16::MAX));
        let known: BTreeMap<_, _> = known.map(|(at, number)| (*at, *number)).collect();
        if known != wanted {
            let services = Arc::make_mut(&mut self.services);
            for at in known.keys() {
                services.remove(at);
            }
            services.extend(wanted);
        }
        Ok(())
    }

    /// Whose a prefix is: the longest declared one around it tells. Hosts come before workloads,
    /// and documents before what other nodes say; but a workload is known as well as anybody
    /// knows it there, and whoever shares the addresses of a node, shares them also where a
    /// document says which host it is.
    fn owner(&self, prefix: IpNet) -> (IdentitySubject, Assurance) {
        let (subject, assurance) = self.declared_owner(prefix);
        let documented = self.declared.has(&prefix) || self.hosts.has(&prefix);
        let (host, workload) = self.published.at(&prefix);
        match (host, workload) {
            (Some(PublishedHost { host, sharing }), None) if !documented => {
                let labels = host.labels.clone();
                let sharing = Arc::clone(sharing);
                (
                    IdentitySubject::RemoteHost { labels, sharing },
                    Assurance::Orchestrator,
                )
            }
            (Some(PublishedHost { sharing, .. }), None) => match subject {
                IdentitySubject::RemoteHost { labels, .. } => {
                    let sharing = Arc::clone(sharing);
                    (IdentitySubject::RemoteHost { labels, sharing }, assurance)
                }
                other => (other, assurance),
            },
            (None, Some(workload)) if !documented => {
                (IdentitySubject::of(workload), workload.assurance)
            }
            (None, Some(workload)) if IdentitySubject::of(workload) == subject => {
                (subject, assurance.max(workload.assurance))
            }
            _ => (subject, assurance),
        }
    }

    /// As [`Known::owner`], by documents alone.
    fn declared_owner(&self, prefix: IpNet) -> (IdentitySubject, Assurance) {
        let workload = self.declared.containing(prefix).next();
        let host = self.hosts.containing(prefix).next();
        let length = |found: Option<IpNet>| found.map(|net| net.prefix_len());
        let by_host = length(host.map(|(net, _)| net));
        let by_workload = length(workload.map(|(net, _)| net));
        match (host, workload.and_then(|(_, owners)| owners.first())) {
            (Some((_, host)), _) if by_host >= by_workload => {
                let labels = host.labels.clone();
                (IdentitySubject::remote_host(labels), Assurance::Address)
            }
            (_, Some(owner)) if self.proven.contains(&name_of(owner)) => {
                (IdentitySubject::of(owner), Assurance::Attested)
            }
            (_, Some(owner)) => (IdentitySubject::of(owner), owner.assurance),
            _ => (IdentitySubject::World, Assurance::Address),
        }
    }

    /// Numbers the workloads that can run here, or all.
    fn place(
        &mut self,
        inputs: &Inputs<'_>,
        gone: &[&Arc<Workload>],
        come: &[&Arc<Workload>],
        numbers: &mut Numbers,
    ) -> Result<(), CompileError> {
        if gone.is_empty() && come.is_empty() {
            return Ok(());
        }
        let mut placed = std::mem::take(&mut self.workloads);
        let mut attested = std::mem::take(&mut self.attested);
        let workloads = Arc::make_mut(&mut placed);
        let proven = Arc::make_mut(&mut attested);
        for workload in gone {
            workloads.remove(&name_of(workload));
            proven.remove(&name_of(workload));
        }
        for workload in come {
            if workload.place.is_some() || inputs.subjects == Subjects::All {
                let subject = IdentitySubject::of(workload);
                let number = self.number(subject, Assurance::Kernel, None, numbers)?;
                workloads.insert(name_of(workload), number);
                if workload.spiffe_id.is_some() {
                    let subject = IdentitySubject::of(workload);
                    let number = self.number(subject, Assurance::Attested, None, numbers)?;
                    proven.insert(name_of(workload), number);
                }
            }
        }
        self.local = workloads.values().chain(proven.values()).copied().collect();
        self.local.sort_unstable();
        self.local.dedup();
        self.workloads = placed;
        self.attested = attested;
        Ok(())
    }

    fn number(
        &self,
        subject: IdentitySubject,
        known: Assurance,
        prefix: Option<IpNet>,
        numbers: &mut Numbers,
    ) -> Result<u32, CompileError> {
        // A workload is known as well as policy asks: where nobody does, it has one number
        // whether its address or the kernel tells who it is.
        let assurance = match subject {
            IdentitySubject::Workload { .. } => self.met(known),
            _ => known,
        };
        let prefixes = prefix.map_or_else(BTreeSet::new, |prefix| self.prefixes_around(prefix));
        numbers.identity(&Arc::new(Identity {
            subject,
            prefixes,
            assurance,
        }))
    }
}

impl Published {
    /// Notes what nodes say no more and what they say now, and the addresses about which
    /// something changed.
    fn change(
        &mut self,
        gone: &[&Arc<NodePeers>],
        come: &[&Arc<NodePeers>],
        changed: &mut BTreeSet<IpNet>,
    ) {
        // Of a node that says something else, most is as it was.
        let kept = |nodes: &[&Arc<NodePeers>]| -> HashSet<_> {
            let workloads = nodes.iter().flat_map(|node| &node.workloads);
            workloads.map(Arc::as_ptr).collect()
        };
        let (before, after) = (kept(gone), kept(come));
        let hosts = |nodes: &[&Arc<NodePeers>]| -> HashSet<_> {
            let nodes = nodes.iter();
            nodes.map(|node| PublishedHost::of(node).places()).collect()
        };
        let (hosts_before, hosts_after) = (hosts(gone), hosts(come));
        let services = |nodes: &[&Arc<NodePeers>]| -> HashSet<_> {
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

    fn has(&self, prefix: &IpNet) -> bool {
        let services = || {
            let single = prefix.prefix_len() == prefix.max_prefix_len();
            single && self.services.contains_key(&prefix.addr())
        };
        self.hosts.contains_key(prefix) || self.workloads.contains_key(prefix) || services()
    }

    /// The host or the workload that has an address.
    fn at(&self, prefix: &IpNet) -> (Option<&PublishedHost>, Option<&Workload>) {
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

/// What only one of two lists has: of the old one, and of the new one, in their order.
fn differences<'a, T>(old: &'a [Arc<T>], new: &'a [Arc<T>]) -> (Vec<&'a Arc<T>>, Vec<&'a Arc<T>>) {
    let same = |(a, b): &(&Arc<T>, &Arc<T>)| Arc::ptr_eq(a, b);
    let head = old.iter().zip(new).take_while(same).count();
    let (old, new) = (&old[head..], &new[head..]);
    let tail = old.iter().rev().zip(new.iter().rev());
    let tail = tail.take_while(same).count();
    let (old, new) = (&old[..old.len() - tail], &new[..new.len() - tail]);
    let all = |list: &[Arc<T>]| -> HashSet<_> { list.iter().map(Arc::as_ptr).collect() };
    let (all_old, all_new) = (all(old), all(new));
    (
        old.iter()
            .filter(|item| !all_new.contains(&Arc::as_ptr(item)))
            .collect(),
        new.iter()
            .filter(|item| !all_old.contains(&Arc::as_ptr(item)))
            .collect(),
    )
}

fn name_of(workload: &Workload) -> WorkloadName {
    WorkloadName {
        namespace: workload.namespace.clone(),
        name: workload.name.clone(),
    }
}

/// Every peer in a policy, whether its rule holds now or not: who is known does not change with
/// the time of day.
fn each_peer<'a>(policy: &'a Policy, visit: impl FnMut(&'a Peer)) {
    let rules = policy.rules.iter().flatten().flatten();
    rules.flat_map(|rule| &rule.peers).for_each(visit);
}

/// The prefixes that a policy names.
fn prefixes_of(policy: &Policy) -> Vec<IpNet> {
    let mut prefixes = Vec::new();
    each_peer(policy, |peer| {
        peer.each_plain(&mut |peer| {
            if let Peer::Cidr { prefix, except } = peer {
                prefixes.push(prefix.trunc());
                prefixes.extend(except.iter().map(IpNet::trunc));
            }
        });
    });
    prefixes
}
