//! What has no equivalent: where it is written, what it means, and what to do instead.

use std::{fmt, sync::Arc};

use serde::Serialize;

use super::field::Field;
use crate::policy::{Frame, SourceFile, cut, listed, printable};

/// What the imported policy does otherwise than the original.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Verdicts are the same; only something beside them is lost.
    Same,
    /// Something that was allowed is denied.
    Narrower,
    /// Something that was denied is allowed.
    Wider,
    /// Either, or it is not known which.
    Either,
}

impl Effect {
    /// For people.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Same => "no verdict changes",
            Self::Narrower => "denies what was allowed",
            Self::Wider => "ALLOWS what was denied",
            Self::Either => "may allow what was denied, and deny what was allowed",
        }
    }
}

/// What became of something that has no equivalent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// It is left out.
    Omitted,
    /// It is imported, with a meaning that is not exactly the same.
    Differs,
}

/// Something that has no equivalent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// File, as given.
    pub file: Arc<str>,
    /// 1-based.
    pub line: u32,
    /// 1-based, in characters.
    pub column: u32,
    /// Kind, namespace and name, as in `CiliumNetworkPolicy shop/web`.
    pub object: String,
    /// The way to it, as in `spec.ingress[0].toPorts[0].rules`.
    pub path: String,
    /// What it means.
    pub message: String,
    /// What to do instead.
    pub help: String,
    /// What became of it.
    pub fate: Fate,
    /// What that changes.
    pub effect: Effect,
    /// The line, shortened where it is very long.
    pub snippet: String,
    /// Where in the snippet: first byte and length in bytes.
    #[serde(skip)]
    pub(super) mark: (usize, usize),
}

impl LeftOut {
    /// Object, path and message.
    fn in_words(&self) -> String {
        let Self {
            object,
            path,
            message,
            ..
        } = self;
        if path.is_empty() {
            format!("{object}: {message}")
        } else {
            format!("{object}: {path}: {message}")
        }
    }

    /// For people: a frame as those of errors.
    pub fn render(&self, colour: bool, text: &mut String) {
        let fate = match self.fate {
            Fate::Omitted => "left out",
            Fate::Differs => "imported, but differs",
        };
        Frame {
            code: fate,
            severity: match self.effect {
                Effect::Same => miette::Severity::Advice,
                Effect::Narrower => miette::Severity::Warning,
                Effect::Wider | Effect::Either => miette::Severity::Error,
            },
            message: &self.in_words(),
            help: &format!("{}\n({})", self.help, self.effect.words()),
            file: &self.file,
            line: self.line,
            column: self.column,
            snippet: &self.snippet,
            mark: self.mark,
        }
        .render(colour, text);
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file, line, column, ..
        } = self;
        write!(f, "{file}:{line}:{column}: {}", self.in_words())
    }
}

/// Reports about one object.
pub(super) struct Reporter<'a> {
    pub(super) file: &'a Arc<SourceFile>,
    /// As [`LeftOut::object`].
    pub(super) object: String,
    /// What leaving something out changes where the reader is now.
    pub(super) effect: Effect,
    pub(super) left_out: &'a mut Vec<LeftOut>,
}

impl Reporter<'_> {
    /// Something is left out.
    pub(super) fn omit(&mut self, field: &Field<'_>, message: impl Into<String>, help: &str) {
        self.omit_with(field, self.effect, message, help);
    }

    /// Something is imported with another meaning.
    pub(super) fn differs(
        &mut self,
        field: &Field<'_>,
        effect: Effect,
        message: impl Into<String>,
        help: &str,
    ) {
        self.add(field, Fate::Differs, effect, &message.into(), help);
    }

    /// Something is left out, with an effect of its own.
    pub(super) fn omit_with(
        &mut self,
        field: &Field<'_>,
        effect: Effect,
        message: impl Into<String>,
        help: &str,
    ) {
        self.add(field, Fate::Omitted, effect, &message.into(), help);
    }

    fn add(&mut self, field: &Field<'_>, fate: Fate, effect: Effect, message: &str, help: &str) {
        let at = field.at;
        let (snippet, mark) = cut(self.file.line(at.line), at);
        self.left_out.push(LeftOut {
            file: self.file.name.clone(),
            line: at.line,
            column: at.column,
            object: printable(&self.object),
            path: printable(&field.path),
            message: printable(message),
            help: printable(help),
            fate,
            effect,
            snippet,
            mark,
        });
    }

    /// Whether a mapping has only fields that are known: what others demand is not known either,
    /// so what they stand in cannot be imported.
    pub(super) fn knows(&mut self, field: &Field<'_>, known: &[&str]) -> bool {
        if !field.is_mapping() {
            self.omit(
                field,
                "is not a mapping",
                "write fields, each with its value",
            );
            return false;
        }
        let mut all = true;
        for (name, unknown) in field.entries() {
            if !known.contains(&name) {
                let message = "is not known here, so what it demands is not known either";
                let help = format!(
                    "correct it, or write what it means by hand; known are {}",
                    listed(known.iter().copied())
                );
                self.omit(&unknown, message, &help);
                all = false;
            }
        }
        all
    }

    /// The items of a list; none if it is not there. `None`: it is no list, which was reported.
    pub(super) fn list<'n>(&mut self, of: &Field<'n>, name: &str) -> Option<Vec<Field<'n>>> {
        let Some(field) = of.find(name) else {
            return Some(Vec::new());
        };
        let items = field.items();
        if items.is_none() {
            self.omit(&field, "is not a list", "write items, each behind a `-`");
        }
        items
    }

    /// A single value; reported if it is none.
    pub(super) fn text<'n>(&mut self, field: &Field<'n>) -> Option<&'n str> {
        let text = field.text();
        if text.is_none() {
            self.omit(field, "is not a single value", "write text or a number");
        }
        text
    }
}
