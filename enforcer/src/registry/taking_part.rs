//! Takes part in a fleet: the two tasks that publish and that hear, ready to run.

use std::{path::Path, sync::Arc, time::Duration};

use time::OffsetDateTime;
use tokio::{sync::watch, time::timeout};

use super::{
    Registry,
    copies::Copies,
    etcd::EtcdRegistry,
    fleet::Fleet,
    node_identity::{FileIdentity, NodeIdentity, ProviderIdentity, node_id},
    publisher::Publisher,
    reader::{Heard, OwnRecord, Reader},
    settings::FleetSettings,
    status::FleetBoard,
};
use crate::{
    compile::elsewhere::Elsewhere, identity::workload_api::client::ProvidedWatch,
    observe::clock::rfc3339, reconcile::in_force::InForce,
};

/// The tasks, and what others know of them.
pub struct Part {
    /// Publishes.
    pub publisher: Publisher,
    /// Hears.
    pub reader: Reader,
}

/// How long the start waits for an identity provider that never said who this node is.
const PATIENCE: Duration = Duration::from_secs(15);

/// Why this node cannot take part.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    /// Nowhere to have an identity from.
    #[error("--etcd needs --node-cert, --node-key and --node-bundle, or --identity-from")]
    NoSource,
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
pub async fn prepare(
    settings: &FleetSettings,
    node: &str,
    state: &Path,
    in_force: watch::Receiver<Arc<InForce>>,
    peers: watch::Sender<Arc<Elsewhere>>,
    board: &FleetBoard,
    provider: Option<ProvidedWatch>,
) -> Result<Part, PartError> {
    let identity: Arc<dyn NodeIdentity> = match (&settings.identity, provider) {
        (Some(files), _) => Arc::new(FileIdentity(files.clone())),
        (None, Some(provider)) => {
            first(provider.clone()).await;
            Arc::new(ProviderIdentity(provider))
        }
        (None, None) => return Err(PartError::NoSource),
    };
    let registry = EtcdRegistry::new(settings.etcd.clone(), node, settings.lease);
    let part = part(
        settings, node, state, in_force, peers, board, identity, registry,
    )?;
    Ok(part)
}

/// Waits until a provider has said who this node is, or has said it to a former run.
async fn first(mut provider: ProvidedWatch) {
    let _ = timeout(
        PATIENCE,
        provider.wait_for(|provided| provided.id.is_some()),
    )
    .await;
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
    let id = identity.id();
    let id = id.map_err(|e| PartError::Identity(e.to_string()))?;
    let domain = id.domain().to_string();
    let wanted = node_id(&domain, node);
    if id.to_string() != wanted {
        return Err(PartError::OtherName {
            found: id.to_string(),
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
        fleet: Fleet::new(
            node,
            &domain,
            Arc::clone(&identity),
            Arc::clone(board.journal()),
        ),
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
