//! `enforcer diff`.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use anyhow::Context;
use clap::Args;

use super::{
    Exit, OutputFormat, output,
    socket::{self, SocketArg},
    tree_arg::{self, ModeArg},
};
use crate::{
    api::tree::{self, TreeInForce},
    compile::{
        explain::Answer,
        image::{RuleDirection, RuleInfo},
    },
    policy::model::{Moment, ResolvedPolicy},
    tools::{
        diff::{Change, ChangeKind, Difference, diff},
        reach::BothView,
        services,
        tree::{RulingView, Tree},
    },
};

/// Arguments of `diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The policy before: a tree, a file, or COMMIT:PATH of the git repository here. Or
    /// COMMIT..COMMIT for both, with --policies. With --daemon, the policy after.
    #[arg(value_name = "OLD")]
    old: String,
    /// The policy after.
    #[arg(
        value_name = "NEW",
        required_unless_present_any = ["policies", "daemon"],
        conflicts_with = "policies"
    )]
    new: Option<String>,
    /// Compare what the daemon here enforces with the one policy that is named: what would change
    /// if it were put in force.
    #[arg(long, conflicts_with_all = ["policies", "new"])]
    daemon: bool,
    #[command(flatten)]
    socket: SocketArg,
    /// Path of the policies in both commits of COMMIT..COMMIT.
    #[arg(long, value_name = "PATH")]
    policies: Option<String>,
    /// The node's mode that verdicts are for.
    #[arg(long, value_enum, default_value_t, value_name = "MODE")]
    mode: ModeArg,
}

/// Compares. Exit code 5: they differ.
pub fn run(args: &DiffArgs, format: OutputFormat) -> anyhow::Result<Exit> {
    if args.daemon {
        let found = socket::block_on(tree::fetch(&args.socket.client()))??;
        return against_daemon(args, &found, format);
    }
    let sides = match (&args.new, &args.policies) {
        (Some(new), _) => Some((args.old.clone(), new.clone())),
        (None, Some(path)) => range(&args.old, path),
        (None, None) => None,
    };
    let Some((old, new)) = sides else {
        eprintln!("enforcer: with --policies, write COMMIT..COMMIT, as in `main..branch`");
        return Ok(Exit::Usage);
    };
    let (old, new) = (
        tree_arg::tree(&old, args.mode)?,
        tree_arg::tree(&new, args.mode)?,
    );
    let (Some(old), Some(new)) = (old, new) else {
        return Ok(Exit::Refuse);
    };
    show(&old, &new, format)
}

/// Compares with what a daemon enforces, on its host.
fn against_daemon(
    args: &DiffArgs,
    found: &TreeInForce,
    format: OutputFormat,
) -> anyhow::Result<Exit> {
    let old = found.policy().map_err(|errors| {
        anyhow::anyhow!("cannot read the policy in force, written by another version: {errors}")
    })?;
    let Some(new) = tree_arg::load(&args.old)? else {
        return Ok(Exit::Refuse);
    };
    let compiled = |policy: ResolvedPolicy| {
        let mode = args.mode.of(&policy);
        Tree::new(policy, mode, Moment::now(), &found.summary.host_addresses)
    };
    let old = compiled(old).context("cannot compile the policy in force")?;
    let new = compiled(new).with_context(|| format!("cannot compile {}", args.old))?;
    show(&old, &new, format)
}

fn show(old: &Tree, new: &Tree, format: OutputFormat) -> anyhow::Result<Exit> {
    let difference = diff(old, new);
    output::print(format, &difference, |out| render(&difference, out))?;
    Ok(if difference.is_empty() {
        Exit::Done
    } else {
        Exit::Differ
    })
}

/// Both sides of `COMMIT..COMMIT`; nothing after the dots is HEAD.
fn range(commits: &str, path: &str) -> Option<(String, String)> {
    let (old, new) = commits.split_once("..")?;
    let or_head = |commit: &str| match commit {
        "" => "HEAD".to_owned(),
        commit => commit.to_owned(),
    };
    Some((
        format!("{}:{path}", or_head(old)),
        format!("{}:{path}", or_head(new)),
    ))
}

/// Changes that differ in who opens the flow are told together.
fn render(difference: &Difference, out: &mut dyn Write) -> io::Result<()> {
    for setting in &difference.settings {
        writeln!(
            out,
            "setting {}: {} -> {}",
            setting.setting, setting.before, setting.after
        )?;
    }
    let mut counts = [0_usize; 3];
    for kind in [ChangeKind::Gained, ChangeKind::Lost, ChangeKind::Changed] {
        let mut told: BTreeMap<(&str, String, String, String), Vec<&str>> = BTreeMap::new();
        for change in difference.changes.iter().filter(|c| c.change == kind) {
            counts[kind as usize] += 1;
            let Change { before, after, .. } = change;
            let key = (
                &*change.to,
                services::in_words(&change.stretches, &change.besides),
                cause(before, after, &change.to),
                cause(after, before, &change.to),
            );
            told.entry(key).or_default().push(&change.from);
        }
        for ((to, services, before, after), from) in told {
            let name = match kind {
                ChangeKind::Gained => "gained",
                ChangeKind::Lost => "lost",
                ChangeKind::Changed => "changed",
            };
            writeln!(out, "{name} {} -> {to}: {services}", from.join(", "))?;
            writeln!(out, "  before: {before}")?;
            writeln!(out, "  after:  {after}")?;
        }
    }
    let [gained, lost, changed] = counts;
    if difference.is_empty() {
        writeln!(out, "no difference")
    } else {
        writeln!(out, "{gained} gained, {lost} lost, {changed} changed")
    }
}

/// The verdict and the rules that make it: of an allowed flow, those of the sides that the
/// other tree does not allow.
fn cause(view: &BothView, other: &BothView, to: &str) -> String {
    let verdict = verdict_name(view.verdict);
    let differs = |direction: RuleDirection| {
        let side = match direction {
            RuleDirection::Egress => &other.egress,
            RuleDirection::Ingress => &other.ingress,
        };
        side.as_ref()
            .is_none_or(|side| side.verdict != Answer::Allow)
    };
    let sides = view
        .deciding()
        .filter(|(direction, _)| view.verdict != Answer::Allow || differs(*direction))
        .map(|(direction, side)| match direction {
            RuleDirection::Egress => format!("egress, {}", by(side)),
            RuleDirection::Ingress => format!("ingress of {to}, {}", by(side)),
        });
    let sides: Vec<_> = sides.collect();
    match &sides[..] {
        [] => format!("{verdict} (nothing restricts it)"),
        sides => format!("{verdict} ({})", sides.join("; ")),
    }
}

/// Who decided, as in `rule shop/db api-to-db at db.yaml:12`.
pub(super) fn by(side: &RulingView) -> String {
    let Some(rule) = &side.rule else {
        return "nothing restricts it".to_owned();
    };
    let words = rule_words(rule, &side.reason);
    match &side.commit {
        Some(commit) if rule.origin.is_some() => {
            format!("{words} ({})", commit.get(..8).unwrap_or(commit))
        }
        _ => words,
    }
}

/// A rule, isolation or default with its place.
fn rule_words(rule: &RuleInfo, reason: &str) -> String {
    let policy = match &rule.namespace {
        Some(namespace) => format!("{namespace}/{}", rule.policy),
        None => rule.policy.clone(),
    };
    let mut words = match reason {
        "isolation" => format!("isolation by policy {policy}"),
        "node-default" => "the node's default".to_owned(),
        _ => format!("rule {} of policy {policy}", rule.rule),
    };
    if let Some(origin) = &rule.origin {
        words = format!("{words} at {origin}");
    }
    words
}

/// A verdict in a word.
pub(super) const fn verdict_name(verdict: Answer) -> &'static str {
    match verdict {
        Answer::Allow => "allow",
        Answer::Deny => "deny",
        Answer::Audit => "audit",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{load_text, model::Mode};

    #[test]
    fn both_sides_of_a_range() {
        let sides = |text| range(text, "p");
        assert_eq!(sides("a..b"), Some(("a:p".into(), "b:p".into())));
        assert_eq!(sides("a.."), Some(("a:p".into(), "HEAD:p".into())));
        assert_eq!(sides("a"), None);
    }

    #[test]
    fn a_difference_in_words() {
        let tree = |ports: &str| {
            let text = format!(
                "apiVersion: enforcer.dev/v1alpha1\nkind: SegmentPolicy\n\
                 metadata: {{name: db, namespace: shop}}\nspec:\n  selector: {{}}\n  ingress:\n  \
                 - name: office\n    from: [{{cidr: 10.0.0.0/8}}]\n    ports: [{ports}]\n---\n\
                 apiVersion: enforcer.dev/v1alpha1\nkind: Workload\n\
                 metadata: {{name: db, namespace: shop}}\nspec: {{interface: a, addresses: [192.0.2.1]}}\n"
            );
            let policy =
                load_text("a.yaml", &text).unwrap_or_else(|e| panic!("{}", e.render(false)));
            Tree::new(policy, Mode::Enforce, Moment::default(), &[]).unwrap()
        };
        let difference = diff(&tree("5432/tcp, 53/udp"), &tree("1-6000/tcp"));
        let mut out = Vec::new();
        render(&difference, &mut out).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap());
    }
}
