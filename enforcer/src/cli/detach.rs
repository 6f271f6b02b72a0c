//! `enforcer detach`: with a daemon that has stopped, without one, and after one of another
//! version.

use std::{
    fmt::Write as _,
    io::{self, BufRead, IsTerminal, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use serde::Serialize;

use super::{Exit, OutputFormat, output, run::DEFAULT_PINS, socket};
use crate::{
    api::client::ClientError,
    datapath::detach::{self, Holder, Pinned},
    lock_holder,
};

/// Arguments of `detach`.
#[derive(Debug, Args)]
pub struct DetachArgs {
    /// Where programs, links and maps are pinned.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PINS)]
    pin_dir: PathBuf,
    /// Do not ask, though enforcement is in force.
    #[arg(long, short)]
    yes: bool,
    /// As --yes, and also if a process holds the pins that does not answer at its control
    /// socket. That process is left alone: end it afterwards.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    socket: socket::SocketArg,
}

/// What was removed.
#[derive(Debug, Serialize)]
struct Answer {
    #[serde(flatten)]
    removed: Pinned,
    /// A process that holds the pins, does not answer, and was left alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    holder: Option<u32>,
}

/// How long a daemon may take to show that it is alive.
const SIGN_OF_LIFE: Duration = Duration::from_secs(3);

/// Removes everything from the kernel.
pub fn run(args: &DetachArgs, format: OutputFormat) -> anyhow::Result<Exit> {
    let pins = &args.pin_dir;
    let Some(pinned) = Pinned::look(pins)? else {
        eprintln!(
            "enforcer: nothing is pinned at {}: nothing to remove",
            pins.display()
        );
        return Ok(Exit::Done);
    };
    let mut holder = Holder::Respect;
    let mut pid = None;
    if detach::is_held(pins)? {
        pid = lock_holder::of(pins);
        if let Some(refusal) = refusal(args, pid)? {
            eprintln!("enforcer: {refusal}");
            return Ok(Exit::Refuse);
        }
        holder = Holder::Ignore;
    }
    eprint!("{}", listing(pins, &pinned));
    let in_force = !pinned.hooks.is_empty();
    if in_force && !args.yes && !args.force && !confirmed()? {
        eprintln!("enforcer: nothing was removed");
        return Ok(Exit::Refuse);
    }
    let answer = Answer {
        removed: detach::detach(pins, holder)?,
        holder: pid,
    };
    output::print(format, &answer, |out| {
        match answer.removed.hooks.len() {
            0 => writeln!(out, "removed; nothing was in force")?,
            hooks => writeln!(
                out,
                "detached from {hooks} hooks: nothing is enforced any more"
            )?,
        }
        match answer.holder {
            Some(pid) => writeln!(
                out,
                "process {pid} does not know: end it (kill -9 {pid}) before it takes itself for \
                 an enforcer again"
            ),
            None => Ok(()),
        }
    })?;
    Ok(Exit::Done)
}

/// Why the pins of a process that holds them stay, if they do.
fn refusal(args: &DetachArgs, pid: Option<u32>) -> anyhow::Result<Option<String>> {
    let who = pid.map_or_else(|| "a process".to_owned(), |pid| format!("process {pid}"));
    let client = args.socket.client();
    let status = client.get_within::<serde_json::Value>("/v1/status", SIGN_OF_LIFE);
    let silence = match socket::block_on(status)? {
        Ok(_) | Err(ClientError::Problem(_)) => {
            return Ok(Some(format!(
                "a daemon runs on {} ({who}): stop it first (`systemctl stop enforcer`), or cut \
                 nothing by `enforcer apply --mode audit`",
                args.pin_dir.display()
            )));
        }
        Err(silence) => silence,
    };
    Ok((!args.force).then(|| {
        format!(
            "{who} holds {}, and there is no daemon that answers ({silence}): stop that process, \
             name its --socket, or remove everything beneath it with --force",
            args.pin_dir.display()
        )
    }))
}

/// What is going to be removed.
fn listing(pins: &Path, pinned: &Pinned) -> String {
    let mut text = format!("enforcer: this is pinned at {}:\n", pins.display());
    for hook in &pinned.hooks {
        let _ = match &hook.interface {
            Some(interface) => writeln!(text, "  program {} at {interface}", hook.program),
            None => writeln!(text, "  program {}", hook.program),
        };
    }
    for maps in &pinned.maps {
        let _ = match maps.version {
            _ if maps.readable => writeln!(text, "  maps {}", maps.layout),
            Some(version) => writeln!(
                text,
                "  maps {} (layout {version}, of another version)",
                maps.layout
            ),
            None => writeln!(text, "  {} (of another version)", maps.layout),
        };
    }
    text
}

/// Asks on a terminal. Without one, it has to be said on the command line.
fn confirmed() -> io::Result<bool> {
    if !io::stdin().is_terminal() {
        eprintln!(
            "enforcer: enforcement is in force, and this is no terminal to ask at: say --yes or \
             --force"
        );
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
