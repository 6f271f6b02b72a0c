//! What the daemon is told when it starts.

use std::{net::SocketAddr, path::PathBuf};

use crate::{
    api::access::Access,
    datapath::DatapathSettings,
    git::settings::GitSettings,
    identity::{attest::AttestSettings, files::IdentitySource, workload_api::WorkloadApiSettings},
    policy::model::Mode,
    registry::settings::FleetSettings,
    sink::file::Rotation,
};

/// Settings of a daemon. Two daemons can live on one machine when they differ in state, pins,
/// socket and cgroup root, and are in network namespaces of their own.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The policy tree, absolute. With a git source: the link to what is checked out.
    pub policies: PathBuf,
    /// Where the tree comes from, if it is a git repository.
    pub git: Option<GitSettings>,
    /// `--mode`.
    pub mode: Option<Mode>,
    /// Where the host itself is judged.
    pub uplinks: UplinkChoice,
    /// State directory.
    pub state_dir: PathBuf,
    /// What the datapath needs, the cgroup root included.
    pub datapath: DatapathSettings,
    /// The control socket.
    pub socket: SocketSettings,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// Attestation by mTLS.
    pub attest: Option<AttestSettings>,
    /// Where the daemon's own SVID comes from.
    pub identity: IdentitySource,
    /// The SPIFFE Workload API.
    pub workload_api: Option<WorkloadApiSettings>,
    /// Name of the node.
    pub node: String,
    /// Where flow records are written.
    pub flow_log: FlowLog,
    /// Report allowed flows.
    pub report_allowed: bool,
    /// First reports a second and CPU.
    pub report_limit: u32,
    /// Answers to denied packets a second and CPU.
    pub reject_limit: u32,
    /// The fleet that this node is part of; `None`: it is one host.
    pub fleet: Option<FleetSettings>,
}

impl Settings {
    /// Whether the daemon shows or signs anything by an SVID of its own from its identity source.
    pub fn needs_own_svid(&self) -> bool {
        let fleet = self.fleet.as_ref();
        self.attest.is_some() || fleet.is_some_and(|fleet| fleet.identity.is_none())
    }
}

/// Where the control socket is and who may use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketSettings {
    /// Path.
    pub path: PathBuf,
    /// Group whose members may use it, by number, and what they may do.
    pub group: Option<(u32, Access)>,
}

/// Which interfaces are uplinks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UplinkChoice {
    /// Those that default routes leave by.
    Auto,
    /// These, by name. None: the host itself is not judged.
    Names(Vec<String>),
}

/// Where flow records are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlowLog {
    /// Nowhere; `observe` and sinks have them all the same.
    Off,
    /// Standard output.
    Stdout,
    /// A file, rotated.
    File {
        /// The current one.
        path: PathBuf,
        /// When it becomes an old one, and how many of those are kept.
        rotation: Rotation,
    },
}
