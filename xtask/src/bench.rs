//! `cargo xtask bench`: set-up, release builds, and the benchmarks of the `tests` package.

use anyhow::{Result, bail};
use clap::Args;

use crate::{
    demo::Output,
    setup::{self, Purpose},
    step, workspace,
};

/// `cargo xtask bench`.
#[derive(Args, Debug)]
pub struct Bench {
    /// How figures are printed
    #[arg(long, value_enum, default_value_t = Output::Human)]
    output: Output,
    /// Further arguments of the benchmark, after `--`: `--rules 10,1000`, `--turns 5`,
    /// `--part hooks`
    #[arg(last = true)]
    arguments: Vec<String>,
}

impl Bench {
    /// Sets up, builds, measures.
    pub fn run(self) -> Result<()> {
        if !workspace::is_root() {
            bail!("benchmarks make network namespaces and load kernel programs: run as root");
        }
        setup::ensure(&[Purpose::Build, Purpose::Test, Purpose::Bench])?;
        let mut build = workspace::cargo();
        build.args([
            "build",
            "--release",
            "--package",
            "enforcer",
            "--package",
            "tests",
            "--bins",
        ]);
        step::openly("building in release mode", &mut build)?;
        let binaries = workspace::target().join("release");
        let mut bench = workspace::command(binaries.join("bench"));
        bench
            .args(["--output", self.output.word()])
            .args(&self.arguments)
            .env("ENFORCER_BIN", binaries.join("enforcer"));
        step::openly("measuring", &mut bench)
    }
}
