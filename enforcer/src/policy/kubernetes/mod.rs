//! Objects of Kubernetes, with the meaning that Kubernetes gives them: one file for each kind.
//!
//! A kind is a type that documents and the Kubernetes API are read into alike (`object`), and a
//! function from it to the resolved policy. [`resolve`] is the way for objects that are in no
//! file.

mod admin_network_policy;
mod baseline_admin_network_policy;
mod cluster_network_policy;
mod cluster_rule;
mod namespace;
mod network_policy;
mod node;
mod object;
mod pod;
mod port;
mod selector;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde::Deserialize;

use self::object::{Decode, field};
pub use self::{
    admin_network_policy::{
        AdminNetworkPolicy, AdminNetworkPolicyPort, AdminNetworkPolicyRule, AdminNetworkPolicySpec,
        AdminPort, AdminPortRange,
    },
    baseline_admin_network_policy::{BaselineAdminNetworkPolicy, BaselineAdminNetworkPolicySpec},
    cluster_network_policy::{
        ClusterNetworkPolicy, ClusterNetworkPolicyProtocol, ClusterNetworkPolicyRule,
        ClusterNetworkPolicySpec, ClusterPort, ClusterPortRange, DestinationPort,
    },
    cluster_rule::{ClusterPeer, ClusterSubject, NamespacedPods},
    namespace::Namespace,
    network_policy::{
        IpBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicyRule,
        NetworkPolicySpec,
    },
    node::{Node, NodeAddress, NodeStatus},
    object::{Located, Metadata, NumberOrName, TextMap},
    pod::{Container, ContainerPort, Pod, PodIp, PodSpec, PodStatus},
    selector::{LabelSelector, LabelSelectorRequirement},
};
use super::{
    described::{HostDocument, NamespaceDocument},
    diagnostic::{Code, Collector, PolicyErrors, closest, listed},
    document::{self, Value},
    model::{self, Assurance, Labels, RemoteHost, Workload},
    reader::{Reader, quoted},
    segment_policy::PolicyDocument,
    source::SourceFile,
    workload::WorkloadDocument,
};

/// Every kind that is known, with its API version.
const KINDS: [(&str, &str); 8] = [
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy"),
    ("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy"),
    (
        "policy.networking.k8s.io/v1alpha1",
        "BaselineAdminNetworkPolicy",
    ),
    ("v1", "Namespace"),
    ("v1", "Pod"),
    ("v1", "Node"),
    ("v1", LIST),
];

const LIST: &str = "List";

/// The API versions whose objects are known; some are there more than once.
pub fn api_versions() -> impl Iterator<Item = &'static str> {
    KINDS.into_iter().map(|(version, _)| version)
}

/// The API version of a kind that is known.
pub(super) fn version_of(kind: &str) -> Option<&'static str> {
    let known = KINDS.into_iter().find(|(_, known)| *known == kind);
    known.map(|(version, _)| version)
}

/// An object of any kind, for example as the Kubernetes API gives it.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind")]
pub enum Object {
    /// `networking.k8s.io/v1`.
    NetworkPolicy(Box<NetworkPolicy>),
    /// `policy.networking.k8s.io/v1alpha2`.
    ClusterNetworkPolicy(Box<ClusterNetworkPolicy>),
    /// `policy.networking.k8s.io/v1alpha1`.
    AdminNetworkPolicy(Box<AdminNetworkPolicy>),
    /// `policy.networking.k8s.io/v1alpha1`.
    BaselineAdminNetworkPolicy(Box<BaselineAdminNetworkPolicy>),
    /// `v1`.
    Namespace(Box<Namespace>),
    /// `v1`.
    Pod(Box<Pod>),
    /// `v1`.
    Node(Box<Node>),
}

/// What an object means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// A policy.
    Policy(Arc<model::Policy>),
    /// A pod.
    Workload(Arc<Workload>),
    /// A namespace, by name.
    Namespace(String, Labels),
    /// A node.
    Host(Arc<RemoteHost>),
    /// Nothing: a pod that has ended or that is its node, a node without addresses.
    Nothing,
}

/// The meaning of an object that is in no file. Origins and errors call it `called`, as in
/// `networkpolicies/shop/web`. What a pod's status says is said by the orchestrator.
///
/// # Errors
/// Everything about the object that means nothing.
pub fn resolve(object: &Object, called: &str) -> Result<Resolved, PolicyErrors> {
    let file = Arc::new(SourceFile::new(called, ""));
    let mut errors = Collector::default();
    let mut reader = Reader {
        file: &file,
        errors: &mut errors,
        references: Vec::new(),
    };
    let meaning = reader.meaning(object, Assurance::Orchestrator);
    if let Some(errors) = errors.finish() {
        return Err(errors);
    }
    Ok(match meaning {
        Some(Meaning::Policy(found)) => Resolved::Policy(found.policy),
        Some(Meaning::Workload(found)) => Resolved::Workload(found.workload),
        Some(Meaning::Namespace(found)) => Resolved::Namespace(found.name, found.labels),
        Some(Meaning::Host(found)) => Resolved::Host(found.host),
        Some(Meaning::Nothing) | None => Resolved::Nothing,
    })
}

/// What an object means, and where its claims are written.
pub(super) enum Meaning {
    Policy(PolicyDocument),
    Workload(WorkloadDocument),
    Namespace(NamespaceDocument),
    Host(HostDocument),
    Nothing,
}

/// A part of an object that policy does not ask for, whatever it is.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(from = "serde::de::IgnoredAny")]
pub struct Ignored;

impl From<serde::de::IgnoredAny> for Ignored {
    fn from(_: serde::de::IgnoredAny) -> Self {
        Self
    }
}

impl Decode for Ignored {
    fn decode(_: &mut Reader<'_>, _: &document::Node, _: &str) -> Option<Self> {
        Some(Self)
    }
}

/// The text of a field of a document, if it is one.
fn text_of<'n>(node: &'n document::Node, name: &str) -> Option<&'n str> {
    let Value::Map(entries) = &node.value else {
        return None;
    };
    let found = entries
        .iter()
        .find(|(key, _)| matches!(&key.value, Value::Text(key) if key == name));
    match found.map(|(_, value)| &value.value) {
        Some(Value::Text(text)) => Some(text),
        _ => None,
    }
}

/// Whether a document says that it is an object of Kubernetes, of whatever kind.
pub(super) fn is_object(node: &document::Node) -> bool {
    let version = text_of(node, "apiVersion").unwrap_or_default();
    let group = version.split_once('/').map_or("", |(group, _)| group);
    version == "v1" || group == "networking.k8s.io" || group == "policy.networking.k8s.io"
}

/// Whether it is a list of objects.
pub(super) fn is_list(node: &document::Node) -> bool {
    text_of(node, "apiVersion") == Some("v1") && text_of(node, "kind") == Some(LIST)
}

impl Reader<'_> {
    /// The objects of a list.
    pub(super) fn items<'n>(&mut self, list: &'n document::Node) -> &'n [document::Node] {
        let what = "a List";
        let fields = self.fields(list, what, &["apiVersion", "kind", "metadata", "items"]);
        let help = "write `items:` with a list of objects, or `items: []`";
        let items = fields.and_then(|fields| self.required(&fields, "items", what, help));
        let items = items.and_then(|items| self.list(items, "`items`", None));
        items.unwrap_or_default()
    }

    /// The meaning of a document.
    pub(super) fn object(&mut self, node: &document::Node) -> Option<Meaning> {
        let kind = self.object_kind(node)?;
        let what = "an object";
        let object = match kind {
            "NetworkPolicy" => Object::NetworkPolicy(Decode::decode(self, node, what)?),
            "ClusterNetworkPolicy" => {
                Object::ClusterNetworkPolicy(Decode::decode(self, node, what)?)
            }
            "AdminNetworkPolicy" => Object::AdminNetworkPolicy(Decode::decode(self, node, what)?),
            "BaselineAdminNetworkPolicy" => {
                Object::BaselineAdminNetworkPolicy(Decode::decode(self, node, what)?)
            }
            "Namespace" => Object::Namespace(Decode::decode(self, node, what)?),
            "Pod" => Object::Pod(Decode::decode(self, node, what)?),
            "Node" => Object::Node(Decode::decode(self, node, what)?),
            _ => {
                let help = "write its objects as items of the first list";
                self.error(Code::UnknownKind, node.at, "a List in a List", help);
                return None;
            }
        };
        self.meaning(&object, Assurance::Address)
    }

    fn object_kind(&mut self, node: &document::Node) -> Option<&'static str> {
        let fields = self.some_fields(node, "a document", &["apiVersion", "kind"])?;
        let help = format!(
            "write `kind:` and one of {}",
            listed(KINDS.map(|(_, kind)| kind))
        );
        let kind_node = self.required(&fields, "kind", "an object of Kubernetes", &help)?;
        let kind = self.text(kind_node, "`kind`")?;
        let version: String = field(self, &fields, "apiVersion")??;
        let known = KINDS.into_iter().find(|(_, known)| *known == kind);
        let Some((of_kind, known)) = known else {
            let kinds = KINDS.map(|(_, kind)| kind);
            let help = match closest(kind, kinds) {
                Some(meant) => format!("write `{meant}`"),
                None => format!("remove it: of Kubernetes, policy takes {}", listed(kinds)),
            };
            let message = format!("{} is not a kind that policy takes", quoted(kind));
            self.error(Code::UnknownKind, kind_node.at, message, help);
            return None;
        };
        if version == of_kind {
            return Some(known);
        }
        let at = fields.find("apiVersion").map_or(node.at, |node| node.at);
        let message = format!("{} of {} is not known here", known, quoted(&version));
        let help = format!("write `apiVersion: {of_kind}`");
        self.error(Code::UnknownApiVersion, at, message, help);
        None
    }

    fn meaning(&mut self, object: &Object, assurance: Assurance) -> Option<Meaning> {
        match object {
            Object::NetworkPolicy(policy) => self.network_policy(policy).map(Meaning::Policy),
            Object::ClusterNetworkPolicy(policy) => {
                self.cluster_network_policy(policy).map(Meaning::Policy)
            }
            Object::AdminNetworkPolicy(policy) => {
                self.admin_network_policy(policy).map(Meaning::Policy)
            }
            Object::BaselineAdminNetworkPolicy(policy) => self
                .baseline_admin_network_policy(policy)
                .map(Meaning::Policy),
            Object::Namespace(namespace) => {
                self.cluster_namespace(namespace).map(Meaning::Namespace)
            }
            Object::Pod(pod) => {
                let workload = self.pod(pod, assurance)?;
                Some(workload.map_or(Meaning::Nothing, Meaning::Workload))
            }
            Object::Node(node) => {
                let host = self.cluster_node(node)?;
                Some(host.map_or(Meaning::Nothing, Meaning::Host))
            }
        }
    }
}
