//! Benchmarks: every figure beside its floor and its peers, from one run on this machine.
//!
//! On a shared machine absolute figures move from run to run. So what is compared is measured in
//! turns (A B A B), and differences and ratios are taken turn by turn; their medians are printed.
//! Work is charged in CPU time of one thread that drives both ends, softirqs included.

#![expect(
    clippy::cast_precision_loss,
    reason = "what is counted here is far below 2^52"
)]

mod attest;
mod bpf;
mod change;
mod estate;
mod figure;
mod fleet;
mod hooks;
mod packet;
pub mod policy;
mod reference;
pub mod scale;
mod wire;

use anyhow::Result;

pub use figure::Report;

/// What is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// Numbers of rules, ascending.
    pub rules: Vec<usize>,
    /// How many turns each comparison takes.
    pub turns: usize,
    /// Which parts.
    pub parts: Vec<Part>,
}

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Nanoseconds per packet of every hook, by test runs.
    Hooks,
    /// Connections, packets and bytes through a veth.
    Wire,
    /// From a written file to enforcement, and memory.
    Change,
    /// Compilation in a large estate, beside a tenth of it.
    Scale,
    /// A fleet of 1,000 simulated nodes through etcd.
    Fleet,
    /// Proofs of identity by mTLS.
    Attest,
}

/// Measures. Progress goes to standard error.
pub fn run(options: &Options) -> Result<Report> {
    let mut report = Report::of_this_machine();
    for part in &options.parts {
        match part {
            Part::Hooks => report.hooks = hooks::measure(options)?,
            Part::Wire => report.wire = wire::measure(options)?,
            Part::Change => report.change = change::measure(options)?,
            Part::Scale => report.scale = scale::measure(options)?,
            Part::Fleet => report.fleet = fleet::measure(options)?,
            Part::Attest => report.attest = attest::measure(options)?,
        }
    }
    Ok(report)
}

/// The middle value; of an even number, the lower one.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values
        .get(values.len().saturating_sub(1) / 2)
        .copied()
        .unwrap_or(f64::NAN)
}

fn progress(what: &str) {
    eprintln!("==> {what}");
}
