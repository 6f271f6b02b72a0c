//! `enforcer status`.

use std::io::{self, Write};

use clap::Args;

use super::{Exit, OutputFormat, endpoints, nodes, output, socket};
use crate::{
    api::{
        git::GitStatus,
        status::{ModeSource, PolicySource, PolicyStatus, Status},
    },
    metrics::mode_name,
    policy::model::Tier,
};

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Fail (exit code 1) unless everything is as it should be.
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    socket: socket::SocketArg,
}

/// Shows the daemon's status.
pub fn run(args: &StatusArgs, format: OutputFormat) -> anyhow::Result<Exit> {
    let client = args.socket.client();
    let status: Status = socket::block_on(client.get("/v1/status"))??;
    output::print(format, &status, |out| render(&status, out))?;
    Ok(if args.check && !status.health.ok {
        Exit::Refuse
    } else {
        Exit::Done
    })
}

/// As much of a digest as people need.
pub fn short(digest: &str) -> &str {
    match digest.get(..12) {
        Some(short) => short,
        None if digest.is_empty() => "none",
        None => digest,
    }
}

fn render(status: &Status, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "node      {} (enforcer {}, ABI {}, up {})",
        status.node,
        status.version,
        status.abi,
        uptime(status.uptime_seconds)
    )?;
    if status.health.ok {
        writeln!(out, "health    ok")?;
    } else {
        writeln!(out, "health    DEGRADED")?;
        for reason in &status.health.reasons {
            writeln!(out, "          - {reason}")?;
        }
    }
    writeln!(out, "mode      {}", mode_line(status))?;
    policy(status, out)?;
    if let Some(git) = &status.git {
        remote(git, out)?;
    }
    if let Some(fleet) = &status.fleet {
        nodes::summary(fleet, out)?;
    }
    if let Some(api) = &status.workload_api {
        writeln!(
            out,
            "identity  unix://{} issues for {} ({} streams, root valid until {})",
            api.socket.display(),
            api.trust_domain,
            api.streams,
            api.root_until
        )?;
    }
    policies(&status.policy, out)?;
    if let Some(trial) = &status.trial {
        writeln!(
            out,
            "trial     rolls back in {} s ({}) to policy {}; keep it with `enforcer confirm`",
            trial.remaining_milliseconds.div_ceil(1000),
            trial.deadline,
            short(&trial.rollback_digest),
        )?;
    }
    if let Some(refused) = &status.refused {
        writeln!(
            out,
            "\nREFUSED at {}: {}",
            refused.time, refused.problem.message
        )?;
        for diagnostic in &refused.problem.diagnostics {
            let field = |name: &str| diagnostic.get(name).and_then(serde_json::Value::as_str);
            writeln!(
                out,
                "  {}:{}: {}{}",
                field("file").unwrap_or("?"),
                diagnostic.get("line").unwrap_or(&serde_json::Value::Null),
                field("message").unwrap_or("?"),
                field("help").map_or(String::new(), |h| format!("\n    help: {h}")),
            )?;
        }
    }
    writeln!(out, "\nENDPOINTS")?;
    endpoints::render(&status.endpoints, out)?;
    kernel(status, out)
}

fn mode_line(status: &Status) -> String {
    let from = match status.mode.from {
        ModeSource::Default => "by default".to_owned(),
        ModeSource::Flag => "by `run --mode`".to_owned(),
        ModeSource::Node => match &status.mode.origin {
            Some(origin) => format!("by the Node document at {origin}"),
            None => "by the Node document".to_owned(),
        },
        ModeSource::Operator => "by `apply --mode`".to_owned(),
    };
    format!("{} ({from})", mode_name(status.mode.effective))
}

/// When rules begin and end.
fn moments(status: &Status, out: &mut dyn Write) -> io::Result<()> {
    let policy = &status.policy;
    let Some(next) = policy.moments.first() else {
        return Ok(());
    };
    let further = match policy.moments.len() - 1 {
        0 => String::new(),
        further => format!(", and at {further} further moments"),
    };
    writeln!(
        out,
        "validity  rules begin or end at {next}{further}, with or without the daemon"
    )?;
    if policy.moments_beyond > 0 {
        writeln!(
            out,
            "          {} later moments do not fit into the kernel yet: they need the daemon",
            policy.moments_beyond
        )?;
    }
    Ok(())
}

fn policy(status: &Status, out: &mut dyn Write) -> io::Result<()> {
    let policy = &status.policy;
    let from = match policy.from {
        PolicySource::None => "nothing was loaded yet",
        PolicySource::Tree => "the tree",
        PolicySource::LastGood => "the copy of the last good tree",
        PolicySource::Operator => "`apply --policies`",
    };
    writeln!(
        out,
        "policy    {} (generation {}, from {from}{})",
        short(&policy.digest),
        policy.generation,
        policy
            .since
            .as_ref()
            .map_or(String::new(), |since| format!(", since {since}")),
    )?;
    writeln!(
        out,
        "tree      {}{} ({} workloads, {} policies)",
        policy.tree.display(),
        policy
            .commit
            .as_ref()
            .map_or(String::new(), |commit| format!(
                " at commit {}",
                short(commit)
            )),
        policy.workloads,
        policy.policies.len()
    )?;
    if let Some(held) = &policy.held {
        writeln!(
            out,
            "          its present content ({}) is held back; `enforcer apply` takes it",
            short(held)
        )?;
    }
    moments(status, out)
}

fn remote(git: &GitStatus, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "remote    {} ({}{})",
        git.remote,
        match &git.seen {
            Some(seen) => format!("seen {seen}"),
            None => "never seen".to_owned(),
        },
        if git.signatures_required {
            ", signatures required"
        } else {
            ""
        },
    )?;
    if let Some(commit) = &git.commit {
        writeln!(
            out,
            "commit    {} of {} by {} at {}",
            short(&commit.id),
            commit.reference,
            commit.author,
            commit.time
        )?;
        if let Some(signer) = &commit.signer {
            writeln!(out, "          signed by {} ({})", signer.name, signer.key)?;
        }
    }
    if let Some(failure) = &git.failure {
        writeln!(
            out,
            "          NOT FETCHED since {} ({} times): {}",
            failure.since, failure.times, failure.message
        )?;
    }
    if let Some(refused) = &git.refused {
        writeln!(
            out,
            "          NOT APPLIED since {}: {}",
            refused.time, refused.message
        )?;
    }
    Ok(())
}

fn policies(policy: &PolicyStatus, out: &mut dyn Write) -> io::Result<()> {
    if policy.policies.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nPOLICIES")?;
    let mut table = output::table(&["TIER", "POLICY", "MODE", "RULES", "WHERE"]);
    for line in &policy.policies {
        table.add_row([
            tier_name(line.tier).to_owned(),
            match &line.namespace {
                Some(namespace) => format!("{namespace}/{}", line.name),
                None => line.name.clone(),
            },
            line.mode.map_or("(node)", mode_name).to_owned(),
            line.rules.to_string(),
            line.origin.to_string(),
        ]);
    }
    writeln!(out, "{}", table.trim_fmt())
}

fn kernel(status: &Status, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "\nMAPS")?;
    let mut table = output::table(&["MAP", "ENTRIES", "CAPACITY", "FULL", "KIB"]);
    for map in &status.maps {
        let percent = (map.entries * 100).checked_div(map.capacity).unwrap_or(0);
        table.add_row([
            map.name.clone(),
            map.entries.to_string(),
            map.capacity.to_string(),
            format!("{percent}%"),
            (map.bytes / 1024).to_string(),
        ]);
    }
    writeln!(out, "{}", table.trim_fmt())?;
    writeln!(out, "\nLOSSES")?;
    let lost: Vec<_> = status.losses.iter().filter(|l| l.count > 0).collect();
    if lost.is_empty() {
        writeln!(out, "none")?;
    }
    for loss in lost {
        writeln!(out, "{} {}", loss.cause, loss.count)?;
    }
    writeln!(out, "\nKERNEL")?;
    for feature in &status.features {
        let found = if feature.found { "found" } else { "missing" };
        writeln!(out, "{} {found}: {}", feature.name, feature.note)?;
    }
    for attachment in &status.attachments {
        writeln!(
            out,
            "attached: {} at {} by {}",
            attachment.hook, attachment.target, attachment.way
        )?;
    }
    Ok(())
}

/// Name of a tier, as in YAML.
pub const fn tier_name(tier: Tier) -> &'static str {
    match tier {
        Tier::Quarantine => "quarantine",
        Tier::Admin => "admin",
        Tier::Application => "application",
        Tier::Baseline => "baseline",
    }
}

fn uptime(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}
