//! Which process holds a lock: for the message that something is in use.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

/// The process that has the file or directory locked by flock(2), as far as `/proc/locks`
/// shows.
pub fn of(path: &Path) -> Option<u32> {
    let metadata = fs::metadata(path).ok()?;
    let (major, minor) = (
        nix::sys::stat::major(metadata.dev()),
        nix::sys::stat::minor(metadata.dev()),
    );
    let file = format!("{major:02x}:{minor:02x}:{}", metadata.ino());
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| holder(line, &file))
}

/// From a line like `1: FLOCK  ADVISORY  WRITE 4711 00:1f:2342 0 EOF` (proc_locks(5)).
fn holder(line: &str, file: &str) -> Option<u32> {
    let mut fields = line.split_whitespace().skip(1);
    let is_lock = fields.next()? == "FLOCK";
    let pid = fields.nth(2)?.parse().ok()?;
    (is_lock && fields.next()? == file).then_some(pid)
}

#[cfg(test)]
mod tests {
    use nix::fcntl::{Flock, FlockArg};

    use super::*;

    #[test]
    fn the_holder_is_found_while_it_holds() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(of(root.path()), None);
        let directory = fs::File::open(root.path()).unwrap();
        let lock = Flock::lock(directory, FlockArg::LockExclusiveNonblock).unwrap();
        assert_eq!(of(root.path()), Some(std::process::id()));
        drop(lock);
        assert_eq!(of(root.path()), None);
    }
}
