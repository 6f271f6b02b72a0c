//! `enforcer attest`: the workload's side of attestation.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context;
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Exit, OutputFormat, duration, output};
use crate::{
    cause::chain,
    identity::{
        attest::{
            client::{AttestClient, AttestClientError},
            routes::{AttestAnswer, AttestRequest},
        },
        bundle::Bundle,
        files::{self, SvidFiles},
        spiffe_id::SpiffeId,
        svid::Usage,
        trust::{Trust, Trusted},
    },
    sd_notify::ServiceManager,
};

/// Where the daemon listens for attestation unless a flag says otherwise.
pub const DEFAULT_SERVER: &str = "127.0.0.1:9465";

/// Between two looks at the files.
const LOOK: Duration = Duration::from_secs(1);
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
    /// Certificate of this workload in PEM, its intermediate certificates behind it. Watched.
    #[arg(long, value_name = "FILE")]
    svid: PathBuf,
    /// Its key in PEM. Watched.
    #[arg(long, value_name = "FILE")]
    svid_key: PathBuf,
    /// Roots in PEM by which the daemon's certificate is verified. Watched.
    #[arg(long, value_name = "FILE")]
    bundle: PathBuf,
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
    let began = Instant::now();
    let mut pause = FIRST_PAUSE;
    let mut proven = false;
    loop {
        let sight = sight(args);
        let wait = match prove(args).await {
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
                let may_pass = client.is_some_and(AttestClientError::may_pass);
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
        if rest(wait, args, &sight, &mut terminate, &mut interrupt).await {
            manager.stopping("asked to stop");
            if proven && !args.keep {
                let client = client(args)?;
                client.release().await?;
            }
            return Ok(Exit::Done);
        }
    }
}

/// Waits until it is time to prove again or a file has changed. Whether the end is asked for.
async fn rest(
    wait: Duration,
    args: &AttestArgs,
    before: &Sight,
    terminate: &mut Signal,
    interrupt: &mut Signal,
) -> bool {
    let until = tokio::time::Instant::now() + wait;
    loop {
        tokio::select! {
            _ = terminate.recv() => return true,
            _ = interrupt.recv() => return true,
            () = tokio::time::sleep_until(until) => return false,
            () = tokio::time::sleep(LOOK) => {
                if sight(args) != *before {
                    return false;
                }
            }
        }
    }
}

async fn prove(args: &AttestArgs) -> anyhow::Result<AttestAnswer> {
    let request = AttestRequest {
        lease_seconds: args.lease.map(|lease| lease.as_secs().max(1)),
    };
    Ok(client(args)?.attest(request).await?)
}

/// A client with what the files say now.
fn client(args: &AttestArgs) -> anyhow::Result<AttestClient> {
    let own = SvidFiles {
        certificate: args.svid.clone(),
        key: args.svid_key.clone(),
    };
    let own = files::read_own(&own, Usage::Client).map_err(anyhow::Error::msg)?;
    let roots = files::read_certificates(&args.bundle).map_err(anyhow::Error::msg)?;
    let trusted = Trusted {
        bundle: Bundle::from_der(roots)
            .with_context(|| format!("the bundle {} cannot be used", args.bundle.display()))?,
        ..Trusted::default()
    };
    // Whose roots these are is not written in them: they count for the domain of whoever is to
    // answer.
    let id = args.server_id.as_ref().unwrap_or(own.svid.id());
    let trust = Trust::new([(id.domain().clone(), Arc::new(trusted))].into());
    Ok(AttestClient {
        server: args.server,
        server_id: args.server_id.clone(),
        own: Arc::new(own),
        trust: Arc::new(trust),
    })
}

type Sight = [Option<(SystemTime, u64)>; 3];

/// What shows that files are not what they were.
fn sight(args: &AttestArgs) -> Sight {
    [&args.svid, &args.svid_key, &args.bundle].map(|path| {
        let file = std::fs::metadata(path).ok()?;
        Some((file.modified().ok()?, file.len()))
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
