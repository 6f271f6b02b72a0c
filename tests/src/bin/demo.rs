//! Shows real enforcement in throw-away network namespaces.

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use tests::{
    demo::{self, report},
    lab::tag,
};

#[derive(Parser)]
struct Arguments {
    /// Leave the shop up, and print what to try.
    #[arg(long)]
    keep: bool,
    /// Remove shops that were left up.
    #[arg(long, conflicts_with = "keep")]
    down: bool,
    /// How results are printed.
    #[arg(long, value_enum, default_value = "human")]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Tables.
    Human,
    /// One JSON document on standard output, and nothing else there.
    Json,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything was as expected.
fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    if arguments.down {
        for tag in tag::remove_kept()? {
            println!("removed {tag}");
        }
        return Ok(true);
    }
    let mut progress = |what: &str| eprintln!("  .. {what}");
    let (demo, findings) = demo::run(&mut progress)?;
    match arguments.output {
        Output::Human => print!("{}", report::human(&findings)),
        Output::Json => println!("{:#}", report::json(&findings)),
    }
    if !findings.ok() {
        for daemon in &demo.daemons {
            eprintln!("{}", daemon.log());
        }
    }
    if arguments.keep {
        let suggestions = report::suggestions(&demo);
        demo.leave()?;
        eprint!("{suggestions}");
    }
    Ok(findings.ok())
}
