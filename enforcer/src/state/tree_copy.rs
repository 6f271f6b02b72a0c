//! Copies of policy trees, by digest: what a rollback or a start with a bad tree goes back to.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Component, Path, PathBuf},
};

use super::{StateDir, StateError, atomic_file};

/// Directory of the copies in the state directory.
const DIRECTORY: &str = "trees";

impl StateDir {
    /// Where the copy of the tree with this digest is, or would be.
    pub fn tree(&self, digest: &str) -> PathBuf {
        self.path().join(DIRECTORY).join(digest)
    }

    /// Stores the files of a tree, given by their path below its root and their content, under
    /// its digest. A copy that is there already is left as it is.
    pub fn store_tree<'a>(
        &self,
        digest: &str,
        files: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<(), StateError> {
        let copy = self.tree(digest);
        if copy.is_dir() {
            return Ok(());
        }
        let fresh = self.tree(".new");
        let fail = |e| StateError::io("write", &fresh, e);
        remove(&fresh).map_err(fail)?;
        make_directory(&fresh).map_err(fail)?;
        for (name, text) in files {
            let path = fresh.join(below(name).map_err(fail)?);
            make_directory(path.parent().unwrap_or(&fresh)).map_err(fail)?;
            atomic_file::replace(&path, text.as_bytes())
                .map_err(|e| StateError::io("write", &path, e))?;
        }
        fs::rename(&fresh, &copy).map_err(|e| StateError::io("write", &copy, e))?;
        atomic_file::sync_directory(&copy).map_err(|e| StateError::io("write", &copy, e))
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
            .store_tree("aa", [("a.yaml", "1"), ("sub/b.yaml", "2")])
            .unwrap();
        state.store_tree("bb", [("a.yaml", "3")]).unwrap();
        // There already: content is what the digest says, so it is not written again.
        state.store_tree("bb", [("a.yaml", "other")]).unwrap();
        assert_eq!(fs::read(state.tree("aa").join("sub/b.yaml")).unwrap(), b"2");
        assert_eq!(fs::read(state.tree("bb").join("a.yaml")).unwrap(), b"3");
        state.keep_trees(&["bb"]).unwrap();
        assert!(!state.tree("aa").exists());
        assert!(state.tree("bb").exists());
    }

    #[test]
    fn nothing_is_written_outside_and_nothing_half() {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::open(root.path()).unwrap();
        for name in ["../x.yaml", "/etc/x.yaml", "a/../../x.yaml"] {
            assert!(
                state
                    .store_tree("aa", [("good.yaml", "1"), (name, "2")])
                    .is_err(),
                "{name}"
            );
            assert!(!state.tree("aa").exists());
        }
    }
}
