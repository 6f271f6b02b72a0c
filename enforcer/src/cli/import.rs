//! `enforcer import`.

use std::{
    io::{self, IsTerminal},
    path::PathBuf,
};

use clap::Args;
use ipnet::IpNet;

use super::{Exit, OutputFormat, output};
use crate::{
    policy,
    tools::import::{Import, Settings, import},
};

/// Arguments of `import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// Files and directories with policies of Cilium and Calico, as `kubectl get -o yaml` prints
    /// them. Give all of a cluster at once: what they mean together depends on their order.
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// A network in which pods or nodes have their addresses: networks in Cilium's policies never
    /// match these. May be given several times.
    #[arg(long, value_name = "CIDR")]
    cluster_network: Vec<IpNet>,
    /// Write nothing if something has no equivalent.
    #[arg(long)]
    strict: bool,
}

/// Imports. Standard output is the policies; what they leave out is told on standard error.
pub fn run(args: &ImportArgs, format: OutputFormat) -> anyhow::Result<Exit> {
    let colour = io::stderr().is_terminal();
    let networks = args.cluster_network.iter().map(IpNet::trunc);
    let settings = Settings {
        cluster_networks: networks.collect(),
    };
    let imported = policy::files(&args.paths).and_then(|files| import(&files, &settings));
    let imported = match imported {
        Ok(imported) => imported,
        Err(errors) => {
            eprint!("{}", errors.render(colour));
            return Ok(Exit::Refuse);
        }
    };
    let is_whole = imported.left_out.is_empty();
    if args.strict && !is_whole {
        tell(&imported, colour);
        return Ok(Exit::Refuse);
    }
    output::print(format, &imported, |out| {
        out.write_all(imported.yaml.as_bytes())
    })?;
    if format == OutputFormat::Human {
        tell(&imported, colour);
    }
    Ok(if imported.objects.is_empty() {
        Exit::Refuse
    } else if is_whole {
        Exit::Done
    } else {
        Exit::Partial
    })
}

fn tell(imported: &Import, colour: bool) {
    let mut text = String::new();
    for found in &imported.left_out {
        found.render(colour, &mut text);
    }
    eprint!("{text}");
    let documents: usize = imported.objects.iter().map(|o| o.documents.len()).sum();
    eprintln!(
        "enforcer: {} read, {documents} documents written, {} without equivalent",
        match imported.objects.len() {
            1 => "1 object".to_owned(),
            count => format!("{count} objects"),
        },
        imported.left_out.len(),
    );
    for (kind, count) in &imported.ignored {
        eprintln!("enforcer: passed over {count} of kind {kind}");
    }
}
