//! What `lint` needs beside the compiler.

use anyhow::{Context, Result};

use crate::{step, workspace};

/// The release of cargo-deny that reads our `deny.toml`.
const CARGO_DENY: &str = "0.20.2";

/// Makes sure of rustfmt and clippy; a minimal toolchain has neither.
pub fn ensure() -> Result<()> {
    for (component, subcommand) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
        if step::output(workspace::cargo().args([subcommand, "--version"])).is_ok() {
            continue;
        }
        let mut rustup = workspace::command("timeout");
        rustup.args(["300", "rustup", "component", "add", component]);
        step::quietly(&format!("adding {component} with rustup"), &mut rustup)
            .with_context(|| format!("do: `rustup component add {component}`"))?;
    }
    Ok(())
}

/// Makes sure of cargo-deny, which checks licences, bans and sources.
pub fn ensure_cargo_deny() -> Result<()> {
    let found = workspace::find_program("cargo-deny").is_some_and(|program| {
        step::output(workspace::command(program).arg("--version"))
            .is_ok_and(|line| line.split_whitespace().any(|word| word == CARGO_DENY))
    });
    if found {
        return Ok(());
    }
    let mut install = workspace::cargo();
    install
        .args([
            "install",
            "cargo-deny",
            "--version",
            CARGO_DENY,
            "--locked",
            "--force",
        ])
        .args(["--no-default-features", "--root"])
        .arg(workspace::tools())
        // It runs for a second: what counts is how long it takes to build.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0");
    step::quietly("building cargo-deny (a few minutes)", &mut install)
}
