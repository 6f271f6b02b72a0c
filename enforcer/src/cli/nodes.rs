//! `enforcer nodes`.

use std::io::{self, Write};

use clap::Args;

use super::{Exit, OutputFormat, output, socket};
use crate::registry::status::FleetStatus;

/// Arguments of `nodes`.
#[derive(Debug, Args)]
pub struct NodesArgs {
    #[command(flatten)]
    socket: socket::SocketArg,
}

/// Lists the nodes.
pub fn run(args: &NodesArgs, format: OutputFormat) -> anyhow::Result<Exit> {
    let client = args.socket.client();
    let fleet: Option<FleetStatus> = socket::block_on(client.get("/v1/nodes"))??;
    output::print(format, &fleet, |out| match &fleet {
        Some(fleet) => render(fleet, out),
        None => writeln!(
            out,
            "one host: the daemon is not part of a fleet (run --etcd)"
        ),
    })?;
    Ok(Exit::Done)
}

fn render(fleet: &FleetStatus, out: &mut dyn Write) -> io::Result<()> {
    summary(fleet, out)?;
    writeln!(out)?;
    let mut table = output::table(&[
        "NODE",
        "WORKLOADS",
        "PORTS",
        "SOURCES",
        "LAG",
        "ISSUED",
        "BYTES",
        "ADDRESSES",
    ]);
    for node in &fleet.nodes {
        let addresses: Vec<String> = node.addresses.iter().map(ToString::to_string).collect();
        let own = if node.own { " (this one)" } else { "" };
        table.add_row([
            format!("{}{own}", node.name),
            node.workloads.to_string(),
            node.services.to_string(),
            match (node.own, node.enforces) {
                (true, _) => "-".to_owned(),
                (false, true) => node.sharing.to_string(),
                (false, false) => "only the host: it does not enforce".to_owned(),
            },
            format!("{} ms", node.lag_milliseconds),
            node.issued.clone(),
            node.bytes.to_string(),
            addresses.join(","),
        ]);
    }
    writeln!(out, "{}", table.trim_fmt())?;
    for node in &fleet.nodes {
        for address in &node.contested {
            writeln!(
                out,
                "{} claims {address}, which another node claims too: it is nobody's",
                node.name
            )?;
        }
        for ports in &node.contested_ports {
            writeln!(out, "{}: {ports}: the port is nobody's", node.name)?;
        }
        if let Some(reason) = &node.refused {
            writeln!(out, "{}: {reason}", node.name)?;
        }
    }
    Ok(())
}

/// The fleet in some lines.
pub fn summary(fleet: &FleetStatus, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "fleet     {} nodes, {} workloads elsewhere, lag {} ms ({})",
        fleet.known, fleet.workloads, fleet.lag_milliseconds, fleet.spiffe_id
    )?;
    let heard = if fleet.connected {
        "heard"
    } else {
        "NOT HEARD"
    };
    writeln!(
        out,
        "registry  {} ({heard} since {}; this node is {}published)",
        fleet.registry,
        fleet.since,
        if fleet.published { "" } else { "NOT " }
    )?;
    let refused: Vec<String> = (fleet.refusals.iter())
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    if !refused.is_empty() {
        writeln!(out, "refused   {}", refused.join(", "))?;
    }
    Ok(())
}
