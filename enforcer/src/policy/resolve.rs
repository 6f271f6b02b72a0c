//! From documents to the policy of the whole tree: what only shows when they are seen together.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
    sync::Arc,
};

use super::{
    diagnostic::{Code, Collector, Position, closest, listed},
    document::{self, Node},
    model::{NodeSettings, Policy, ResolvedPolicy, Workload},
    reader::{Fields, Reader, quoted},
    source::{SourceFile, Tree},
};

/// The version of the language.
pub const API_VERSION: &str = "enforcer.dev/v1alpha1";

const KINDS: [&str; 3] = ["SegmentPolicy", "Workload", "Node"];

/// Where something is written that may be there only once.
type Place = (Arc<SourceFile>, Position);

/// What the documents have said so far.
#[derive(Default)]
struct Said {
    node: Option<NodeSettings>,
    workloads: Vec<Workload>,
    policies: Vec<Policy>,
    nodes: Once<()>,
    names: Once<(&'static str, Option<String>, String)>,
    addresses: Once<ipnet::IpNet>,
    places: Once<super::model::Place>,
}

/// Reads every document of a tree, which is called `shown` where it is meant as a whole.
pub(super) fn resolve(
    tree: &Tree,
    shown: &str,
    commit: Option<&Arc<str>>,
    errors: &mut Collector,
) -> ResolvedPolicy {
    let mut said = Said::default();
    let mut documents = 0;
    for file in &tree.files {
        let nodes = document::parse(file, errors);
        documents += nodes.len();
        for node in nodes {
            let mut reader = Reader {
                file,
                errors,
                commit,
            };
            read(&mut reader, &node, &mut said);
        }
    }
    if documents == 0 && errors.is_empty() {
        errors.add(
            Code::EmptyTree,
            &SourceFile::new(shown, ""),
            Position::START,
            "there is no document of policy in any .yaml or .yml file here",
            "check the path; to enforce nothing on purpose, write one `kind: Node` document",
        );
    }
    said.workloads
        .sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    said.policies
        .sort_by(|a, b| (a.tier, &a.namespace, &a.name).cmp(&(b.tier, &b.namespace, &b.name)));
    ResolvedPolicy {
        node: said.node.unwrap_or_default(),
        workloads: said.workloads,
        policies: said.policies,
        digest: tree.digest.clone(),
    }
}

fn read(reader: &mut Reader<'_>, node: &Node, said: &mut Said) {
    let known = &["apiVersion", "kind", "metadata", "spec"];
    let Some(document) = reader.fields(node, "a document", known) else {
        return;
    };
    let version = version(reader, &document);
    let kind = kind(reader, &document);
    if version.is_none() {
        return;
    }
    match kind {
        Some("SegmentPolicy") => {
            let Some((policy, at)) = reader.segment_policy(&document) else {
                return;
            };
            let key = (KINDS[0], policy.namespace.clone(), policy.name.clone());
            named(reader, said, key, at);
            said.policies.push(policy);
        }
        Some("Workload") => {
            let Some(found) = reader.workload(&document) else {
                return;
            };
            let workload = found.workload;
            let key = (
                KINDS[1],
                Some(workload.namespace.clone()),
                workload.name.clone(),
            );
            named(reader, said, key, found.name_at);
            for (address, at) in workload.addresses.iter().zip(found.addresses_at) {
                if let Some(first) = said.addresses.claim(*address, reader.file, at) {
                    reader.error(
                        Code::DuplicateAddress,
                        at,
                        format!("`{address}` is also an address in {first}"),
                        "an address belongs to one workload: correct one of the two",
                    );
                }
            }
            if let Some(place) = &workload.place
                && let Some(first) = said
                    .places
                    .claim(place.clone(), reader.file, found.place_at)
            {
                reader.error(
                    Code::DuplicatePlace,
                    found.place_at,
                    format!("this is also the place of the workload in {first}"),
                    "what runs in one place is one workload: correct one of the two",
                );
            }
            said.workloads.push(workload);
        }
        Some(_) => {
            let Some((settings, at)) = reader.node(&document) else {
                return;
            };
            if let Some(first) = said.nodes.claim((), reader.file, at) {
                reader.error(
                    Code::DuplicateName,
                    at,
                    format!("a second Node; the first one is in {first}"),
                    "a tree is the policy of one node: keep one Node document",
                );
            }
            said.node = Some(settings);
        }
        None => {}
    }
}

fn named(
    reader: &mut Reader<'_>,
    said: &mut Said,
    key: (&'static str, Option<String>, String),
    at: Position,
) {
    let (kind, namespace, name) = &key;
    let of = match namespace {
        Some(namespace) => format!(" of namespace `{namespace}`"),
        None => String::new(),
    };
    let message = format!("a second {kind} called `{name}`{of}");
    if let Some(first) = said.names.claim(key, reader.file, at) {
        reader.error(
            Code::DuplicateName,
            at,
            format!("{message}; the first one is in {first}"),
            "rename one of them, or remove the copy",
        );
    }
}

fn version(reader: &mut Reader<'_>, document: &Fields<'_>) -> Option<()> {
    let help = format!("write `apiVersion: {API_VERSION}`");
    let node = reader.required(document, "apiVersion", "a document", &help)?;
    let text = reader.text(node, "`apiVersion`")?;
    if text == API_VERSION {
        return Some(());
    }
    let message = format!("{} is not known here", quoted(text));
    reader.error(Code::UnknownApiVersion, node.at, message, help);
    None
}

fn kind(reader: &mut Reader<'_>, document: &Fields<'_>) -> Option<&'static str> {
    let help = format!("write `kind:` and one of {}", listed(KINDS));
    let node = reader.required(document, "kind", "a document", &help)?;
    let text = reader.text(node, "`kind`")?;
    if let Some(kind) = KINDS.into_iter().find(|kind| *kind == text) {
        return Some(kind);
    }
    let help = match text {
        "NetworkPolicy" | "ClusterNetworkPolicy" | "CiliumNetworkPolicy" => {
            "Kubernetes policies are not in this version; write a `SegmentPolicy`".to_owned()
        }
        _ => match closest(text, KINDS) {
            Some(meant) => format!("write `{meant}`"),
            None => format!("write {}", listed(KINDS)),
        },
    };
    let message = format!("{} is not a kind", quoted(text));
    reader.error(Code::UnknownKind, node.at, message, help);
    None
}

/// What may be claimed once, and who did.
struct Once<K>(HashMap<K, Place>);

impl<K> Default for Once<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> Once<K> {
    /// Where it was claimed before, if it was: "line 3" or "other.yaml:3".
    fn claim(&mut self, key: K, file: &Arc<SourceFile>, at: Position) -> Option<String> {
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
                place.insert((file.clone(), at));
                None
            }
        }
    }
}
