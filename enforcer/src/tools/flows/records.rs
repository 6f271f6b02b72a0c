//! Flow records as JSON lines: a flow log, or what `observe --output json` prints.

use std::{
    io::{BufRead, Read},
    path::Path,
};

use serde::Deserialize;

use super::{Flows, FlowsError, PassedOver};
use crate::observe::record::{FlowRecord, RECORD_VERSION};

/// Longest line, in bytes: a record has about a thousand.
const LINE_BYTES: u64 = 1 << 20;

/// Reads every line.
pub(super) fn read(
    input: &mut dyn BufRead,
    path: &Path,
    strict: bool,
    flows: &mut Flows,
) -> Result<(), FlowsError> {
    let io = |source| FlowsError::Io {
        path: path.to_owned(),
        source,
    };
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let mut limited = Read::take(&mut *input, LINE_BYTES + 1);
        if limited.read_until(b'\n', &mut line).map_err(io)? == 0 {
            break;
        }
        let refuse = |flows: &mut Flows, why: &str| {
            flows.refuse(format!("{}:{number}: {why}", path.display()), strict)
        };
        if line.len() as u64 > LINE_BYTES {
            refuse(flows, "longer than a line of flow records may be (1 MiB)")?;
            skip_line(input).map_err(io)?;
            continue;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        match parse(&line) {
            Ok(Line::Record(record)) => flows.record(&record),
            Ok(Line::OtherKind) => flows.pass_over(PassedOver::SecurityEvent, 1),
            Ok(Line::Lost(lost)) => flows.pass_over(PassedOver::Lost, lost),
            Err(why) => refuse(flows, &why)?,
        }
    }
    Ok(())
}

/// The rest of a line that is too long, without keeping it.
fn skip_line(input: &mut dyn BufRead) -> std::io::Result<()> {
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            return Ok(());
        }
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let used = end.map_or(buffer.len(), |end| end + 1);
        input.consume(used);
        if end.is_some() {
            return Ok(());
        }
    }
}

/// A line of a flow log.
pub(crate) enum Line {
    /// About a flow.
    Record(Box<FlowRecord>),
    /// So many records went by that a reader was too slow for.
    Lost(u64),
    /// Not about a flow.
    OtherKind,
}

/// What every line of ours has.
#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    version: Option<u32>,
    #[serde(default)]
    lost: Option<u64>,
    /// Flow records have none.
    #[serde(default)]
    kind: Option<String>,
}

/// Reads a line, or says why it is none.
pub(crate) fn parse(line: &[u8]) -> Result<Line, String> {
    match serde_json::from_slice::<FlowRecord>(line) {
        Ok(record) if record.version <= RECORD_VERSION => Ok(Line::Record(Box::new(record))),
        Ok(record) => Err(unknown_version(record.version)),
        Err(error) => match serde_json::from_slice::<Head>(line) {
            Ok(Head {
                lost: Some(lost), ..
            }) => Ok(Line::Lost(lost)),
            Ok(Head { kind: Some(_), .. }) => Ok(Line::OtherKind),
            Ok(Head {
                version: Some(version),
                ..
            }) if version > RECORD_VERSION => Err(unknown_version(version)),
            _ => Err(format!("no flow record: {error}")),
        },
    }
}

fn unknown_version(version: u32) -> String {
    format!("a record of version {version}, where this enforcer knows {RECORD_VERSION}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        identity::attest::journal::{EventKind, SecurityEvent},
        observe::fixtures,
    };

    fn read_text(text: &str, strict: bool) -> Result<Flows, FlowsError> {
        let mut flows = Flows::default();
        read(&mut text.as_bytes(), Path::new("f"), strict, &mut flows)?;
        Ok(flows)
    }

    #[test]
    fn bad_lines_are_counted_with_their_number() {
        let good = serde_json::to_string(&fixtures::record()).unwrap();
        let newer = good.replacen("\"version\":1", "\"version\":9", 1);
        let event = SecurityEvent::new(EventKind::Refuse, "expired", "x");
        let event = serde_json::to_string(&event).unwrap();
        let long = "x".repeat(3 << 20);
        let text = format!("{good}\n\n{{\"lost\":7}}\n{event}\n{{torn\n{newer}\n{long}\n{good}");
        let flows = read_text(&text, false).unwrap();
        let (tally, rule) = flows.seen.values().next().unwrap();
        assert_eq!((flows.seen.len(), tally.records), (1, 2));
        assert_eq!(rule.as_ref().unwrap().policy, "db");
        assert_eq!(flows.passed_over[&PassedOver::Lost], 7);
        assert_eq!(flows.passed_over[&PassedOver::SecurityEvent], 1);
        assert_eq!(flows.bad.count, 3);
        assert!(flows.bad.first[0].starts_with("f:5: no flow record"));
        assert!(flows.bad.first[1].starts_with("f:6: a record of version 9"));
        assert!(flows.bad.first[2].starts_with("f:7: longer"));
        let error = read_text(&text, true).unwrap_err();
        assert!(error.to_string().starts_with("f:5:"));
    }

    #[test]
    fn what_policy_did_not_decide_is_passed_over() {
        let mut record = fixtures::record();
        record.reason = "source-guard".into();
        let text = serde_json::to_string(&record).unwrap();
        let flows = read_text(&text, false).unwrap();
        assert!(flows.seen.is_empty());
        assert_eq!(flows.passed_over[&PassedOver::NotByPolicy], 1);
    }
}
