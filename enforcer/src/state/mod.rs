//! What must survive a restart of the daemon: the operator's choices, numbers that the kernel
//! knows, and the last good policy tree.

pub mod atomic_file;
pub mod choices;
pub mod endpoint_numbers;
pub mod tree_copy;

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};
use serde::{Serialize, de::DeserializeOwned};

/// The state directory, held by this process alone.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: Flock<File>,
}

/// What went wrong with the state directory.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// An input or output error.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// At which path.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another daemon has it.
    #[error(
        "the state directory {} is in use by another daemon: give each its own --state-dir, --pin-dir and --socket",
        .0.display()
    )]
    InUse(PathBuf),
    /// A file is not what this daemon wrote.
    #[error("{} is damaged ({reason}): move it away to start without it", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl StateError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

impl StateDir {
    /// Opens the directory, made if need be (mode 0700), and locks it.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|e| StateError::io("create", path, e))?;
        let lock_path = path.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(|e| StateError::io("open", &lock_path, e))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
            if errno == nix::errno::Errno::EWOULDBLOCK {
                StateError::InUse(path.to_owned())
            } else {
                StateError::io("lock", &lock_path, errno.into())
            }
        })?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the JSON file `name`; `None` when there is none.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StateError> {
        let path = self.path.join(name);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StateError::io("read", &path, error)),
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| StateError::Damaged {
                path,
                reason: error.to_string(),
            })
    }

    /// Bytes of the file `name`; 0 when there is none.
    pub fn size(&self, name: &str) -> u64 {
        fs::metadata(self.path.join(name)).map_or(0, |file| file.len())
    }

    /// Replaces the JSON file `name` in one step that survives a power cut.
    pub fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StateError> {
        let path = self.path.join(name);
        let bytes =
            serde_json::to_vec(value).map_err(|e| StateError::io("write", &path, e.into()))?;
        atomic_file::replace(&path, &bytes).map_err(|e| StateError::io("write", &path, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_damage_is_named() {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::open(&root.path().join("a/b")).unwrap();
        assert_eq!(state.read::<Vec<u32>>("x.json").unwrap(), None);
        state.write("x.json", &vec![1, 2]).unwrap();
        state.write("x.json", &vec![3]).unwrap();
        assert_eq!(state.read::<Vec<u32>>("x.json").unwrap(), Some(vec![3]));
        fs::write(state.path().join("x.json"), "[").unwrap();
        assert!(matches!(
            state.read::<Vec<u32>>("x.json"),
            Err(StateError::Damaged { .. })
        ));
    }

    #[test]
    fn one_daemon_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let first = StateDir::open(root.path()).unwrap();
        assert!(matches!(
            StateDir::open(root.path()),
            Err(StateError::InUse(_))
        ));
        drop(first);
        StateDir::open(root.path()).unwrap();
    }
}
