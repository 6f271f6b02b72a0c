//! `enforcer check`.

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
};

use clap::Args;

use super::{Exit, OutputFormat};
use crate::policy::{self, PolicyErrors, model::ResolvedPolicy};

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
}

/// Says everything that `run` would refuse in these trees and files. Needs no privileges.
pub fn run(args: &CheckArgs, format: OutputFormat) -> anyhow::Result<Exit> {
    if args.digest {
        return digest(&args.paths);
    }
    let checked = policy::load_paths(&args.paths);
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

/// The daemon calls files by their path below the root, and the digest covers their names.
fn digest(paths: &[PathBuf]) -> anyhow::Result<Exit> {
    let [path] = paths else {
        eprintln!("enforcer: --digest is about one tree");
        return Ok(Exit::Usage);
    };
    match policy::load(path) {
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
