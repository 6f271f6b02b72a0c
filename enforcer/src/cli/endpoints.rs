//! `enforcer endpoints`.

use std::io::{self, Write};

use clap::Args;

use super::{Exit, OutputFormat, output, socket};
use crate::{
    api::status::{EndpointStatus, PlaceKind},
    compile::image::Assurance,
    policy::model::Labels,
};

/// Arguments of `endpoints`.
#[derive(Debug, Args)]
pub struct EndpointsArgs {
    #[command(flatten)]
    socket: socket::SocketArg,
}

/// Lists the endpoints.
pub fn run(args: &EndpointsArgs, format: OutputFormat) -> anyhow::Result<Exit> {
    let client = args.socket.client();
    let endpoints: Vec<EndpointStatus> = socket::block_on(client.get("/v1/endpoints"))??;
    output::print(format, &endpoints, |out| render(&endpoints, out))?;
    Ok(Exit::Done)
}

/// A table of endpoints.
pub fn render(endpoints: &[EndpointStatus], out: &mut dyn Write) -> io::Result<()> {
    if endpoints.is_empty() {
        return writeln!(
            out,
            "no endpoints: no workload of the policy tree is on this host"
        );
    }
    let mut table = output::table(&[
        "ID",
        "WORKLOAD",
        "IDENTITY",
        "ASSURANCE",
        "MODE",
        "PLACE",
        "LABELS",
    ]);
    for endpoint in endpoints {
        table.add_row([
            endpoint.id.to_string(),
            match &endpoint.namespace {
                Some(namespace) => format!("{namespace}/{}", endpoint.name),
                None => endpoint.name.clone(),
            },
            endpoint.identity.to_string(),
            assurance_name(endpoint.assurance).to_owned(),
            if endpoint.audit { "audit" } else { "enforce" }.to_owned(),
            format!("{} {}", kind_name(endpoint.kind), endpoint.place),
            labels_line(&endpoint.labels),
        ]);
    }
    writeln!(out, "{}", table.trim_fmt())
}

fn labels_line(labels: &Labels) -> String {
    let pairs: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    pairs.join(",")
}

const fn kind_name(kind: PlaceKind) -> &'static str {
    match kind {
        PlaceKind::Interface => "interface",
        PlaceKind::Cgroup => "cgroup",
        PlaceKind::Uplink => "uplink",
    }
}

const fn assurance_name(assurance: Assurance) -> &'static str {
    match assurance {
        Assurance::Address => "address",
        Assurance::Orchestrator => "orchestrator",
        Assurance::Kernel => "kernel",
        Assurance::Attested => "attested",
    }
}
