//! Who is known: the identity of every address, prefix and local workload.

mod counted;
mod published;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::{Arc, Weak},
};

use enforcer_common::identity;
use ipnet::IpNet;

use self::{
    counted::Counted,
    published::{Published, PublishedHost},
};
use super::{
    Inputs, Subjects,
    elsewhere::{NodePeers, ServiceAddress},
    image::{Assurance, Identity, IdentitySubject, WorkloadName},
    limits::CompileError,
    numbers::Numbers,
    paged::Paged,
    prefix_table::PrefixTable,
};
use crate::policy::model::{Peer, Policy, RemoteHost, Workload};

/// Everybody, numbered. Kept from one compilation to the next: what did not change is not
/// looked at again.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// See [`super::image::Image::addresses`].
    pub addresses: Paged<IpNet, u32>,
    /// See [`super::image::Image::host_addresses`].
    pub host_addresses: BTreeMap<IpAddr, u32>,
    /// See [`super::image::Image::prefixes`].
    pub prefixes: Paged<IpNet, u32>,
    /// See [`super::image::Image::services`].
    pub services: Paged<ServiceAddress, u32>,
    /// See [`super::image::Image::workloads`].
    pub workloads: Paged<WorkloadName, u32>,
    /// See [`super::image::Image::attested`].
    pub attested: Paged<WorkloadName, u32>,
    /// By number, live ones of earlier images included.
    pub identities: Paged<u32, Arc<Identity>>,
    /// See [`Inputs::attested`].
    proven: BTreeSet<WorkloadName>,
    /// The numbers in `workloads` and `attested`.
    local: Counted,
    /// The prefixes that documents give the workloads of each of these numbers, and how many
    /// workloads each.
    local_addresses: HashMap<u32, BTreeMap<IpNet, usize>>,
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
    elsewhere: Counted,
    /// By address, whom of these other nodes have there.
    owned_elsewhere: HashMap<IpNet, u32>,
    /// What all this was made of.
    of: MadeOf,
    /// The list that the workloads are from: the same list in memory is not looked through.
    workload_list: Weak<Vec<Arc<Workload>>>,
}

/// Policies, workloads of the tree, and other nodes.
type MadeOf = (Vec<Arc<Policy>>, Vec<Arc<Workload>>, Vec<Arc<NodePeers>>);

/// What is not as it was in the last compilation.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Policies that are not there any more.
    pub policies_gone: Vec<Arc<Policy>>,
    /// Policies that were not there.
    pub policies_come: Vec<Arc<Policy>>,
    /// Whether they name other prefixes than before.
    pub renamed: bool,
    /// Identities for which sets are wanted and were not, or the other way round.
    pub local: BTreeSet<u32>,
    /// Identities of this node of which some workload came, went or changed.
    pub placed: BTreeSet<u32>,
    /// Identities that came into [`Known::elsewhere`] or went.
    pub elsewhere: BTreeSet<u32>,
}

impl Known {
    /// Numbers everybody that the inputs speak of. Between calls nothing changes but policies
    /// and workloads. `None`: what is remembered does not fit any more.
    pub fn update(
        &mut self,
        inputs: &Inputs<'_>,
        numbers: &mut Numbers,
    ) -> Result<Option<Changes>, CompileError> {
        let (mut policies, mut workloads, mut nodes) = std::mem::take(&mut self.of);
        let first = self.identities.is_empty();
        let mut changed = BTreeSet::new();
        let (policies_gone, policies_come) = follow(&mut policies, &inputs.policy.policies);
        if !self.count_minimums(&policies_gone, &policies_come) && !first {
            return Ok(None);
        }
        self.rename(&policies_gone, &policies_come, &mut changed);
        if first {
            self.declare_hosts(&inputs.policy.hosts, &mut changed);
        }
        let named_as_before = changed.is_empty();
        // While it is known here, nothing else can be where it is, and nobody can change it.
        let list = &inputs.policy.workloads;
        let (gone, come) = if std::ptr::eq(self.workload_list.as_ptr(), Arc::as_ptr(list)) {
            Default::default()
        } else {
            self.workload_list = Arc::downgrade(list);
            follow(&mut workloads, list)
        };
        self.declare(&gone, &come, &mut changed);
        let (nodes_gone, nodes_come) = follow(&mut nodes, &inputs.elsewhere.nodes);
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
        let mut elsewhere = BTreeMap::new();
        for prefix in &concerned {
            self.know(*prefix, numbers, &mut elsewhere)?;
            self.know_services(*prefix, numbers, &mut elsewhere)?;
        }
        let placed = self.place(inputs, &gone, &come, numbers)?;
        self.of = (policies, workloads, nodes);

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
        Ok(Some(Changes {
            policies_gone,
            policies_come,
            renamed: !named_as_before,
            local: self.local.change(&placed).into_iter().collect(),
            placed: placed.into_keys().collect(),
            elsewhere: self.elsewhere.change(&elsewhere).into_iter().collect(),
        }))
    }

    /// The identities of what other nodes say of themselves, and of their workloads: those whose
    /// own daemons judge what comes to them.
    pub fn elsewhere(&self) -> impl Iterator<Item = u32> {
        self.elsewhere.iter()
    }

    /// Whether it is one of [`Known::elsewhere`].
    pub fn is_elsewhere(&self, number: u32) -> bool {
        self.elsewhere.has(number)
    }

    /// Whether it is the identity of another host.
    pub fn is_host(&self, number: u32) -> bool {
        let known = self.identities.get(&number);
        known.is_some_and(|known| matches!(known.subject, IdentitySubject::RemoteHost { .. }))
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
        self.local.has(number)
    }

    /// The identities for which policy sets are wanted, ascending.
    pub fn local(&self) -> impl Iterator<Item = u32> {
        self.local.iter()
    }

    /// The prefixes that documents give the local workloads of an identity.
    pub fn addresses_of(&self, number: u32) -> impl Iterator<Item = IpNet> {
        let prefixes = self.local_addresses.get(&number).into_iter();
        prefixes.flat_map(BTreeMap::keys).copied()
    }

    /// Counts the minimums that policies name. `false`: others are named than before.
    fn count_minimums(&mut self, gone: &[Arc<Policy>], come: &[Arc<Policy>]) -> bool {
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
        gone: &[Arc<Policy>],
        come: &[Arc<Policy>],
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
        gone: &[Arc<Workload>],
        come: &[Arc<Workload>],
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
                let inside = known.between(prefix, &end);
                concerned.extend(inside.map(|(inside, _)| *inside));
            }
        }
        concerned
    }

    /// Finds the identity of an address or prefix, if it is still one. Counts how often more, or
    /// less, an identity is elsewhere.
    fn know(
        &mut self,
        prefix: IpNet,
        numbers: &mut Numbers,
        elsewhere: &mut BTreeMap<u32, isize>,
    ) -> Result<(), CompileError> {
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
            match number {
                Some(number) => table.insert(prefix, number),
                None => table.remove(&prefix),
            };
        }
        let theirs = number.filter(|_| single && self.published.has_owner(&prefix));
        let before = match theirs {
            Some(number) => self.owned_elsewhere.insert(prefix, number),
            None => self.owned_elsewhere.remove(&prefix),
        };
        if before != theirs {
            recount(elsewhere, before.as_ref(), theirs.as_ref());
        }
        Ok(())
    }

    /// Finds who is behind the ports of an address. Where a document declares a workload there,
    /// that is who. Counts how often more, or less, an identity is elsewhere.
    fn know_services(
        &mut self,
        prefix: IpNet,
        numbers: &mut Numbers,
        elsewhere: &mut BTreeMap<u32, isize>,
    ) -> Result<(), CompileError> {
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
        let (first, last) = (at(0, 0), at(u8::MAX, u16::MAX));
        let known = self.services.between(&first, &last);
        let known: BTreeMap<_, _> = known.map(|(at, number)| (*at, *number)).collect();
        if known != wanted {
            recount(elsewhere, known.values(), wanted.values());
            for at in known.keys() {
                self.services.remove(at);
            }
            self.services.extend(wanted);
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

    /// Numbers the workloads that can run here, or all. Returns how often more, or less, each
    /// number is there than before.
    fn place(
        &mut self,
        inputs: &Inputs<'_>,
        gone: &[Arc<Workload>],
        come: &[Arc<Workload>],
        numbers: &mut Numbers,
    ) -> Result<BTreeMap<u32, isize>, CompileError> {
        if gone.is_empty() && come.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut placed = std::mem::take(&mut self.workloads);
        let mut attested = std::mem::take(&mut self.attested);
        let mut addresses = std::mem::take(&mut self.local_addresses);
        let mut counts: BTreeMap<u32, isize> = BTreeMap::new();
        for workload in gone {
            let name = name_of(workload);
            let numbers = [placed.remove(&name), attested.remove(&name)];
            for number in numbers.into_iter().flatten() {
                *counts.entry(number).or_default() -= 1;
                let theirs = addresses.entry(number).or_default();
                for prefix in workload.addresses.iter().map(IpNet::trunc) {
                    let left = theirs.remove(&prefix).unwrap_or_default().saturating_sub(1);
                    if left > 0 {
                        theirs.insert(prefix, left);
                    }
                }
                if theirs.is_empty() {
                    addresses.remove(&number);
                }
            }
        }
        for workload in come {
            if workload.place.is_some() || inputs.subjects == Subjects::All {
                let mut known_as = |assurance, table: &mut Paged<WorkloadName, u32>| {
                    let subject = IdentitySubject::of(workload);
                    let number = self.number(subject, assurance, None, numbers)?;
                    *counts.entry(number).or_default() += 1;
                    if !workload.addresses.is_empty() {
                        let theirs = addresses.entry(number).or_default();
                        for prefix in workload.addresses.iter().map(IpNet::trunc) {
                            *theirs.entry(prefix).or_default() += 1;
                        }
                    }
                    if let Some(former) = table.insert(name_of(workload), number) {
                        *counts.entry(former).or_default() -= 1;
                    }
                    Ok(())
                };
                known_as(Assurance::Kernel, &mut placed)?;
                if workload.spiffe_id.is_some() {
                    known_as(Assurance::Attested, &mut attested)?;
                }
            }
        }
        self.workloads = placed;
        self.attested = attested;
        self.local_addresses = addresses;
        Ok(counts)
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

/// Makes `list` what `new` is, and returns what was only in the one and what is only in the
/// other. What is the same in memory is not looked into.
fn follow<T>(list: &mut Vec<Arc<T>>, new: &[Arc<T>]) -> (Vec<Arc<T>>, Vec<Arc<T>>) {
    let same = |(a, b): &(&Arc<T>, &Arc<T>)| Arc::ptr_eq(a, b);
    let (mut gone, mut come) = (Vec::new(), Vec::new());
    if list.len() == new.len() {
        for (old, new) in list.iter_mut().zip(new) {
            if !Arc::ptr_eq(old, new) {
                come.push(Arc::clone(new));
                gone.push(std::mem::replace(old, Arc::clone(new)));
            }
        }
    } else {
        let head = list.iter().zip(new).take_while(same).count();
        let tail = list[head..].iter().rev().zip(new[head..].iter().rev());
        let tail = tail.take_while(same).count();
        let (until, new_until) = (list.len() - tail, new.len() - tail);
        come = new[head..new_until].to_vec();
        gone = list.splice(head..until, come.iter().cloned()).collect();
    }
    // Some may only be in another place.
    let all = |list: &[Arc<T>]| -> HashSet<_> { list.iter().map(Arc::as_ptr).collect() };
    let (all_gone, all_come) = (all(&gone), all(&come));
    gone.retain(|item| !all_come.contains(&Arc::as_ptr(item)));
    come.retain(|item| !all_gone.contains(&Arc::as_ptr(item)));
    (gone, come)
}

/// Notes that some numbers are there once less, and some once more.
fn recount<'n>(
    counts: &mut BTreeMap<u32, isize>,
    less: impl IntoIterator<Item = &'n u32>,
    more: impl IntoIterator<Item = &'n u32>,
) {
    for number in less {
        *counts.entry(*number).or_default() -= 1;
    }
    for number in more {
        *counts.entry(*number).or_default() += 1;
    }
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
