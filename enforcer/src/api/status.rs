//! What the daemon says of itself.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{
    compile::image::Assurance,
    policy::model::{Labels, Mode, Origin, Tier},
    registry::status::FleetStatus,
};

/// `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Version of the layout of the kernel maps ([`enforcer_common::abi::ABI_VERSION`]).
    pub abi: u32,
    /// Name of the node.
    pub node: String,
    /// RFC 3339, UTC.
    pub started: String,
    /// Since then.
    pub uptime_seconds: u64,
    /// Whether everything is as it should be.
    pub health: Health,
    /// What is carried out.
    pub mode: ModeStatus,
    /// The policy in force.
    pub policy: PolicyStatus,
    /// The git repository that the tree comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<super::git::GitStatus>,
    /// Why the tree on disk is not the one in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
    /// The trial that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<TrialStatus>,
    /// The fleet, without its nodes (`GET /v1/nodes`); absent on one host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<FleetStatus>,
    /// The Workload API; absent where it is not served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_api: Option<WorkloadApiStatus>,
    /// Endpoints of local workloads and of the host.
    pub endpoints: Vec<EndpointStatus>,
    /// How full the kernel maps are.
    pub maps: Vec<MapStatus>,
    /// What was not reported or kept since the maps were made, by cause.
    pub losses: Vec<LossStatus>,
    /// What the kernel has and has not.
    pub features: Vec<FeatureStatus>,
    /// Where programs are attached, and by which way.
    pub attachments: Vec<AttachmentStatus>,
}

/// The Workload API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadApiStatus {
    /// Path of its socket.
    pub socket: PathBuf,
    /// Trust domain of the authority that issues.
    pub trust_domain: String,
    /// Until when the root that signs is valid: RFC 3339, UTC.
    pub root_until: String,
    /// Streams by which workloads follow their SVIDs and bundles.
    pub streams: usize,
    /// Why what is in the authority's folder now is not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Whether everything is as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Nothing is wrong.
    pub ok: bool,
    /// What is wrong, one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

/// The node's mode and who decided it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModeStatus {
    /// In force.
    pub effective: Mode,
    /// Who decided.
    pub from: ModeSource,
    /// The `Node` document, where that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// Who decides the node's mode, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModeSource {
    /// Nobody: audit.
    Default,
    /// `run --mode`.
    Flag,
    /// `spec.mode` of the `Node` document.
    Node,
    /// `apply --mode`, kept across restarts.
    Operator,
}

/// The policy in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// The tree that the daemon watches.
    pub tree: PathBuf,
    /// Where the policy in force came from.
    pub from: PolicySource,
    /// Digest of the tree in force; empty when there is none.
    pub digest: String,
    /// Git commit of that tree, where it is in a git work tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Generation in the kernel: raised by every change.
    pub generation: u32,
    /// When it was put in force by this daemon: RFC 3339, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Workloads in the tree.
    pub workloads: usize,
    /// Policies in the tree.
    pub policies: Vec<PolicyLine>,
    /// The daemon's own tree has this digest and is held back: it was rolled back, or another
    /// tree was applied over it. It is read again when it changes or at `enforcer apply`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// The next moments at which rules about this node begin or end: RFC 3339, UTC, ascending.
    /// The kernel changes over by itself then, whether a daemon runs or not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moments: Vec<String>,
    /// Later moments for which the kernel has no room yet: each needs the daemon to run when one
    /// of `moments` passes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub moments_beyond: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Where the policy in force came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicySource {
    /// Nowhere: nothing was ever loaded.
    #[default]
    None,
    /// The tree that the daemon watches.
    Tree,
    /// The copy of the last good tree in the state directory.
    LastGood,
    /// A tree given to `apply`.
    Operator,
}

/// A policy of the tree in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyLine {
    /// Tier.
    pub tier: Tier,
    /// `None`: every namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// Its own mode, where it states one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Rules, both directions.
    pub rules: usize,
    /// Where it is written.
    pub origin: Origin,
}

/// A tree or change that was not put in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refused {
    /// RFC 3339, UTC.
    pub time: String,
    /// Digest of the tree, where it could be read as one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// What was wrong.
    pub problem: crate::api::problem::Problem,
}

/// A trial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialStatus {
    /// When it rolls back: RFC 3339, UTC.
    pub deadline: String,
    /// Until then.
    pub remaining_milliseconds: u64,
    /// What it goes back to: the tree's digest (empty: no policy).
    pub rollback_digest: String,
    /// What it goes back to: the operator's choice of mode, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_mode: Option<Mode>,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// Number on this node; 1 is the host.
    pub id: u32,
    /// Namespace of the workload; `None` for the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name of the workload, or of the node.
    pub name: String,
    /// Identity number.
    pub identity: u32,
    /// Labels of the identity.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// SPIFFE ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spiffe_id: Option<String>,
    /// How the identity is known.
    pub assurance: Assurance,
    /// The proof that is bound to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attested: Option<AttestedStatus>,
    /// `interface`, `cgroup` or `uplink`.
    pub kind: PlaceKind,
    /// Interface name, or cgroup path below the cgroup root.
    pub place: String,
    /// Interface index or cgroup id.
    pub place_number: u64,
    /// Denials are only reported.
    pub audit: bool,
    /// Where the workload is declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// A proof of identity that is bound to an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttestedStatus {
    /// Serial number of the certificate.
    pub serial: String,
    /// RFC 3339, UTC.
    pub since: String,
    /// When it ends unless it is renewed: RFC 3339, UTC.
    pub until: String,
    /// Address and port from which it was proven.
    pub source: String,
    /// The process that proved it, where it is known. It may have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
}

/// Kind of an endpoint's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlaceKind {
    /// Host's side of the workload's interface.
    Interface,
    /// A cgroup.
    Cgroup,
    /// An uplink: the host endpoint.
    Uplink,
}

/// How full a map is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapStatus {
    /// Name, one of [`enforcer_common::abi::map`].
    pub name: String,
    /// Entries now.
    pub entries: u64,
    /// Entries at most.
    pub capacity: u64,
    /// Kernel memory.
    pub bytes: u64,
}

/// A count of losses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossStatus {
    /// [`enforcer_common::Loss::name`].
    pub cause: String,
    /// Since the maps were made.
    pub count: u64,
}

/// Something that the kernel has or has not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureStatus {
    /// Name.
    pub name: String,
    /// Whether it is there.
    pub found: bool,
    /// What it is used for, or what is used instead.
    pub note: String,
}

/// An attached program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachmentStatus {
    /// Kind of hook.
    pub hook: String,
    /// Interface or cgroup.
    pub target: String,
    /// `tcx`, `clsact`, `link`, `native` or `generic`.
    pub way: String,
}
