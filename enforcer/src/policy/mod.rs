//! From files to resolved policy.
//!
//! `source` finds and reads the files, `document` parses their YAML into trees of positioned
//! nodes, the kinds (`segment_policy`, `workload`, `node`) read those, and `resolve` looks at
//! all of them together. Every stage goes on after an error, so that one report has everything
//! that is wrong with a tree.

mod commit;
mod diagnostic;
mod document;
pub mod model;
mod name;
mod node;
mod peer;
mod place;
mod port;
mod reader;
mod resolve;
mod segment_policy;
mod source;
mod workload;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

pub use diagnostic::{Code, PolicyDiagnostic, PolicyErrors, Position};
use model::ResolvedPolicy;
pub use resolve::API_VERSION;
use source::{Names, SourceFile, Tree};

/// Reads the policy of a tree, or of one file. Files are called by their path below `path`.
///
/// # Errors
/// Everything that is wrong with it, at once. A tree without any document is an error too: a
/// directory that was emptied by accident must not end enforcement.
pub fn load(path: &Path) -> Result<ResolvedPolicy, PolicyErrors> {
    read(&[path.to_owned()], Names::BelowRoot)
}

/// Reads several trees and files as one policy. Files are called by the path as given.
///
/// # Errors
/// As [`load`].
pub fn load_paths(paths: &[PathBuf]) -> Result<ResolvedPolicy, PolicyErrors> {
    read(paths, Names::AsGiven)
}

/// Reads the policy of one file that is already in memory, called `name` in errors.
///
/// # Errors
/// As [`load`].
pub fn load_text(name: &str, text: &str) -> Result<ResolvedPolicy, PolicyErrors> {
    let tree = Tree::of_text(SourceFile::new(name, text));
    finish(&tree, name, None, diagnostic::Collector::default())
}

fn read(paths: &[PathBuf], names: Names) -> Result<ResolvedPolicy, PolicyErrors> {
    let mut errors = diagnostic::Collector::default();
    let commit = paths.first().and_then(|path| commit::of(path));
    let tree = source::read(paths, names, &mut errors);
    let shown: Vec<_> = paths.iter().map(|path| path.to_string_lossy()).collect();
    finish(&tree, &shown.join(", "), commit.map(Arc::from), errors)
}

fn finish(
    tree: &Tree,
    shown: &str,
    commit: Option<Arc<str>>,
    mut errors: diagnostic::Collector,
) -> Result<ResolvedPolicy, PolicyErrors> {
    let policy = resolve::resolve(tree, shown, commit.as_ref(), &mut errors);
    errors.finish().map_or(Ok(policy), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(path: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
    }

    #[test]
    fn the_library_of_policies_is_good() {
        for tree in ["policies/examples/shop", "policies/baseline"] {
            if let Err(errors) = load(&repository(tree)) {
                panic!("{}", errors.render(false));
            }
        }
    }
}
