//! JSON lines that are on their way to a file or pipe. A write that stops in the middle goes
//! on there, so that no line is written twice or torn.

use std::io::{self, Write};

use super::Entry;

/// Lines to be written.
#[derive(Debug, Default)]
pub struct Lines {
    bytes: Vec<u8>,
    /// Written of `bytes`.
    written: usize,
}

impl Lines {
    /// Adds a record.
    pub fn push(&mut self, record: &Entry) {
        let before = self.bytes.len();
        // Serializing plain data to memory does not fail; if it ever did, half a line must not
        // stay.
        if serde_json::to_writer(&mut self.bytes, record).is_err() {
            self.bytes.truncate(before);
            return;
        }
        self.bytes.push(b'\n');
    }

    /// Bytes that are not written yet.
    pub fn pending(&self) -> usize {
        self.bytes.len() - self.written
    }

    /// Whether the next byte begins a line.
    pub fn at_line_start(&self) -> bool {
        self.written == 0 || self.bytes[self.written - 1] == b'\n'
    }

    /// Bytes up to the end of the last line that ends within `room` bytes; if none does, the
    /// first line's.
    pub fn whole_lines_within(&self, room: u64) -> usize {
        let rest = &self.bytes[self.written..];
        let room = usize::try_from(room).unwrap_or(usize::MAX).min(rest.len());
        let end_in = |part: &[u8]| part.iter().rposition(|b| *b == b'\n').map(|at| at + 1);
        end_in(&rest[..room])
            .or_else(|| rest.iter().position(|b| *b == b'\n').map(|at| at + 1))
            .unwrap_or(0)
    }

    /// Writes up to `limit` bytes; `wrote` hears of each success.
    pub fn write_to(
        &mut self,
        out: &mut impl Write,
        limit: usize,
        mut wrote: impl FnMut(usize),
    ) -> io::Result<()> {
        let end = self.bytes.len().min(self.written.saturating_add(limit));
        while self.written < end {
            match out.write(&self.bytes[self.written..end]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.written += count;
                    wrote(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.written == self.bytes.len() {
            self.bytes.clear();
            self.written = 0;
        }
        Ok(())
    }

    /// Goes back to the start of the line that was being written: it is to begin anew,
    /// elsewhere.
    pub fn restart_line(&mut self) {
        let written = &self.bytes[..self.written];
        self.written = written
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or(0, |at| at + 1);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::observe::{fixtures, record::FlowRecord};

    /// Takes so many bytes, then fails once, and so on.
    struct Stuttering(Vec<u8>, bool);

    impl Write for Stuttering {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let count = bytes.len().min(7);
            self.0.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_write_goes_on_where_it_stopped() {
        let record = fixtures::record();
        let mut lines = Lines::default();
        let entry = Entry::Flow(Arc::new(record.clone()));
        lines.push(&entry);
        lines.push(&entry);
        let mut out = Stuttering(Vec::new(), false);
        while lines.write_to(&mut out, usize::MAX, |_| ()).is_err() {}
        assert_eq!(lines.pending(), 0);
        let text = String::from_utf8(out.0).unwrap();
        let read: Vec<FlowRecord> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(read, [record.clone(), record]);
    }

    #[test]
    fn lines_are_kept_whole() {
        let mut lines = Lines {
            bytes: b"aaaa\nbb\nc\n".to_vec(),
            written: 0,
        };
        assert_eq!(lines.whole_lines_within(100), 10);
        assert_eq!(lines.whole_lines_within(9), 8);
        assert_eq!(lines.whole_lines_within(7), 5);
        assert_eq!(lines.whole_lines_within(2), 5);
        lines.write_to(&mut Vec::new(), 6, |_| ()).unwrap();
        assert!(!lines.at_line_start());
        lines.restart_line();
        assert!(lines.at_line_start());
        assert_eq!(lines.pending(), 5);
    }
}
