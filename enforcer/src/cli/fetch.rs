//! `enforcer fetch`.

use std::time::Duration;

use clap::Args;

use super::{Exit, OutputFormat, duration, output, socket, status::short};
use crate::api::git::{FetchAnswer, FetchRequest};

/// Arguments of `fetch`.
#[derive(Debug, Args)]
pub struct FetchArgs {
    /// This once, the commit need not follow the one in force: it may be older, or of a branch
    /// that was rewritten. Signatures are demanded all the same.
    #[arg(long)]
    allow_rollback: bool,
    /// How long at most.
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = duration::parse)]
    timeout: Duration,
    #[command(flatten)]
    socket: socket::SocketArg,
}

/// Asks the daemon and waits until the remote's commit is in force.
pub fn run(args: &FetchArgs, format: OutputFormat) -> anyhow::Result<Exit> {
    let request = FetchRequest {
        allow_rollback: args.allow_rollback,
    };
    let client = args.socket.client();
    let asked = client.post_within("/v1/fetch", &request, args.timeout);
    let answer: FetchAnswer = socket::block_on(asked)??;
    output::print(format, &answer, |out| {
        writeln!(
            out,
            "{}: commit {} of {} in force (generation {})",
            if answer.changed {
                "applied"
            } else {
                "nothing new"
            },
            short(&answer.commit.id),
            answer.commit.reference,
            answer.generation,
        )
    })?;
    Ok(Exit::Done)
}
