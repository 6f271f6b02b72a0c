//! Takes part in a fleet: the two tasks that publish and that hear, ready to run.

use std::{path::Path, sync::Arc, time::Duration};

use time::OffsetDateTime;
use tokio::sync::watch;

use super::{
    Registry,
    copies::Copies,
    etcd::EtcdRegistry,
    fleet::Fleet,
    node_identity::{FileIdentity, NodeIdentity, node_id},
    publisher::Publisher,
    reader::{Heard, OwnRecord, Reader},
    settings::FleetSettings,
    status::FleetBoard,
};
use crate::{compile::elsewhere::Elsewhere, observe::clock::rfc3339, reconcile::in_force::InForce};

/// The tasks, and what others know of them.
pub struct Part {
    /// Publishes.
    pub publisher: Publisher,
    /// Hears.
    pub reader: Reader,
}

/// Why this node cannot take part.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    /// Its certificate or key cannot be used.
    #[error("this node cannot take part in the fleet: {0}")]
    Identity(String),
    /// Its certificate is somebody else's.
    #[error(
        "this node cannot take part in the fleet: its certificate is that of {found}, and a node \
         called {node} needs one of {wanted}; issue it, or name the node with --node"
    )]
    OtherName {
        /// The SPIFFE ID in the certificate.
        found: String,
        /// This node's name.
        node: String,
        /// What should be in it.
        wanted: String,
    },
}

/// Prepares to take part. `state`: the state directory. What the last daemon knew is told to
/// `peers` at once.
pub fn prepare(
    settings: &FleetSettings,
    node: &str,
    state: &Path,
    in_force: watch::Receiver<Arc<InForce>>,
    peers: watch::Sender<Arc<Elsewhere>>,
    board: &FleetBoard,
) -> Result<Part, PartError> {
    let identity: Arc<dyn NodeIdentity> = Arc::new(FileIdentity(settings.identity.clone()));
    let registry = EtcdRegistry::new(settings.etcd.clone(), node, settings.lease);
    let part = part(
        settings, node, state, in_force, peers, board, identity, registry,
    )?;
    Ok(part)
}

/// As [`prepare`], with any registry and identity.
#[expect(
    clippy::too_many_arguments,
    reason = "each is another thing that a part is made of"
)]
pub fn part(
    settings: &FleetSettings,
    node: &str,
    state: &Path,
    in_force: watch::Receiver<Arc<InForce>>,
    peers: watch::Sender<Arc<Elsewhere>>,
    board: &FleetBoard,
    identity: Arc<dyn NodeIdentity>,
    registry: Arc<dyn Registry>,
) -> Result<Part, PartError> {
    let svid = identity.svid();
    let leaf = svid.map_err(|e| PartError::Identity(e.to_string()))?.leaf;
    let domain = leaf.trust_domain().to_owned();
    let wanted = node_id(&domain, node);
    if leaf.spiffe_id != wanted {
        return Err(PartError::OtherName {
            found: leaf.spiffe_id,
            node: node.to_owned(),
            wanted,
        });
    }
    board.write(|status| {
        status.registry = registry.place();
        status.spiffe_id = wanted;
        status.since = rfc3339(OffsetDateTime::now_utc());
        settings
            .afterwards
            .name()
            .clone_into(&mut status.afterwards);
    });
    let (own, own_receiver) = watch::channel(OwnRecord::default());
    let mut reader = Reader {
        registry: Arc::clone(&registry),
        fleet: Fleet::new(node, &domain, Arc::clone(&identity)),
        copies: Copies::new(state.join("fleet")),
        keep: settings.keep,
        afterwards: settings.afterwards,
        node: node.to_owned(),
        peers,
        own,
        board: board.clone(),
        heard: Heard::ago(Duration::ZERO),
    };
    reader.resume();
    let publisher = Publisher {
        registry,
        identity,
        node: node.to_owned(),
        in_force,
        own: own_receiver,
        lease: settings.lease,
        board: board.clone(),
    };
    Ok(Part { publisher, reader })
}
