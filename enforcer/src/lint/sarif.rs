//! Errors and findings as SARIF 2.1.0 (OASIS, sarif-v2.1.0), for code review.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Finding, Lint, Severity};
use crate::policy::{Code, PolicyDiagnostic};

/// Where the sections about lints and errors are, below the root of the enforcer's source.
const LINTS: &str = "docs/lint.md";
const ERRORS: &str = "docs/policy.md#errors";

/// A log with one run: `errors` of a tree that was refused, or `findings` in one that was not.
pub fn log(errors: &[PolicyDiagnostic], findings: &[Finding]) -> Value {
    let of_lints = Lint::ALL.iter().map(|lint| {
        json!({
            "id": lint.as_str(),
            "shortDescription": { "text": lint.summary() },
            "help": { "text": format!("See {LINTS}#{}", lint.as_str()) },
            "defaultConfiguration": { "level": lint.severity().as_str() },
        })
    });
    let of_errors = Code::ALL.iter().map(|code| {
        json!({
            "id": code.as_str(),
            "shortDescription": { "text": code.as_str() },
            "help": { "text": format!("See {ERRORS}") },
            "defaultConfiguration": { "level": Severity::Error.as_str() },
        })
    });
    let rules: Vec<Value> = of_lints.chain(of_errors).collect();
    let errors = errors.iter().map(|error| {
        let text = format!("{}. {}", error.message, error.help);
        let at = location(&error.file, error.line, Some(error.column));
        result(error.code.as_str(), Severity::Error, &text, &at)
    });
    let findings = findings.iter().map(|finding| {
        let text = format!("{}. {}", finding.message, finding.help);
        let at = location(&finding.file, finding.line, Some(finding.column));
        let mut result = result(finding.code.as_str(), finding.severity, &text, &at);
        let related = finding.related.iter().map(|related| {
            let mut at = location(&related.file, related.line, None);
            at["message"] = json!({ "text": related.message });
            at
        });
        let related: Vec<_> = related.collect();
        if !related.is_empty() {
            result["relatedLocations"] = related.into();
        }
        result
    });
    let results: Vec<Value> = errors.chain(findings).collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "enforcer",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            }},
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn result(code: &str, severity: Severity, text: &str, location: &Value) -> Value {
    json!({
        "ruleId": code,
        "level": severity.as_str(),
        "message": { "text": text },
        "locations": [location],
    })
}

fn location(file: &str, line: u32, column: Option<u32>) -> Value {
    let mut region = json!({ "startLine": line });
    if let Some(column) = column {
        region["startColumn"] = column.into();
    }
    json!({
        "physicalLocation": {
            "artifactLocation": { "uri": uri(file) },
            "region": region,
        },
    })
}

/// A path as the path of a URI (RFC 3986, 3.3).
fn uri(path: &str) -> String {
    let mut uri = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => {
                uri.push(byte.into());
            }
            // Writing into a string cannot fail.
            _ => drop(write!(uri, "%{byte:02X}")),
        }
    }
    uri
}
