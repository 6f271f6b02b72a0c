//! `enforcer fmt`.

use std::{
    fs,
    io::{self, IsTerminal},
    path::PathBuf,
};

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::{Exit, OutputFormat, output};
use crate::{formatting, policy};

/// Arguments of `fmt`.
#[derive(Debug, Args)]
pub struct FmtArgs {
    /// Policy trees and files.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Change nothing; say which files are not in canonical form, and end with exit code 1 if
    /// there are any.
    #[arg(long)]
    check: bool,
}

/// A file that is not, or was not, in canonical form.
#[derive(Serialize)]
struct Formatted {
    file: String,
    /// Whether it was written anew.
    written: bool,
    /// Why it is left as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Formats. Exit code 1: a file cannot be formatted, or with `--check` is not in canonical form.
pub fn run(args: &FmtArgs, format: OutputFormat) -> anyhow::Result<Exit> {
    let files = match policy::files(&args.paths) {
        Ok(files) => files,
        Err(errors) => {
            eprint!("{}", errors.render(io::stderr().is_terminal()));
            return Ok(Exit::Refuse);
        }
    };
    let mut changes = Vec::new();
    for file in files {
        let name = file.name.to_string();
        let error = match formatting::format(&file.text) {
            Ok(text) if text == file.text => continue,
            Ok(text) if !args.check => {
                fs::write(&name, text).with_context(|| format!("cannot write {name}"))?;
                None
            }
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        };
        changes.push(Formatted {
            file: name,
            written: !args.check && error.is_none(),
            error,
        });
    }
    output::print(format, &changes, |out| {
        for change in &changes {
            match (&change.error, change.written) {
                (Some(error), _) => writeln!(out, "{}: left as it is: {error}", change.file)?,
                (None, true) => writeln!(out, "{}: formatted", change.file)?,
                (None, false) => writeln!(out, "{}: not in canonical form", change.file)?,
            }
        }
        Ok(())
    })?;
    let failed = changes.iter().any(|change| change.error.is_some());
    Ok(if failed || (args.check && !changes.is_empty()) {
        Exit::Refuse
    } else {
        Exit::Done
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_says_what_formatting_then_does() {
        let root = tempfile::tempdir().expect("a directory");
        let path = root.path().join("a.yaml");
        fs::write(&path, "kind: Node\napiVersion: enforcer.dev/v1alpha1\n").expect("writable");
        let run = |check| {
            let paths = vec![root.path().to_owned()];
            super::run(&FmtArgs { paths, check }, OutputFormat::Human).expect("output")
        };
        assert_eq!(run(true), Exit::Refuse);
        assert_eq!(run(false), Exit::Done);
        let text = fs::read_to_string(&path).expect("readable");
        assert_eq!(text, "apiVersion: enforcer.dev/v1alpha1\nkind: Node\n");
        assert_eq!(run(true), Exit::Done);
        fs::write(&path, "a: [\n").expect("writable");
        assert_eq!(run(false), Exit::Refuse);
        assert_eq!(fs::read_to_string(&path).expect("readable"), "a: [\n");
    }
}
