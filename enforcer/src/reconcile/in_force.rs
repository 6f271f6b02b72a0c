//! What is in force, published for everybody who shows or explains it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use time::OffsetDateTime;

use crate::{
    api::status::{
        EndpointStatus, Health, ModeSource, ModeStatus, PolicyLine, PolicySource, PolicyStatus,
        Refused, TrialStatus,
    },
    compile::{Image, elsewhere::Elsewhere, image::WorkloadName},
    inventory::Snapshot,
    observe::{clock::rfc3339, commits::Commits},
    policy::model::{Mode, Moment, ResolvedPolicy},
};

/// A consistent picture, replaced as a whole.
#[derive(Clone, Debug)]
pub struct InForce {
    /// Whether the kernel holds a policy that this daemon or a former one put there.
    pub ready: bool,
    /// Policy generation.
    pub generation: u32,
    /// The policy.
    pub policy: Arc<ResolvedPolicy>,
    /// The git commits of this policy and of those before it.
    pub commits: Commits,
    /// Where it came from.
    pub from: PolicySource,
    /// When it was put in force: RFC 3339, UTC.
    pub since: Option<String>,
    /// The moment for which the policy was compiled.
    pub as_of: Moment,
    /// Who runs on other hosts, as their daemons say.
    pub elsewhere: Arc<Elsewhere>,
    /// The policy, compiled.
    pub image: Arc<Image>,
    /// The workloads that the image takes for attested by their addresses.
    pub attested: Arc<BTreeSet<WorkloadName>>,
    /// The node's mode.
    pub mode: ModeStatus,
    /// Endpoints, the host's included.
    pub endpoints: Arc<[EndpointStatus]>,
    /// The host as it was.
    pub snapshot: Arc<Snapshot>,
    /// Digest of the watched tree's content, if that is held back.
    pub held: Option<String>,
    /// The trial that runs.
    pub trial: Option<Trial>,
    /// Why the tree on disk is not the one in force.
    pub refused: Option<Refused>,
    /// What is wrong.
    pub health: Health,
    /// What was done so far.
    pub activity: Activity,
}

/// A trial that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// Milliseconds of the Unix epoch.
    pub deadline: u64,
    /// Digest of the tree that it goes back to; empty for none.
    pub rollback_digest: String,
    /// The operator's choice of mode that it goes back to.
    pub rollback_mode: Option<Mode>,
}

impl Trial {
    /// As it is shown at `now` (milliseconds of the Unix epoch).
    pub fn status(&self, now: u64) -> TrialStatus {
        let nanoseconds = i128::from(self.deadline) * 1_000_000;
        let deadline = OffsetDateTime::from_unix_timestamp_nanos(nanoseconds)
            .unwrap_or(OffsetDateTime::UNIX_EPOCH);
        TrialStatus {
            deadline: rfc3339(deadline),
            remaining_milliseconds: self.deadline.saturating_sub(now),
            rollback_digest: self.rollback_digest.clone(),
            rollback_mode: self.rollback_mode,
        }
    }
}

/// Counts since the daemon's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// States that the kernel took.
    pub applied: u64,
    /// States that could not be compiled or that the kernel did not take.
    pub failed: u64,
    /// Trees with errors.
    pub bad_trees: u64,
    /// Trials that were rolled back.
    pub rolled_back: u64,
    /// How long the last change took, from the beginning of its compilation until it was in
    /// force.
    pub last_apply: Duration,
}

impl InForce {
    /// Before anything was done.
    pub fn nothing() -> Self {
        Self {
            ready: false,
            generation: 0,
            policy: Arc::default(),
            commits: Commits::default(),
            from: PolicySource::None,
            since: None,
            as_of: Moment::default(),
            elsewhere: Arc::default(),
            image: Arc::default(),
            attested: Arc::default(),
            mode: ModeStatus {
                effective: Mode::Audit,
                from: ModeSource::Default,
                origin: None,
            },
            endpoints: Arc::new([]),
            snapshot: Arc::default(),
            held: None,
            trial: None,
            refused: None,
            health: Health {
                ok: false,
                reasons: vec!["no policy is in force yet".to_owned()],
            },
            activity: Activity::default(),
        }
    }

    /// The git commit in force, where it is what the daemon itself follows.
    pub fn followed_commit(&self) -> Option<&str> {
        let followed = matches!(self.from, PolicySource::Tree | PolicySource::LastGood);
        self.policy
            .commit
            .as_deref()
            .filter(|_| followed && self.ready)
    }

    /// The policy, for `status`.
    pub fn policy_status(&self, tree: &std::path::Path) -> PolicyStatus {
        let lines = self.policy.policies.iter().map(|policy| PolicyLine {
            tier: policy.tier,
            namespace: policy.namespace.clone(),
            name: policy.name.clone(),
            mode: policy.mode,
            rules: policy.rules.iter().flatten().map(Vec::len).sum(),
            origin: policy.origin.clone(),
        });
        PolicyStatus {
            tree: tree.to_owned(),
            from: self.from,
            digest: self.policy.digest.clone(),
            commit: self.policy.commit.as_deref().map(str::to_owned),
            generation: self.generation,
            since: self.since.clone(),
            workloads: self.policy.workloads.len(),
            policies: lines.collect(),
            held: self.held.clone(),
            moments: self.image.moments.iter().map(ToString::to_string).collect(),
            moments_beyond: self.image.moments_beyond,
        }
    }
}
