//! `cargo xtask lint`: what must hold before anything is tested, warnings denied.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{
    file_rules,
    setup::{self, Purpose},
    step, workspace,
};

/// The target of the kernel programs.
const BPF_TARGET: &str = "bpfel-unknown-none";

/// Runs every check, and fails at the end if one did: all findings in one run.
pub fn run() -> Result<()> {
    setup::ensure(&[Purpose::Lint, Purpose::Build])?;
    let mut failed = Vec::new();
    let mut check = |title: &'static str, done: Result<()>| {
        if let Err(error) = done {
            eprintln!("{error:#}");
            failed.push(title);
        }
    };
    check("file rules", file_rules::check());
    check(
        "format",
        cargo(
            "format",
            &["fmt", "--all", "--check"],
            &mut workspace::cargo(),
        ),
    );
    check(
        "licences, bans, sources",
        cargo(
            "licences, bans, sources",
            &[
                "deny",
                "--workspace",
                "check",
                "licenses",
                "bans",
                "sources",
            ],
            &mut workspace::cargo(),
        ),
    );
    check(
        "clippy",
        cargo(
            "clippy",
            &[
                "clippy",
                "--workspace",
                "--exclude",
                "enforcer-ebpf",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ],
            &mut workspace::cargo(),
        ),
    );
    check("clippy of the kernel programs", clippy_of_kernel_programs());
    check(
        "documentation",
        cargo(
            "documentation",
            &[
                "doc",
                "--workspace",
                "--exclude",
                "enforcer-ebpf",
                "--no-deps",
            ],
            workspace::cargo().env("RUSTDOCFLAGS", "-D warnings"),
        ),
    );
    if !failed.is_empty() {
        bail!("lint failed: {}", failed.join("; "));
    }
    step::say("lint: everything holds");
    Ok(())
}

fn cargo(title: &str, arguments: &[&str], cargo: &mut Command) -> Result<()> {
    step::openly(title, cargo.args(arguments))
}

/// The kernel programs are linted for their own target, which has no compiled core.
///
/// In a target directory of its own: several build scripts look at `RUSTC_BOOTSTRAP`, and would
/// rebuild the host's dependencies each time it comes or goes.
fn clippy_of_kernel_programs() -> Result<()> {
    let mut clippy = workspace::cargo();
    clippy
        .args([
            "clippy",
            "--package",
            "enforcer-ebpf",
            "--target",
            BPF_TARGET,
            "-Zbuild-std=core",
        ])
        .arg("--target-dir")
        .arg(workspace::target().join("ebpf-lint"))
        .args(["--", "-D", "warnings"])
        .env("RUSTC_BOOTSTRAP", "1");
    step::openly("clippy of the kernel programs", &mut clippy)
}
