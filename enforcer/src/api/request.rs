//! Bodies of requests and their answers.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{api::status::TrialStatus, policy::model::Mode};

/// `POST /v1/apply`: read the policy tree now, and what else is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplyRequest {
    /// The node's mode from now on, over flag and `Node` document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Give up the operator's choice of mode: flag and `Node` document decide again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forget_mode: bool,
    /// Roll back after so many milliseconds unless confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial_milliseconds: Option<u64>,
    /// Another tree than the daemon's own, as an absolute path: it stays in force until the
    /// daemon's own tree changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree: Option<PathBuf>,
}

/// Answer to [`ApplyRequest`]: it is in force in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyAnswer {
    /// Whether anything in the kernel changed.
    pub changed: bool,
    /// Policy generation in force.
    pub generation: u32,
    /// Digest of the tree in force.
    pub digest: String,
    /// The mode in force.
    pub mode: Mode,
    /// The trial that now runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<TrialStatus>,
}

/// Answer to `POST /v1/confirm`: the trial is over, what it tried stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfirmAnswer {
    /// Policy generation in force.
    pub generation: u32,
    /// Digest of the tree in force.
    pub digest: String,
    /// The mode in force.
    pub mode: Mode,
}

/// `GET /v1/wait`: answered when everything that is asked for holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaitRequest {
    /// The tree with this digest, or one that starts so (at least 8 digits), is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// This generation or a later one is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
    /// For at most so long (the daemon's limit is ten minutes).
    pub timeout_milliseconds: u64,
}

impl WaitRequest {
    /// Path and query of the request. A digest is hexadecimal, so nothing needs escaping; a
    /// character that is no digit becomes `_`, which the daemon refuses.
    pub fn to_path(&self) -> String {
        use std::fmt::Write as _;
        let mut path = format!(
            "/v1/wait?timeout_milliseconds={}",
            self.timeout_milliseconds
        );
        if let Some(digest) = &self.digest {
            let escaped: String = digest
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
                .collect();
            let _ = write!(path, "&digest={escaped}");
        }
        if let Some(generation) = self.generation {
            let _ = write!(path, "&generation={generation}");
        }
        path
    }
}

/// Answer to [`WaitRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitAnswer {
    /// Policy generation in force.
    pub generation: u32,
    /// Digest of the tree in force.
    pub digest: String,
}
