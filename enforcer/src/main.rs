//! The `enforcer` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    enforcer::cli::main()
}
