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
    /// Done, but the daemon's own tree is not what is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
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
    /// The tree of this git commit, or of one that starts so (at least 7 digits), is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// This generation or a later one is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
    /// For at most so long (the daemon's limit is ten minutes).
    pub timeout_milliseconds: u64,
}

impl WaitRequest {
    /// Path and query of the request. Digest and commit are hexadecimal, so nothing needs
    /// escaping; a character that is no digit becomes `_`, which the daemon refuses.
    pub fn to_path(&self) -> String {
        use std::fmt::Write as _;
        let mut path = format!(
            "/v1/wait?timeout_milliseconds={}",
            self.timeout_milliseconds
        );
        for (name, value) in [("digest", &self.digest), ("commit", &self.commit)] {
            let Some(value) = value else {
                continue;
            };
            let escaped: String = value
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
                .collect();
            let _ = write!(path, "&{name}={escaped}");
        }
        if let Some(generation) = self.generation {
            let _ = write!(path, "&generation={generation}");
        }
        path
    }
}

impl WaitRequest {
    /// The other way round, from the query alone.
    pub fn from_query(query: &str) -> Result<Self, String> {
        let mut request = Self::default();
        let mut has_timeout = false;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let number = |value: &str| {
                value
                    .parse()
                    .map_err(|_| format!("`{name}={value}` is no number"))
            };
            match name {
                "digest" => request.digest = Some(value.to_owned()),
                "commit" => request.commit = Some(value.to_owned()),
                "generation" => {
                    let generation = u32::try_from(number(value)?)
                        .map_err(|_| format!("`{name}={value}` is too large"))?;
                    request.generation = Some(generation);
                }
                "timeout_milliseconds" => {
                    request.timeout_milliseconds = number(value)?;
                    has_timeout = true;
                }
                _ => {
                    return Err(format!(
                        "`{name}` is unknown: there are digest, commit, generation and \
                         timeout_milliseconds"
                    ));
                }
            }
        }
        if has_timeout {
            Ok(request)
        } else {
            Err("timeout_milliseconds is missing".to_owned())
        }
    }
}

/// Answer to [`WaitRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitAnswer {
    /// Policy generation in force.
    pub generation: u32,
    /// Digest of the tree in force.
    pub digest: String,
    /// Git commit of the tree in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_survives_its_way() {
        let hex = || Some("0123abcd".to_owned());
        for (digest, commit, generation) in [(None, None, None), (hex(), hex(), Some(7))] {
            let request = WaitRequest {
                digest,
                commit,
                generation,
                timeout_milliseconds: 30_000,
            };
            let path = request.to_path();
            let query = path.strip_prefix("/v1/wait?").unwrap();
            assert_eq!(WaitRequest::from_query(query), Ok(request));
        }
    }

    #[test]
    fn a_bad_wait_is_refused() {
        for query in [
            "",
            "timeout_milliseconds=x",
            "timeout_milliseconds=1&generation=4294967296",
            "timeout_milliseconds=1&what=1",
        ] {
            assert!(WaitRequest::from_query(query).is_err(), "{query}");
        }
    }
}
