//! Copies of policy trees, by digest: what a rollback or a start with a bad tree goes back to.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Component, Path, PathBuf},
};

use super::{StateDir, StateError, atomic_file};

/// Directory of the copies in the state directory.
const DIRECTORY: &str = "trees";

/// Where the copy of the tree with this digest is, or would be, below a state directory.
pub fn path_of_copy(state_dir: &Path, digest: &str) -> PathBuf {
    state_dir.join(DIRECTORY).join(digest)
}

impl StateDir {
    /// Where the copy of the tree with this digest is, or would be.
    pub fn tree(&self, digest: &str) -> PathBuf {
        path_of_copy(self.path(), digest)
    }

    /// Stores the files of a tree, given by their path below its root and their content, under
    /// its digest, with the git commit that they belong to. Of a copy that is there already only
    /// the commit is written, because its files are what the digest says.
    pub fn store_tree<'a>(
        &self,
        digest: &str,
        commit: Option<&str>,
        files: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<(), StateError> {
        let copy = self.tree(digest);
        if copy.is_dir() {
            return note_commit(&copy, commit).map_err(|e| StateError::io("write", &copy, e));
        }
        let fresh = self.tree(".new");
        let fail = |e| StateError::io("write", &fresh, e);
        remove(&fresh).map_err(fail)?;
        let others = self.copies();
        make_directory(&fresh).map_err(fail)?;
        let mut directories = BTreeSet::from([fresh.clone()]);
        for (name, text) in files {
            let name = below(name).map_err(fail)?;
            let path = fresh.join(name);
            let parent = path.parent().unwrap_or(&fresh);
            make_directory(parent).map_err(fail)?;
            directories.insert(parent.to_owned());
            // Files of copies are never written to, so two copies may share one.
            let shared = others.iter().map(|other| other.join(name)).any(|other| {
                fs::read(&other).is_ok_and(|bytes| bytes == text.as_bytes())
                    && fs::hard_link(&other, &path).is_ok()
            });
            if !shared {
                atomic_file::replace(&path, text.as_bytes())
                    .map_err(|e| StateError::io("write", &path, e))?;
            }
        }
        for directory in directories {
            File::open(&directory)
                .and_then(|d| d.sync_all())
                .map_err(fail)?;
        }
        note_commit(&fresh, commit).map_err(fail)?;
        fs::rename(&fresh, &copy).map_err(|e| StateError::io("write", &copy, e))?;
        atomic_file::sync_directory(&copy).map_err(|e| StateError::io("write", &copy, e))
    }

    /// Where copies are.
    fn copies(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path().join(DIRECTORY));
        let entries = entries.into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    }

    /// Removes every copy but those with one of these digests.
    pub fn keep_trees(&self, digests: &[&str]) -> Result<(), StateError> {
        let directory = self.path().join(DIRECTORY);
        let fail = |e| StateError::io("clean up", &directory, e);
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(fail(error)),
        };
        for entry in entries {
            let entry = entry.map_err(fail)?;
            if !digests.iter().any(|d| entry.file_name() == **d) {
                remove(&entry.path()).map_err(fail)?;
            }
        }
        Ok(())
    }
}

/// Writes the commit where the reader of trees looks for it: to that one the copy is a work tree
/// at this commit, and not a part of whatever the state directory is in.
fn note_commit(copy: &Path, commit: Option<&str>) -> io::Result<()> {
    let git = copy.join(".git");
    make_directory(&git)?;
    let head = git.join("HEAD");
    let commit = commit.unwrap_or_default();
    if fs::read_to_string(&head).is_ok_and(|known| known == commit) {
        return Ok(());
    }
    atomic_file::replace(&head, commit.as_bytes())
}

/// The name of a file, if it leads nowhere but below.
fn below(name: &str) -> io::Result<&Path> {
    let path = Path::new(name);
    if path.components().all(|c| matches!(c, Component::Normal(_))) {
        Ok(path)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("`{name}` is not below the root of the tree"),
        ))
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_come_whole_and_go() {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::open(root.path()).unwrap();
        state.keep_trees(&[]).unwrap();
        state
            .store_tree("aa", None, [("a.yaml", "1"), ("sub/b.yaml", "2")])
            .unwrap();
        state.store_tree("bb", None, [("a.yaml", "3")]).unwrap();
        // There already: content is what the digest says, so it is not written again.
        state.store_tree("bb", None, [("a.yaml", "other")]).unwrap();
        assert_eq!(fs::read(state.tree("aa").join("sub/b.yaml")).unwrap(), b"2");
        assert_eq!(fs::read(state.tree("bb").join("a.yaml")).unwrap(), b"3");
        state.keep_trees(&["bb"]).unwrap();
        assert!(!state.tree("aa").exists());
        assert!(state.tree("bb").exists());
    }

    #[test]
    fn copies_know_the_commit_and_not_that_of_what_they_are_in() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join(".git")).unwrap();
        fs::write(root.path().join(".git/HEAD"), "f".repeat(40)).unwrap();
        let state = StateDir::open(&root.path().join("state")).unwrap();
        let node = "apiVersion: enforcer.dev/v1alpha1\nkind: Node\nmetadata: {name: a}\nspec: {}\n";
        let (first, second) = ("a".repeat(40), "b".repeat(40));
        for commit in [Some(&first), None, Some(&second)] {
            let commit = commit.map(String::as_str);
            state.store_tree("aa", commit, [("a.yaml", node)]).unwrap();
            let policy = crate::policy::load(&state.tree("aa")).unwrap();
            assert_eq!(policy.commit.as_deref(), commit);
        }
    }

    #[test]
    fn nothing_is_written_outside_and_nothing_half() {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::open(root.path()).unwrap();
        for name in ["../x.yaml", "/etc/x.yaml", "a/../../x.yaml"] {
            assert!(
                state
                    .store_tree("aa", None, [("good.yaml", "1"), (name, "2")])
                    .is_err(),
                "{name}"
            );
            assert!(!state.tree("aa").exists());
        }
    }
}
