//! Completions and the manual page, made from the definition of the command line.

use std::io::{self, Write};

use clap::{Args, Command};
use clap_complete::Shell;

use super::Exit;

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell.
    pub shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The page of one command; without it, the page of `enforcer`.
    pub command: Option<String>,
}

/// Prints completions for `args.shell`.
pub fn completions(args: &CompletionsArgs, mut command: Command) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "enforcer", &mut script);
    io::stdout().write_all(&script)?;
    Ok(Exit::Done)
}

/// Prints the manual page in roff, for `man -l -`.
pub fn man(args: &ManArgs, mut command: Command) -> anyhow::Result<Exit> {
    command.build();
    let page = match &args.command {
        None => command,
        Some(name) => {
            let Some(found) = command.find_subcommand(name) else {
                eprintln!("enforcer: there is no command `{name}`");
                return Ok(Exit::Usage);
            };
            found.clone().display_name(format!("enforcer-{name}"))
        }
    };
    // Section 8: administration commands.
    clap_mangen::Man::new(page)
        .section("8")
        .render(&mut io::stdout())?;
    Ok(Exit::Done)
}
