//! `enforcer apply`.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use clap::Args;

use super::{Exit, OutputFormat, duration, output, run::ModeArg, socket};
use crate::api::request::{ApplyAnswer, ApplyRequest};

/// Arguments of `apply`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// Mode of the node from now on, kept across restarts; `auto` gives the choice back to
    /// `run --mode` and the Node document.
    #[arg(long, value_name = "MODE")]
    mode: Option<ApplyMode>,
    /// Roll back after so long unless `enforcer confirm` follows. The rollback survives a
    /// restart of the daemon.
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    trial: Option<Duration>,
    /// A policy tree to put in force instead of the daemon's own, until that one changes.
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,
    #[command(flatten)]
    socket: socket::SocketArg,
}

/// What `--mode` may be here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ApplyMode {
    /// Report, cut nothing.
    Audit,
    /// Deny.
    Enforce,
    /// As flag and Node document say.
    Auto,
}

/// Asks the daemon and waits until it is in force.
pub fn run(args: &ApplyArgs, format: OutputFormat) -> anyhow::Result<Exit> {
    let request = ApplyRequest {
        mode: match args.mode {
            Some(ApplyMode::Audit) => Some(ModeArg::Audit.into()),
            Some(ApplyMode::Enforce) => Some(ModeArg::Enforce.into()),
            Some(ApplyMode::Auto) | None => None,
        },
        forget_mode: args.mode == Some(ApplyMode::Auto),
        trial_milliseconds: args
            .trial
            .map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX)),
        // The daemon's working directory is not the caller's.
        tree: args
            .policies
            .as_ref()
            .map(|p| {
                p.canonicalize()
                    .with_context(|| format!("cannot find the policies at {}", p.display()))
            })
            .transpose()?,
    };
    let client = args.socket.client();
    let answer: ApplyAnswer = socket::block_on(client.post("/v1/apply", &request))??;
    output::print(format, &answer, |out| {
        writeln!(
            out,
            "{}: policy {} in force in mode {} (generation {})",
            if answer.changed {
                "applied"
            } else {
                "nothing changed"
            },
            super::status::short(&answer.digest),
            crate::metrics::mode_name(answer.mode),
            answer.generation,
        )?;
        if let Some(warning) = &answer.warning {
            writeln!(out, "but: {warning}")?;
        }
        if let Some(trial) = &answer.trial {
            writeln!(
                out,
                "on trial: rolls back in {} s ({}) unless you run `enforcer confirm`",
                trial.remaining_milliseconds.div_ceil(1000),
                trial.deadline,
            )?;
        }
        Ok(())
    })?;
    Ok(Exit::Done)
}
