//! Metrics of a git source.

use std::{
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet},
};

use super::kernel::{counter, counters, gauge};
use crate::git::{
    judge::RefusalReason, known::AcceptedCommit, program::FetchCause, webhook::HookOutcome,
};

/// Counts since the start of the daemon, and how things are now.
#[derive(Debug, Default)]
pub struct GitStats {
    fetches: AtomicU64,
    failures: [AtomicU64; FetchCause::ALL.len()],
    refused: [AtomicU64; RefusalReason::ALL.len()],
    hooks: [AtomicU64; HookOutcome::ALL.len()],
    /// Seconds of the Unix epoch; 0: never.
    seen: AtomicU64,
    is_refused: AtomicU64,
    commit: Mutex<Option<AcceptedCommit>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CommitLabels {
    commit: String,
    reference: String,
    signer: String,
}

fn add<T: PartialEq>(counts: &[AtomicU64], all: &[T], one: &T) {
    let place = all.iter().position(|other| other == one);
    if let Some(count) = place.and_then(|place| counts.get(place)) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

impl GitStats {
    /// The remote answered, at so many seconds of the Unix epoch.
    pub fn fetched(&self, now: u64) {
        self.fetches.fetch_add(1, Ordering::Relaxed);
        self.seen(now);
    }

    /// When the remote was seen last, as far as is known from a former run.
    pub fn seen(&self, then: u64) {
        self.seen.store(then, Ordering::Relaxed);
    }

    /// A fetch failed.
    pub fn failed(&self, cause: FetchCause) {
        add(&self.failures, &FetchCause::ALL, &cause);
    }

    /// A commit was refused.
    pub fn refused(&self, reason: RefusalReason) {
        add(&self.refused, &RefusalReason::ALL, &reason);
    }

    /// Whether the remote's commit is kept out of force now.
    pub fn is_refused(&self, refused: bool) {
        self.is_refused.store(refused.into(), Ordering::Relaxed);
    }

    /// What came of a web hook.
    pub fn hook(&self, outcome: HookOutcome) {
        add(&self.hooks, &HookOutcome::ALL, &outcome);
    }

    /// The commit in force, if it came from the remote.
    pub fn in_force(&self, commit: Option<AcceptedCommit>) {
        *self.commit.lock().unwrap_or_else(PoisonError::into_inner) = commit;
    }
}

/// For a registry.
#[derive(Debug)]
pub struct GitCollector(pub std::sync::Arc<GitStats>);

impl Collector for GitCollector {
    fn encode(&self, encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        self.0.encode(encoder)
    }
}

impl GitStats {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        counter(
            &mut encoder,
            "git_fetches",
            "Fetches from the policy remote that it answered",
        )?
        .encode_counter::<NoLabelSet, _, u64>(&read(&self.fetches), None)?;
        let failures = (
            "git_fetch_failures",
            "Fetches from the policy remote that failed, by cause",
        );
        let causes = FetchCause::ALL.into_iter().map(FetchCause::name);
        let counts = self.failures.iter().map(read);
        counters(&mut encoder, failures, "cause", causes.zip(counts))?;
        gauge(
            &mut encoder,
            "git_last_fetch_timestamp_seconds",
            "When the policy remote last answered; 0: never",
        )?
        .encode_gauge(&read(&self.seen))?;
        let refused = (
            "git_commits_refused",
            "Commits of the policy remote that were not applied, by reason",
        );
        let reasons = RefusalReason::ALL.into_iter().map(RefusalReason::name);
        let counts = self.refused.iter().map(read);
        counters(&mut encoder, refused, "reason", reasons.zip(counts))?;
        gauge(
            &mut encoder,
            "git_commit_refused",
            "1 if the commit that the policy remote has now is not applied",
        )?
        .encode_gauge(&read(&self.is_refused))?;
        let hooks = (
            "git_webhooks",
            "Requests at the web hook, by what came of them",
        );
        let outcomes = HookOutcome::ALL.into_iter().map(HookOutcome::name);
        let counts = self.hooks.iter().map(read);
        counters(&mut encoder, hooks, "outcome", outcomes.zip(counts))?;
        let commit = self.commit.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(commit) = commit.clone() {
            let labels = CommitLabels {
                commit: commit.id,
                reference: commit.reference,
                signer: commit.signer.map(|s| s.name).unwrap_or_default(),
            };
            gauge(
                &mut encoder,
                "git_commit_info",
                "The commit of the policy remote in force; always 1",
            )?
            .encode_family(&labels)?
            .encode_gauge(&1_u64)?;
        }
        Ok(())
    }
}
