//! Who gets in at the control socket, and how much a caller may send.

use std::time::Duration;

use axum::{
    extract::{FromRequest, Request},
    response::{IntoResponse, Response},
};
use http_body_util::{BodyExt, Limited};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::{
    access::Access,
    problem::{Problem, ProblemCode},
    server::Caller,
};

/// Largest request body.
pub(super) const LARGEST_BODY: usize = 64 << 10;
/// How long a caller may take for a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Nobody without access gets any further.
pub(super) async fn admit(request: Request, next: axum::middleware::Next) -> Response {
    match request.extensions().get::<Caller>() {
        Some(Caller(Some(_))) => next.run(request).await,
        _ => Problem::new(
            ProblemCode::Forbidden,
            "only root may use this socket (and the group that `run --socket-group` names)",
        )
        .into_response(),
    }
}

/// Refuses who may only read.
pub(super) fn demand_full(caller: Caller) -> Result<(), Problem> {
    if caller.0 == Some(Access::Full) {
        Ok(())
    } else {
        Err(Problem::new(
            ProblemCode::Forbidden,
            "only root may change anything (and the group, with `run --socket-access full`)",
        ))
    }
}

/// A JSON body, bounded in size and time.
pub(super) struct Body64K<T>(pub T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Body64K<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let bad = |reason: &dyn std::fmt::Display| {
            Problem::new(
                ProblemCode::BadRequest,
                format!("bad request body: {reason}"),
            )
        };
        let body = Limited::new(request.into_body(), LARGEST_BODY);
        let bytes = timeout(BODY_TIMEOUT, body.collect())
            .await
            .map_err(|_| bad(&"it does not come"))?
            .map_err(|e| bad(&e))?
            .to_bytes();
        serde_json::from_slice(&bytes)
            .map(Self)
            .map_err(|e| bad(&e))
    }
}
