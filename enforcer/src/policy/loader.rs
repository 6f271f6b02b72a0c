//! Reads a tree again and again: files that did not change are not parsed anew.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    commit,
    diagnostic::{Collector, PolicyErrors},
    kept::Kept,
    model::ResolvedPolicy,
    resolve::{self, LastTree},
    source::{self, Names, SourceFile},
    statement::{self, FileStatements},
};

/// Reads trees, and remembers what the files of the last one said.
#[derive(Debug, Default)]
pub struct Loader {
    /// By name. Only files without errors.
    known: HashMap<Arc<str>, Arc<FileStatements>>,
    /// The files themselves.
    kept: Kept,
    /// What they said together.
    last: LastTree,
}

impl Loader {
    /// As [`super::load`], with the files that the policy was read from. What comes out does not
    /// depend on what was read before, but a file that did not change is
    /// not read, and one with the text that it had then is not parsed.
    ///
    /// # Errors
    /// As [`super::load`].
    pub fn load(
        &mut self,
        path: &Path,
    ) -> Result<(ResolvedPolicy, Vec<Arc<SourceFile>>), PolicyErrors> {
        let mut before = std::mem::take(&mut self.known);
        read(
            &[path.to_owned()],
            Names::BelowRoot,
            (&mut self.kept, &mut self.last),
            |file, errors| {
                let said = match before.remove(&file.name) {
                    Some(said)
                        if Arc::ptr_eq(&said.source, file) || said.source.text == file.text =>
                    {
                        said
                    }
                    _ => {
                        let mut own = Collector::default();
                        let said = statement::read(file, &mut own);
                        if !own.is_empty() {
                            errors.append(own);
                            return Arc::new(said);
                        }
                        Arc::new(said)
                    }
                };
                self.known.insert(file.name.clone(), said.clone());
                said
            },
        )
        .map(|tree| (tree.policy, tree.files))
    }
}

/// Reads a file as if it were the first time.
pub(super) fn afresh(file: &Arc<SourceFile>, errors: &mut Collector) -> Arc<FileStatements> {
    Arc::new(statement::read(file, errors))
}

/// A tree without errors.
pub(super) struct Tree {
    pub(super) policy: ResolvedPolicy,
    pub(super) files: Vec<Arc<SourceFile>>,
    pub(super) statements: Vec<Arc<FileStatements>>,
}

/// Reads trees and files, each file by `statements`.
pub(super) fn read(
    paths: &[PathBuf],
    names: Names,
    (kept, last): (&mut Kept, &mut LastTree),
    mut statements: impl FnMut(&Arc<SourceFile>, &mut Collector) -> Arc<FileStatements>,
) -> Result<Tree, PolicyErrors> {
    let mut errors = Collector::default();
    let commit = paths.first().and_then(|path| commit::of(path));
    let tree = source::read(paths, names, kept, &mut errors);
    let files = tree.files.iter();
    let files = files.map(|file| statements(file, &mut errors));
    let files: Vec<_> = files.collect();
    let shown: Vec<_> = paths.iter().map(|path| path.to_string_lossy()).collect();
    let mut policy = resolve::resolve(&files, tree.digest, &shown.join(", "), last, &mut errors);
    policy.commit = commit.map(Arc::from);
    match errors.finish() {
        Some(errors) => Err(errors),
        None => Ok(Tree {
            policy,
            files: tree.files,
            statements: files,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn node(mode: &str) -> String {
        format!(
            "apiVersion: enforcer.dev/v1alpha1\nkind: Node\nmetadata: {{name: a}}\n\
             spec: {{mode: {mode}}}\n"
        )
    }

    fn policy(name: &str) -> String {
        format!(
            "apiVersion: enforcer.dev/v1alpha1\nkind: SegmentPolicy\nmetadata: {{name: {name}}}\n\
             spec: {{selector: {{}}, ingress: [{{}}]}}\n"
        )
    }

    #[test]
    fn what_is_read_again_is_what_a_fresh_reader_reads() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(root.path().join(name), text).unwrap();
        let mut loader = Loader::default();
        let mut same = |what: &str| {
            let again = loader.load(root.path()).map(|(policy, _)| policy);
            assert_eq!(again, super::super::load(root.path()), "{what}");
        };
        write("node.yaml", &node("audit"));
        same("first");
        write("p.yaml", &policy("p"));
        same("another file");
        write("node.yaml", &node("enforce"));
        same("a changed file");
        write("node.yaml", &node("wrong"));
        same("an error");
        write("q.yaml", &policy("p"));
        same("an error that takes two files");
        write("node.yaml", &node("enforce"));
        same("half of it mended");
        write("q.yaml", &policy("q"));
        same("mended");
        fs::rename(root.path().join("q.yaml"), root.path().join("r.yaml")).unwrap();
        same("renamed");
        fs::remove_file(root.path().join("p.yaml")).unwrap();
        same("removed");
        fs::create_dir(root.path().join(".git")).unwrap();
        for digit in ["a", "b"] {
            fs::write(root.path().join(".git/HEAD"), digit.repeat(40)).unwrap();
            same("another commit");
        }
    }

    #[test]
    fn workloads_and_hosts_too_and_what_is_in_their_way() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(root.path().join(name), text).unwrap();
        let workload = |name: &str, cgroup: &str| {
            format!(
                "---\napiVersion: enforcer.dev/v1alpha1\nkind: Workload\n\
                 metadata: {{name: {name}}}\n\
                 spec: {{cgroup: /{cgroup}, addresses: [10.0.0.{}]}}\n",
                cgroup.len()
            )
        };
        let host = |address: &str| {
            format!(
                "---\napiVersion: enforcer.dev/v1alpha1\nkind: Host\nmetadata: {{name: h}}\n\
                 spec: {{addresses: [{address}]}}\n"
            )
        };
        let mut loader = Loader::default();
        let mut same = |what: &str, good: bool| {
            let again = loader.load(root.path()).map(|(policy, _)| policy);
            assert_eq!(again, super::super::load(root.path()), "{what}");
            assert_eq!(again.is_ok(), good, "{what}");
            again.map(|policy| policy.workloads).unwrap_or_default()
        };
        write("w.yaml", &(workload("b", "b") + &workload("a", "aa")));
        write("p.yaml", &policy("p"));
        let first = same("first", true);
        write("p.yaml", &policy("q"));
        let second = same("another policy", true);
        assert!(Arc::ptr_eq(&first, &second));
        write("h.yaml", &host("10.0.0.2"));
        same("a host where a workload is", false);
        same("still", false);
        write("p.yaml", &policy("r"));
        same("and another policy", false);
        write("h.yaml", &host("10.0.0.3"));
        assert_eq!(same("elsewhere", true).len(), 2);
        write("v.yaml", &workload("c", "b"));
        same("a second workload in one place", false);
        write("v.yaml", &workload("a", "ccc"));
        same("a second one of that name, at the host's address", false);
        // In one file with what changes.
        write("v.yaml", &(workload("c", "cccc") + "---\n" + &policy("s")));
        assert_eq!(same("mended", true).len(), 3);
        write("v.yaml", &(workload("c", "cccc") + "---\n" + &policy("t")));
        assert_eq!(same("another policy beside a workload", true).len(), 3);
        write("q.yaml", &policy("t"));
        same("a second policy of that name", false);
        fs::remove_file(root.path().join("q.yaml")).unwrap();
        fs::remove_file(root.path().join("w.yaml")).unwrap();
        assert_eq!(same("fewer", true).len(), 1);
    }

    #[test]
    fn policies_that_say_the_same_stay_where_they_are_also_with_groups() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(root.path().join(name), text).unwrap();
        let group = |cidr: &str| {
            format!(
                "apiVersion: enforcer.dev/v1alpha1\nkind: Group\nmetadata: {{name: g}}\n\
                 spec: {{peers: [{{cidr: {cidr}}}]}}\n"
            )
        };
        let with_group = policy("p").replace("ingress: [{}]", "ingress: [{from: [{group: g}]}]");
        write("g.yaml", &group("10.0.0.0/8"));
        write("p.yaml", &with_group);
        let mut loader = Loader::default();
        let mut only = || loader.load(root.path()).unwrap().0.policies.remove(0);
        let first = only();
        write("q.yaml", &node("audit"));
        let second = only();
        assert!(Arc::ptr_eq(&first, &second));
        write("g.yaml", &group("10.0.0.0/9"));
        let third = only();
        assert_ne!(second, third);
        assert!(Arc::ptr_eq(&third, &only()));
    }

    #[test]
    fn files_that_did_not_change_are_not_parsed_again() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("p.yaml"), policy("p")).unwrap();
        let mut loader = Loader::default();
        loader.load(root.path()).unwrap();
        let before = loader.known["p.yaml"].source.clone();
        fs::write(root.path().join("q.yaml"), policy("q")).unwrap();
        loader.load(root.path()).unwrap();
        assert!(Arc::ptr_eq(&before, &loader.known["p.yaml"].source));
    }
}
