//! `enforcer confirm`.

use clap::Args;

use super::{Exit, OutputFormat, output, socket};
use crate::api::request::ConfirmAnswer;

/// Arguments of `confirm`.
#[derive(Debug, Args)]
pub struct ConfirmArgs {
    #[command(flatten)]
    socket: socket::SocketArg,
}

/// Ends the trial; what it tried stays.
pub fn run(args: &ConfirmArgs, format: OutputFormat) -> anyhow::Result<Exit> {
    let client = args.socket.client();
    let answer: ConfirmAnswer = socket::block_on(client.post("/v1/confirm", &()))??;
    output::print(format, &answer, |out| {
        writeln!(
            out,
            "confirmed: policy {} stays in force in mode {} (generation {})",
            super::status::short(&answer.digest),
            crate::metrics::mode_name(answer.mode),
            answer.generation,
        )
    })?;
    Ok(Exit::Done)
}
