//! The control socket: HTTP with JSON over a unix socket.
//!
//! | request | access | body and answer |
//! |---|---|---|
//! | `GET /v1/status` | read | [`status::Status`] |
//! | `GET /v1/endpoints` | read | list of [`status::EndpointStatus`] |
//! | `GET /v1/nodes` | read | [`crate::registry::status::FleetStatus`], or nothing on one host |
//! | `GET /v1/flows` | read | stream of [`crate::observe::record::FlowRecord`], one a line |
//! | `GET /v1/identity` | read | [`identity::IdentityStatus`] |
//! | `GET /v1/identity/events` | read | list of [`crate::identity::attest::journal::SecurityEvent`] |
//! | `POST /v1/explain` | read | [`question::FlowQuestion`] → what was considered and what decided |
//! | `GET /v1/tree` | read | stream of [`tree::TreeLine`], one a line: the tree in force, then its files |
//! | `GET /v1/wait` | read | [`request::WaitRequest`] as query → [`request::WaitAnswer`] |
//! | `POST /v1/apply` | full | [`request::ApplyRequest`] → [`request::ApplyAnswer`] |
//! | `POST /v1/confirm` | full | → [`request::ConfirmAnswer`] |
//! | `POST /v1/fetch` | full | [`git::FetchRequest`] → [`git::FetchAnswer`] |
//!
//! Whatever cannot be answered is a [`problem::Problem`].

pub mod access;
mod admission;
pub mod client;
pub mod git;
pub mod identity;
pub mod problem;
pub mod question;
pub mod request;
pub mod routes;
pub mod server;
pub mod status;
pub mod tree;
mod waiting;

/// Where the control socket is unless a flag says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/enforcer/enforcer.sock";
