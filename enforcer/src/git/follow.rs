//! The task that follows a remote: fetches, judges, checks out, and tells the policy loop.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use time::OffsetDateTime;
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    checkout::Checkout,
    judge::{self, Acceptable, CommitRefusal, Measure, short},
    known::{AcceptedCommit, Known},
    mirror::{FetchError, Mirror},
    program::FetchCause,
    settings::GitSettings,
};
use crate::{
    api::{
        git::{FetchAnswer, FetchFailure, FetchRequest, GitStatus, RefusedCommit},
        problem::{Problem, ProblemCode},
    },
    metrics::git::GitStats,
    observe::clock::rfc3339,
    reconcile::{command::Command, in_force::InForce},
};

/// First pause after a failure.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest, unless polls are rarer.
const LONGEST_RETRY: Duration = Duration::from_mins(5);
/// Between two fetches that others than the clock ask for.
const LEAST_PAUSE: Duration = Duration::from_secs(1);

/// What others may ask of the follower.
#[derive(Clone, Debug)]
pub struct GitHandle {
    /// How things are.
    pub status: watch::Receiver<GitStatus>,
    /// Fetch now.
    pub wishes: mpsc::Sender<FetchWish>,
}

/// A fetch that an operator asks for.
#[derive(Debug)]
pub struct FetchWish {
    /// What was asked.
    pub request: FetchRequest,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<FetchAnswer, Problem>>,
}

/// What the follower listens to and whom it tells.
#[derive(Debug)]
pub struct Wiring {
    /// What is in force.
    pub in_force: watch::Receiver<Arc<InForce>>,
    /// The policy loop's ear.
    pub commands: mpsc::Sender<Command>,
    /// Wishes of operators.
    pub wishes: mpsc::Receiver<FetchWish>,
    /// Rings for every web hook.
    pub bell: Arc<Notify>,
    /// Who shows how things are.
    pub published: watch::Sender<GitStatus>,
    /// Metrics.
    pub stats: Arc<GitStats>,
}

/// The follower's state.
#[derive(Debug)]
pub struct Follower {
    settings: Arc<GitSettings>,
    root: PathBuf,
    mirror: Mirror,
    checkout: Checkout,
    known: Known,
    status: GitStatus,
    retries: Option<ExponentialBackoff>,
    wiring: Wiring,
}

/// Where the git source keeps what it has, below the state directory.
pub fn directory(state: &Path) -> PathBuf {
    state.join("git")
}

impl Follower {
    /// A follower that has done nothing yet. `root`: see [`directory`].
    ///
    /// # Errors
    /// What is known of the remote cannot be read.
    pub fn new(
        root: &Path,
        settings: Arc<GitSettings>,
        wiring: Wiring,
    ) -> Result<Self, FetchError> {
        let known = Known::load(root, &settings.remote)
            .map_err(|error| FetchError::io("read", &root.join("known.json"), &error))?;
        let status = GitStatus {
            remote: settings.remote.to_string(),
            signatures_required: !settings.signers.is_empty(),
            seen: known.seen.clone(),
            ..GitStatus::default()
        };
        if let Some(seen) = known.seen.as_deref().and_then(seconds) {
            wiring.stats.seen(seen);
        }
        let follower = Self {
            mirror: Mirror::new(root, settings.clone()),
            checkout: Checkout::new(root),
            root: root.to_owned(),
            settings,
            known,
            status,
            retries: None,
            wiring,
        };
        follower.publish();
        Ok(follower)
    }

    /// Before the policy loop starts: where no tree was ever accepted, the first one is fetched,
    /// so that the first policy is the remote's. Where there is one, nothing waits for the remote.
    pub async fn first(&mut self) {
        if !self.checkout.exists() {
            self.fetch(false).await;
        }
    }

    /// Follows until `stop`.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        self.note_in_force();
        let mut next = Instant::now();
        let mut done = Instant::now() - LEAST_PAUSE;
        loop {
            // A wave of web hooks is one fetch, and then another.
            let bell = self.wiring.bell.clone();
            let rung = async {
                bell.notified().await;
                sleep_until(done + LEAST_PAUSE).await;
            };
            let wish = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                changed = self.wiring.in_force.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.note_in_force();
                    continue;
                }
                wish = self.wiring.wishes.recv() => match wish {
                    Some(wish) => Some(wish),
                    None => return Ok(()),
                },
                () = rung => None,
                () = sleep_until(next) => None,
            };
            let round = self.round(wish.as_ref().map(|wish| &wish.request));
            let answer = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                answer = round => answer,
            };
            if let Some(wish) = wish {
                // Who asked may have gone away.
                let _ = wish.reply.send(answer);
            }
            done = Instant::now();
            next = done + self.pause();
        }
    }

    /// Fetches, and has the policy loop take what is new. What it did not take before it is
    /// asked to take again where an operator asks.
    async fn round(&mut self, asked: Option<&FetchRequest>) -> Result<FetchAnswer, Problem> {
        let before = self.commit_in_force();
        let is_new = self.fetch(asked.is_some_and(|a| a.allow_rollback)).await;
        let refused = |message| Err(Problem::new(ProblemCode::NotApplied, message));
        if let Some(failure) = &self.status.failure {
            return refused(failure.message.clone());
        }
        if let Some(commit) = &self.status.refused {
            return refused(commit.message.clone());
        }
        let Some(wanted) = self.known.accepted.last().cloned() else {
            return refused("nothing was fetched".to_owned());
        };
        if is_new || asked.is_some() && before.as_deref() != Some(&wanted.id) {
            let (reply, answer) = oneshot::channel();
            let told = self.wiring.commands.send(Command::Refresh(reply)).await;
            if told.is_err() || answer.await.is_err() {
                let stopping = "the daemon is stopping";
                return Err(Problem::new(ProblemCode::Unavailable, stopping));
            }
        }
        self.note_in_force();
        if let Err(error) = self.checkout.keep_present() {
            warn!(%error, "cannot remove the trees of former commits");
        }
        let now = self.wiring.in_force.borrow().clone();
        if now.policy.commit.as_deref() == Some(&wanted.id) {
            return Ok(FetchAnswer {
                changed: before.as_deref() != Some(&wanted.id),
                commit: wanted,
                generation: now.generation,
            });
        }
        match &now.refused {
            Some(refused) => Err(refused.problem.clone()),
            None => refused(format!(
                "commit {} was accepted, and is not in force: `enforcer status` says why",
                short(&wanted.id)
            )),
        }
    }

    /// Fetches, judges, and checks out what is new, and says whether anything was. The outcome
    /// is in the status.
    async fn fetch(&mut self, allow_rollback: bool) -> bool {
        let allow_rollback = allow_rollback || self.settings.allow_rollback;
        let result = self.try_fetch(allow_rollback).await;
        let now = OffsetDateTime::now_utc();
        let is_new = matches!(result, Ok((_, Some(Ok(_)))));
        match result {
            Ok(judged) => self.judged(judged, now),
            Err(error) => self.failed(&error, now),
        }
        self.publish();
        is_new
    }

    async fn try_fetch(
        &mut self,
        allow_rollback: bool,
    ) -> Result<(String, Option<Result<Acceptable, CommitRefusal>>), FetchError> {
        let tip = self.mirror.fetch().await?;
        let now = OffsetDateTime::now_utc();
        self.wiring
            .stats
            .fetched(u64::try_from(now.unix_timestamp()).unwrap_or(0));
        self.known.seen = Some(rfc3339(now));
        self.status.seen.clone_from(&self.known.seen);
        if self.is_accepted(&tip) {
            return Ok((tip, None));
        }
        let base = self.known.in_force.clone();
        let measure = Measure {
            settings: &self.settings,
            base: base.as_deref(),
            allow_rollback,
            scratch: &self.root.join("signatures"),
        };
        let judged = judge::judge(&self.mirror, &tip, measure).await?;
        if let Ok(acceptable) = &judged {
            let path = &self.settings.remote.path;
            let root = self.checkout.link();
            self.checkout
                .replace(&tip, path, &acceptable.files)
                .map_err(|error| FetchError::io("write", &root, &error))?;
            self.mirror.keep(&tip).await?;
        }
        Ok((tip, Some(judged)))
    }

    /// Whether a commit is the accepted one, by what is demanded now.
    fn is_accepted(&self, tip: &str) -> bool {
        let newest = self.known.accepted.last();
        newest.is_some_and(|newest| {
            newest.id == tip && (self.settings.signers.is_empty() || newest.signer.is_some())
        }) && self.checkout.is(tip, &self.settings.remote.path)
    }

    fn judged(
        &mut self,
        (tip, judged): (String, Option<Result<Acceptable, CommitRefusal>>),
        now: OffsetDateTime,
    ) {
        if let Some(failure) = self.status.failure.take() {
            info!(since = failure.since, "the policy remote answers again");
        }
        self.retries = None;
        match judged {
            Some(Err(refusal)) => self.refuse(&tip, &refusal, now),
            Some(Ok(acceptable)) => {
                let commit = acceptable.commit;
                info!(
                    commit = commit.id,
                    reference = commit.reference,
                    author = commit.author,
                    signer = commit.signer.as_ref().map(|s| s.name.as_str()),
                    "a commit of the policy remote was accepted"
                );
                self.status.refused = None;
                self.known.path.clone_from(&self.settings.remote.path);
                self.known.accept(commit);
            }
            None => self.status.refused = None,
        }
        self.wiring.stats.is_refused(self.status.refused.is_some());
        self.save();
    }

    fn refuse(&mut self, tip: &str, refusal: &CommitRefusal, now: OffsetDateTime) {
        let known = self.status.refused.as_ref();
        if known.is_some_and(|k| k.id == tip && k.reason == refusal.reason) {
            return;
        }
        error!(
            commit = tip,
            reason = refusal.reason.name(),
            "not applied: {}",
            refusal.message
        );
        self.wiring.stats.refused(refusal.reason);
        self.status.refused = Some(RefusedCommit {
            id: tip.to_owned(),
            reason: refusal.reason,
            message: refusal.message.clone(),
            time: rfc3339(now),
        });
    }

    fn failed(&mut self, error: &FetchError, now: OffsetDateTime) {
        self.wiring.stats.failed(error.cause);
        let cause = error.cause.name();
        let before = self.status.failure.take();
        if before.as_ref().is_none_or(|b| b.cause != cause) {
            warn!(cause, "cannot fetch policy: {}", error.message);
        }
        self.status.failure = Some(FetchFailure {
            cause: cause.to_owned(),
            message: error.message.clone(),
            since: before
                .as_ref()
                .map_or_else(|| rfc3339(now), |b| b.since.clone()),
            times: before.map_or(1, |b| b.times + 1),
        });
    }

    /// Until the next fetch.
    fn pause(&mut self) -> Duration {
        let poll = self.settings.poll;
        let Some(failure) = &self.status.failure else {
            return around(poll);
        };
        // Without the program, what happens next is an operator's doing.
        let first = if failure.cause == FetchCause::Program.name() {
            FIRST_RETRY * 10
        } else {
            FIRST_RETRY
        };
        let retries = self.retries.get_or_insert_with(|| {
            ExponentialBuilder::new()
                .with_min_delay(first)
                .with_factor(2.0)
                .with_max_delay(LONGEST_RETRY.max(poll))
                .without_max_times()
                .with_jitter()
                .build()
        });
        retries.next().unwrap_or(LONGEST_RETRY)
    }

    /// The commit in force, if it is one of the remote.
    fn commit_in_force(&self) -> Option<String> {
        let now = self.wiring.in_force.borrow();
        now.followed_commit().map(str::to_owned)
    }

    /// Follows what the policy loop has put in force.
    fn note_in_force(&mut self) {
        let id = self.commit_in_force();
        let commit: Option<AcceptedCommit> = id.and_then(|id| self.known.find(&id).cloned());
        self.wiring.stats.in_force(commit.clone());
        if let Some(commit) = commit
            && self.known.in_force.as_ref() != Some(&commit.id)
        {
            self.known.in_force = Some(commit.id);
            self.save();
        }
    }

    fn save(&self) {
        if let Err(error) = self.known.save(&self.root) {
            error!(%error, "what is known of the policy remote cannot be kept");
        }
    }

    fn publish(&self) {
        self.wiring.published.send_replace(GitStatus {
            accepted: self.known.accepted.clone(),
            ..self.status.clone()
        });
    }
}

/// A tenth more or less, so that many nodes do not ask at once.
fn around(pause: Duration) -> Duration {
    // Seeded by the system.
    let random = RandomState::new().build_hasher().finish();
    #[expect(clippy::cast_precision_loss, reason = "any number near it is as good")]
    let share = random as f64 / u64::MAX as f64;
    pause.mul_f64(0.9 + 0.2 * share)
}

/// Seconds of the Unix epoch of a moment in RFC 3339.
fn seconds(moment: &str) -> Option<u64> {
    let format = &time::format_description::well_known::Rfc3339;
    let moment = OffsetDateTime::parse(moment, format).ok()?;
    u64::try_from(moment.unix_timestamp()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polls_are_spread() {
        let pause = Duration::from_secs(100);
        let pauses: Vec<_> = (0..50).map(|_| around(pause)).collect();
        let bounds = Duration::from_secs(90)..=Duration::from_secs(110);
        assert!(
            pauses.iter().all(|pause| bounds.contains(pause)),
            "{pauses:?}"
        );
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
    }

    #[test]
    fn moments_are_read_back() {
        assert_eq!(seconds("1970-01-01T00:01:40.000000Z"), Some(100));
        assert_eq!(seconds("yesterday"), None);
    }
}
