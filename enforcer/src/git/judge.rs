//! Whether a commit may take effect.

use std::path::Path;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    commit_object::CommitObject,
    known::AcceptedCommit,
    mirror::{FetchError, Mirror, TreeError},
    program::FetchCause,
    settings::{GitSettings, SignedCommits},
    signature::{SignatureRefusal, Signer, Verifier, VerifierError},
    signers::{Signers, SignersError},
};
use crate::{cause::chain, observe::clock::rfc3339};

/// Commits that may come at once where each must be signed.
const MOST_COMMITS: usize = 2_000;

/// A commit that may take effect.
#[derive(Debug)]
pub struct Acceptable {
    /// Who and what it is.
    pub commit: AcceptedCommit,
    /// Its policy files.
    pub files: Vec<(String, String)>,
}

/// A commit that may not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitRefusal {
    /// What kind.
    pub reason: RefusalReason,
    /// What is wrong and what to do.
    pub message: String,
}

/// Why a commit may not take effect. Names are part of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalReason {
    /// It does not follow the one in force.
    Rollback,
    /// It, or one below it, is not signed.
    Unsigned,
    /// A signature is bad.
    BadSignature,
    /// A signer is not among the allowed ones.
    UnknownSigner,
    /// A signer's key is not valid now, or not for commits.
    InvalidSigner,
    /// So many commits come at once that their signatures cannot all be verified.
    TooManyCommits,
    /// Its tree cannot be read.
    Tree,
}

impl RefusalReason {
    /// Every reason.
    pub const ALL: [Self; 7] = [
        Self::Rollback,
        Self::Unsigned,
        Self::BadSignature,
        Self::UnknownSigner,
        Self::InvalidSigner,
        Self::TooManyCommits,
        Self::Tree,
    ];

    /// In metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rollback => "rollback",
            Self::Unsigned => "unsigned",
            Self::BadSignature => "bad-signature",
            Self::UnknownSigner => "unknown-signer",
            Self::InvalidSigner => "invalid-signer",
            Self::TooManyCommits => "too-many-commits",
            Self::Tree => "tree",
        }
    }
}

impl From<&SignatureRefusal> for RefusalReason {
    fn from(refusal: &SignatureRefusal) -> Self {
        match refusal {
            SignatureRefusal::Unsigned => Self::Unsigned,
            SignatureRefusal::Bad(_) | SignatureRefusal::Unsupported(_) => Self::BadSignature,
            SignatureRefusal::Unknown(_) => Self::UnknownSigner,
            SignatureRefusal::NotValidNow(_) | SignatureRefusal::NotForGit => Self::InvalidSigner,
        }
    }
}

impl From<SignersError> for FetchError {
    fn from(error: SignersError) -> Self {
        Self::new(FetchCause::Program, chain(&error))
    }
}

impl From<VerifierError> for FetchError {
    fn from(error: VerifierError) -> Self {
        Self::new(FetchCause::Program, chain(&error))
    }
}

/// What a commit is held against.
#[derive(Clone, Copy, Debug)]
pub struct Measure<'a> {
    /// The settings.
    pub settings: &'a GitSettings,
    /// The commit in force, if it came from this remote.
    pub base: Option<&'a str>,
    /// The commit need not follow the one in force.
    pub allow_rollback: bool,
    /// Directory for the verification of signatures.
    pub scratch: &'a Path,
}

/// Judges the commit `tip` of the mirror. `Ok(Err(…))`: it may not take effect; `Err`: nobody
/// can say.
pub async fn judge(
    mirror: &Mirror,
    tip: &str,
    measure: Measure<'_>,
) -> Result<Result<Acceptable, CommitRefusal>, FetchError> {
    let refuse = |reason, message| Ok(Err(CommitRefusal { reason, message }));
    let base = match measure.base {
        Some(base) if mirror.has(base).await? => Some(base),
        // It was in the history of the remote, and is not any more.
        Some(base) if !measure.allow_rollback => {
            return refuse(RefusalReason::Rollback, unrelated(tip, base));
        }
        _ => None,
    };
    if let Some(base) = base
        && !measure.allow_rollback
        && !mirror.is_ancestor(base, tip).await?
    {
        let message = if mirror.is_ancestor(tip, base).await? {
            format!(
                "commit {} is older than {}, which is in force: to go back, revert in git, or \
                 run `enforcer fetch --allow-rollback`",
                short(tip),
                short(base)
            )
        } else {
            unrelated(tip, base)
        };
        return refuse(RefusalReason::Rollback, message);
    }
    let signer = if measure.settings.signers.is_empty() {
        None
    } else {
        match signer_of(mirror, tip, base, measure).await? {
            Ok(signer) => Some(signer),
            Err(refusal) => return Ok(Err(refusal)),
        }
    };
    let object = match CommitObject::parse(&mirror.commit(tip).await?) {
        Ok(object) => object,
        Err(error) => return refuse(RefusalReason::Tree, error.to_string()),
    };
    let files = match mirror.files(tip).await {
        Ok(files) => files,
        Err(TreeError::Git(error)) => return Err(error),
        Err(error) => {
            let message = format!("commit {} has no policy tree: {error}", short(tip));
            return refuse(RefusalReason::Tree, message);
        }
    };
    Ok(Ok(Acceptable {
        commit: AcceptedCommit {
            id: tip.to_owned(),
            reference: measure.settings.remote.reference.to_string(),
            author: object.author,
            time: rfc3339(object.time),
            accepted: rfc3339(OffsetDateTime::now_utc()),
            signer,
        },
        files,
    }))
}

fn unrelated(tip: &str, base: &str) -> String {
    format!(
        "commit {} does not follow {}, which is in force (the branch was rewritten): if that is \
         meant, run `enforcer fetch --allow-rollback`",
        short(tip),
        short(base)
    )
}

/// Verifies the signatures that are demanded, and says who signed the tip. Files of signers are
/// read anew for every commit, so that a change of them needs no restart.
async fn signer_of(
    mirror: &Mirror,
    tip: &str,
    base: Option<&str>,
    measure: Measure<'_>,
) -> Result<Result<Signer, CommitRefusal>, FetchError> {
    let signers = Signers::load(&measure.settings.signers)?;
    let verifier = Verifier::new(measure.scratch, &signers).await?;
    // The first commit of all is where trust begins: its signer answers for what is below.
    let mut commits = match (measure.settings.signed, base) {
        (SignedCommits::Every, Some(base)) => mirror.between(base, tip, MOST_COMMITS).await?,
        _ => Vec::new(),
    };
    if commits.len() > MOST_COMMITS {
        return Ok(Err(CommitRefusal {
            reason: RefusalReason::TooManyCommits,
            message: format!(
                "commit {} brings more than {MOST_COMMITS} commits at once, each of which would \
                 have to be signed: use --signed-commits tip for it",
                short(tip)
            ),
        }));
    }
    // Also where it is older than the base. Last, so that it is the one whose signer is told.
    commits.retain(|id| id != tip);
    commits.push(tip.to_owned());
    let mut last = None;
    for id in &commits {
        let refuse = |reason, what: &str| {
            let below = if id == tip {
                String::new()
            } else {
                format!(", which came with {},", short(tip))
            };
            Ok(Err(CommitRefusal {
                reason,
                message: format!("commit {}{below} is not accepted: {what}", short(id)),
            }))
        };
        let object = match CommitObject::parse(&mirror.commit(id).await?) {
            Ok(object) => object,
            Err(error) => return refuse(RefusalReason::BadSignature, &error.to_string()),
        };
        let asked = verifier.verify(&object.payload, object.signature.as_ref());
        match asked.await? {
            Ok(signer) => last = Some(signer),
            Err(refusal) => return refuse((&refusal).into(), &refusal.to_string()),
        }
    }
    last.map(Ok).ok_or_else(|| {
        FetchError::new(FetchCause::Other, "no commit was verified, which cannot be")
    })
}

/// As much of an id as people need.
pub fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}
