//! A look at a policy tree from outside: which directories have to be watched to see every change
//! of it, and a fingerprint that changes with it.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    ffi::{OsStr, OsString},
    fs,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
};

use sha2::{Digest, Sha256};

use crate::policy;

/// A directory that matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WatchedDirectory {
    /// Device and inode: a directory that was replaced must be watched anew.
    pub inode: (u64, u64),
    /// Which entries matter.
    pub names: Names,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Names {
    All,
    Only(BTreeSet<OsString>),
}

/// What the tree looks like from outside: changes with every change that the clock shows.
pub(super) type Fingerprint = [u8; 32];

/// Links that are followed before it is taken for a circle (`MAXSYMLINKS` in
/// include/linux/namei.h).
const MOST_LINKS: usize = 40;
/// As deep as policy trees are read.
const DEEPEST: usize = 32;
/// A look at the tree as it is now.
pub(super) struct Survey {
    pub directories: BTreeMap<PathBuf, WatchedDirectory>,
    pub fingerprint: Fingerprint,
}

impl Survey {
    pub fn of(root: &Path) -> Self {
        let mut surveyor = Surveyor {
            directories: BTreeMap::new(),
            seen: HashSet::new(),
            hash: Sha256::new(),
        };
        let real = surveyor.follow(root);
        surveyor.note_file(&real);
        if real.is_dir() {
            surveyor.directory(&real, 0);
        }
        // Files come before the commit that they belong to is noted, and a commit may leave
        // them as they are.
        let commit = policy::commit_of(root);
        surveyor.hash.update(commit.unwrap_or_default());
        Self {
            directories: surveyor.directories,
            fingerprint: surveyor.hash.finalize().into(),
        }
    }
}

struct Surveyor {
    directories: BTreeMap<PathBuf, WatchedDirectory>,
    seen: HashSet<(u64, u64)>,
    hash: Sha256,
}

impl Surveyor {
    /// Resolves a path step by step, and notes every directory entry on the way: any of them
    /// may be replaced. Returns the place that the path leads to, which may not exist.
    fn follow(&mut self, path: &Path) -> PathBuf {
        let mut links = 0;
        let mut real = PathBuf::from("/");
        let mut rest: Vec<OsString> = components(path);
        rest.reverse();
        while let Some(name) = rest.pop() {
            if name == ".." {
                real.pop();
                continue;
            }
            self.note_entry(&real, &name);
            let step = real.join(&name);
            match fs::read_link(&step) {
                Ok(target) if links < MOST_LINKS => {
                    links += 1;
                    if target.is_absolute() {
                        real = PathBuf::from("/");
                    }
                    rest.extend(components(&target).into_iter().rev());
                }
                _ => real = step,
            }
        }
        real
    }

    /// Everything below a directory (a real path).
    fn directory(&mut self, path: &Path, depth: usize) {
        let Ok(metadata) = fs::metadata(path) else {
            return;
        };
        let inode = (metadata.dev(), metadata.ino());
        if depth > DEEPEST || !self.seen.insert(inode) {
            return;
        }
        self.directories.insert(
            path.to_owned(),
            WatchedDirectory {
                inode,
                names: Names::All,
            },
        );
        let Ok(entries) = fs::read_dir(path) else {
            return;
        };
        let mut entries: Vec<_> = entries.flatten().collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            // Hidden entries are not policy; where one is a link's way, the link is followed.
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
            let real = if is_link {
                self.follow(&entry.path())
            } else {
                entry.path()
            };
            self.note_file(&real);
            if real.is_dir() {
                self.directory(&real, depth + 1);
            }
        }
    }

    fn note_entry(&mut self, directory: &Path, name: &OsStr) {
        let Ok(metadata) = fs::metadata(directory) else {
            return;
        };
        let known = self
            .directories
            .entry(directory.to_owned())
            .or_insert_with(|| WatchedDirectory {
                inode: (metadata.dev(), metadata.ino()),
                names: Names::Only(BTreeSet::new()),
            });
        if let Names::Only(names) = &mut known.names {
            names.insert(name.to_owned());
        }
    }

    fn note_file(&mut self, path: &Path) {
        self.hash.update(path.as_os_str().as_encoded_bytes());
        match fs::metadata(path) {
            Ok(m) => {
                for number in [m.dev(), m.ino(), m.size(), u64::from(m.mode())] {
                    self.hash.update(number.to_le_bytes());
                }
                for number in [m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()] {
                    self.hash.update(number.to_le_bytes());
                }
            }
            Err(error) => self
                .hash
                .update(error.raw_os_error().unwrap_or(-1).to_le_bytes()),
        }
        // Ends the entry, so that two lists of entries cannot join to the same bytes.
        self.hash.update([0]);
    }
}

/// Names on the way of a path, without `.`.
fn components(path: &Path) -> Vec<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}
