//! The SPIFFE Workload API (SPIFFE_Workload_API.md and SPIFFE_Workload_Endpoint.md of the SPIFFE
//! specifications), X.509-SVID profile: workloads get their SVID and whom to believe without
//! knowing a secret, because the kernel says who they are.
//!
//! `server` takes connections at a socket, `caller` says whose they are, `feed` is what they are
//! told for as long as they listen, and `issuer` has it signed by the embedded authority. `client`
//! is the other side: the daemon's own SVID from somebody else's server. `wire` has the messages, and
//! `authority` takes requests that name the socket as their host. `secrets` gives the same to
//! Envoy, with the messages of `secrets_wire`.

mod authority;
pub mod caller;
pub mod client;
mod feed;
pub mod issuer;
pub mod memory;
mod pidfd;
mod secrets;
mod secrets_wire;
pub mod server;
pub mod wire;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use self::issuer::Roots;
use super::attest::journal::Journal;
use crate::api::status::WorkloadApiStatus;

/// Settings of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadApiSettings {
    /// Path of the socket.
    pub socket: PathBuf,
    /// Folder of the authority that issues.
    pub authority: PathBuf,
    /// File whose first line decrypts the authority's key.
    pub passphrase_file: Option<PathBuf>,
    /// How long an SVID is valid; it is renewed after half of it.
    pub lifetime: Duration,
}

/// What is shown of the server: in metrics, and at the control socket.
#[derive(Clone, Debug)]
pub struct WorkloadApiView {
    /// Path of the socket.
    pub socket: PathBuf,
    /// The authority.
    pub roots: watch::Receiver<Arc<Roots>>,
    /// Streams that workloads have open.
    pub streams: Arc<AtomicUsize>,
    /// Events.
    pub journal: Arc<Journal>,
}

impl WorkloadApiView {
    /// As it is shown.
    pub fn status(&self) -> WorkloadApiStatus {
        let roots = self.roots.borrow().clone();
        WorkloadApiStatus {
            socket: self.socket.clone(),
            trust_domain: roots.domain.to_string(),
            root_until: super::svid::moment(roots.until),
            streams: self.streams.load(Ordering::Relaxed),
            problem: roots.problem.clone(),
        }
    }
}
