//! Set-up: everything that a build, a test, a benchmark or another kernel needs, in one
//! idempotent step. What is there is left alone; what is missing is fetched; what cannot be had
//! is one clear line, and all such lines come together.

pub mod apt;
mod bpf_linker;
mod components;
mod envoy;
mod mounts;
pub mod packages;
mod rust_src;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

/// What the set-up is for; each purpose includes what it builds on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Purpose {
    /// Compile: the source of the core library and bpf-linker.
    Build,
    /// Format, clippy, licences: the components and programs that these need.
    Lint,
    /// The tests and the demo: programs of the lab, bpffs, cgroup v2.
    Test,
    /// The tests of what other programs ask the daemon: Envoy.
    Clients,
    /// Fuzzing: a C++ compiler for libFuzzer.
    Fuzz,
    /// Benchmarks: the peers and load generators.
    Bench,
    /// Other kernels under qemu.
    Kernel,
}

/// `cargo xtask setup`.
#[derive(Args, Debug)]
pub struct Setup {
    /// What to set up for; everything if not given
    #[arg(long = "for", value_name = "PURPOSE")]
    purpose: Vec<Purpose>,
    /// Look for the source of the core library in this sysroot instead of rustc's own
    #[arg(long, hide = true)]
    sysroot: Option<PathBuf>,
}

impl Setup {
    /// Sets up for the purposes given on the command line.
    ///
    /// # Errors
    /// Something cannot be had; the lines are on standard error.
    pub fn run(self) -> Result<()> {
        let purposes = if self.purpose.is_empty() {
            Purpose::value_variants()
        } else {
            &self.purpose
        };
        ensure_with(purposes, self.sysroot)?;
        eprintln!("set-up is complete");
        Ok(())
    }
}

/// Makes sure of everything that the purpose needs.
///
/// # Errors
/// Something cannot be had; the lines are on standard error.
pub fn ensure(purposes: &[Purpose]) -> Result<()> {
    ensure_with(purposes, None)
}

fn ensure_with(purposes: &[Purpose], sysroot: Option<PathBuf>) -> Result<()> {
    let mut missing = Vec::new();
    let mut need = |what: &str, done: Result<()>| {
        if let Err(error) = done {
            missing.push(format!("{what}: {error:#}"));
        }
    };
    if purposes.contains(&Purpose::Lint) {
        need("rustfmt and clippy", components::ensure());
        need("cargo-deny", components::ensure_cargo_deny());
    }
    // Everything is built from source, so every purpose needs what the build needs.
    need(
        "source of the core library (rust-src)",
        rust_src::ensure(sysroot),
    );
    need("bpf-linker", bpf_linker::ensure());
    let with_build = [purposes, &[Purpose::Build]].concat();
    need("Debian packages", packages::ensure(&with_build));
    if purposes.contains(&Purpose::Clients) {
        need("Envoy", envoy::ensure());
    }
    if purposes.contains(&Purpose::Test) || purposes.contains(&Purpose::Bench) {
        need("bpffs", mounts::ensure_bpffs());
        need("cgroup v2", mounts::find_cgroup2().map(drop));
    }
    if missing.is_empty() {
        return Ok(());
    }
    for line in &missing {
        eprintln!("missing: {line}");
    }
    bail!(
        "set-up is incomplete: {} of the things above could not be had",
        missing.len()
    )
}
