//! `enforcer wait`.

use std::time::{Duration, Instant};

use clap::Args;

use super::{Exit, OutputFormat, duration, output, socket};
use crate::api::{
    client::{Client, ClientError},
    problem::ProblemCode,
    request::{WaitAnswer, WaitRequest},
};

/// Arguments of `wait`.
#[derive(Debug, Args)]
#[group(id = "condition", required = true, multiple = true, args = ["digest", "commit", "generation", "ready"])]
pub struct WaitArgs {
    /// Until the tree with this digest (or one that starts so, at least 8 digits) is in force.
    #[arg(long, value_name = "HEX")]
    digest: Option<String>,
    /// Until the tree of this git commit (or of one that starts so, at least 7 digits) is in
    /// force.
    #[arg(long, value_name = "ID")]
    commit: Option<String>,
    /// Until this generation or a later one is in force.
    #[arg(long, value_name = "N")]
    generation: Option<u32>,
    /// Until the daemon answers and its first policy is in force.
    #[arg(long)]
    ready: bool,
    /// How long at most.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration::parse)]
    timeout: Duration,
    #[command(flatten)]
    socket: socket::SocketArg,
}

/// Between attempts while the daemon is not there yet.
const RETRY: Duration = Duration::from_millis(50);

/// Waits. A daemon that is not there yet is waited for, too.
pub fn run(args: &WaitArgs, format: OutputFormat) -> anyhow::Result<Exit> {
    let answer = socket::block_on(wait(args))?;
    let answer = match answer {
        Ok(answer) => answer,
        Err(ClientError::Problem(problem)) if problem.code == ProblemCode::Timeout => {
            eprintln!("enforcer: {problem}");
            return Ok(Exit::Timeout);
        }
        Err(error) => return Err(error.into()),
    };
    output::print(format, &answer, |out| {
        writeln!(
            out,
            "in force: policy {} (generation {}{})",
            super::status::short(&answer.digest),
            answer.generation,
            answer
                .commit
                .as_ref()
                .map_or(String::new(), |commit| format!(
                    ", commit {}",
                    super::status::short(commit)
                )),
        )
    })?;
    Ok(Exit::Done)
}

async fn wait(args: &WaitArgs) -> Result<WaitAnswer, ClientError> {
    let client: Client = args.socket.client();
    let deadline = Instant::now() + args.timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let request = WaitRequest {
            digest: args.digest.clone(),
            commit: args.commit.clone(),
            generation: args.generation,
            timeout_milliseconds: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
        };
        // The daemon answers at the deadline; the margin is for the way back.
        let limit = left + Duration::from_secs(5);
        let answer = client.get_within(&request.to_path(), limit).await;
        let retry = match &answer {
            Err(ClientError::Unreachable { .. } | ClientError::Broken { .. }) => true,
            Err(ClientError::Problem(problem)) => problem.code == ProblemCode::Unavailable,
            _ => false,
        };
        if !retry || left.is_zero() {
            return answer;
        }
        tokio::time::sleep(RETRY.min(left)).await;
    }
}
