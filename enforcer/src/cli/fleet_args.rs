//! How this node takes part in a fleet, on the command line.

use std::{path::PathBuf, time::Duration};

use anyhow::bail;
use clap::{Args, ValueEnum};

use super::duration;
use crate::registry::settings::{
    Afterwards, DEFAULT_KEEP, DEFAULT_LEASE, DEFAULT_PREFIX, EtcdSettings, FleetSettings,
    NodeIdentitySettings,
};

/// Shortest lease that etcd keeps well.
const SHORTEST_LEASE: Duration = Duration::from_secs(2);

/// The registry and this node's identity in it. docs/fleet.md has the whole.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Fleet")]
pub struct FleetArgs {
    /// Members of the etcd cluster through which nodes learn of each other. Without it there is
    /// one host.
    #[arg(long, value_name = "URL", value_delimiter = ',', requires_all = ["etcd_ca", "etcd_cert", "etcd_key"])]
    pub etcd: Vec<String>,
    /// Certificates (PEM) of the authorities that sign those of the etcd members.
    #[arg(long, value_name = "FILE", requires = "etcd")]
    pub etcd_ca: Option<PathBuf>,
    /// Certificate (PEM) that this node shows to etcd; its common name is the etcd user.
    #[arg(long, value_name = "FILE", requires = "etcd")]
    pub etcd_cert: Option<PathBuf>,
    /// Key (PEM) of --etcd-cert.
    #[arg(long, value_name = "FILE", requires = "etcd")]
    pub etcd_key: Option<PathBuf>,
    /// What the keys in etcd begin with.
    #[arg(long, value_name = "PREFIX", default_value = DEFAULT_PREFIX)]
    pub etcd_prefix: String,
    /// X.509-SVID (PEM) of this node, spiffe://TRUST-DOMAIN/enforcer/node/NAME, and intermediate
    /// certificates. Read again when it is used. Without it: that of --identity-from.
    #[arg(long, value_name = "FILE", requires_all = ["etcd", "node_key", "node_bundle"])]
    pub node_cert: Option<PathBuf>,
    /// Key (PEM) of --node-cert.
    #[arg(long, value_name = "FILE", requires = "node_cert")]
    pub node_key: Option<PathBuf>,
    /// Root certificates (PEM) of the trust domain of the nodes.
    #[arg(long, value_name = "FILE", requires = "node_cert")]
    pub node_bundle: Option<PathBuf>,
    /// How long this node's workloads stay known to others after its last sign of life. Without
    /// it: 30s.
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub fleet_lease: Option<Duration>,
    /// How long what is known of other nodes holds while etcd cannot be reached. Without it: 1h.
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub fleet_keep: Option<Duration>,
    /// What becomes of it then. Without it: forget.
    #[arg(long, value_enum, value_name = "WHAT")]
    pub fleet_afterwards: Option<AfterwardsArg>,
}

/// What becomes of what is known of other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AfterwardsArg {
    /// Their workloads are known no more.
    Forget,
    /// It holds until etcd is back.
    Keep,
}

impl FleetArgs {
    /// The settings, where there is a fleet.
    pub fn settings(&self) -> anyhow::Result<Option<FleetSettings>> {
        if self.etcd.is_empty() {
            return Ok(None);
        }
        for endpoint in &self.etcd {
            if !endpoint.starts_with("https://") {
                bail!("--etcd {endpoint}: write https://, as in https://10.0.0.1:2379");
            }
        }
        let lease = self.fleet_lease.unwrap_or(DEFAULT_LEASE);
        if lease < SHORTEST_LEASE {
            bail!(
                "--fleet-lease: write at least {} s",
                SHORTEST_LEASE.as_secs()
            );
        }
        let (Some(authority), Some(certificate), Some(key)) =
            (&self.etcd_ca, &self.etcd_cert, &self.etcd_key)
        else {
            bail!("--etcd needs --etcd-ca, --etcd-cert and --etcd-key");
        };
        let identity = match (&self.node_cert, &self.node_key, &self.node_bundle) {
            (Some(certificate), Some(key), Some(bundle)) => Some(NodeIdentitySettings {
                certificate: certificate.clone(),
                key: key.clone(),
                bundle: bundle.clone(),
            }),
            _ => None,
        };
        Ok(Some(FleetSettings {
            etcd: EtcdSettings {
                endpoints: self.etcd.clone(),
                authority: authority.clone(),
                certificate: certificate.clone(),
                key: key.clone(),
                prefix: self.etcd_prefix.clone(),
            },
            identity,
            lease,
            keep: self.fleet_keep.unwrap_or(DEFAULT_KEEP),
            afterwards: match self.fleet_afterwards {
                Some(AfterwardsArg::Keep) => Afterwards::Keep,
                Some(AfterwardsArg::Forget) => Afterwards::Forget,
                None => Afterwards::default(),
            },
        }))
    }
}
