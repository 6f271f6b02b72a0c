//! What the daemon says of its git source.

use serde::{Deserialize, Serialize};

use crate::git::{judge::RefusalReason, known::AcceptedCommit};

/// The git source, in `GET /v1/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitStatus {
    /// As it was given: `git+https://HOST/REPOSITORY#BRANCH:PATH`.
    pub remote: String,
    /// Whether signatures are demanded.
    pub signatures_required: bool,
    /// The commit in force, where it came from this remote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<AcceptedCommit>,
    /// When the remote last answered: RFC 3339, UTC. Kept across restarts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<String>,
    /// Why it does not, now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FetchFailure>,
    /// The commit that the remote has and that is not applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<RefusedCommit>,
    /// The latest commits that were accepted, of which one is in force; not shown.
    #[serde(skip)]
    pub accepted: Vec<AcceptedCommit>,
}

/// The remote cannot be fetched from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchFailure {
    /// Name of a [`crate::git::program::FetchCause`].
    pub cause: String,
    /// What happened and what to do.
    pub message: String,
    /// Since when every fetch failed: RFC 3339, UTC.
    pub since: String,
    /// How many did since.
    pub times: u64,
}

/// A commit that may not take effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedCommit {
    /// Its id.
    pub id: String,
    /// What kind.
    pub reason: RefusalReason,
    /// What is wrong and what to do.
    pub message: String,
    /// When that was found: RFC 3339, UTC.
    pub time: String,
}

impl GitStatus {
    /// With what is known of the commit in force.
    #[must_use]
    pub fn with_commit(mut self, id: Option<&str>) -> Self {
        let found = self.accepted.iter().find(|commit| Some(&*commit.id) == id);
        self.commit = found.cloned();
        self
    }

    /// What is wrong, one sentence each.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(failure) = &self.failure {
            let seen = match &self.seen {
                Some(seen) => format!("has not been seen since {seen}"),
                None => "was never seen".to_owned(),
            };
            problems.push(format!("the policy remote {seen}: {}", failure.message));
        }
        if let Some(refused) = &self.refused {
            problems.push(format!("not applied: {}", refused.message));
        }
        problems
    }
}

/// `POST /v1/fetch`: fetch from the git source now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FetchRequest {
    /// This once, the commit need not follow the one in force.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_rollback: bool,
}

/// Answer to [`FetchRequest`]: the remote was fetched from, and its commit is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchAnswer {
    /// The remote's commit, which is in force.
    pub commit: AcceptedCommit,
    /// Whether it was not before.
    pub changed: bool,
    /// Policy generation in force.
    pub generation: u32,
}
