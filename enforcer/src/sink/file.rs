//! JSON lines in a file that is rotated by size: `flows.jsonl`, `flows.jsonl.1` (the one
//! before) and so on. A reader never finds a torn line, a line twice, or a gap between files.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{Entry, Sink, SinkError, lines::Lines};

/// How a file is rotated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Bytes after which the next line goes to a new file.
    pub size: u64,
    /// Old files that are kept, besides the current one.
    pub kept: u32,
}

impl Default for Rotation {
    fn default() -> Self {
        Self {
            size: 64 << 20,
            kept: 5,
        }
    }
}

/// Pause after a rotation that failed; until then the current file grows.
const ROTATION_PAUSE: Duration = Duration::from_secs(30);

/// Writes records to a file.
#[derive(Debug)]
pub struct FileSink {
    path: PathBuf,
    rotation: Rotation,
    lines: Lines,
    current: Option<Current>,
    next_rotation: Option<Instant>,
}

#[derive(Debug)]
struct Current {
    file: File,
    size: u64,
    /// Device and inode.
    identity: (u64, u64),
}

impl FileSink {
    /// Opens or creates the file, so that a mistake shows at the start. The directory is
    /// created if need be.
    pub fn open(path: impl Into<PathBuf>, rotation: Rotation) -> Result<Self, SinkError> {
        let path = path.into();
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)
                .map_err(|e| SinkError::new(format!("cannot create {}", parent.display()), e))?;
        }
        let mut sink = Self {
            path,
            rotation,
            lines: Lines::default(),
            current: None,
            next_rotation: None,
        };
        sink.current = Some(sink.reopen()?);
        Ok(sink)
    }

    fn reopen(&self) -> Result<Current, SinkError> {
        Current::open(&self.path).map_err(|e| self.error("open", e))
    }

    fn error(&self, what: &str, source: io::Error) -> SinkError {
        let path = self.path.display();
        SinkError::new(format!("cannot {what} flow log {path}"), source)
    }

    /// The file at the path, opened anew if somebody moved or removed the one we had.
    fn current(&mut self) -> Result<&mut Current, SinkError> {
        let is_ours = |current: &Current| {
            fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == current.identity)
        };
        let current = match self.current.take() {
            Some(current) if is_ours(&current) => current,
            _ => {
                let current = self.reopen()?;
                self.lines.restart_line();
                current
            }
        };
        Ok(self.current.insert(current))
    }

    /// Moves the current file away. If that fails, lines go on to the current file: a file
    /// that is too large is better than lines that are lost.
    fn rotate(&mut self) -> Result<(), SinkError> {
        let now = Instant::now();
        if self.next_rotation.is_some_and(|next| now < next) {
            return Ok(());
        }
        match rotate(&self.path, self.rotation.kept) {
            Ok(()) => {
                self.next_rotation = None;
                self.current = None;
                self.current().map(drop)
            }
            Err(error) => {
                self.next_rotation = Some(now + ROTATION_PAUSE);
                tracing::error!(
                    path = %self.path.display(),
                    %error,
                    "cannot rotate the flow log; it grows beyond its size"
                );
                Ok(())
            }
        }
    }
}

impl Sink for FileSink {
    fn take(&mut self, record: &Entry) {
        self.lines.push(record);
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        self.current()?;
        while self.lines.pending() > 0 {
            let size = self.current()?.size;
            let room = self.rotation.size.saturating_sub(size);
            let mut chunk = self.lines.whole_lines_within(room);
            if self.lines.at_line_start() && size > 0 && chunk as u64 > room {
                self.rotate()?;
                let size = self.current()?.size;
                chunk = self
                    .lines
                    .whole_lines_within(self.rotation.size.saturating_sub(size));
            }
            let Some(current) = &mut self.current else {
                continue;
            };
            let Current { file, size, .. } = current;
            self.lines
                .write_to(file, chunk, |count| *size += count as u64)
                .map_err(|e| self.error("write", e))?;
        }
        Ok(())
    }

    fn pending(&self) -> usize {
        self.lines.pending()
    }
}

impl Current {
    fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            // Records name processes and peers: not for everybody.
            .mode(0o640)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a regular file",
            ));
        }
        let mut size = metadata.len();
        // A machine that lost power may have left half a line.
        if size > 0 {
            let mut last = [0];
            file.seek(SeekFrom::Start(size - 1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
                size += 1;
            }
        }
        Ok(Self {
            identity: (metadata.dev(), metadata.ino()),
            file,
            size,
        })
    }
}

/// Each file gets the next number, oldest first; the oldest is replaced. Every step is an
/// atomic rename, so that a stop in between loses nothing but a number.
fn rotate(path: &Path, kept: u32) -> io::Result<()> {
    if kept == 0 {
        return fs::remove_file(path);
    }
    for number in (1..kept).rev() {
        match fs::rename(numbered(path, number), numbered(path, number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    fs::rename(path, numbered(path, 1))
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{number}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::observe::{fixtures, record::FlowRecord};

    fn record(sequence: u64) -> Entry {
        Entry::from(Arc::new(FlowRecord {
            sequence,
            ..fixtures::record()
        }))
    }

    fn write(sink: &mut FileSink, sequences: std::ops::RangeInclusive<u64>) {
        sequences.for_each(|n| sink.take(&record(n)));
        sink.flush().unwrap();
    }

    fn read(path: &Path) -> Vec<u64> {
        let text = fs::read_to_string(path).unwrap();
        text.lines()
            .map(|line| serde_json::from_str::<FlowRecord>(line).unwrap().sequence)
            .collect()
    }

    fn line_length() -> u64 {
        serde_json::to_vec(&record(1)).unwrap().len() as u64 + 1
    }

    #[test]
    fn files_are_rotated_by_size_and_the_oldest_goes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log/flows.jsonl");
        let rotation = Rotation {
            size: 3 * line_length() + 10,
            kept: 2,
        };
        let mut sink = FileSink::open(&path, rotation.clone()).unwrap();
        write(&mut sink, 1..=8);
        assert_eq!(read(&path), [7, 8]);
        assert_eq!(read(&numbered(&path, 1)), [4, 5, 6]);
        assert_eq!(read(&numbered(&path, 2)), [1, 2, 3]);
        drop(sink);
        // A new daemon goes on in the same file.
        let mut sink = FileSink::open(&path, rotation).unwrap();
        write(&mut sink, 9..=9);
        assert_eq!(read(&path), [7, 8, 9]);
        for n in 1..=3 {
            write(&mut sink, n..=n);
        }
        assert_eq!(read(&numbered(&path, 1)), [7, 8, 9]);
        assert_eq!(read(&path), [1, 2, 3]);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 3);
    }

    #[test]
    fn a_record_that_is_larger_than_a_file_gets_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("flows");
        let mut sink = FileSink::open(&path, Rotation { size: 10, kept: 9 }).unwrap();
        write(&mut sink, 1..=3);
        assert_eq!(read(&path), [3]);
        assert_eq!(read(&numbered(&path, 2)), [1]);
    }

    #[test]
    fn a_file_that_somebody_moved_or_removed_is_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("flows");
        let moved = directory.path().join("moved");
        let mut sink = FileSink::open(&path, Rotation::default()).unwrap();
        write(&mut sink, 1..=2);
        fs::rename(&path, &moved).unwrap();
        write(&mut sink, 3..=4);
        fs::remove_file(&path).unwrap();
        write(&mut sink, 5..=5);
        assert_eq!((read(&moved), read(&path)), (vec![1, 2], vec![5]));
    }

    #[test]
    fn half_a_line_from_before_does_not_spoil_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("flows");
        fs::write(&path, "{\"version\":1,\"ti").unwrap();
        let mut sink = FileSink::open(&path, Rotation::default()).unwrap();
        write(&mut sink, 1..=1);
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(serde_json::from_str::<FlowRecord>(lines[1]).is_ok());
    }

    #[test]
    fn a_directory_that_goes_away_is_an_error_and_nothing_is_lost_when_it_returns() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log/flows");
        let mut sink = FileSink::open(&path, Rotation::default()).unwrap();
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
        sink.take(&record(1));
        assert!(sink.flush().is_err());
        sink.take(&record(2));
        assert!(sink.flush().is_err());
        fs::create_dir(path.parent().unwrap()).unwrap();
        sink.flush().unwrap();
        assert_eq!(read(&path), [1, 2]);
    }

    #[test]
    fn a_rotation_that_fails_loses_no_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("flows");
        // A directory that is not empty cannot be replaced by a file.
        fs::create_dir_all(numbered(&path, 1).join("x")).unwrap();
        let rotation = Rotation { size: 10, kept: 1 };
        let mut sink = FileSink::open(&path, rotation).unwrap();
        write(&mut sink, 1..=3);
        assert_eq!(read(&path), [1, 2, 3]);
    }

    #[test]
    fn a_link_is_not_followed_and_a_full_device_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        assert!(FileSink::open(&link, Rotation::default()).is_err());
        assert!(FileSink::open("/dev/full", Rotation::default()).is_err());
    }
}
