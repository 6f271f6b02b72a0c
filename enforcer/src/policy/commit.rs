//! The git commit of a tree, read from the work tree's own files: the daemon runs no programs,
//! and needs no permission to the repository beyond reading.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The commit that is checked out where `path` is, if it is in a git work tree.
pub(super) fn of(path: &Path) -> Option<String> {
    let real = fs::canonicalize(path).ok()?;
    let work_tree = real.ancestors().find(|dir| dir.join(".git").exists())?;
    let git_dir = git_dir(&work_tree.join(".git"))?;
    let head = read(&git_dir.join("HEAD"))?;
    let Some(reference) = head.strip_prefix("ref: ") else {
        return commit(&head);
    };
    // A linked work tree keeps HEAD itself and shares the references.
    let shared = read(&git_dir.join("commondir")).map(|shared| git_dir.join(shared));
    let shared = shared.as_deref().unwrap_or(&git_dir);
    for dir in [&git_dir, shared] {
        if let Some(found) = loose(dir, reference) {
            return Some(found);
        }
    }
    let packed = fs::read_to_string(shared.join("packed-refs")).ok()?;
    packed.lines().find_map(|line| {
        let (id, name) = line.split_once(' ')?;
        (name == reference).then(|| commit(id))?
    })
}

/// `.git` is the directory, or a file that names it.
fn git_dir(dot_git: &Path) -> Option<PathBuf> {
    if dot_git.is_dir() {
        return Some(dot_git.to_owned());
    }
    let text = read(dot_git)?;
    Some(dot_git.parent()?.join(text.strip_prefix("gitdir: ")?))
}

fn loose(dir: &Path, reference: &str) -> Option<String> {
    let inside = reference.starts_with("refs/") && !reference.contains("..");
    commit(&inside.then(|| read(&dir.join(reference)))??)
}

fn read(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

/// SHA-1 or SHA-256 in hex.
fn commit(text: &str) -> Option<String> {
    let hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    (hex && matches!(text.len(), 40 | 64)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn a_branch_a_packed_branch_and_a_detached_head() {
        let root = tempfile::tempdir().unwrap();
        let tree = root.path().join("policies/prod");
        fs::create_dir_all(&tree).unwrap();
        assert_eq!(of(&tree), None);
        let git = root.path().join(".git");
        fs::create_dir_all(git.join("refs/heads")).unwrap();
        fs::write(git.join("HEAD"), "ref: refs/heads/main\n").unwrap();
        assert_eq!(of(&tree), None);
        fs::write(
            git.join("packed-refs"),
            format!("# pack\n{ID} refs/heads/main\n"),
        )
        .unwrap();
        assert_eq!(of(&tree).as_deref(), Some(ID));
        let other = ID.replace('0', "f");
        fs::write(git.join("refs/heads/main"), format!("{other}\n")).unwrap();
        assert_eq!(of(&tree).as_deref(), Some(other.as_str()));
        fs::write(git.join("HEAD"), format!("{ID}\n")).unwrap();
        assert_eq!(of(&tree).as_deref(), Some(ID));
    }

    #[test]
    fn a_linked_work_tree_as_git_sync_makes_it() {
        let root = tempfile::tempdir().unwrap();
        let linked = root.path().join(".git/worktrees/v1");
        fs::create_dir_all(&linked).unwrap();
        fs::create_dir_all(root.path().join(".git/refs/heads")).unwrap();
        fs::create_dir(root.path().join("v1")).unwrap();
        fs::write(
            root.path().join("v1/.git"),
            "gitdir: ../.git/worktrees/v1\n",
        )
        .unwrap();
        fs::write(linked.join("HEAD"), "ref: refs/heads/main\n").unwrap();
        fs::write(linked.join("commondir"), "../..\n").unwrap();
        fs::write(root.path().join(".git/refs/heads/main"), ID).unwrap();
        std::os::unix::fs::symlink("v1", root.path().join("current")).unwrap();
        assert_eq!(of(&root.path().join("current")).as_deref(), Some(ID));
    }
}
