//! What the nodes of a fleet learn from each other: who runs where, behind which address and
//! port.
//!
//! Every node publishes one signed record of itself on a lease ([`record`], [`signed`]) and
//! watches those of the others. [`Registry`] is where records are: in memory on one host
//! ([`memory`]), in etcd for a fleet ([`etcd`]). It is trusted with nothing but delivery: a record
//! counts only if the node that it speaks of has signed it ([`fleet`]).
//!
//! Records go up one way ([`publisher`]) and come down another ([`reader`]); what the accepted
//! ones say becomes [`crate::compile::elsewhere::Elsewhere`], which the policy loop compiles.

mod claims;
pub mod copies;
pub mod etcd;
pub mod fleet;
mod listeners;
pub mod listening;
pub mod local;
pub mod memory;
pub mod node_identity;
pub mod pause;
pub mod publisher;
pub mod reader;
pub mod record;
pub mod settings;
mod shared_labels;
pub mod signed;
mod statement;
pub mod status;
pub mod taking_part;
mod wire;

use std::fmt;

use futures::{future::BoxFuture, stream::BoxStream};

/// Where records are. One that delivers late or not at all costs knowledge; one that delivers
/// what nobody signed is found out.
///
/// A third implementation, on the Kubernetes API, needs nothing beside these five: an object for
/// each node, whose owner renews it, and a watch with its resource version.
pub trait Registry: fmt::Debug + Send + Sync {
    /// Writes this node's record, under its name and on its lease, which is taken if there is
    /// none.
    fn publish(&self, record: Vec<u8>) -> BoxFuture<'_, Result<(), RegistryError>>;

    /// Keeps the lease alive. [`RegistryError::LeaseEnded`]: the record is gone; publish again.
    fn renew(&self) -> BoxFuture<'_, Result<(), RegistryError>>;

    /// Every record, and the revision at which that is all.
    fn list(&self) -> BoxFuture<'_, Result<Listing, RegistryError>>;

    /// Every change after a revision, in order. The stream ends with an error: lost, or
    /// [`RegistryError::Compacted`] where changes since the revision are not kept any more.
    fn watch(&self, after: i64) -> BoxFuture<'_, Result<Watch, RegistryError>>;

    /// Where it is, for people.
    fn place(&self) -> String;
}

/// Changes as they come.
pub type Watch = BoxStream<'static, Result<Changes, RegistryError>>;

/// All that was there at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Records by the name of the node under which they are published.
    pub records: Vec<(String, Vec<u8>)>,
    /// Number of the last change that is in it.
    pub revision: i64,
}

/// What changed together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// In order. None: only the revision went on.
    pub changes: Vec<Change>,
    /// Number of the last one.
    pub revision: i64,
}

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A record was published under this name.
    Publish {
        /// Name of the node.
        node: String,
        /// The record.
        record: Vec<u8>,
    },
    /// The record under this name is gone: its lease ended, or somebody removed it.
    Remove {
        /// Name of the node.
        node: String,
    },
}

/// Why the registry did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// No answer, or a connection that broke.
    #[error(
        "the registry at {place} does not answer ({reason}): see whether it runs and is reachable from here"
    )]
    Unreachable {
        /// Where it is.
        place: String,
        /// What happened.
        reason: String,
    },
    /// An answer that says no.
    #[error(
        "the registry at {place} refuses ({reason}): see what its roles allow this node (docs/fleet.md)"
    )]
    Refused {
        /// Where it is.
        place: String,
        /// What it said.
        reason: String,
    },
    /// This node's lease ended, and its record with it.
    #[error("the lease of this node's record ended: it is published again")]
    LeaseEnded,
    /// The changes that were asked for are not kept any more.
    #[error("changes after revision {after} are not kept any more: everything is listed anew")]
    Compacted {
        /// The revision that was asked for.
        after: i64,
    },
    /// A certificate or key of the connection cannot be used.
    #[error("cannot connect to the registry: {what} ({reason})")]
    Credential {
        /// Which file, and what is wrong with it.
        what: String,
        /// The error.
        reason: String,
    },
}

impl RegistryError {
    /// For metrics.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::Refused { .. } => "refused",
            Self::LeaseEnded => "lease-ended",
            Self::Compacted { .. } => "compacted",
            Self::Credential { .. } => "credential",
        }
    }
}
