//! Files as they were read last, so that those that did not change are not read again.

use std::{
    collections::HashMap,
    fs::Metadata,
    os::unix::fs::MetadataExt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::source::SourceFile;

/// A file that changed less than this before it was read may change again without a trace: two
/// changes within one tick of the file system's clock leave the same time. The coarsest clocks
/// in use tick every two seconds.
const SETTLED: Duration = Duration::from_secs(2);

/// What the file system says about a file's content. As in git's index, where all of it is as
/// it was, so is the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    place: (u64, u64),
    size: u64,
    /// Seconds and nanoseconds; the second time cannot be set by programs.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            place: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether a change at `now` or later would show. A file from the future is not trusted.
    fn is_settled(&self, now: SystemTime) -> bool {
        let now = now.duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap_or_default().saturating_sub(SETTLED);
        let now = i64::try_from(now.as_secs()).unwrap_or(0);
        self.modified.0.max(self.changed.0) < now
    }
}

/// A file, and what was found out about it.
#[derive(Clone, Debug)]
pub(super) struct KeptFile {
    pub file: Arc<SourceFile>,
    /// SHA-256 of its bytes.
    pub digest: [u8; 32],
    /// How many bytes it has.
    pub bytes: u64,
}

/// The files of the last tree, by name.
#[derive(Debug, Default)]
pub(super) struct Kept(HashMap<Arc<str>, (Stamp, KeptFile)>);

impl Kept {
    /// The file of this name, if it is what has this stamp now.
    pub fn find(&self, name: &str, stamp: Stamp) -> Option<&KeptFile> {
        let (known, file) = self.0.get(name)?;
        (*known == stamp).then_some(file)
    }

    /// Keeps a file that had this stamp when `now` its content was about to be read.
    pub fn keep(&mut self, stamp: Stamp, file: KeptFile, now: SystemTime) {
        let name = file.file.name.clone();
        if stamp.is_settled(now) {
            self.0.insert(name, (stamp, file));
        } else {
            self.0.remove(&name);
        }
    }

    /// Forgets what is not in the tree any more.
    pub fn only<'a>(&mut self, files: impl Iterator<Item = &'a Arc<SourceFile>>) {
        let mut names: Vec<&str> = files.map(|file| &*file.name).collect();
        names.sort_unstable();
        self.0
            .retain(|name, _| names.binary_search(&&**name).is_ok());
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_young_file_is_not_trusted_and_a_changed_one_is_another() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a.yaml");
        let stamp = || Stamp::of(&fs::metadata(&path).unwrap());
        let kept_file = || KeptFile {
            file: Arc::new(SourceFile::new("a.yaml", "a")),
            digest: [0; 32],
            bytes: 1,
        };
        fs::write(&path, "a").unwrap();
        let (now, later) = (SystemTime::now(), SystemTime::now() + SETTLED * 2);
        let mut kept = Kept::default();
        kept.keep(stamp(), kept_file(), now);
        assert!(kept.find("a.yaml", stamp()).is_none());
        kept.keep(stamp(), kept_file(), later);
        assert!(kept.find("a.yaml", stamp()).is_some());
        assert!(kept.find("b.yaml", stamp()).is_none());
        // Another file of the same size and time in its place.
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        let beside = root.path().join("beside");
        fs::write(&beside, "b").unwrap();
        fs::File::options()
            .write(true)
            .open(&beside)
            .unwrap()
            .set_modified(time)
            .unwrap();
        fs::rename(&beside, &path).unwrap();
        assert!(kept.find("a.yaml", stamp()).is_none());
        kept.keep(stamp(), kept_file(), later);
        kept.only([].into_iter());
        assert!(kept.find("a.yaml", stamp()).is_none());
    }
}
