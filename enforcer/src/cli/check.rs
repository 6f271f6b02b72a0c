//! `enforcer check`.

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
};

use clap::Args;

use super::{Exit, OutputFormat, run::CapacityArgs};
use crate::{
    compile::{Inputs, Numbers, Subjects, compile},
    policy::{
        self, Code, PolicyErrors,
        model::{Moment, ResolvedPolicy},
    },
    reconcile::mode,
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
    let checked = policy::load_paths(&args.paths)
        .and_then(|policy| fitting(policy, &args.capacities, &shown.join(", ")));
    match format {
        OutputFormat::Json => write_json(&checked, &mut io::stdout().lock())?,
        OutputFormat::Human => {
            let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            match &checked {
                Ok(policy) => writeln!(io::stdout().lock(), "{}", summary(policy))?,
                Err(errors) => write_errors(errors, colour, &mut io::stderr().lock())?,
            }
        }
    }
    Ok(if checked.is_ok() {
        Exit::Done
    } else {
        Exit::Refuse
    })
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
fn write_json(
    checked: &Result<ResolvedPolicy, PolicyErrors>,
    out: &mut impl Write,
) -> io::Result<()> {
    match checked {
        Ok(_) => out.write_all(b"[]")?,
        Err(errors) => serde_json::to_writer_pretty(&mut *out, errors)?,
    }
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

fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> (Exit, tempfile::TempDir) {
        let root = tempfile::tempdir().expect("a directory");
        std::fs::write(root.path().join("a.yaml"), text).expect("writable");
        let args = CheckArgs {
            paths: vec![root.path().to_owned()],
            digest: false,
            capacities: CapacityArgs::default(),
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
    fn errors_are_shown_with_their_line_for_people_and_as_an_array_for_programs() {
        let (_, root) = check("apiVersion: enforcer.dev/v1alpha1\nkind: Nod\n");
        let checked = policy::load(root.path());
        let errors = checked.as_ref().expect_err("bad");
        let mut human = Vec::new();
        write_errors(errors, false, &mut human).expect("memory");
        let human = String::from_utf8(human).expect("UTF-8");
        insta::assert_snapshot!(human);
        let mut json = Vec::new();
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
