//! `GET /v1/wait`: until a policy is in force in the kernel.

use std::time::Duration;

use axum::{
    Json,
    extract::{RawQuery, State},
};
use tokio::time::timeout;

use super::{
    problem::{Problem, ProblemCode},
    request::{WaitAnswer, WaitRequest},
    routes::{Answer, Sources},
};
use crate::reconcile::in_force::InForce;

/// Longest wait.
const LONGEST_WAIT: Duration = Duration::from_mins(10);
/// Fewest digits of a digest: fewer would be met by accident.
const FEWEST_DIGITS: usize = 8;
/// Fewest digits of a commit: as many as git itself shows.
const FEWEST_COMMIT_DIGITS: usize = 7;

/// Answers when what is asked for is in force, or the time is over.
pub(super) async fn wait(
    State(sources): State<Sources>,
    RawQuery(query): RawQuery,
) -> Answer<WaitAnswer> {
    let request = WaitRequest::from_query(query.as_deref().unwrap_or_default())
        .map_err(|e| Problem::new(ProblemCode::BadRequest, e))?;
    for (what, value, fewest) in [
        ("digest", &request.digest, FEWEST_DIGITS),
        ("commit", &request.commit, FEWEST_COMMIT_DIGITS),
    ] {
        let is_bad =
            |text: &String| text.len() < fewest || !text.bytes().all(|b| b.is_ascii_hexdigit());
        if value.as_ref().is_some_and(is_bad) {
            return Err(Problem::new(
                ProblemCode::BadRequest,
                format!("a {what} has hexadecimal digits, at least {fewest}"),
            ));
        }
    }
    let limit = Duration::from_millis(request.timeout_milliseconds).min(LONGEST_WAIT);
    let mut in_force = sources.in_force.clone();
    let found = timeout(limit, in_force.wait_for(|now| answers(now, &request))).await;
    let answer = match found {
        Ok(Ok(now)) => WaitAnswer {
            generation: now.generation,
            digest: now.policy.digest.clone(),
            commit: now.policy.commit.as_deref().map(str::to_owned),
        },
        Ok(Err(_)) => {
            return Err(Problem::new(
                ProblemCode::Unavailable,
                "the daemon is stopping",
            ));
        }
        Err(_) => {
            let now = sources.in_force.borrow().clone();
            return Err(Problem {
                diagnostics: Vec::new(),
                ..not_in_time(&now)
            });
        }
    };
    Ok(Json(answer))
}

fn answers(now: &InForce, request: &WaitRequest) -> bool {
    let begins = |text: &str, wanted: &Option<String>| {
        let wanted = wanted.as_ref().map(|wanted| wanted.to_ascii_lowercase());
        wanted.is_none_or(|wanted| text.starts_with(&wanted))
    };
    now.ready
        && begins(&now.policy.digest, &request.digest)
        && begins(
            now.policy.commit.as_deref().unwrap_or_default(),
            &request.commit,
        )
        && request.generation.is_none_or(|g| now.generation >= g)
}

fn not_in_time(now: &InForce) -> Problem {
    let digest = now.policy.digest.get(..12).unwrap_or("none");
    let mut message = format!(
        "not in time: in force is policy {digest}, generation {}",
        now.generation
    );
    if let Some(commit) = &now.policy.commit {
        message = format!("{message}, commit {commit}");
    }
    if let Some(refused) = &now.refused {
        message = format!("{message}; {}", refused.problem.message);
    }
    Problem::new(ProblemCode::Timeout, message)
}
