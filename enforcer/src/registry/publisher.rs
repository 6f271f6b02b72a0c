//! Publishes this node's record, and keeps it alive.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Registry, RegistryError,
    fleet::{RecordDigest, digest},
    listening::listening,
    local,
    node_identity::NodeIdentity,
    pause::Pause,
    reader::OwnRecord,
    record::NodeRecord,
    signed::{milliseconds, sign},
    status::FleetBoard,
};
use crate::{
    cause::chain,
    identity::attest::journal::{EventKind, SecurityEvent, Subject},
    reconcile::in_force::InForce,
};

/// For how long a record may be believed. It is signed anew when half of that is over.
const VALIDITY: Duration = Duration::from_hours(1);
/// A burst of changes is over when nothing changed for this long.
const QUIET: Duration = Duration::from_millis(20);
/// Between looks at the listening ports: the kernel tells of new sockets only those who look.
const LOOK: Duration = Duration::from_secs(1);
/// Before a record under this node's name that is not its own is replaced: it may be the one
/// before the last, heard late.
const DOUBT: Duration = Duration::from_secs(1);

/// See the module.
pub struct Publisher {
    /// Where it is published.
    pub registry: Arc<dyn Registry>,
    /// Signs it.
    pub identity: Arc<dyn NodeIdentity>,
    /// This node's name.
    pub node: String,
    /// What it is made of.
    pub in_force: watch::Receiver<Arc<InForce>>,
    /// What is in the registry under this node's name.
    pub own: watch::Receiver<OwnRecord>,
    /// How long it outlives this node.
    pub lease: Duration,
    /// Where it is shown.
    pub board: FleetBoard,
}

/// What was published last.
#[derive(Debug)]
struct Published {
    content: NodeRecord,
    digest: RecordDigest,
    sequence: u64,
    /// When it is to be signed anew.
    until: Instant,
}

impl Publisher {
    /// Publishes until `stop`. The record is not withdrawn then: what this node enforces goes on
    /// without a daemon, and so do its workloads; the lease ends it if no daemon follows.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            ready = self.in_force.wait_for(|now| now.ready) => drop(ready?),
        }
        let mut renew = interval(self.lease / 3);
        renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut published: Option<Published> = None;
        let mut pause = Pause::default();
        let mut retry: Option<Instant> = None;
        let mut doubt: Option<Instant> = None;
        loop {
            tokio::select! {
                // In this order: what comes often does not keep the lease waiting.
                biased;
                () = stop.cancelled() => return Ok(()),
                _ = renew.tick() => {
                    if published.is_none() {
                        continue;
                    }
                    match self.registry.renew().await {
                        Ok(()) => self.well(),
                        Err(RegistryError::LeaseEnded) => {
                            self.board.write(|status| status.counts.leases_lost += 1);
                            published = None;
                        }
                        Err(error) => {
                            self.failed(&error.to_string());
                            continue;
                        }
                    }
                }
                changed = self.own.changed() => {
                    changed.context("nobody reads the registry any more")?;
                    let seen = self.own.borrow_and_update().digest;
                    let same = published.as_ref().is_some_and(|p| Some(p.digest) == seen);
                    doubt = (!same && published.is_some()).then(|| Instant::now() + DOUBT);
                    continue;
                }
                () = until(doubt) => {
                    doubt = None;
                    let seen = self.own.borrow().digest;
                    if published.as_ref().is_none_or(|p| Some(p.digest) == seen) {
                        continue;
                    }
                    self.board.journal().note(SecurityEvent {
                        kind: Subject::Fleet,
                        published_as: Some(self.node.clone()),
                        ..SecurityEvent::new(
                            EventKind::Restore,
                            "overwritten",
                            "this node's record in the registry is not what it published: it is \
                             published again",
                        )
                    });
                    self.board.write(|status| status.counts.overwritten += 1);
                    published = None;
                }
                changed = self.in_force.changed() => {
                    changed.context("nobody says what is in force any more")?;
                    tokio::time::sleep(QUIET).await;
                }
                _ = look.tick() => {}
                () = until(retry) => retry = None,
            }
            if retry.is_some_and(|at| at > Instant::now()) {
                continue;
            }
            match self.bring_up_to_date(&mut published).await {
                Ok(()) => {
                    retry = None;
                    pause.reset();
                }
                Err(problem) => {
                    self.failed(&problem);
                    retry = Some(Instant::now() + pause.take());
                }
            }
        }
    }

    async fn bring_up_to_date(&self, published: &mut Option<Published>) -> Result<(), String> {
        let now = self.in_force.borrow().clone();
        let content = tokio::task::spawn_blocking(move || {
            let listening = listening(&now).map_err(|error| chain(&error))?;
            Ok::<_, String>(local::record(&now, &listening))
        });
        let content = content.await.map_err(|error| error.to_string())??;
        if let Some(last) = published
            && last.content == content
            && Instant::now() < last.until
        {
            return Ok(());
        }
        let svid = self.identity.svid().map_err(|error| error.to_string())?;
        let now = SystemTime::now();
        let issued = milliseconds(now);
        let known = published.as_ref().map_or(0, |last| last.sequence);
        let known = known.max(self.own.borrow().sequence);
        let left = svid.leaf.until.duration_since(now).unwrap_or_default();
        let validity = VALIDITY.min(left);
        let record = NodeRecord {
            node: self.node.clone(),
            // Rises across restarts too, also where nobody remembers the last one.
            sequence: issued.max(known + 1),
            issued,
            expires: milliseconds(now + validity),
            ..content.clone()
        };
        let bytes = sign(&record, &svid).map_err(|error| error.to_string())?;
        let digest = digest(&bytes);
        let size = bytes.len();
        // Known before it can be heard.
        let next = Published {
            content,
            digest,
            sequence: record.sequence,
            until: Instant::now() + validity / 2,
        };
        let first = published.replace(next).is_none();
        if let Err(error) = self.registry.publish(bytes).await {
            *published = None;
            return Err(error.to_string());
        }
        if first {
            info!(
                bytes = size,
                sequence = record.sequence,
                "this node's record is published"
            );
        }
        self.board.write(|status| status.counts.published += 1);
        self.well();
        Ok(())
    }

    fn well(&self) {
        self.board.write(|status| {
            status.published = true;
            status.publish_problem = None;
        });
    }

    fn failed(&self, problem: &str) {
        self.board.write(|status| {
            if status.publish_problem.is_none() {
                warn!(problem, "this node's record cannot be published or kept");
            }
            status.counts.publish_failures += 1;
            status.published = false;
            status.publish_problem = Some(problem.to_owned());
        });
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
