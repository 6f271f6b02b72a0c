//! `enforcer simulate`.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use anyhow::Context;
use clap::Args;

use super::{
    Exit, OutputFormat,
    diff::{by, verdict_name},
    output,
    tree_arg::{self, ModeArg},
};
use crate::{
    compile::image::RuleDirection,
    policy::model::Moment,
    tools::{
        flows::{Bad, Flows, FlowsError},
        simulate::{SimulatedChange, SimulatedKind, Simulation, simulate},
    },
};

/// Files of flows.
#[derive(Debug, Args)]
pub struct FlowsArg {
    /// Flow records (a flow log, or what `observe --output json` printed) or a packet capture
    /// (pcap, pcapng); `-` for standard input.
    #[arg(long, value_name = "FILE", required = true)]
    flows: Vec<PathBuf>,
    /// End at the first line or packet that cannot be read, instead of counting it.
    #[arg(long)]
    strict: bool,
}

impl FlowsArg {
    /// Reads all of them.
    pub fn read(&self) -> Result<Flows, FlowsError> {
        let mut flows = Flows::default();
        for path in &self.flows {
            flows.read(path, self.strict)?;
        }
        Ok(flows)
    }
}

/// Arguments of `simulate`.
#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// The policy: a tree, a file, or COMMIT:PATH of the git repository here.
    #[arg(value_name = "POLICIES")]
    policies: String,
    #[command(flatten)]
    flows: FlowsArg,
    /// The node's mode that verdicts are for.
    #[arg(long, value_enum, default_value_t, value_name = "MODE")]
    mode: ModeArg,
}

/// Replays. Exit code 5: something that passed would be denied.
pub fn run(args: &SimulateArgs, format: OutputFormat) -> anyhow::Result<Exit> {
    let Some(policy) = tree_arg::load(&args.policies)? else {
        return Ok(Exit::Refuse);
    };
    let flows = args.flows.read()?;
    let mode = args.mode.of(&policy);
    let simulation =
        simulate(&policy, mode, Moment::now(), &flows).context("cannot compile the policy")?;
    output::print(format, &simulation, |out| render(&simulation, out))?;
    // Also where standard output goes to a program.
    tell_bad(&simulation.bad);
    Ok(if simulation.denies() {
        Exit::Differ
    } else {
        Exit::Done
    })
}

/// Says on standard error which lines could not be read.
pub(super) fn tell_bad(bad: &Bad) {
    for line in &bad.first {
        eprintln!("enforcer: {line}");
    }
    let more = bad.count.saturating_sub(bad.first.len() as u64);
    if more > 0 {
        eprintln!("enforcer: and {more} more that cannot be read");
    }
}

fn render(simulation: &Simulation, out: &mut dyn Write) -> io::Result<()> {
    for change in &simulation.changes {
        render_change(change, out)?;
    }
    let records = |kind| -> u64 { simulation.of(kind).map(|c| c.seen.records).sum() };
    writeln!(
        out,
        "{} judged: {} newly denied, {} newly audited, {} newly allowed, {} as before",
        simulation.judged,
        records(SimulatedKind::Denied),
        records(SimulatedKind::Audited),
        records(SimulatedKind::Allowed),
        simulation.same
    )?;
    let unjudged = simulation.unjudged.iter().map(|(why, n)| (why.words(), n));
    let passed_over = simulation
        .passed_over
        .iter()
        .map(|(why, n)| (why.words(), n));
    for (why, count) in unjudged.chain(passed_over) {
        writeln!(out, "{count} not judged: {why}")?;
    }
    if simulation.bad.count > 0 {
        writeln!(out, "{} could not be read", simulation.bad.count)?;
    }
    Ok(())
}

fn render_change(change: &SimulatedChange, out: &mut dyn Write) -> io::Result<()> {
    let SimulatedChange {
        from, to, service, ..
    } = change;
    let kind = match change.change {
        SimulatedKind::Denied => "DENIED ",
        SimulatedKind::Audited => "audited",
        SimulatedKind::Allowed => "allowed",
    };
    let side = match change.direction {
        RuleDirection::Egress => "egress",
        RuleDirection::Ingress => "ingress",
    };
    writeln!(
        out,
        "{kind} {from} -> {to}: {service} ({side}), {}",
        change.seen
    )?;
    write!(out, "  recorded: {}", verdict_name(change.recorded))?;
    if let Some(rule) = &change.recorded_rule {
        let policy = match &rule.namespace {
            Some(namespace) => format!("{namespace}/{}", rule.policy),
            None => rule.policy.clone(),
        };
        write!(out, " by {} of policy {policy}", rule.name)?;
        if let (Some(file), Some(line)) = (&rule.file, rule.line) {
            write!(out, " at {file}:{line}")?;
        }
    }
    writeln!(out)?;
    writeln!(
        out,
        "  now:      {}, {}",
        verdict_name(change.simulated.verdict),
        by(&change.simulated)
    )?;
    if !change.examples.is_empty() {
        writeln!(out, "  as in:    {}", change.examples.join(", "))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        observe::fixtures,
        policy::{load_text, model::Mode},
    };

    #[test]
    fn a_simulation_in_words() {
        let policy = "apiVersion: enforcer.dev/v1alpha1\nkind: SegmentPolicy\n\
             metadata: {name: db, namespace: shop}\nspec:\n  selector: {matchLabels: {app: db}}\n  \
             ingress:\n  - name: web\n    from: [{labels: {app: web}}]\n    ports: [5432/tcp]\n";
        let workload = |name: &str, address: &str| {
            format!(
                "---\napiVersion: enforcer.dev/v1alpha1\nkind: Workload\nmetadata: {{name: {name}, \
                 namespace: shop, labels: {{app: {name}}}}}\nspec: {{interface: {name}, addresses: [{address}]}}\n"
            )
        };
        let text = format!(
            "{policy}{}{}",
            workload("web", "10.77.21.2"),
            workload("db", "10.77.22.2")
        );
        let policy = load_text("a.yaml", &text).unwrap_or_else(|e| panic!("{}", e.render(false)));
        // Recorded as denied: allowed now.
        let mut flows = Flows::default();
        flows.record(&fixtures::record());
        // Passed, and denied now.
        let mut other = fixtures::record();
        other.verdict = crate::observe::record::Verdict::Allow;
        other.rule = None;
        other.workload.port = Some(22);
        flows.record(&other);
        other.workload.name = Some("gone".into());
        flows.record(&other);
        let simulation = simulate(&policy, Mode::Enforce, Moment::now(), &flows).unwrap();
        assert!(simulation.denies());
        let mut out = Vec::new();
        render(&simulation, &mut out).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap());
        let audited = simulate(&policy, Mode::Audit, Moment::now(), &flows).unwrap();
        assert!(!audited.denies());
    }
}
