//! The tree of the accepted commit as a directory, behind a link that is swapped as one.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, symlink},
    path::{Component, Path, PathBuf},
};

use sha2::{Digest, Sha256};

/// Directories of trees, one for each commit and path, and the link to the present one.
#[derive(Clone, Debug)]
pub struct Checkout {
    root: PathBuf,
}

impl Checkout {
    /// Below the directory of all that is git's.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// The link: the policy tree of the daemon.
    pub fn link(&self) -> PathBuf {
        self.root.join("current")
    }

    /// Whether there is a tree.
    pub fn exists(&self) -> bool {
        self.link().is_dir()
    }

    /// Whether the present tree is that of this commit, from this path.
    pub fn is(&self, commit: &str, path: &str) -> bool {
        fs::read_link(self.link()).is_ok_and(|target| target == Self::name(commit, path))
            && self.exists()
    }

    /// Writes the tree of a commit and swaps the link to it. Blocks.
    pub fn replace(&self, commit: &str, path: &str, files: &[(String, String)]) -> io::Result<()> {
        let name = Self::name(commit, path);
        let tree = self.root.join(&name);
        if !tree.is_dir() {
            let fresh = self.root.join("trees/.new");
            remove(&fresh)?;
            make(&fresh)?;
            for (name, text) in files {
                let file = fresh.join(below(name)?);
                make(file.parent().unwrap_or(&fresh))?;
                fs::write(&file, text)?;
                File::open(&file)?.sync_all()?;
            }
            // For the reader of trees it is a work tree at this commit.
            make(&fresh.join(".git"))?;
            let head = fresh.join(".git/HEAD");
            fs::write(&head, commit)?;
            File::open(&head)?.sync_all()?;
            fs::rename(&fresh, &tree)?;
            File::open(self.root.join("trees"))?.sync_all()?;
        }
        let beside = self.root.join("current.new");
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        symlink(&name, &beside)?;
        fs::rename(&beside, self.link())?;
        File::open(&self.root)?.sync_all()
    }

    /// Removes all trees but the present one. Blocks.
    pub fn keep_present(&self) -> io::Result<()> {
        let present = fs::read_link(self.link())?;
        for entry in fs::read_dir(self.root.join("trees"))? {
            let path = entry?.path();
            if path != self.root.join(&present) {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Of a tree, from the root.
    fn name(commit: &str, path: &str) -> PathBuf {
        let path = Sha256::digest(path);
        Path::new("trees").join(format!(
            "{commit}-{:02x}{:02x}{:02x}",
            path[0], path[1], path[2]
        ))
    }
}

fn below(name: &str) -> io::Result<&Path> {
    let path = Path::new(name);
    if path.components().all(|c| matches!(c, Component::Normal(_))) {
        Ok(path)
    } else {
        Err(io::Error::other(format!("`{name}` leads out of the tree")))
    }
}

fn make(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_are_swapped_whole_and_know_their_commit() {
        let root = tempfile::tempdir().unwrap();
        let checkout = Checkout::new(root.path());
        assert!(!checkout.exists());
        let node = "apiVersion: enforcer.dev/v1alpha1\nkind: Node\nmetadata: {name: a}\nspec: {}\n";
        let files = [("sub/node.yaml".to_owned(), node.to_owned())];
        let (a, b) = ("a".repeat(40), "b".repeat(40));
        for commit in [&a, &b, &a] {
            checkout.replace(commit, "x", &files).unwrap();
            assert!(checkout.is(commit, "x") && !checkout.is(commit, "y"));
            let policy = crate::policy::load(&checkout.link()).unwrap();
            assert_eq!(policy.commit.as_deref(), Some(commit.as_str()));
        }
        checkout.keep_present().unwrap();
        assert!(checkout.is(&a, "x"));
        assert_eq!(fs::read_dir(root.path().join("trees")).unwrap().count(), 1);
        let outside = [("../x.yaml".to_owned(), String::new())];
        assert!(checkout.replace(&b, "x", &outside).is_err());
        assert!(checkout.is(&a, "x"));
    }
}
