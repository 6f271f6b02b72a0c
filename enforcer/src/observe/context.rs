//! The names behind the kernel's numbers, as of now and for a while back: an event that was
//! judged by the policy before the last one still finds its rule.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    hash::Hash,
    net::IpAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use enforcer_common::identity;
use ipnet::IpNet;

use crate::{
    compile::{
        elsewhere::Elsewhere,
        image::{Identity, Image, RuleInfo},
        paged::Paged,
    },
    policy::model::{Assurance, Labels, NamedPort},
};

use super::{commits::Commits, names_elsewhere::NamesElsewhere, names_here::NamesHere};

/// Every name there is now. The daemon makes one after every change and hands it to
/// [`NameBook::publish`].
#[derive(Clone, Debug, Default)]
pub struct NameContext {
    /// Name of the node.
    pub node: String,
    /// Policy generation in force.
    pub generation: u32,
    /// The git commits of the trees in force, now and before.
    pub commits: Commits,
    /// Identities, rules and addresses.
    pub image: Arc<Image>,
    /// Every workload of the policy tree.
    pub workloads: Arc<NamesHere>,
    /// Who is behind an endpoint number.
    pub endpoints: HashMap<u32, EndpointName>,
    /// Interface names by index.
    pub interfaces: HashMap<u32, Arc<str>>,
    /// Cgroups by id.
    pub cgroups: HashMap<u64, Arc<CgroupName>>,
    /// This host's own addresses.
    pub host_addresses: HashSet<IpAddr>,
    /// Labels of the host endpoint.
    pub host_labels: Labels,
    /// Who runs on other hosts.
    pub elsewhere: Arc<Elsewhere>,
}

/// Who is behind an endpoint number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointName {
    /// Identity number.
    pub identity: u32,
    /// `None` for the host endpoint.
    pub workload: Option<Arc<WorkloadName>>,
    /// How it is known.
    pub assurance: Assurance,
}

/// A workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkloadName {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: Labels,
    /// SPIFFE ID.
    pub spiffe_id: Option<String>,
    /// Service account.
    pub service_account: Option<String>,
    /// systemd unit, as its document names it.
    pub unit: Option<String>,
    /// Named ports.
    pub ports: BTreeSet<NamedPort>,
    /// Declared addresses.
    pub addresses: Vec<IpNet>,
}

/// A cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupName {
    /// Path below the cgroup root, with a leading `/`.
    pub path: String,
    /// The systemd unit that it belongs to.
    pub unit: Option<String>,
}

impl CgroupName {
    /// Finds the unit in the path: the first service or scope from the root, as systemd's
    /// `cg_path_get_unit` does.
    pub fn new(path: impl Into<String>) -> Self {
        let path = path.into();
        let is_unit = |part: &&str| {
            [".service", ".scope"]
                .iter()
                .any(|suffix| part.len() > suffix.len() && part.ends_with(suffix))
        };
        let unit = path.split('/').find(is_unit).map(str::to_owned);
        Self { path, unit }
    }
}

/// How long names are remembered after they are gone. Longer than the kernel's table of denied
/// flows keeps an entry.
const MEMORY: Duration = Duration::from_mins(10);

/// Most gone names of a kind.
const MOST_GONE: usize = 20_000;

/// The names, to be asked from many threads.
#[derive(Debug)]
pub struct NameBook {
    names: ArcSwap<Names>,
    /// Held while names are replaced.
    publishing: Mutex<()>,
}

impl Default for NameBook {
    fn default() -> Self {
        Self::new(NameContext::default())
    }
}

impl NameBook {
    /// A book that knows `context`.
    pub fn new(context: NameContext) -> Self {
        Self {
            names: ArcSwap::from_pointee(Names::new(context, Gone::default())),
            publishing: Mutex::new(()),
        }
    }

    /// Makes `context` what holds now.
    pub fn publish(&self, context: NameContext) {
        self.publish_at(context, Instant::now());
    }

    fn publish_at(&self, context: NameContext, now: Instant) {
        // The guarded value is empty: a panic while it was held has left nothing half done.
        let _publishing = self
            .publishing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let old = self.names.load();
        let gone = old.gone.after(&old.context, &context, now);
        self.names.store(Arc::new(Names::new(context, gone)));
    }

    /// The names as they are now.
    pub fn load(&self) -> Arc<Names> {
        self.names.load_full()
    }
}

/// A snapshot of the names.
#[derive(Debug)]
pub struct Names {
    context: NameContext,
    gone: Gone,
    /// Made when it is first asked: few changes of other hosts are followed by a record of them.
    elsewhere: OnceLock<NamesElsewhere>,
}

impl Names {
    fn new(context: NameContext, gone: Gone) -> Self {
        Self {
            context,
            gone,
            elsewhere: OnceLock::new(),
        }
    }

    /// What holds now.
    pub fn context(&self) -> &NameContext {
        &self.context
    }

    /// The rule behind a number.
    pub fn rule(&self, number: u32) -> Option<&Arc<RuleInfo>> {
        let now = self.context.image.rules.get(&number);
        now.or_else(|| self.gone.rules.find(&number))
    }

    /// The identity behind a number.
    pub fn identity(&self, number: u32) -> Option<&Arc<Identity>> {
        let now = self.context.image.identities.get(&number);
        now.or_else(|| self.gone.identities.find(&number))
    }

    /// Who is behind an endpoint number.
    pub fn endpoint(&self, number: u32) -> Option<&EndpointName> {
        let now = self.context.endpoints.get(&number);
        now.or_else(|| self.gone.endpoints.find(&number))
    }

    /// An interface's name.
    pub fn interface(&self, index: u32) -> Option<&Arc<str>> {
        let now = self.context.interfaces.get(&index);
        now.or_else(|| self.gone.interfaces.find(&index))
    }

    /// A cgroup.
    pub fn cgroup(&self, id: u64) -> Option<&Arc<CgroupName>> {
        let now = self.context.cgroups.get(&id);
        now.or_else(|| self.gone.cgroups.find(&id))
    }

    /// The name of the one workload that `identity` can stand for at `address`, if there is just
    /// one.
    pub fn workload(&self, identity: &Identity, address: Option<IpAddr>) -> Option<&str> {
        let Some(candidates) = self.context.workloads.with(&identity.subject) else {
            let names = &self.context.elsewhere;
            let names = self.elsewhere.get_or_init(|| NamesElsewhere::of(names));
            return names.workload(&identity.subject, address?);
        };
        if let [only] = candidates {
            return Some(&only.name);
        }
        let owner = self.context.workloads.at(address?)?;
        let owner = candidates.iter().find(|c| Arc::ptr_eq(c, owner));
        owner.map(|owner| owner.name.as_str())
    }

    /// Whether it is an address of this host itself.
    pub fn is_of_this_host(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.context.host_addresses.contains(&address)
    }

    /// The identity number of an address, as the kernel would find it without sockets: exact,
    /// then by the longest prefix.
    pub fn identity_at(&self, address: IpAddr) -> u32 {
        let image = &self.context.image;
        let exact = image.addresses.get(&IpNet::from(address));
        if let Some(number) = exact {
            return *number;
        }
        if self.context.host_addresses.contains(&address) {
            return identity::HOST;
        }
        if image.prefixes.is_empty() {
            return identity::WORLD;
        }
        let longest = IpNet::from(address).prefix_len();
        (0..=longest)
            .rev()
            .filter_map(|length| IpNet::new(address, length).ok())
            .find_map(|net| image.prefixes.get(&net.trunc()).copied())
            .unwrap_or(identity::WORLD)
    }
}

/// What was known and is no more.
#[derive(Clone, Debug, Default)]
struct Gone {
    rules: GoneBy<u32, Arc<RuleInfo>>,
    identities: GoneBy<u32, Arc<Identity>>,
    endpoints: GoneBy<u32, EndpointName>,
    interfaces: GoneBy<u32, Arc<str>>,
    cgroups: GoneBy<u64, Arc<CgroupName>>,
}

impl Gone {
    fn after(&self, old: &NameContext, new: &NameContext, now: Instant) -> Self {
        Self {
            rules: self
                .rules
                .after_shared(&old.image.rules, &new.image.rules, now),
            identities: (self.identities).after_shared(
                &old.image.identities,
                &new.image.identities,
                now,
            ),
            endpoints: self.endpoints.after(&old.endpoints, &new.endpoints, now),
            interfaces: self.interfaces.after(&old.interfaces, &new.interfaces, now),
            cgroups: self.cgroups.after(&old.cgroups, &new.cgroups, now),
        }
    }
}

#[derive(Clone, Debug)]
struct GoneBy<K, V>(HashMap<K, (V, Instant)>);

impl<K, V> Default for GoneBy<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Copy + Eq + Hash + Ord, V: Clone> GoneBy<K, V> {
    fn find(&self, key: &K) -> Option<&V> {
        self.0.get(key).map(|(value, _)| value)
    }

    fn after(&self, old: &impl Table<K, V>, new: &impl Table<K, V>, now: Instant) -> Self {
        let mut gone = self.0.clone();
        gone.retain(|key, (_, since)| {
            !new.has(key) && now.saturating_duration_since(*since) < MEMORY
        });
        for (key, value) in old.entries() {
            if !new.has(key) {
                gone.insert(*key, (value.clone(), now));
            }
        }
        if gone.len() > MOST_GONE {
            let mut since: Vec<Instant> = gone.values().map(|(_, since)| *since).collect();
            let excess = since.len() - MOST_GONE;
            let (_, cutoff, _) = since.select_nth_unstable(excess - 1);
            let cutoff = *cutoff;
            gone.retain(|_, (_, since)| *since > cutoff || *since == now);
        }
        Self(gone)
    }
}

impl<T: Clone> GoneBy<u32, T> {
    /// As [`GoneBy::after`], for tables that share what is the same in them.
    fn after_shared(&self, old: &Paged<u32, T>, new: &Paged<u32, T>, now: Instant) -> Self {
        let gone: HashMap<u32, T> = (old.missing_in(new))
            .map(|(number, value)| (*number, value.clone()))
            .collect();
        self.after(&gone, new, now)
    }
}

trait Table<K, V> {
    fn has(&self, key: &K) -> bool;
    fn entries<'a>(&'a self) -> impl Iterator<Item = (&'a K, &'a V)>
    where
        K: 'a,
        V: 'a;
}

impl<V> Table<u32, V> for Paged<u32, V> {
    fn has(&self, key: &u32) -> bool {
        self.contains_key(key)
    }

    fn entries<'a>(&'a self) -> impl Iterator<Item = (&'a u32, &'a V)>
    where
        V: 'a,
    {
        self.iter()
    }
}

impl<K: Eq + Hash, V> Table<K, V> for HashMap<K, V> {
    fn has(&self, key: &K) -> bool {
        self.contains_key(key)
    }

    fn entries<'a>(&'a self) -> impl Iterator<Item = (&'a K, &'a V)>
    where
        K: 'a,
        V: 'a,
    {
        self.iter()
    }
}

impl<K: Ord, V> Table<K, V> for BTreeMap<K, V> {
    fn has(&self, key: &K) -> bool {
        self.contains_key(key)
    }

    fn entries<'a>(&'a self) -> impl Iterator<Item = (&'a K, &'a V)>
    where
        K: 'a,
        V: 'a,
    {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::image::IdentitySubject;
    use crate::policy::model::{Accountability, Mode, PolicyKind, RuleAction};

    fn with_rules(numbers: &[u32]) -> NameContext {
        let rule = |n: u32| RuleInfo {
            kind: PolicyKind::default(),
            namespace: None,
            policy: format!("p{n}"),
            rule: "isolation".into(),
            tier: None,
            direction: None,
            action: RuleAction::Deny,
            mode: Mode::Enforce,
            accountability: Accountability::default(),
            origin: None,
        };
        NameContext {
            image: Arc::new(Image {
                rules: numbers.iter().map(|n| (*n, Arc::new(rule(*n)))).collect(),
                ..Image::default()
            }),
            ..NameContext::default()
        }
    }

    #[test]
    fn a_gone_rule_keeps_its_name_for_a_while() {
        let book = NameBook::new(with_rules(&[1, 2]));
        let start = Instant::now();
        book.publish_at(with_rules(&[2, 3]), start);
        book.publish_at(with_rules(&[2, 3]), start + MEMORY / 2);
        let names = book.load();
        assert_eq!(names.rule(1).unwrap().policy, "p1");
        assert_eq!(names.rule(3).unwrap().policy, "p3");
        assert!(names.rule(4).is_none());
        book.publish_at(with_rules(&[2, 3]), start + MEMORY * 2);
        assert!(book.load().rule(1).is_none());
    }

    #[test]
    fn gone_names_are_bounded() {
        let book = NameBook::default();
        let start = Instant::now();
        for round in 0..5_u32 {
            let numbers: Vec<u32> = (round * 10_000 + 1..=(round + 1) * 10_000).collect();
            book.publish_at(
                with_rules(&numbers),
                start + Duration::from_secs(round.into()),
            );
        }
        let names = book.load();
        assert!(names.gone.rules.0.len() <= MOST_GONE);
        assert!(names.rule(30_001).is_some() && names.rule(1).is_none());
    }

    #[test]
    fn a_peer_has_a_name_where_only_one_workload_fits() {
        let workload = |name: &str, app: &str, address: &str| {
            Arc::new(WorkloadName {
                namespace: "shop".into(),
                name: name.into(),
                labels: Labels::from([("app".into(), app.into())]),
                spiffe_id: None,
                service_account: None,
                unit: None,
                ports: BTreeSet::new(),
                addresses: vec![address.parse().unwrap()],
            })
        };
        let identity = |app: &str| Identity {
            subject: IdentitySubject::Workload {
                namespace: "shop".into(),
                labels: Labels::from([("app".into(), app.into())]),
                spiffe_id: None,
                service_account: None,
                unit: None,
                ports: BTreeSet::new(),
            },
            prefixes: [].into(),
            assurance: Assurance::Address,
        };
        let book = NameBook::new(NameContext {
            workloads: Arc::new(NamesHere::from(vec![
                workload("db", "db", "10.0.0.1/32"),
                workload("web-1", "web", "10.0.0.2/32"),
                workload("web-2", "web", "10.0.0.3/32"),
            ])),
            ..NameContext::default()
        });
        let names = book.load();
        let name = |app, address: Option<&str>| {
            names.workload(&identity(app), address.map(|a| a.parse().unwrap()))
        };
        assert_eq!(name("db", None), Some("db"));
        assert_eq!(name("web", Some("10.0.0.3")), Some("web-2"));
        assert_eq!(name("web", Some("10.0.0.1")), None);
        assert_eq!(name("web", None), None);
        assert_eq!(name("api", Some("10.0.0.1")), None);
    }

    #[test]
    fn addresses_resolve_as_in_the_kernel() {
        let book = NameBook::new(NameContext {
            image: Arc::new(Image {
                addresses: [("10.0.0.1/32".parse().unwrap(), 300)].into(),
                prefixes: [
                    ("10.0.0.0/8".parse().unwrap(), 301),
                    ("10.0.0.0/24".parse().unwrap(), 302),
                    ("::/0".parse().unwrap(), 303),
                ]
                .into(),
                ..Image::default()
            }),
            host_addresses: ["192.0.2.1".parse().unwrap()].into(),
            ..NameContext::default()
        });
        let names = book.load();
        for (address, number) in [
            ("10.0.0.1", 300),
            ("10.0.0.2", 302),
            ("10.1.0.1", 301),
            ("192.0.2.1", identity::HOST),
            ("192.0.2.2", identity::WORLD),
            ("2001:db8::1", 303),
        ] {
            assert_eq!(names.identity_at(address.parse().unwrap()), number);
        }
    }

    #[test]
    fn units_are_found_in_paths() {
        let unit = |path: &str| CgroupName::new(path).unit;
        assert_eq!(
            unit("/system.slice/nginx.service/worker").as_deref(),
            Some("nginx.service")
        );
        assert_eq!(
            unit("/user.slice/user-0.slice/session-1.scope").as_deref(),
            Some("session-1.scope")
        );
        assert_eq!(unit("/system.slice/.service"), None);
        assert_eq!(unit("/"), None);
    }
}
