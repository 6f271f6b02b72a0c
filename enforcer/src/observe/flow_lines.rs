//! A flow log without the lines that are not about flows: sinks take security events too.

use std::io::{self, BufRead, BufReader, Read};

use serde::Deserialize;

/// Longest line that is looked at, in bytes; longer ones are handed on in pieces.
const LINE_BYTES: u64 = 1 << 20;

/// First bytes of packet captures (pcap in both byte orders, pcapng), which have no lines. JSON
/// begins with none of them.
const CAPTURE: [u8; 4] = [0xa1, 0xd4, 0x4d, 0x0a];

/// Reads a flow log (or anything else, as it is), with an empty line for each line that has a
/// top-level `kind`: numbers of lines stay what they are.
#[derive(Debug)]
pub struct FlowLines<R> {
    input: BufReader<R>,
    line: Vec<u8>,
    /// Handed on of `line`.
    given: usize,
    /// Whether there are lines; `None` before the first byte.
    has_lines: Option<bool>,
    /// The line before was longer than is looked at, and goes on.
    goes_on: bool,
}

/// What tells a line that is not about a flow.
#[derive(Deserialize)]
struct Head {
    #[serde(rename = "kind")]
    _kind: String,
}

impl<R: Read> FlowLines<R> {
    /// Of a file that is open.
    pub fn new(input: R) -> Self {
        Self {
            input: BufReader::new(input),
            line: Vec::new(),
            given: 0,
            has_lines: None,
            goes_on: false,
        }
    }

    fn next_line(&mut self) -> io::Result<()> {
        (self.given, self.line) = (0, std::mem::take(&mut self.line));
        self.line.clear();
        let mut limited = self.input.by_ref().take(LINE_BYTES);
        limited.read_until(b'\n', &mut self.line)?;
        let ends = self.line.last() == Some(&b'\n');
        let is_whole = !self.goes_on && (ends || (self.line.len() as u64) < LINE_BYTES);
        self.goes_on = !ends;
        if is_whole && serde_json::from_slice::<Head>(&self.line).is_ok() {
            self.line.clear();
            self.line.push(b'\n');
        }
        Ok(())
    }
}

impl<R: Read> Read for FlowLines<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let has_lines = if let Some(known) = self.has_lines {
            known
        } else {
            let first = self.input.fill_buf()?.first();
            let known = first.is_none_or(|first| !CAPTURE.contains(first));
            *self.has_lines.insert(known)
        };
        if !has_lines {
            return self.input.read(out);
        }
        if self.given == self.line.len() {
            self.next_line()?;
        }
        let count = (&self.line[self.given..]).read(out)?;
        self.given += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        identity::attest::journal::{EventKind, SecurityEvent},
        observe::fixtures,
    };

    fn through(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        FlowLines::new(bytes).read_to_end(&mut out).unwrap();
        out
    }

    #[test]
    fn events_become_empty_lines_and_all_else_stays() {
        let record = serde_json::to_string(&fixtures::record()).unwrap();
        let event = SecurityEvent::new(EventKind::Refuse, "expired", "x");
        let event = serde_json::to_string(&event).unwrap();
        let long = "x".repeat(3 << 20);
        let text =
            format!("{record}\n{event}\n{{torn\n\n{{\"lost\":7}}\n{long}\n{event}\n{record}");
        let expected = format!("{record}\n\n{{torn\n\n{{\"lost\":7}}\n{long}\n\n{record}");
        assert!(through(text.as_bytes()) == expected.as_bytes());
        assert!(through(event.as_bytes()) == b"\n");
        assert!(through(b"").is_empty());
        // A capture in which somebody sends such lines.
        for first in CAPTURE {
            let mut capture = vec![first, 0x0d, b'\n'];
            capture.extend_from_slice(event.as_bytes());
            capture.push(b'\n');
            assert!(through(&capture) == capture);
        }
    }
}
