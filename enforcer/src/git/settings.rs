//! What the daemon is told about its git source.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::remote::Remote;

/// Settings of a git source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitSettings {
    /// What is followed.
    pub remote: Remote,
    /// Between two fetches, as long as they succeed.
    pub poll: Duration,
    /// What a fetch may take.
    pub timeout: Duration,
    /// Bytes that the mirror may take on disk.
    pub max_bytes: u64,
    /// Private key for ssh.
    pub ssh_key: Option<PathBuf>,
    /// Keys of hosts for ssh; without it those of the machine (`/etc/ssh/ssh_known_hosts`).
    pub known_hosts: Option<PathBuf>,
    /// User names and passwords for https, in the format of git-credential-store(1).
    pub credentials: Option<PathBuf>,
    /// Certificates of authorities for https; without it those of the machine.
    pub ca: Option<PathBuf>,
    /// Files (and directories of files) of allowed signers; empty: nothing need be signed.
    pub signers: Vec<PathBuf>,
    /// Which commits must be signed.
    pub signed: SignedCommits,
    /// Also commits take effect that do not follow the one in force.
    pub allow_rollback: bool,
    /// Where web hooks are awaited.
    pub webhook: Option<WebhookSettings>,
}

/// Which commits must be signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum SignedCommits {
    /// Every commit since the one in force, those of merged branches too: what somebody without
    /// a key put into the repository does not take effect below a signed commit.
    #[default]
    Every,
    /// The newest one, whose signer answers for all below it.
    Tip,
}

/// Where web hooks are awaited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookSettings {
    /// Address.
    pub address: SocketAddr,
    /// File of the secret that the sender knows.
    pub secret: PathBuf,
}
