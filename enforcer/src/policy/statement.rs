//! What one file says: its documents, each read as its kind.

use std::sync::Arc;

use super::{
    described::{GroupDocument, HostDocument, NamespaceDocument},
    diagnostic::{Code, Collector, Position, closest, listed},
    document::{self, Node},
    kubernetes::{self, Meaning},
    model::NodeSettings,
    policy_test::PolicyTest,
    reader::{Fields, Reader, quoted},
    segment_policy::PolicyDocument,
    source::SourceFile,
    study::{self, Annotation},
    trust_domain::TrustDomainDocument,
    workload::WorkloadDocument,
};

/// The version of the language.
pub const API_VERSION: &str = "enforcer.dev/v1alpha1";

const KINDS: [&str; 8] = [
    "SegmentPolicy",
    "Workload",
    "Node",
    "Group",
    "Namespace",
    "Host",
    "TrustDomain",
    "PolicyTest",
];

/// A document that was read without errors. Positions are those of its name.
#[derive(Clone, Debug)]
pub(super) enum Statement {
    Policy(PolicyDocument),
    Group(GroupDocument),
    Namespace(NamespaceDocument),
    Host(HostDocument),
    TrustDomain(TrustDomainDocument),
    Workload(WorkloadDocument),
    Node(Box<NodeSettings>, Position),
    Test(PolicyTest, Position),
}

/// What a file says.
#[derive(Clone, Debug)]
pub(super) struct FileStatements {
    pub(super) source: Arc<SourceFile>,
    /// How many documents it has, those with errors included.
    pub(super) documents: usize,
    pub(super) statements: Vec<Statement>,
    pub(super) kinds: Kinds,
    /// Annotations, by the line at which their document begins.
    pub(super) annotations: Vec<(u32, Vec<Annotation>)>,
}

/// What kinds of statements there are in a file.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kinds {
    /// Workloads and hosts: who has which address, and who runs where.
    pub(super) inhabitants: bool,
    /// Groups.
    pub(super) groups: bool,
    /// Others than workloads and hosts.
    pub(super) others: bool,
}

impl Kinds {
    fn of(statements: &[Statement]) -> Self {
        let mut kinds = Self::default();
        for statement in statements {
            let is_inhabitant = statement.is_inhabitant();
            kinds.inhabitants |= is_inhabitant;
            kinds.others |= !is_inhabitant;
            kinds.groups |= matches!(statement, Statement::Group(_));
        }
        kinds
    }
}

impl Statement {
    /// Whether it says who has which address, or who runs where.
    pub(super) fn is_inhabitant(&self) -> bool {
        matches!(self, Self::Workload(_) | Self::Host(_))
    }
}

/// Reads the documents of a file.
pub(super) fn read(file: &Arc<SourceFile>, errors: &mut Collector) -> FileStatements {
    let mut documents = 0;
    let mut statements = Vec::new();
    let mut annotations = Vec::new();
    document::parse(file, errors, |node, errors| {
        let mut reader = Reader {
            file,
            errors,
            references: Vec::new(),
        };
        let nodes = if kubernetes::is_list(&node) {
            reader.items(&node)
        } else {
            std::slice::from_ref(&node)
        };
        for node in nodes {
            documents += 1;
            let noted = study::annotations(node);
            if !noted.is_empty() {
                annotations.push((node.at.line, noted));
            }
            statements.extend(statement(&mut reader, node));
        }
    });
    FileStatements {
        source: file.clone(),
        documents,
        kinds: Kinds::of(&statements),
        statements,
        annotations,
    }
}

fn statement(reader: &mut Reader<'_>, node: &Node) -> Option<Statement> {
    let known = ["apiVersion", "kind", "metadata", "spec"];
    if kubernetes::is_object(node) {
        return match reader.object(node)? {
            Meaning::Policy(policy) => Some(Statement::Policy(policy)),
            Meaning::Workload(workload) => Some(Statement::Workload(workload)),
            Meaning::Namespace(namespace) => Some(Statement::Namespace(namespace)),
            Meaning::Host(host) => Some(Statement::Host(host)),
            Meaning::Nothing => None,
        };
    }
    let document = reader.fields(node, "a document", &known)?;
    let version = version(reader, &document);
    let kind = kind(reader, &document);
    version?;
    match kind? {
        "SegmentPolicy" => reader.segment_policy(&document).map(Statement::Policy),
        "Group" => reader.group_document(&document).map(Statement::Group),
        "Host" => reader.host_document(&document).map(Statement::Host),
        "Namespace" => {
            let namespace = reader.namespace_document(&document)?;
            Some(Statement::Namespace(namespace))
        }
        "PolicyTest" => {
            let (test, at) = reader.policy_test(&document)?;
            Some(Statement::Test(test, at))
        }
        "Workload" => reader.workload(&document).map(Statement::Workload),
        "TrustDomain" => reader.trust_domain(&document).map(Statement::TrustDomain),
        _ => {
            let (settings, at) = reader.node(&document)?;
            Some(Statement::Node(Box::new(settings), at))
        }
    }
}

impl FileStatements {
    /// Its tests.
    pub(super) fn tests(&self) -> impl Iterator<Item = PolicyTest> {
        let statements = self.statements.iter();
        statements.filter_map(|statement| match statement {
            Statement::Test(test, _) => Some(test.clone()),
            _ => None,
        })
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
    let group = text.split_once('/').map_or(text, |(group, _)| group);
    let help = if group.ends_with("cilium.io") || group.ends_with("projectcalico.org") {
        "`enforcer import` writes policies of Cilium and Calico as ours".to_owned()
    } else {
        help
    };
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
        _ if let Some(version) = kubernetes::version_of(text) => {
            format!("write `apiVersion: {version}` for this kind, or `kind: SegmentPolicy`")
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
