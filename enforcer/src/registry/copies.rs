//! Copies of the accepted records in the state directory: a daemon that starts knows at once who
//! was known to the last one, also where the registry cannot be reached.
//!
//! One file a node, with the record as it was published; one that was not written to its end is
//! none. They are read as of the moment at which
//! the registry was last heard, and checked as if they came from it: the signatures in them are
//! all that is believed.

use std::{fs, io, path::PathBuf, time::SystemTime};

use tracing::warn;

use crate::cause::chain;

/// The time of this file is when the registry was last heard.
const HEARD: &str = ".heard";

/// The name under which a record is published, and the record.
pub type NamedRecord = (String, Vec<u8>);

/// See the module.
#[derive(Debug)]
pub struct Copies {
    folder: PathBuf,
    /// Told of once, until it goes well.
    failing: bool,
}

impl Copies {
    /// In a folder, which need not be there yet.
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            failing: false,
        }
    }

    /// The records, and when the registry was last heard.
    pub fn load(&self) -> Option<(Vec<NamedRecord>, SystemTime)> {
        let heard = fs::metadata(self.folder.join(HEARD))
            .ok()?
            .modified()
            .ok()?;
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.folder).ok()?.flatten() {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if is_name(&name)
                && let Ok(record) = fs::read(entry.path())
            {
                records.push((name, record));
            }
        }
        Some((records, heard))
    }

    /// Keeps a record.
    pub fn keep(&mut self, node: &str, record: &[u8]) {
        // Whatever else is accepted, no other file is written.
        if is_name(node) {
            let path = self.folder.join(node);
            let kept = self.ready().and_then(|()| fs::write(&path, record));
            self.tell(&kept);
        }
    }

    /// Forgets a record.
    pub fn remove(&mut self, node: &str) {
        if is_name(node) {
            let removed = match fs::remove_file(self.folder.join(node)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                other => other,
            };
            self.tell(&removed);
        }
    }

    /// Forgets all but these.
    pub fn retain(&mut self, wanted: impl Fn(&str) -> bool) {
        let names = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let names = names.filter_map(|entry| entry.file_name().into_string().ok());
        for node in names.filter(|name| !wanted(name)) {
            self.remove(&node);
        }
    }

    /// The registry is heard.
    pub fn heard(&mut self) {
        let path = self.folder.join(HEARD);
        let noted = self.ready().and_then(|()| fs::write(path, ""));
        self.tell(&noted);
    }

    fn ready(&self) -> io::Result<()> {
        fs::create_dir_all(&self.folder)
    }

    fn tell(&mut self, result: &io::Result<()>) {
        if let Err(error) = result
            && !self.failing
        {
            let folder = self.folder.display();
            warn!(%folder, error = chain(error), "records of the fleet cannot be kept");
        }
        self.failing = result.is_err();
    }
}

/// Whether a node's name is fit for a file: that of a SPIFFE ID's path, and not hidden.
fn is_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !name.is_empty() && name.len() <= 255 && !name.starts_with('.') && name.bytes().all(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_there_and_nothing_is_written_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let mut copies = Copies::new(folder.path().join("fleet"));
        assert!(copies.load().is_none());
        copies.keep("a", b"one");
        copies.keep("../b", b"two");
        copies.keep(".heard", b"three");
        assert!(copies.load().is_none(), "never heard");
        copies.heard();
        let (records, heard) = copies.load().unwrap();
        assert_eq!(records, [("a".to_owned(), b"one".to_vec())]);
        assert!(heard.elapsed().unwrap().as_secs() < 60);
        assert!(!folder.path().join("b").exists());
        copies.retain(|name| name == "a");
        assert_eq!(copies.load().unwrap().0.len(), 1);
        copies.retain(|_| false);
        assert!(copies.load().unwrap().0.is_empty());
    }
}
