//! Every performance figure beside its floor and its peers. Started by `cargo xtask bench`.

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use tests::bench::{self, Options, Part};

#[derive(Parser, Debug)]
#[command(about)]
struct Arguments {
    /// How figures are printed
    #[arg(long, value_enum, default_value_t = Output::Human)]
    output: Output,
    /// Numbers of rules
    #[arg(long, value_delimiter = ',', default_values_t = [10, 1_000, 100_000])]
    rules: Vec<usize>,
    /// Turns of each comparison
    #[arg(long, default_value_t = 15)]
    turns: usize,
    /// Only these parts
    #[arg(long = "part", value_enum)]
    parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Human,
    Json,
}

fn main() -> Result<()> {
    let mut arguments = Arguments::parse();
    ensure!(arguments.turns > 0, "at least one turn");
    arguments.rules.sort_unstable();
    if arguments.parts.is_empty() {
        arguments.parts = Part::value_variants().to_vec();
    }
    let report = bench::run(&Options {
        rules: arguments.rules,
        turns: arguments.turns,
        parts: arguments.parts,
    })?;
    match arguments.output {
        Output::Human => println!("{report}"),
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    Ok(())
}
