//! `enforcer graph`.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, ValueEnum};

use super::{
    Exit, OutputFormat, output,
    simulate::tell_bad,
    tree_arg::{self, ModeArg},
};
use crate::{
    policy::model::Moment,
    tools::{
        flows::Flows,
        graph::{Wanted, graph, html, svg},
    },
};

/// What a picture is drawn as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Picture {
    /// A picture.
    #[default]
    Svg,
    /// A page with the picture and a table, which loads nothing.
    Html,
}

/// What a picture shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shown {
    /// What rules allow.
    Policy,
    /// What was seen.
    Flows,
    /// Both over each other.
    Both,
}

/// Arguments of `graph`.
#[derive(Debug, Args)]
pub struct GraphArgs {
    /// The policy: a tree, a file, or COMMIT:PATH of the git repository here.
    #[arg(value_name = "POLICIES")]
    policies: String,
    /// Flow records or packet captures to lay over the policy; `-` for standard input.
    #[arg(long, value_name = "FILE")]
    flows: Vec<PathBuf>,
    /// End at the first line or packet that cannot be read, instead of counting it.
    #[arg(long)]
    strict: bool,
    /// What to show. Default: both if there are flows, else policy.
    #[arg(long, value_enum, value_name = "WHAT")]
    show: Option<Shown>,
    /// Draw it as (written to standard output).
    #[arg(long, value_enum, default_value_t, value_name = "FORM")]
    picture: Picture,
    /// The node's mode that verdicts are for.
    #[arg(long, value_enum, default_value_t, value_name = "MODE")]
    mode: ModeArg,
}

/// Draws.
pub fn run(args: &GraphArgs, format: OutputFormat) -> anyhow::Result<Exit> {
    let shown = match (args.show, args.flows.is_empty()) {
        (Some(Shown::Flows | Shown::Both), true) => {
            eprintln!("enforcer: to show flows, name files of them with --flows");
            return Ok(Exit::Usage);
        }
        (Some(shown), _) => shown,
        (None, true) => Shown::Policy,
        (None, false) => Shown::Both,
    };
    let Some(policy) = tree_arg::load(&args.policies)? else {
        return Ok(Exit::Refuse);
    };
    let mut flows = Flows::default();
    for path in &args.flows {
        flows.read(path, args.strict)?;
    }
    let wanted = Wanted {
        policy: shown != Shown::Flows,
        flows: shown != Shown::Policy,
    };
    let has_flows = (!args.flows.is_empty()).then_some(&flows);
    let graph = graph(
        &policy,
        args.mode.of(&policy),
        Moment::now(),
        has_flows,
        wanted,
    )
    .context("cannot compile the policy")?;
    output::print(format, &graph, |out| {
        let text = match args.picture {
            Picture::Svg => svg(&graph),
            Picture::Html => html(&graph),
        };
        out.write_all(text.as_bytes())
    })?;
    tell_bad(&flows.bad);
    Ok(Exit::Done)
}
