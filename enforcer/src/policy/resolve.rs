//! From what every file says to the policy of the whole tree: what only shows when all of it is
//! seen together.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
    sync::Arc,
};

use super::{
    diagnostic::{Code, Collector, Position},
    groups::Groups,
    model::{self, Policy, ResolvedPolicy},
    source::SourceFile,
    statement::{FileStatements, Statement},
};

/// Where something is written that may be there only once.
type Place<'a> = (&'a Arc<SourceFile>, Position);

/// Kind, namespace and name of a document.
type Name<'a> = (&'static str, Option<&'a str>, &'a str);

/// What may be said once, and by whom it was said.
#[derive(Default)]
struct Claims<'a> {
    nodes: Once<'a, ()>,
    names: Once<'a, Name<'a>>,
    addresses: Once<'a, ipnet::IpNet>,
    places: Once<'a, &'a model::Place>,
}

/// What is remembered of the last tree, so that of the next one only what is different is looked
/// at where that is most of the work.
#[derive(Debug, Default)]
pub(super) struct LastTree {
    filled: Filled,
    inhabitants: Inhabitants,
}

/// Workloads and hosts of the last tree without errors. As long as they are in the same files,
/// they get into each other's way no more than they did.
#[derive(Debug, Default)]
struct Inhabitants {
    /// The files that they are in.
    files: Vec<Arc<FileStatements>>,
    /// As in [`ResolvedPolicy`].
    workloads: Arc<Vec<Arc<model::Workload>>>,
    hosts: Vec<Arc<model::RemoteHost>>,
}

impl Inhabitants {
    /// Whether these are the ones of all these files.
    fn are_of(&self, files: &[Arc<FileStatements>]) -> bool {
        let now = files.iter().filter(|file| file.kinds.inhabitants);
        now.map(Arc::as_ptr).eq(self.files.iter().map(Arc::as_ptr))
    }
}

/// The policies of the last tree that refer to groups, with the groups in place, by where their
/// documents are in memory. With them, the same policy of the next tree is in the same place.
#[derive(Debug, Default)]
struct Filled(HashMap<usize, (Arc<Policy>, Arc<Policy>)>);

impl Filled {
    /// Keeps a policy, or the former one of a document if that says the same.
    fn keep(&mut self, former: &Self, document: &Arc<Policy>, filled: Arc<Policy>) -> Arc<Policy> {
        // While the document is kept, nothing else can be where it is.
        let place = Arc::as_ptr(document).addr();
        let known = former.0.get(&place).map(|(_, filled)| filled);
        let known = known.filter(|known| **known == filled);
        let filled = known.map_or(filled, Arc::clone);
        self.0
            .insert(place, (Arc::clone(document), Arc::clone(&filled)));
        filled
    }
}

/// Puts together what the files say, with `digest` over them. The tree is called `shown` where it
/// is meant as a whole.
pub(super) fn resolve(
    files: &[Arc<FileStatements>],
    digest: String,
    shown: &str,
    last: &mut LastTree,
    errors: &mut Collector,
) -> ResolvedPolicy {
    let LastTree {
        filled,
        inhabitants,
    } = last;
    let former = std::mem::take(filled);
    let same_inhabitants = inhabitants.are_of(files);
    // Tests alone are no policy.
    let is_empty = |file: &Arc<FileStatements>| file.documents == file.tests().count();
    if files.iter().all(is_empty) && errors.is_empty() {
        errors.add(
            Code::EmptyTree,
            &SourceFile::new(shown, ""),
            Position::START,
            "there is no document of policy in any .yaml or .yml file here",
            "check the path; to enforce nothing on purpose, write one `kind: Node` document",
        );
    }
    let mut policy = ResolvedPolicy {
        digest,
        ..ResolvedPolicy::default()
    };
    let mut claims = Claims::default();
    let mut groups = Groups::default();
    let with_groups = files.iter().filter(|file| file.kinds.groups);
    let statements = with_groups.flat_map(|file| {
        let statements = file.statements.iter();
        statements.map(|statement| (statement, &file.source))
    });
    for (statement, file) in statements {
        if let Statement::Group(group) = statement {
            groups.add(group, file);
        }
    }
    groups.check(errors);
    let looked_at = files
        .iter()
        .filter(|file| file.kinds.others || !same_inhabitants);
    let mut workloads: Vec<Arc<model::Workload>> = Vec::new();
    for file in looked_at {
        let statements = file.statements.iter();
        for statement in statements.filter(|s| !(same_inhabitants && s.is_inhabitant())) {
            claims.check(statement, &file.source, errors);
            match statement {
                Statement::Policy(found) => {
                    let mut full = groups.fill(found, &file.source, errors);
                    if !Arc::ptr_eq(&full, &found.policy) {
                        full = filled.keep(&former, &found.policy, full);
                    }
                    policy.policies.push(full);
                }
                Statement::Namespace(found) => {
                    let labels = found.labels.clone();
                    policy.namespaces.insert(found.name.clone(), labels);
                }
                Statement::Host(found) => policy.hosts.push(found.host.clone()),
                Statement::TrustDomain(found) => policy.trust_domains.push(found.domain.clone()),
                Statement::Workload(found) => workloads.push(found.workload.clone()),
                Statement::Node(settings, _) => policy.node = (**settings).clone(),
                // Groups are in place where they are referred to. Tests are for those who work on
                // the tree; see `study`.
                Statement::Group(_) | Statement::Test(..) => {}
            }
        }
    }
    if same_inhabitants {
        policy.workloads = Arc::clone(&inhabitants.workloads);
        policy.hosts.clone_from(&inhabitants.hosts);
    } else {
        workloads.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        policy.workloads = Arc::new(workloads);
        policy.hosts.sort_by(|a, b| a.name.cmp(&b.name));
        if errors.is_empty() {
            let with_some = files.iter().filter(|file| file.kinds.inhabitants);
            *inhabitants = Inhabitants {
                files: with_some.cloned().collect(),
                workloads: Arc::clone(&policy.workloads),
                hosts: policy.hosts.clone(),
            };
        }
    }
    policy.trust_domains.sort_by(|a, b| a.name.cmp(&b.name));
    policy.policies.sort_by(|a, b| a.rank().cmp(&b.rank()));
    policy
}

impl<'a> Claims<'a> {
    fn check(
        &mut self,
        statement: &'a Statement,
        file: &'a Arc<SourceFile>,
        errors: &mut Collector,
    ) {
        match statement {
            Statement::Policy(found) => {
                let policy = &found.policy;
                let namespace = policy.namespace.as_deref();
                let key = (policy.kind.name(), namespace, policy.name.as_str());
                self.name(key, file, found.name_at, errors);
            }
            Statement::Group(found) => {
                let key = ("Group", found.namespace.as_deref(), found.name.as_str());
                self.name(key, file, found.name_at, errors);
            }
            Statement::Namespace(found) => {
                let key = ("Namespace", None, found.name.as_str());
                self.name(key, file, found.name_at, errors);
            }
            Statement::Host(found) => {
                let key = ("Host", None, found.host.name.as_str());
                self.name(key, file, found.name_at, errors);
                self.addresses(&found.host.addresses, &found.addresses_at, file, errors);
            }
            Statement::TrustDomain(found) => {
                let key = ("TrustDomain", None, found.domain.name.as_str());
                self.name(key, file, found.name_at, errors);
            }
            Statement::Test(test, at) => {
                let key = ("PolicyTest", test.namespace.as_deref(), test.name.as_str());
                self.name(key, file, *at, errors);
            }
            Statement::Workload(found) => {
                let workload = &found.workload;
                let namespace = Some(workload.namespace.as_str());
                let key = ("Workload", namespace, workload.name.as_str());
                self.name(key, file, found.name_at, errors);
                self.addresses(&workload.addresses, &found.addresses_at, file, errors);
                // That two share an address is said already.
                let place = workload.place.as_ref();
                let Some(place) = place.filter(|place| !matches!(place, model::Place::Route(_)))
                else {
                    return;
                };
                if let Some(first) = self.places.claim(place, file, found.place_at) {
                    let message = format!("this is also the place of the workload in {first}");
                    let help = "what runs in one place is one workload: correct one of the two";
                    errors.add(Code::DuplicatePlace, file, found.place_at, message, help);
                }
            }
            Statement::Node(_, at) => {
                if let Some(first) = self.nodes.claim((), file, *at) {
                    let message = format!("a second Node; the first one is in {first}");
                    let help = "a tree is the policy of one node: keep one Node document";
                    errors.add(Code::DuplicateName, file, *at, message, help);
                }
            }
        }
    }

    fn addresses(
        &mut self,
        addresses: &[ipnet::IpNet],
        at: &[Position],
        file: &'a Arc<SourceFile>,
        errors: &mut Collector,
    ) {
        for (address, at) in addresses.iter().zip(at) {
            if let Some(first) = self.addresses.claim(*address, file, *at) {
                let message = format!("`{address}` is also an address in {first}");
                let help = "an address belongs to one workload or host: correct one of the two";
                errors.add(Code::DuplicateAddress, file, *at, message, help);
            }
        }
    }

    fn name(
        &mut self,
        key: Name<'a>,
        file: &'a Arc<SourceFile>,
        at: Position,
        errors: &mut Collector,
    ) {
        if let Some(first) = self.names.claim(key, file, at) {
            let (kind, namespace, name) = key;
            let of = match namespace {
                Some(namespace) => format!(" of namespace `{namespace}`"),
                None => String::new(),
            };
            let message =
                format!("a second {kind} called `{name}`{of}; the first one is in {first}");
            let help = "rename one of them, or remove the copy";
            errors.add(Code::DuplicateName, file, at, message, help);
        }
    }
}

/// What may be claimed once, and who did.
struct Once<'a, K>(HashMap<K, Place<'a>>);

impl<K> Default for Once<'_, K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<'a, K: Eq + Hash> Once<'a, K> {
    /// Where it was claimed before, if it was: "line 3" or "other.yaml:3".
    fn claim(&mut self, key: K, file: &'a Arc<SourceFile>, at: Position) -> Option<String> {
        match self.0.entry(key) {
            Entry::Occupied(first) => {
                let (first, first_at) = first.get();
                Some(if Arc::ptr_eq(first, file) {
                    format!("line {}", first_at.line)
                } else {
                    format!("{}:{}", first.name, first_at.line)
                })
            }
            Entry::Vacant(place) => {
                place.insert((file, at));
                None
            }
        }
    }
}
