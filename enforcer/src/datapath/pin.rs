//! The pin directory: one daemon at a time, maps by layout, links by hook.
//!
//! ```text
//! PIN_DIR/maps-ABI-DIGEST/NAME   the maps of one layout
//! PIN_DIR/links/HOOK             one link each; outlives the daemon
//! PIN_DIR/links/clsact-…         before kernel 6.6: the program behind a TC filter
//! ```

use std::{
    fs::{self, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};

use super::error::DatapathError;

/// The pin directory, locked for this process.
#[derive(Debug)]
pub(super) struct Pins {
    root: PathBuf,
    /// `None`: somebody else has it, and does not answer.
    _lock: Option<Flock<File>>,
}

impl Pins {
    /// Creates the directory if need be, and takes it.
    pub fn open(root: &Path) -> Result<Self, DatapathError> {
        let links = root.join("links");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&links)
            .map_err(|source| match nearest_is_bpffs(root) {
                Some(false) => DatapathError::NotBpffs { path: root.into() },
                _ => file("create", &links)(source),
            })?;
        if nearest_is_bpffs(root) == Some(false) {
            return Err(DatapathError::NotBpffs { path: root.into() });
        }
        let directory = File::open(root).map_err(file("open", root))?;
        let lock =
            Flock::lock(directory, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
                if errno == nix::errno::Errno::EWOULDBLOCK {
                    DatapathError::InUse { path: root.into() }
                } else {
                    file("lock", root)(errno.into())
                }
            })?;
        Ok(Self {
            root: root.into(),
            _lock: Some(lock),
        })
    }

    /// As [`Pins::open`], but without the lock if somebody holds it. Only for removing
    /// everything.
    pub fn open_regardless(root: &Path) -> Result<Self, DatapathError> {
        match Self::open(root) {
            Err(DatapathError::InUse { path }) => Ok(Self {
                root: path,
                _lock: None,
            }),
            opened => opened,
        }
    }

    /// The directory of a layout's maps, created if need be, and whether it was there.
    pub fn maps(&self, layout: &str) -> Result<(PathBuf, bool), DatapathError> {
        let path = self.root.join(layout);
        match fs::create_dir(&path) {
            Ok(()) => Ok((path, false)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok((path, true)),
            Err(error) => Err(file("create", &path)(error)),
        }
    }

    /// The path of a hook's link.
    pub fn link(&self, hook: &str) -> PathBuf {
        self.root.join("links").join(hook)
    }

    /// The hooks that have a link.
    pub fn links(&self) -> Result<Vec<String>, DatapathError> {
        names(&self.root.join("links"))
    }

    /// Removes the maps of every other layout. Kernel objects that programs still use live on
    /// until the last of these programs is gone.
    pub fn remove_other_maps(&self, layout: &str) -> Result<(), DatapathError> {
        for name in names(&self.root)? {
            if name.starts_with("maps-") && name != layout {
                let path = self.root.join(&name);
                fs::remove_dir_all(&path).map_err(file("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Removes the directory.
    pub fn remove(self) -> Result<(), DatapathError> {
        fs::remove_dir_all(&self.root).map_err(file("remove", &self.root))
    }
}

fn names(path: &Path) -> Result<Vec<String>, DatapathError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(file("list", path))? {
        let entry = entry.map_err(file("list", path))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn nearest_is_bpffs(path: &Path) -> Option<bool> {
    path.ancestors()
        .find_map(|path| nix::sys::statfs::statfs(path).ok())
        .map(|statfs| statfs.filesystem_type() == nix::sys::statfs::BPF_FS_MAGIC)
}

/// An error about a file.
pub(super) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DatapathError {
    let path = path.to_path_buf();
    move |source| DatapathError::File {
        action,
        path,
        source,
    }
}
