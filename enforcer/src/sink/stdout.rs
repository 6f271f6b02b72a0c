//! JSON lines to standard output, for a service manager or pipe to pick up.

use std::io::Write;

use super::{Entry, Sink, SinkError, lines::Lines};

/// Writes records to standard output, or whatever else takes bytes.
#[derive(Debug)]
pub struct StreamSink<W> {
    out: W,
    lines: Lines,
}

impl StreamSink<std::io::Stdout> {
    /// To standard output.
    pub fn stdout() -> Self {
        Self::new(std::io::stdout())
    }
}

impl<W: Write> StreamSink<W> {
    /// To `out`.
    pub fn new(out: W) -> Self {
        Self {
            out,
            lines: Lines::default(),
        }
    }
}

impl<W: Write + Send> Sink for StreamSink<W> {
    fn take(&mut self, record: &Entry) {
        self.lines.push(record);
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        self.lines
            .write_to(&mut self.out, usize::MAX, |_| ())
            .and_then(|()| self.out.flush())
            .map_err(|e| SinkError::new("cannot write flow records to standard output", e))
    }

    fn pending(&self) -> usize {
        self.lines.pending()
    }
}
