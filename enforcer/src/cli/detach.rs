//! `enforcer detach`. A daemon that runs holds its hooks itself, so it must have stopped.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    path::PathBuf,
};

use clap::Args;
use serde::Serialize;

use super::{Exit, OutputFormat, output, run::DEFAULT_PINS};
use crate::datapath::{Datapath, DatapathError};

/// Arguments of `detach`.
#[derive(Debug, Args)]
pub struct DetachArgs {
    /// Where programs, links and maps are pinned.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PINS)]
    pin_dir: PathBuf,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

#[derive(Debug, Serialize)]
struct Answer {
    /// Programs that were taken off their hooks.
    hooks: usize,
}

/// Removes everything from the kernel.
pub fn run(args: &DetachArgs, format: OutputFormat) -> anyhow::Result<Exit> {
    if !args.yes && !confirmed()? {
        eprintln!("enforcer: nothing was removed");
        return Ok(Exit::Refuse);
    }
    match Datapath::detach(&args.pin_dir) {
        Ok(detached) => {
            let answer = Answer {
                hooks: detached.hooks,
            };
            output::print(format, &answer, |out| {
                writeln!(
                    out,
                    "detached from {} hooks: nothing is enforced any more",
                    answer.hooks
                )
            })?;
            Ok(Exit::Done)
        }
        Err(DatapathError::InUse { path }) => {
            eprintln!(
                "enforcer: a daemon runs on {}: stop it first (`systemctl stop enforcer`), or cut \
                 nothing by `enforcer apply --mode audit`",
                path.display()
            );
            Ok(Exit::Refuse)
        }
        Err(error) => Err(error.into()),
    }
}

/// Asks on a terminal. Without one, `--yes` has to be given.
fn confirmed() -> io::Result<bool> {
    if !io::stdin().is_terminal() {
        eprintln!("enforcer: not on a terminal: say --yes to detach");
        return Ok(false);
    }
    let mut out = io::stderr().lock();
    write!(
        out,
        "Remove all enforcement from this host's kernel? Every flow will pass. [y/N] "
    )?;
    out.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
