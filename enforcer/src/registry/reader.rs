//! Hears the registry, and tells who is elsewhere.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::StreamExt;
use time::OffsetDateTime;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Change, Changes, Listing, Registry, RegistryError, Watch,
    copies::Copies,
    fleet::{Fleet, RecordDigest, digest},
    pause::Pause,
    settings::Afterwards,
    status::FleetBoard,
};
use crate::{
    compile::elsewhere::Elsewhere, observe::clock::rfc3339, reconcile::reconciler::blocking,
};

/// Between looks at what has ended, and at what is shown.
const TICK: Duration = Duration::from_secs(1);
/// Between notes that the registry is heard.
const HEARD: Duration = Duration::from_secs(10);

/// See the module.
pub struct Reader {
    /// Where records come from.
    pub registry: Arc<dyn Registry>,
    /// What is known.
    pub fleet: Fleet,
    /// Copies for the next daemon.
    pub copies: Copies,
    /// For how long that holds without the registry.
    pub keep: Duration,
    /// What becomes of it then.
    pub afterwards: Afterwards,
    /// This node's name.
    pub node: String,
    /// Told of changes.
    pub peers: watch::Sender<Arc<Elsewhere>>,
    /// Told what is in the registry under this node's name.
    pub own: watch::Sender<OwnRecord>,
    /// Where it is shown.
    pub board: FleetBoard,
    /// When the registry was last heard.
    pub heard: Heard,
}

/// What is in the registry under this node's own name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnRecord {
    /// `None`: nothing.
    pub digest: Option<RecordDigest>,
    /// The highest number that a record of this node had.
    pub sequence: u64,
}

/// When the registry was last heard.
#[derive(Clone, Copy, Debug)]
pub struct Heard {
    at: Instant,
    /// The last change that was heard: where a watch can go on.
    after: Option<i64>,
    noted: Option<Instant>,
    /// What was known then was forgotten since.
    forgotten: bool,
}

impl Heard {
    /// So long ago.
    pub fn ago(time: Duration) -> Self {
        let now = Instant::now();
        Self {
            at: now.checked_sub(time).unwrap_or(now),
            after: None,
            noted: None,
            forgotten: false,
        }
    }
}

impl Reader {
    /// What the last daemon knew, if it holds still. To be called before [`Reader::run`].
    pub fn resume(&mut self) {
        let Some((records, heard)) = self.copies.load() else {
            return;
        };
        let ago = heard.elapsed().unwrap_or_default();
        if ago > self.keep && self.afterwards == Afterwards::Forget {
            return;
        }
        let known = records.len();
        let listing = Listing {
            records,
            revision: 0,
        };
        self.fleet.list(&listing, heard);
        self.heard = Heard::ago(ago);
        info!(
            nodes = known,
            "what the last daemon knew of the fleet holds"
        );
        self.tell();
        self.show();
    }

    /// Hears until `stop`.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut pause = Pause::default();
        loop {
            let lost = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                lost = self.listen(&mut pause) => lost,
            };
            self.lost(&lost);
            let until = Instant::now() + pause.take();
            while Instant::now() < until {
                self.bear();
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(()),
                    () = sleep(TICK.min(until - Instant::now())) => {}
                }
            }
        }
    }

    /// Lists if need be, and watches until that fails.
    async fn listen(&mut self, pause: &mut Pause) -> RegistryError {
        let from = match self.heard.after {
            Some(after) => after,
            None => match self.registry.list().await {
                Ok(listing) => {
                    let revision = listing.revision;
                    blocking(|| self.take_listing(&listing));
                    self.heard.after = Some(revision);
                    revision
                }
                Err(error) => return error,
            },
        };
        let mut watch = match self.registry.watch(from).await {
            Ok(watch) => watch,
            Err(error) => return error,
        };
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stale = true;
        loop {
            tokio::select! {
                biased;
                changes = next(&mut watch) => {
                    match changes {
                        Ok(changes) => {
                            self.heard.after = Some(changes.revision);
                            stale |= !changes.changes.is_empty();
                            blocking(|| self.take(changes));
                        }
                        Err(error) => return error,
                    }
                }
                _ = tick.tick() => {
                    pause.reset();
                    self.connected();
                    if self.fleet.expire(SystemTime::now()) {
                        stale = true;
                        self.tell();
                    }
                    if std::mem::take(&mut stale) {
                        self.show();
                    }
                }
            }
        }
    }

    fn take_listing(&mut self, listing: &Listing) {
        let own = listing.records.iter().find(|(name, _)| *name == self.node);
        let own = own.map(|(_, record)| digest(record));
        self.board.write(|status| status.counts.listings += 1);
        let names: HashSet<&str> = (listing.records.iter())
            .map(|(name, _)| name.as_str())
            .collect();
        self.copies.retain(|name| names.contains(name));
        let changed = self.fleet.list(listing, SystemTime::now());
        for (name, record) in &listing.records {
            if self.fleet.accepts(name, record) {
                self.copies.keep(name, record);
            }
        }
        self.notice(own);
        self.connected();
        if changed {
            self.tell();
        }
        self.show();
    }

    fn take(&mut self, changes: Changes) {
        let count = changes.changes.len() as u64;
        self.board.write(|status| status.counts.changes += count);
        let own = changes
            .changes
            .iter()
            .rev()
            .find_map(|change| match change {
                Change::Publish { node, record } if *node == self.node => {
                    Some(Some(digest(record)))
                }
                Change::Remove { node } if *node == self.node => Some(None),
                _ => None,
            });
        let published = changes.changes.clone();
        if self.fleet.change(changes, SystemTime::now()) {
            self.tell();
        }
        for change in published {
            match change {
                Change::Publish { node, record } => {
                    if self.fleet.accepts(&node, &record) {
                        self.copies.keep(&node, &record);
                    }
                }
                Change::Remove { node } => self.copies.remove(&node),
            }
        }
        if let Some(own) = own {
            self.notice(own);
        }
    }

    /// Tells the publisher what is under this node's name.
    fn notice(&self, digest: Option<RecordDigest>) {
        let sequence = self.fleet.own_sequence();
        self.own.send_replace(OwnRecord { digest, sequence });
    }

    fn tell(&self) {
        self.peers.send_replace(Arc::clone(self.fleet.elsewhere()));
    }

    fn connected(&mut self) {
        let now = Instant::now();
        self.heard.at = now;
        self.heard.forgotten = false;
        if self.heard.noted.is_none_or(|noted| now - noted >= HEARD) {
            self.heard.noted = Some(now);
            self.copies.heard();
        }
        self.board.write(|status| {
            if !status.connected {
                info!(registry = status.registry, "the registry is heard");
                status.connected = true;
                status.since = rfc3339(OffsetDateTime::now_utc());
            }
            status.problem = None;
            status.kept_milliseconds = None;
        });
    }

    fn lost(&mut self, error: &RegistryError) {
        let compacted = matches!(error, RegistryError::Compacted { .. });
        if compacted {
            self.heard.after = None;
        }
        self.board.write(|status| {
            if status.connected {
                warn!(%error, "the registry is not heard any more");
                status.connected = false;
                status.since = rfc3339(OffsetDateTime::now_utc());
                status.counts.watches_lost += 1;
            }
            status.counts.compacted += u64::from(compacted);
            status.problem = Some(error.to_string());
        });
    }

    /// Without the registry: what is known holds for its time.
    fn bear(&mut self) {
        let silent = self.heard.at.elapsed();
        let left = self.keep.saturating_sub(silent);
        let forget = left.is_zero()
            && self.afterwards == Afterwards::Forget
            && !std::mem::replace(&mut self.heard.forgotten, left.is_zero());
        if forget {
            let known = self.fleet.elsewhere().nodes.len();
            warn!(
                nodes = known,
                "the registry was away for too long: other nodes are forgotten"
            );
            self.board.write(|status| status.counts.forgotten += 1);
            self.copies.retain(|_| false);
            self.fleet.forget();
            // What was forgotten must be heard anew.
            self.heard.after = None;
            self.tell();
        }
        self.show();
        self.board.write(|status| {
            let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            status.kept_milliseconds = Some(left);
        });
    }

    fn show(&self) {
        let nodes = self.fleet.status();
        let elsewhere = self.fleet.elsewhere();
        let workloads = elsewhere.nodes.iter().map(|node| node.workloads.len());
        let workloads = workloads.sum();
        let contested = self.fleet.contested();
        let refusals = self.fleet.refusals().iter();
        let refusals = refusals.map(|(code, count)| ((*code).to_owned(), *count));
        let refusals = refusals.collect();
        self.board.write(|status| {
            let known = nodes.iter().filter(|node| node.sequence > 0);
            status.known = known.clone().count();
            status.lag_milliseconds = known.map(|node| node.lag_milliseconds).max().unwrap_or(0);
            status.workloads = workloads;
            status.contested = contested;
            status.refusals = refusals;
            status.nodes = nodes;
        });
    }
}

async fn next(watch: &mut Watch) -> Result<Changes, RegistryError> {
    watch.next().await.unwrap_or_else(|| {
        Err(RegistryError::Unreachable {
            place: "its stream".to_owned(),
            reason: "it ended".to_owned(),
        })
    })
}
