//! The one door to the project: `cargo xtask setup|build|test|fuzz|demo|bench|lint|package`.
//!
//! Every command does the set-up that it needs by itself.

mod bench;
mod build;
mod demo;
mod file_rules;
mod fuzz;
mod kernel_image;
mod lint;
mod package;
mod setup;
mod step;
mod test;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser, Debug)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about, version)]
struct Xtask {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Get everything that is missing; the other commands do it by themselves
    Setup(setup::Setup),
    /// Build the release binary, kernel programs embedded
    Build,
    /// Run the whole test suite, or the tests whose names contain FILTER
    Test(test::Test),
    /// Feed every parser of what comes from outside with what nobody would write
    Fuzz(fuzz::Fuzz),
    /// Run a shell command as root under another kernel, on this machine's files
    Vm(vm::Vm),
    /// Show real enforcement in throw-away network namespaces
    Demo(demo::Demo),
    /// Measure everything beside its floor and its peers
    Bench(bench::Bench),
    /// Pack the binary, the unit file, completions, manual, policies and documents
    Package,
    /// Format, clippy, licences, documentation, file rules: everything with warnings denied
    Lint,
}

fn main() -> ExitCode {
    let done = match Xtask::parse().command {
        Command::Setup(setup) => setup.run(),
        Command::Build => build::run().map(|binary| println!("{}", binary.display())),
        Command::Test(test) => test.run(),
        Command::Fuzz(fuzz) => fuzz.run(),
        Command::Vm(vm) => vm.run(),
        Command::Demo(demo) => demo.run(),
        Command::Bench(bench) => bench.run(),
        Command::Package => package::run(),
        Command::Lint => lint::run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
