//! How this node takes part in a fleet.

use std::{path::PathBuf, time::Duration};

/// Settings of the registry and of this node's part in it. Without them there is one host, which
/// has nobody to tell and nobody to hear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetSettings {
    /// Where the registry is.
    pub etcd: EtcdSettings,
    /// Who this node is, if not by the provider of the daemon's own SVID.
    pub identity: Option<NodeIdentitySettings>,
    /// How long this node's record outlives its last sign of life.
    pub lease: Duration,
    /// For how long the others' records hold while the registry cannot be reached.
    pub keep: Duration,
    /// What becomes of them then.
    pub afterwards: Afterwards,
}

/// Where etcd is, and how to show who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdSettings {
    /// `https://` addresses of the members, at least one.
    pub endpoints: Vec<String>,
    /// Certificates (PEM) of the authorities that sign those of etcd.
    pub authority: PathBuf,
    /// Certificate (PEM) with which this node shows itself to etcd.
    pub certificate: PathBuf,
    /// Its key (PEM).
    pub key: PathBuf,
    /// What every key begins with.
    pub prefix: String,
}

/// Files of this node's X.509-SVID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeIdentitySettings {
    /// Chain (PEM), the leaf first.
    pub certificate: PathBuf,
    /// Key of the leaf (PEM).
    pub key: PathBuf,
    /// Roots of the trust domain (PEM).
    pub bundle: PathBuf,
}

/// What becomes of the other nodes' records when the registry was away for too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Afterwards {
    /// They are forgotten: their workloads are known no more, and what allows them by label does
    /// not match.
    #[default]
    Forget,
    /// They hold until the registry is back.
    Keep,
}

impl Afterwards {
    /// As on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forget => "forget",
            Self::Keep => "keep",
        }
    }
}

/// Unless a flag says otherwise.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(30);
/// Unless a flag says otherwise.
pub const DEFAULT_KEEP: Duration = Duration::from_hours(1);
/// Unless a flag says otherwise.
pub const DEFAULT_PREFIX: &str = "/enforcer";
