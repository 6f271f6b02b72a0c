//! Annotations that silence lints: `lint.enforcer.dev/CODE: reason` for a document, and
//! `lint.enforcer.dev/CODE.RULE: reason` for one of its rules.

use std::sync::Arc;

use super::{Finding, Lint};
use crate::policy::{Annotation, Study, model::Origin};

const PREFIX: &str = "lint.enforcer.dev/";

/// What an annotation is to silence.
struct Silence<'a> {
    lint: Lint,
    rule: Option<&'a str>,
}

impl<'a> Silence<'a> {
    /// `None` for annotations of other kinds; else what it says, or what is wrong with it.
    fn read(annotation: &'a Annotation) -> Option<Result<Self, &'static str>> {
        let key = annotation.key.strip_prefix(PREFIX)?;
        let (code, rule) = match key.split_once('.') {
            Some((code, rule)) => (code, Some(rule)),
            None => (key, None),
        };
        let lint = Lint::ALL.iter().find(|lint| lint.as_str() == code);
        Some(match lint {
            None => Err("there is no such lint"),
            Some(Lint::BadSilence) => Err("this one cannot be silenced"),
            Some(_) if annotation.value.trim().is_empty() => Err("it gives no reason"),
            Some(lint) => Ok(Self { lint: *lint, rule }),
        })
    }

    fn covers(&self, finding: &Finding) -> bool {
        // `ingress[0]` cannot stand in a key by the rules of Kubernetes: `ingress-0` means it too.
        let is_called = |name: &str, rule: &str| {
            name == rule || name.replace('[', "-").strip_suffix(']') == Some(rule)
        };
        let of_rule = |rule: &str| {
            finding
                .rule
                .as_deref()
                .is_some_and(|name| is_called(name, rule))
        };
        self.lint == finding.code && self.rule.is_none_or(of_rule)
    }
}

/// Whether a document silences a lint as a whole.
pub(super) fn is_silent(study: &Study, document: &Origin, lint: Lint) -> bool {
    let annotations = study.annotations.of(document).iter();
    let mut silences = annotations.filter_map(|annotation| Silence::read(annotation)?.ok());
    silences.any(|silence| silence.lint == lint && silence.rule.is_none())
}

/// Leaves out what is silenced, and adds what is wrong with annotations that silence.
pub(super) fn apply(study: &Study, mut findings: Vec<Finding>) -> Vec<Finding> {
    findings.retain(|finding| {
        let documents = finding.documents.iter();
        let annotations = documents.flat_map(|document| study.annotations.of(document));
        let mut silences = annotations.filter_map(|annotation| Silence::read(annotation)?.ok());
        !silences.any(|silence| silence.covers(finding))
    });
    for (file, _, annotation) in study.annotations.iter() {
        if let Some(Err(why)) = Silence::read(annotation) {
            let at = Origin {
                file: Arc::from(file),
                line: annotation.at.line,
                column: annotation.at.column,
            };
            findings.push(Finding::new(
                Lint::BadSilence,
                &at,
                &at,
                format!("{} silences nothing: {why}", annotation.key),
                format!(
                    "write `{PREFIX}CODE: reason`, or `{PREFIX}CODE.RULE: reason` for one rule"
                ),
            ));
        }
    }
    findings
}
