//! `enforcer recommend`.

use anyhow::Context;
use clap::Args;

use super::{
    Exit, OutputFormat, output,
    simulate::{FlowsArg, tell_bad},
    tree_arg,
};
use crate::tools::recommend::{Generalise, Recommendation, recommend};

/// Arguments of `recommend`.
#[derive(Debug, Args)]
pub struct RecommendArgs {
    /// Who there is: a tree with the workloads, a file, or COMMIT:PATH of the git repository
    /// here. Policies in it do not count, but the new ones get other names.
    #[arg(value_name = "POLICIES")]
    policies: String,
    #[command(flatten)]
    flows: FlowsArg,
    /// Allow what was denied, too.
    #[arg(long)]
    denied: bool,
    /// Be wider than what was seen: `labels=KEY,KEY` looks at these labels only, `networks=24,64`
    /// makes networks of addresses that belong to nobody, `world` makes them `entity: world`,
    /// `ports` makes one port every port. May be given several times.
    #[arg(long, value_name = "HOW")]
    generalise: Vec<Generalise>,
}

/// Recommends.
pub fn run(args: &RecommendArgs, format: OutputFormat) -> anyhow::Result<Exit> {
    let Some(policy) = tree_arg::load(&args.policies)? else {
        return Ok(Exit::Refuse);
    };
    let flows = args.flows.read()?;
    let wishes = args.generalise.iter().cloned();
    let generalise = wishes.fold(Generalise::default(), Generalise::and);
    let recommendation = recommend(&policy, &flows, &generalise, args.denied)
        .context("cannot compile the policy")?;
    output::print(format, &recommendation, |out| {
        out.write_all(recommendation.yaml.as_bytes())
    })?;
    tell(&recommendation);
    tell_bad(&flows.bad);
    Ok(Exit::Done)
}

/// Says on standard error what the policies do not allow. Standard output is the policies.
fn tell(recommendation: &Recommendation) {
    let unjudged = recommendation.unjudged.iter();
    let passed_over = recommendation.passed_over.iter();
    let counts = [
        (
            "denied, and not allowed (see --denied)",
            recommendation.denied,
        ),
        (
            "to port 0, which no policy can name",
            recommendation.unnameable,
        ),
    ];
    let counts = counts
        .into_iter()
        .chain(unjudged.map(|(why, count)| (why.words(), *count)))
        .chain(passed_over.map(|(why, count)| (why.words(), *count)));
    for (why, count) in counts.filter(|(_, count)| *count > 0) {
        eprintln!("enforcer: left out {count}: {why}");
    }
    if recommendation.policies.is_empty() {
        eprintln!("enforcer: no flow was seen that a policy could allow");
    }
}
