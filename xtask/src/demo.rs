//! `cargo xtask demo`: set-up, build, and the demo of the `tests` package.

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::{
    setup::{self, Purpose},
    step, workspace,
};

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Tables for people.
    Human,
    /// JSON on standard output, and nothing else there.
    Json,
}

impl Output {
    /// The word on the command line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Human => "human",
            Self::Json => "json",
        }
    }
}

/// `cargo xtask demo`.
#[derive(Args, Debug)]
pub struct Demo {
    /// Leave the shop up, and print what to try
    #[arg(long)]
    keep: bool,
    /// Remove shops that were left up
    #[arg(long, conflicts_with = "keep")]
    down: bool,
    /// How results are printed
    #[arg(long, value_enum, default_value_t = Output::Human)]
    output: Output,
}

impl Demo {
    /// Sets up, builds, runs.
    pub fn run(self) -> Result<()> {
        if !workspace::is_root() {
            bail!("the demo makes network namespaces and loads kernel programs: run it as root");
        }
        setup::ensure(&[Purpose::Build, Purpose::Test])?;
        let mut build = workspace::cargo();
        build.args([
            "build",
            "--workspace",
            "--exclude",
            "enforcer-ebpf",
            "--bins",
        ]);
        step::openly("building the enforcer and the demo", &mut build)?;
        let binaries = workspace::target().join("debug");
        let mut demo = workspace::command(binaries.join("demo"));
        demo.args(["--output", self.output.word()])
            .env("ENFORCER_BIN", binaries.join("enforcer"));
        if self.keep {
            demo.arg("--keep");
        }
        if self.down {
            demo.arg("--down");
        }
        step::openly("the shop", &mut demo)
    }
}
