//! `enforcer check`.

use std::{
    fs::File,
    io::{self, BufRead, IsTerminal, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow};
use clap::{Args, ValueEnum};
use serde_json::Value;

use super::{Exit, OutputFormat, run::CapacityArgs};
use crate::{
    compile::{Inputs, Numbers, Subjects, compile},
    lint::{self, Finding, Severity, sarif},
    observe::record::FlowRecord,
    policy::{
        self, Code, PolicyErrors,
        model::{Moment, ResolvedPolicy},
    },
    reconcile::mode,
    tools::flows::records::{self, Line},
};

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Policy trees and files; read together, as one policy.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Of one tree without errors, print only the digest that the daemon shows when the tree is
    /// in force (for `wait --digest`).
    #[arg(long)]
    digest: bool,
    #[command(flatten)]
    capacities: CapacityArgs,
    /// Flow records, as `observe --output json` writes them: for the lints that look at what is
    /// used.
    #[arg(long, value_name = "FILE")]
    flows: Option<PathBuf>,
    /// Findings of lints that make the exit code 1. Errors always do.
    #[arg(long, value_enum, value_name = "SEVERITY")]
    deny: Option<Deny>,
    /// Leave the lints out.
    #[arg(long, conflicts_with_all = ["flows", "deny"])]
    no_lint: bool,
}

/// Which findings are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Deny {
    /// Warnings.
    Warnings,
    /// Warnings and notes.
    Notes,
}

/// What came of a tree.
#[derive(Debug)]
struct Checked {
    result: Result<ResolvedPolicy, PolicyErrors>,
    findings: Vec<Finding>,
}

impl Checked {
    fn exit(&self, deny: Option<Deny>) -> Exit {
        let refused = match deny {
            None => Severity::Error,
            Some(Deny::Warnings) => Severity::Warning,
            Some(Deny::Notes) => Severity::Note,
        };
        let bad = self
            .findings
            .iter()
            .any(|finding| finding.severity >= refused);
        if self.result.is_err() || bad {
            Exit::Refuse
        } else {
            Exit::Done
        }
    }
}

/// Says everything that `run` would refuse in these trees and files, as far as files alone tell.
/// Needs no privileges.
pub fn run(args: &CheckArgs, format: OutputFormat) -> anyhow::Result<Exit> {
    if args.digest {
        return digest(args);
    }
    let shown: Vec<_> = args
        .paths
        .iter()
        .map(|path| path.to_string_lossy())
        .collect();
    let checked = check(args, &shown.join(", "))?;
    match format {
        OutputFormat::Json => write_json(&checked, &mut io::stdout().lock())?,
        OutputFormat::Sarif => {
            let errors = checked
                .result
                .as_ref()
                .err()
                .map_or(&[][..], PolicyErrors::errors);
            let log = sarif::log(errors, &checked.findings);
            let mut out = io::stdout().lock();
            serde_json::to_writer_pretty(&mut out, &log)?;
            out.write_all(b"\n")?;
        }
        OutputFormat::Human => {
            let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            match &checked.result {
                Ok(policy) => {
                    let found = lint::render(&checked.findings, colour);
                    io::stderr().lock().write_all(found.as_bytes())?;
                    let found = counts(&checked.findings);
                    writeln!(io::stdout().lock(), "{}{found}", summary(policy))?;
                }
                Err(errors) => write_errors(errors, colour, &mut io::stderr().lock())?,
            }
        }
    }
    Ok(checked.exit(args.deny))
}

fn check(args: &CheckArgs, shown: &str) -> anyhow::Result<Checked> {
    let refused = |errors| Checked {
        result: Err(errors),
        findings: Vec::new(),
    };
    let mut study = match policy::study(&args.paths) {
        Ok(study) => study,
        Err(errors) => return Ok(refused(errors)),
    };
    study.policy = match fitting(study.policy, &args.capacities, shown) {
        Ok(policy) => policy,
        Err(errors) => return Ok(refused(errors)),
    };
    let findings = if args.no_lint {
        Vec::new()
    } else {
        let flows = args.flows.as_deref().map(read_flows).transpose()?;
        lint::run(&study, flows.as_deref(), Moment::now()).context("cannot compile the policy")?
    };
    Ok(Checked {
        result: Ok(study.policy),
        findings,
    })
}

/// The records of a file, one a line.
fn read_flows(path: &Path) -> anyhow::Result<Vec<FlowRecord>> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut flows = Vec::new();
    for (number, line) in (1..).zip(io::BufReader::new(file).lines()) {
        let at = || format!("cannot read line {number} of {}", path.display());
        let line = line.with_context(at)?;
        if line.trim().is_empty() {
            continue;
        }
        match records::parse(line.as_bytes()) {
            Ok(Line::Record(flow)) => flows.push(*flow),
            Ok(Line::Lost(_) | Line::OtherKind) => {}
            Err(why) => return Err(anyhow!(why).context(at())),
        }
    }
    Ok(flows)
}

/// Compiles the policy, as a daemon does that starts afresh on a host of which nothing is known,
/// and gives it back if it fits.
fn fitting(
    policy: ResolvedPolicy,
    capacities: &CapacityArgs,
    shown: &str,
) -> Result<ResolvedPolicy, PolicyErrors> {
    let inputs = Inputs {
        mode: mode::effective(None, &policy.node, None).effective,
        now: Moment::now(),
        policy: &policy,
        host_addresses: &[],
        elsewhere: &crate::compile::elsewhere::NOBODY,
        attested: crate::compile::NOBODY,
        subjects: Subjects::Placed,
        limits: &capacities.capacities().limits(),
        in_force: None,
    };
    match compile(&inputs, &mut Numbers::default()) {
        Ok(_) => Ok(policy),
        Err(error) => Err(PolicyErrors::about_tree(
            Code::DoesNotFit,
            shown,
            &error.to_string(),
            "`check` takes the same --max-… flags as `run`",
        )),
    }
}

/// The daemon calls files by their path below the root, and the digest covers their names.
fn digest(args: &CheckArgs) -> anyhow::Result<Exit> {
    let [path] = args.paths.as_slice() else {
        eprintln!("enforcer: --digest is about one tree");
        return Ok(Exit::Usage);
    };
    let shown = path.to_string_lossy();
    match policy::load(path).and_then(|policy| fitting(policy, &args.capacities, &shown)) {
        Ok(policy) => {
            writeln!(io::stdout().lock(), "{}", policy.digest)?;
            Ok(Exit::Done)
        }
        Err(errors) => {
            write_errors(&errors, false, &mut io::stderr().lock())?;
            Ok(Exit::Refuse)
        }
    }
}

/// An array of diagnostics, empty where all is well.
fn write_json(checked: &Checked, out: &mut impl Write) -> io::Result<()> {
    let mut all = Vec::new();
    if let Err(errors) = &checked.result {
        for error in errors.errors() {
            let mut error = serde_json::to_value(error)?;
            error["severity"] = Value::from(Severity::Error.as_str());
            all.push(error);
        }
    }
    for finding in &checked.findings {
        all.push(serde_json::to_value(finding)?);
    }
    serde_json::to_writer_pretty(&mut *out, &all)?;
    out.write_all(b"\n")
}

fn write_errors(errors: &PolicyErrors, colour: bool, out: &mut impl Write) -> io::Result<()> {
    out.write_all(errors.render(colour).as_bytes())?;
    writeln!(out, "{}", counted(errors.count(), "error"))
}

/// Without the digest: files are called as on the command line here, so it would be another one
/// than the daemon's (see [`digest`]).
fn summary(policy: &ResolvedPolicy) -> String {
    let rules = policy.policies.iter().flat_map(|policy| &policy.rules);
    let rules = rules.flatten().map(Vec::len).sum();
    format!(
        "good: {} with {}, {}",
        match policy.policies.len() {
            1 => "1 policy".to_owned(),
            count => format!("{count} policies"),
        },
        counted(rules, "rule"),
        counted(policy.workloads.len(), "workload"),
    )
}

/// How many findings there are, or nothing.
fn counts(findings: &[Finding]) -> String {
    let mut text = String::new();
    for severity in [Severity::Error, Severity::Warning, Severity::Note] {
        let count = findings.iter().filter(|f| f.severity == severity).count();
        if count > 0 {
            text.push_str("; ");
            text.push_str(&counted(count, severity.as_str()));
        }
    }
    text
}

fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> (Exit, tempfile::TempDir) {
        denying(text, None)
    }

    fn denying(text: &str, deny: Option<Deny>) -> (Exit, tempfile::TempDir) {
        let root = tempfile::tempdir().expect("a directory");
        std::fs::write(root.path().join("a.yaml"), text).expect("writable");
        let args = CheckArgs {
            paths: vec![root.path().to_owned()],
            digest: false,
            capacities: CapacityArgs::default(),
            flows: None,
            deny,
            no_lint: false,
        };
        (run(&args, OutputFormat::Json).expect("output"), root)
    }

    #[test]
    fn the_exit_code_says_whether_the_tree_is_good() {
        let good = "apiVersion: enforcer.dev/v1alpha1\nkind: Node\nmetadata: {name: a}\nspec: {}\n";
        assert_eq!(check(good).0, Exit::Done);
        assert_eq!(check(&good.replace("Node", "Nod")).0, Exit::Refuse);
        assert_eq!(check("").0, Exit::Refuse);
    }

    #[test]
    fn warnings_are_refused_on_demand() {
        let text = "apiVersion: enforcer.dev/v1alpha1\nkind: SegmentPolicy\nmetadata: {name: a}\n\
                    spec: {selector: {host: true}, ingress: [{}, {}]}\n";
        assert_eq!(denying(text, None).0, Exit::Done);
        assert_eq!(denying(text, Some(Deny::Warnings)).0, Exit::Refuse);
        assert_eq!(denying(text, Some(Deny::Notes)).0, Exit::Refuse);
        let silent = "metadata: {name: a, annotations: {lint.enforcer.dev/bad-name: x}}";
        let text = text.replace("metadata: {name: a}", silent);
        assert_eq!(denying(&text, None).0, Exit::Refuse);
    }

    #[test]
    fn errors_are_shown_with_their_line_for_people_and_as_an_array_for_programs() {
        let (_, root) = check("apiVersion: enforcer.dev/v1alpha1\nkind: Nod\n");
        let checked = policy::load(root.path());
        let errors = checked.clone().expect_err("bad");
        let mut human = Vec::new();
        write_errors(&errors, false, &mut human).expect("memory");
        let human = String::from_utf8(human).expect("UTF-8");
        insta::assert_snapshot!(human);
        let mut json = Vec::new();
        let checked = Checked {
            result: checked,
            findings: Vec::new(),
        };
        write_json(&checked, &mut json).expect("memory");
        let json: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
        insta::assert_json_snapshot!(json);
    }

    #[test]
    fn what_does_not_fit_the_maps_is_refused_as_run_refuses_it() {
        let root = tempfile::tempdir().expect("a directory");
        let blocked: Vec<String> = (0..=u16::MAX / 4)
            .map(|n| format!("10.{}.{}.0/24", n >> 8, n & 0xff))
            .collect();
        let tree = |count: usize| {
            let text = format!(
                "apiVersion: enforcer.dev/v1alpha1\nkind: Node\nmetadata: {{name: a}}\n\
                 spec: {{blockedSources: [{}]}}\n",
                blocked[..count].join(", ")
            );
            std::fs::write(root.path().join("a.yaml"), text).expect("writable");
        };
        let checked = |capacities: CapacityArgs| {
            let policy = policy::load(root.path()).expect("good as files go");
            fitting(policy, &capacities, "here").map(drop)
        };
        let default = CapacityArgs::default();
        let most = default.capacities().rules as usize;
        tree(most);
        let error = checked(default.clone()).expect_err("too large");
        assert_eq!(error.errors()[0].code, Code::DoesNotFit);
        let human = error.render(false);
        assert!(human.contains("raise --max-rules"), "{human}");
        let larger = CapacityArgs {
            max_rules: Some(2 * default.capacities().rules),
            ..default.clone()
        };
        checked(larger).expect("fits larger maps");
        tree(most / 2);
        checked(default.clone()).expect("fits");
        for digest in [false, true] {
            let exit = |max_prefixes| {
                let args = CheckArgs {
                    paths: vec![root.path().to_owned()],
                    digest,
                    capacities: CapacityArgs {
                        max_prefixes,
                        ..CapacityArgs::default()
                    },
                    flows: None,
                    deny: None,
                    no_lint: true,
                };
                run(&args, OutputFormat::Human).expect("output")
            };
            assert_eq!(exit(None), Exit::Done);
            assert_eq!(exit(Some(100)), Exit::Refuse);
        }
    }

    #[test]
    fn the_summary_counts() {
        let policy = policy::load_text(
            "a.yaml",
            "apiVersion: enforcer.dev/v1alpha1\nkind: SegmentPolicy\nmetadata: {name: a}\n\
             spec: {selector: {}, ingress: [{}, {}], egress: []}\n",
        )
        .expect("good");
        assert_eq!(summary(&policy), "good: 1 policy with 2 rules, 0 workloads");
    }
}
