//! `GET /v1/tree`: the policy tree in force, from the copy that the daemon keeps of it.

use std::{convert::Infallible, net::IpAddr};

use axum::{
    body::Body,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use futures::stream;
use serde::{Deserialize, Serialize};

use super::{
    client::{Client, ClientError},
    problem::{Problem, ProblemCode},
    routes::{Sources, to_line},
};
use crate::{
    policy::{self, Loader, PolicyErrors, model::ResolvedPolicy},
    state::tree_copy::path_of_copy,
};

/// A line of the answer: the tree first, then each of its files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TreeLine {
    /// What is in force.
    Tree(TreeSummary),
    /// A file of it.
    File(TreeFile),
}

/// What is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeSummary {
    /// Digest of the tree.
    pub digest: String,
    /// Its git commit, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Policy generation.
    pub generation: u32,
    /// How many files follow.
    pub files: usize,
    /// Addresses of the host.
    pub host_addresses: Vec<IpAddr>,
}

/// A file of a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeFile {
    /// Path below the root of the tree.
    pub name: String,
    /// Its content.
    pub text: String,
}

/// The tree in force, as a caller has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TreeInForce {
    /// What it is.
    pub summary: TreeSummary,
    /// Names and contents.
    pub files: Vec<(String, String)>,
}

impl TreeInForce {
    /// What it means.
    ///
    /// # Errors
    /// Where this version does not understand what the daemon's does.
    pub fn policy(&self) -> Result<ResolvedPolicy, PolicyErrors> {
        let commit = self.summary.commit.as_deref();
        policy::load_files("the policy in force", self.files.clone(), commit)
    }
}

/// Answers with the tree in force.
pub(super) async fn serve(State(sources): State<Sources>) -> Result<Response, Problem> {
    let unavailable = |message: &str| Problem::new(ProblemCode::Unavailable, message);
    let now = sources.in_force.borrow().clone();
    let digest = now.policy.digest.clone();
    if digest.is_empty() {
        return Err(unavailable("no policy tree is in force yet"));
    }
    let copy = path_of_copy(&sources.settings.state_dir, &digest);
    let read = tokio::task::spawn_blocking(move || Loader::default().load(&copy));
    let read = read
        .await
        .map_err(|error| Problem::new(ProblemCode::Internal, error))?;
    // Copies go away when another tree takes their place.
    let (_, files) = read.map_err(|_| {
        unavailable(
            "the daemon has no copy of the tree in force (it changed just now, or the state \
             directory is not what it was); ask again, or apply the tree",
        )
    })?;
    let summary = TreeSummary {
        digest,
        commit: now.policy.commit.as_deref().map(str::to_owned),
        generation: now.generation,
        files: files.len(),
        host_addresses: now.snapshot.host_addresses.clone(),
    };
    let files = files.into_iter().map(|file| {
        to_line(&TreeLine::File(TreeFile {
            name: file.name.to_string(),
            text: file.text.clone(),
        }))
    });
    let lines = std::iter::once(to_line(&TreeLine::Tree(summary))).chain(files);
    let body = Body::from_stream(stream::iter(lines.map(Ok::<_, Infallible>)));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

/// Asks a daemon for the tree in force.
///
/// # Errors
/// If there is no whole answer.
pub async fn fetch(client: &Client) -> Result<TreeInForce, ClientError> {
    let broken = |reason: String| ClientError::Broken {
        socket: client.socket().to_owned(),
        reason,
    };
    let mut lines = client.lines("/v1/tree").await?;
    let mut tree = TreeInForce::default();
    let mut begun = false;
    while let Some(line) = lines.next().await? {
        match serde_json::from_slice(&line).map_err(|error| broken(error.to_string()))? {
            TreeLine::Tree(summary) => {
                tree.summary = summary;
                begun = true;
            }
            TreeLine::File(file) => tree.files.push((file.name, file.text)),
        }
    }
    if !begun || tree.files.len() != tree.summary.files {
        return Err(broken("the tree came in part only".to_owned()));
    }
    Ok(tree)
}
