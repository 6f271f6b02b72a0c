//! `cargo xtask build`: the release binary that runs alone on another host.

use std::path::PathBuf;

use anyhow::Result;

use crate::{
    setup::{self, Purpose},
    step, workspace,
};

/// Sets up, builds, and returns the path of the binary.
pub fn run() -> Result<PathBuf> {
    setup::ensure(&[Purpose::Build])?;
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--release", "--package", "enforcer"]);
    step::openly("building the release binary", &mut cargo)?;
    Ok(workspace::target().join("release/enforcer"))
}
