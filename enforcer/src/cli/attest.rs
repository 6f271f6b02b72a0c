//! `enforcer attest`: the workload's side of attestation.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    Exit, OutputFormat, duration, output,
    proof_source::{NoProof, ProofArgs, ProofSource},
};
use crate::{
    cause::chain,
    identity::{
        attest::{
            client::{AttestClient, AttestClientError},
            routes::{AttestAnswer, AttestRequest},
        },
        spiffe_id::SpiffeId,
    },
    sd_notify::ServiceManager,
};

/// Where the daemon listens for attestation unless a flag says otherwise.
pub const DEFAULT_SERVER: &str = "127.0.0.1:9465";

/// Pauses between attempts: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Arguments of `attest`.
#[derive(Debug, Args)]
pub struct AttestArgs {
    /// Address and port where the daemon listens for attestation.
    #[arg(long, value_name = "ADDRESS", default_value = DEFAULT_SERVER)]
    server: SocketAddr,
    /// SPIFFE ID that the daemon must have. Without it: anybody of the own trust domain.
    #[arg(long, value_name = "ID")]
    server_id: Option<SpiffeId>,
    #[command(flatten)]
    proof: ProofArgs,
    /// How long one proof is to hold; it is renewed after half of that. Without it: as long as
    /// the daemon allows.
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    lease: Option<Duration>,
    /// Prove once and end; the proof holds for its lease.
    #[arg(long)]
    once: bool,
    /// How long the first proof may take (exit code 3 or 4 afterwards).
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration::parse)]
    timeout: Duration,
    /// Leave the proof to its lease when asked to stop. Without it: it ends at once.
    #[arg(long)]
    keep: bool,
}

/// Proves, and proves again before that ends.
pub fn run(args: &AttestArgs, format: OutputFormat) -> anyhow::Result<Exit> {
    super::socket::block_on(attest(args, format))?
}

async fn attest(args: &AttestArgs, format: OutputFormat) -> anyhow::Result<Exit> {
    let manager = ServiceManager::from_environment()?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut source = ProofSource::open(&args.proof)?;
    let began = Instant::now();
    tokio::select! {
        _ = terminate.recv() => return Ok(Exit::Done),
        _ = interrupt.recv() => return Ok(Exit::Done),
        () = tokio::time::sleep(args.timeout) => {}
        () = source.first() => {}
    }
    let mut pause = FIRST_PAUSE;
    let mut proven = false;
    loop {
        let wait = match prove(args, &mut source).await {
            Ok(answer) => {
                show(&answer, format)?;
                if args.once {
                    return Ok(Exit::Done);
                }
                let status = format!("{} is proven until {}", answer.spiffe_id, answer.until);
                if proven {
                    manager.status(&status);
                } else {
                    manager.ready(&status);
                }
                (proven, pause) = (true, FIRST_PAUSE);
                Duration::from_secs(answer.lease_seconds).div_f64(2.0)
            }
            Err(error) => {
                let words = chain(&*error);
                let client = error.downcast_ref::<AttestClientError>();
                let may_pass = client.is_some_and(AttestClientError::may_pass)
                    || error.downcast_ref::<NoProof>().is_some();
                if !proven && !may_pass {
                    return Err(error);
                }
                if !proven && began.elapsed() >= args.timeout {
                    eprintln!("enforcer: {words}");
                    return Ok(match client {
                        Some(AttestClientError::Timeout(_)) => Exit::Timeout,
                        _ => Exit::Unreachable,
                    });
                }
                eprintln!(
                    "enforcer: {words}; tried again in {} s",
                    pause.as_secs_f32()
                );
                manager.status(&words);
                let wait = pause;
                pause = (pause * 2).min(LONGEST_PAUSE);
                wait
            }
        };
        if rest(wait, &mut source, &mut terminate, &mut interrupt).await {
            manager.stopping("asked to stop");
            if proven && !args.keep {
                let client = client(args, &mut source)?;
                client.release().await?;
            }
            return Ok(Exit::Done);
        }
    }
}

/// Waits until it is time to prove again or there is something else to prove with. Whether the end is asked for.
async fn rest(
    wait: Duration,
    source: &mut ProofSource,
    terminate: &mut Signal,
    interrupt: &mut Signal,
) -> bool {
    tokio::select! {
        _ = terminate.recv() => true,
        _ = interrupt.recv() => true,
        () = tokio::time::sleep(wait) => false,
        () = source.changed() => false,
    }
}

async fn prove(args: &AttestArgs, source: &mut ProofSource) -> anyhow::Result<AttestAnswer> {
    let request = AttestRequest {
        lease_seconds: args.lease.map(|lease| lease.as_secs().max(1)),
    };
    Ok(client(args, source)?.attest(request).await?)
}

/// A client with what the source says now.
fn client(args: &AttestArgs, source: &mut ProofSource) -> anyhow::Result<AttestClient> {
    let (own, trust) = source.read(args.server_id.as_ref())?;
    Ok(AttestClient {
        server: args.server,
        server_id: args.server_id.clone(),
        own,
        trust: Arc::new(trust),
    })
}

fn show(answer: &AttestAnswer, format: OutputFormat) -> std::io::Result<()> {
    output::print(format, answer, |out| {
        writeln!(
            out,
            "{} is proven as {} ({}) until {}{}",
            answer.spiffe_id,
            answer.workload,
            answer.place,
            answer.until,
            if answer.in_force {
                ""
            } else {
                "; the kernel does not know it yet"
            }
        )
    })
}
