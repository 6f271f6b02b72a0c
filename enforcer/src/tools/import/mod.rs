//! `enforcer import`: policies of Cilium and Calico as documents of our kinds, and a list of
//! everything in them that has no equivalent.
//!
//! An object is read into the types of resolved policy (`cilium`, `calico`), and those are
//! written (`yaml`). What is written is read again, and must be the policy that was meant. A
//! thing that cannot be said exactly is left out or said to differ; nothing is widened or
//! narrowed in silence.

mod calico;
mod cilium;
mod draft;
mod field;
mod overlap;
mod report;
mod yaml;

use std::{collections::BTreeMap, sync::Arc};

use ipnet::IpNet;
use serde::Serialize;

use self::{
    calico::Calico,
    draft::{Draft, DraftGroup, Names},
    field::Field,
    report::Reporter,
};
pub use self::{
    calico::selector::{Selector, SelectorError},
    report::{Effect, Fate, LeftOut},
};
use crate::{
    formatting,
    policy::{
        self, PolicyErrors, SourceFile, load_text,
        model::{Group, Origin, Peer, Policy, Subject},
    },
};

/// What only the operator knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Networks in which pods and nodes have their addresses. Cilium's networks never match
    /// these.
    pub cluster_networks: Vec<IpNet>,
}

/// What was imported, and what was not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Import {
    /// Version of this form.
    pub version: u32,
    /// The objects that were read, and the documents that were made of each.
    pub objects: Vec<ImportedObject>,
    /// What has no equivalent, in the order of file and line.
    pub left_out: Vec<LeftOut>,
    /// Objects of other kinds, which were not looked at, by kind.
    pub ignored: BTreeMap<String, usize>,
    /// The documents.
    pub yaml: String,
}

/// An object that was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImportedObject {
    /// Kind, namespace and name.
    pub object: String,
    /// File, as given.
    pub file: Arc<str>,
    /// 1-based.
    pub line: u32,
    /// Documents that were made of it, each as `SegmentPolicy shop/web`.
    pub documents: Vec<String>,
}

/// Version of [`Import`].
const VERSION: u32 = 1;

/// Imports all objects of these files together: the order of Calico's policies, and what they
/// refer to, is known only of what is given at once.
///
/// # Errors
/// What is no YAML.
pub fn import(files: &[Arc<SourceFile>], settings: &Settings) -> Result<Import, PolicyErrors> {
    let mut documents = Vec::new();
    for file in files {
        for node in policy::documents(file)? {
            documents.push((file.clone(), node));
        }
    }
    let mut objects = Vec::new();
    for (file, node) in &documents {
        let root = Field::root(node);
        let is_list = root
            .text_of("kind")
            .is_some_and(|kind| kind.ends_with("List"));
        match root
            .find("items")
            .filter(|_| is_list)
            .and_then(|items| items.items())
        {
            Some(items) => {
                // Paths begin at the object, as the objects of a list are read alone.
                let items = items.into_iter().map(|item| Field::root(item.node));
                objects.extend(items.map(|item| (file.clone(), item)));
            }
            None => objects.push((file.clone(), root)),
        }
    }
    let mut importer = Importer {
        settings,
        import: Import {
            version: VERSION,
            objects: Vec::new(),
            left_out: Vec::new(),
            ignored: BTreeMap::new(),
            yaml: String::new(),
        },
        drafts: Vec::new(),
        cidr_groups: Vec::new(),
        calico: Calico::default(),
        file: Arc::new(SourceFile::new("", "")),
        object: String::new(),
    };
    // What policies refer to comes before them.
    for round in [Round::Referred, Round::Policies] {
        for (file, object) in &objects {
            importer.file = file.clone();
            importer.object(object, round);
        }
    }
    importer.finish_calico();
    Ok(importer.finish())
}

/// Which objects are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Round {
    Referred,
    Policies,
}

/// Imports.
struct Importer<'s> {
    settings: &'s Settings,
    import: Import,
    drafts: Vec<Draft>,
    /// Groups of networks of Cilium.
    cidr_groups: Vec<DraftGroup>,
    calico: Calico,
    /// Where the object is that is being read.
    file: Arc<SourceFile>,
    /// Its kind, namespace and name.
    object: String,
}

/// Policies of Cilium.
const CILIUM: &[&str] = &["CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy"];
/// Kinds of Calico.
const CALICO: &[&str] = &[
    "NetworkPolicy",
    "GlobalNetworkPolicy",
    "NetworkSet",
    "GlobalNetworkSet",
];
/// Kinds that policies refer to.
const REFERRED: &[&str] = &["CiliumCIDRGroup", "NetworkSet", "GlobalNetworkSet"];

impl Importer<'_> {
    fn object(&mut self, object: &Field<'_>, round: Round) {
        let version = object.text_of("apiVersion").unwrap_or_default();
        let kind = object.text_of("kind").unwrap_or_default();
        let (of, version) = version.split_once('/').unwrap_or(("", version));
        let is_referred = REFERRED.contains(&kind);
        if is_referred != (round == Round::Referred) {
            return;
        }
        let known = match of {
            "cilium.io" if kind == "CiliumCIDRGroup" => matches!(version, "v2" | "v2alpha1"),
            "cilium.io" => version == "v2" && CILIUM.contains(&kind),
            "projectcalico.org" => version == "v3" && CALICO.contains(&kind),
            "crd.projectcalico.org" => version == "v1" && CALICO.contains(&kind),
            _ => false,
        };
        let metadata = object.find("metadata");
        let metadata = |name: &str| metadata.as_ref().and_then(|m| m.text_of(name));
        let name = metadata("name").unwrap_or_default();
        let is_namespaced = matches!(kind, "CiliumNetworkPolicy" | "NetworkPolicy" | "NetworkSet");
        let namespace = is_namespaced.then(|| metadata("namespace").unwrap_or("default"));
        self.object = match namespace {
            Some(namespace) => format!("{kind} {namespace}/{name}"),
            None => format!("{kind} {name}"),
        };
        if !known {
            self.unknown(object, of, kind, namespace);
            return;
        }
        self.import.objects.push(ImportedObject {
            object: self.object.clone(),
            file: self.file.name.clone(),
            line: object.at.line,
            documents: Vec::new(),
        });
        let good = policy::is_dns_subdomain(name) && namespace.is_none_or(policy::is_dns_label);
        if !good {
            let help = "write a name of a to z, 0 to 9, `-` and `.`";
            self.reporter(Effect::Either)
                .omit(object, "has no good name", help);
            return;
        }
        match kind {
            "CiliumNetworkPolicy" | "CiliumClusterwideNetworkPolicy" => {
                self.cilium(object, namespace, name);
            }
            "CiliumCIDRGroup" => self.cidr_group(object, name),
            "NetworkSet" | "GlobalNetworkSet" => self.network_set(object, namespace, name),
            _ => {
                // As the API server of Calico keeps them.
                let name = name.strip_prefix("default.").unwrap_or(name);
                self.calico_policy(object, namespace, name);
            }
        }
    }

    /// What is not imported: policies of these systems are told, all else is counted.
    fn unknown(&mut self, object: &Field<'_>, of: &str, kind: &str, namespace: Option<&str>) {
        let is_theirs = of.ends_with("cilium.io") || of.ends_with("projectcalico.org");
        let about_policy = [
            "Policy",
            "NetworkSet",
            "HostEndpoint",
            "Tier",
            "Profile",
            "Group",
        ];
        if is_theirs && about_policy.iter().any(|word| kind.contains(word)) {
            let message = format!("objects of kind `{kind}` in this version are not imported");
            let help = "write what it means by hand (docs/import.md says which kinds are known)";
            self.reporter(Effect::Either).omit(object, message, help);
            return;
        }
        if (of, kind) == ("networking.k8s.io", "NetworkPolicy") {
            self.calico.kubernetes.extend(namespace.map(str::to_owned));
        }
        let name = if kind.is_empty() { "(no kind)" } else { kind };
        *self.import.ignored.entry(name.to_owned()).or_default() += 1;
    }

    fn reporter(&mut self, effect: Effect) -> Reporter<'_> {
        Reporter {
            file: &self.file,
            object: self.object.clone(),
            effect,
            left_out: &mut self.import.left_out,
        }
    }

    fn origin(&self, field: &Field<'_>) -> Origin {
        Origin {
            file: self.file.name.clone(),
            line: field.at.line,
            column: field.at.column,
        }
    }

    /// Names everything, writes it, and reads it again.
    fn finish(mut self) -> Import {
        let mut names = Names::default();
        let mut groups: Vec<(DraftGroup, DraftGroup)> = Vec::new();
        let mut texts = Vec::new();
        let sets = self.calico.sets.iter().map(|set| &set.draft);
        for draft in self.cidr_groups.iter().chain(sets) {
            if draft.group.peers.is_empty() {
                continue;
            }
            let mut written = draft.clone();
            let namespace = draft.group.namespace.as_deref();
            written.group.name = names.unique(namespace, &draft.group.name);
            groups.push((draft.clone(), written));
        }
        let mut policy_names = Names::default();
        for mut draft in std::mem::take(&mut self.drafts) {
            let namespace = draft.policy.namespace.clone();
            draft.policy.name = policy_names.unique(namespace.as_deref(), &draft.policy.name);
            rename(&mut draft.policy, &groups);
            let workloads = workloads(&draft, &mut names);
            if let Some(text) = self.verified(&draft, workloads.as_ref(), &groups) {
                texts.push(text);
            }
        }
        let mut written: Vec<String> = Vec::new();
        for (_, named) in &groups {
            self.made(
                &named.from,
                "Group",
                named.group.namespace.as_deref(),
                &named.group.name,
            );
            written.push(yaml::group(named));
        }
        written.extend(texts);
        let text = written.join("---\n");
        // It is canonical already, but for what only the formatter knows.
        self.import.yaml = formatting::format(&text).unwrap_or(text);
        let place = |found: &LeftOut| (found.file.clone(), found.line, found.column);
        self.import.left_out.sort_by_key(place);
        self.import
    }

    /// The text of a policy, which means what was meant.
    fn verified(
        &mut self,
        draft: &Draft,
        workloads: Option<&DraftGroup>,
        groups: &[(DraftGroup, DraftGroup)],
    ) -> Option<String> {
        let mut text = yaml::policy(draft, workloads.map(|draft| &draft.group));
        let mut with_groups = text.clone();
        if let Some(group) = workloads {
            let group = yaml::group(group);
            text = format!("{group}---\n{text}");
            with_groups.clone_from(&text);
        }
        for (_, named) in groups {
            if refers_to(&draft.policy, &named.group) {
                with_groups = format!("{with_groups}---\n{}", yaml::group(named));
            }
        }
        let problem = match load_text("imported", &with_groups) {
            Ok(tree) => {
                let same = tree.policies.len() == 1 && same(&tree.policies[0], &draft.policy);
                (!same).then(|| "it would be read as something else".to_owned())
            }
            Err(errors) => errors.errors().first().map(ToString::to_string),
        };
        let namespace = draft.policy.namespace.as_deref();
        if let Some(problem) = problem {
            let object = draft.from.clone();
            self.import.left_out.push(LeftOut {
                file: draft.policy.origin.file.clone(),
                line: draft.policy.origin.line,
                column: draft.policy.origin.column,
                object,
                path: "spec".to_owned(),
                message: format!("cannot be written: {problem}"),
                help: "write it by hand".to_owned(),
                fate: Fate::Omitted,
                effect: Effect::Either,
                snippet: String::new(),
                mark: (0, 0),
            });
            return None;
        }
        if let Some(group) = workloads {
            self.made(&draft.from, "Group", namespace, &group.group.name);
        }
        self.made(&draft.from, "SegmentPolicy", namespace, &draft.policy.name);
        Some(text)
    }

    /// Notes that a document was made.
    fn made(&mut self, from: &str, kind: &str, namespace: Option<&str>, name: &str) {
        let is_it = |object: &&mut ImportedObject| {
            from == format!("{} ({}:{})", object.object, object.file, object.line)
        };
        if let Some(object) = self.import.objects.iter_mut().find(is_it) {
            object.documents.push(match namespace {
                Some(namespace) => format!("{kind} {namespace}/{name}"),
                None => format!("{kind} {name}"),
            });
        }
    }
}

/// Workloads that no single selector can name get a group.
fn workloads(draft: &Draft, names: &mut Names) -> Option<DraftGroup> {
    let Subject::Workloads(selectors) = &draft.policy.subject else {
        return None;
    };
    // The namespace is the policy's own; one in a selector would have to stand in the group.
    let needs_group = selectors.len() != 1
        || selectors
            .iter()
            .any(|selector| selector.namespace != draft.policy.namespace);
    let namespace = draft.policy.namespace.clone();
    needs_group.then(|| DraftGroup {
        from: draft.from.clone(),
        group: Group {
            name: names.unique(
                namespace.as_deref(),
                &format!("{}-workloads", draft.policy.name),
            ),
            namespace,
            peers: selectors.iter().cloned().map(Peer::Workloads).collect(),
        },
    })
}

/// Gives groups in a policy the names under which they are written.
fn rename(policy: &mut Policy, groups: &[(DraftGroup, DraftGroup)]) {
    let rules = policy.rules.iter_mut().flatten().flatten();
    for peer in rules.flat_map(|rule| &mut rule.peers) {
        if let Peer::Group(group) = peer
            && let Some((_, named)) = groups.iter().find(|(old, _)| old.group == **group)
        {
            *group = Arc::new(named.group.clone());
        }
    }
}

fn refers_to(policy: &Policy, group: &Group) -> bool {
    let mut rules = policy.rules.iter().flatten().flatten();
    rules.any(|rule| {
        let mut peers = rule.peers.iter();
        peers.any(|peer| matches!(peer, Peer::Group(found) if **found == *group))
    })
}

/// Whether two policies are the same, wherever they are written.
fn same(one: &Policy, other: &Policy) -> bool {
    let plain = |policy: &Policy| {
        let mut policy = policy.clone();
        let nowhere = Origin {
            file: "".into(),
            line: 0,
            column: 0,
        };
        for rule in policy.rules.iter_mut().flatten().flatten() {
            rule.origin = nowhere.clone();
        }
        policy.origin = nowhere;
        policy
    };
    plain(one) == plain(other)
}

/// Lines above a document: of what it was made, and what its writer said of it.
fn comments(from: &str, description: Option<&str>) -> Vec<String> {
    let mut comments = vec![format!("Imported from {from}.")];
    let lines = description.iter().flat_map(|text| text.lines());
    comments.extend(
        lines
            .map(str::to_owned)
            .filter(|line| !line.trim().is_empty()),
    );
    comments
}

/// Tells in a document what is not in it.
fn note_left_out(left_out: &[LeftOut], comments: &mut Vec<String>) {
    for found in left_out {
        let word = match found.fate {
            Fate::Omitted => "Left out",
            Fate::Differs => "Differs",
        };
        comments.push(format!(
            "{word} (line {}): {}: {}.",
            found.line, found.path, found.message
        ));
    }
}

/// A network, or one address. Bits beyond its length do not count.
fn prefix(text: &str) -> Option<IpNet> {
    let network = text.parse::<IpNet>().map(|network| network.trunc());
    network
        .or_else(|_| text.parse().map(|address: std::net::IpAddr| address.into()))
        .ok()
}

/// A number in plain decimal digits.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit())
        && (text.len() == 1 || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests;
