//! The report as JUnit XML, which continuous integration systems read.

use std::io::{self, Write};

use super::{FlowOutcome, TestReport};

/// Writes the report: a test suite for each document, a test case for each of its flows.
pub fn write_junit(report: &TestReport, out: &mut dyn Write) -> io::Result<()> {
    let (passed, failed) = report.counts();
    writeln!(out, r#"<?xml version="1.0" encoding="UTF-8"?>"#)?;
    writeln!(
        out,
        r#"<testsuites name="enforcer" tests="{}" failures="{failed}" errors="0">"#,
        passed + failed
    )?;
    for test in &report.tests {
        let failed = test.flows.iter().filter(|f| !f.failures.is_empty()).count();
        writeln!(
            out,
            r#"  <testsuite name="{}" file="{}" tests="{}" failures="{failed}" errors="0" skipped="0">"#,
            escaped(&test.name),
            escaped(&test.origin.file),
            test.flows.len()
        )?;
        for flow in &test.flows {
            case(&test.name, flow, out)?;
        }
        writeln!(out, "  </testsuite>")?;
    }
    writeln!(out, "</testsuites>")
}

fn case(suite: &str, flow: &FlowOutcome, out: &mut dyn Write) -> io::Result<()> {
    write!(
        out,
        r#"    <testcase classname="{}" name="{}" file="{}" line="{}""#,
        escaped(suite),
        escaped(&flow.name),
        escaped(&flow.origin.file),
        flow.origin.line
    )?;
    let Some(first) = flow.failures.first() else {
        return writeln!(out, "/>");
    };
    writeln!(out, ">")?;
    let message = format!("{} {}", first.flow, first.message);
    write!(
        out,
        r#"      <failure message="{}">"#,
        escaped(message.trim())
    )?;
    for failure in &flow.failures {
        let line = format!("{} {}", failure.flow, failure.message);
        writeln!(out, "{}", escaped(line.trim()))?;
        for decided in &failure.decided {
            writeln!(out, "  {}", escaped(&decided.to_string()))?;
        }
    }
    writeln!(out, "</failure>")?;
    writeln!(out, "    </testcase>")
}

/// Text as XML may hold it, in attributes too (XML 1.0, 2.2 and 2.4).
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\n' | '\t' => safe.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}
