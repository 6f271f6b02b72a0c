//! Why a request was not answered.

use std::fmt;

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

/// Body of every answer with a status of 400 or above.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// What kind.
    pub code: ProblemCode,
    /// What happened and what to do.
    pub message: String,
    /// Every error of the policy tree, where that is the reason: objects with `code`, `file`,
    /// `line`, `column`, `message`, `help` and `snippet`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub diagnostics: Vec<serde_json::Value>,
}

/// Kinds of problems. Names are part of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemCode {
    /// The request is malformed.
    BadRequest,
    /// The caller may not do this.
    Forbidden,
    /// No such request.
    NotFound,
    /// The policy tree cannot be read or has errors; the old policy stays.
    BadPolicy,
    /// The policy cannot be compiled or does not fit into the kernel; the old one stays.
    NotApplied,
    /// There is no trial to confirm.
    NoTrial,
    /// It did not come about in time.
    Timeout,
    /// The daemon is stopping or not far enough.
    Unavailable,
    /// Something that should not happen.
    Internal,
}

impl ProblemCode {
    /// The HTTP status that goes with it.
    pub const fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::NoTrial => 409,
            Self::BadPolicy | Self::NotApplied => 422,
            Self::Timeout => 408,
            Self::Internal => 500,
            Self::Unavailable => 503,
        }
    }
}

impl Problem {
    /// Without diagnostics.
    pub fn new(code: ProblemCode, message: impl fmt::Display) -> Self {
        Self {
            code,
            message: message.to_string(),
            diagnostics: Vec::new(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self)).into_response()
    }
}
