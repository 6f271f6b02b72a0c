//! Policy for the tools: a tree, a file, or a path in a git commit.

use std::{io::IsTerminal, path::Path};

use anyhow::Context;
use clap::ValueEnum;

use crate::{
    policy::{
        self, PolicyErrors,
        model::{Mode, Moment, ResolvedPolicy},
    },
    reconcile::mode,
    tools::{
        revision::{Revision, RevisionError},
        tree::Tree,
    },
};

/// The node's mode that verdicts are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ModeArg {
    /// As on a node that enforces; policies in audit mode stay so.
    #[default]
    Enforce,
    /// As on a node in audit mode: nothing is denied, only reported.
    Audit,
    /// As the tree's Node document says.
    Tree,
}

impl ModeArg {
    /// The mode for a tree.
    pub fn of(self, policy: &ResolvedPolicy) -> Mode {
        match self {
            Self::Enforce => Mode::Enforce,
            Self::Audit => Mode::Audit,
            Self::Tree => mode::effective(None, &policy.node, None).effective,
        }
    }
}

/// Reads and compiles. `None`: the tree has errors, which were told.
pub fn tree(source: &str, mode: ModeArg) -> anyhow::Result<Option<Tree>> {
    let Some(policy) = load(source)? else {
        return Ok(None);
    };
    let mode = mode.of(&policy);
    let tree = Tree::new(policy, mode, Moment::now(), &[]);
    tree.with_context(|| format!("cannot compile {source}"))
        .map(Some)
}

/// Reads policy. `None`: it has errors, which were told.
pub fn load(source: &str) -> anyhow::Result<Option<ResolvedPolicy>> {
    let path = Path::new(source);
    let loaded = match Revision::parse(source) {
        // What is there as a file is meant as one.
        Some(revision) if !path.exists() => match revision.load(Path::new(".")) {
            Ok(policy) => Ok(policy),
            Err(RevisionError::Policy(errors)) => Err(errors),
            Err(error) => return Err(error).with_context(|| format!("cannot read {source}")),
        },
        _ => policy::load_paths(&[path.to_owned()]),
    };
    Ok(loaded.map_err(|errors| tell(&errors)).ok())
}

fn tell(errors: &PolicyErrors) {
    eprint!("{}", errors.render(std::io::stderr().is_terminal()));
}
