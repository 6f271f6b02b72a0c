//! What a lint has found, and the list of lints.

use std::{collections::HashMap, sync::Arc};

use serde::{Serialize, Serializer};

use crate::policy::{Frame, Position, SourceFile, model::Origin};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth a look.
    Note,
    /// Probably not meant.
    Warning,
    /// Wrong.
    Error,
}

impl Severity {
    /// As written in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

macro_rules! lints {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal, $severity:ident;)+) => {
        /// Stable codes of lints: never reused with another meaning, and none is a code of an
        /// error ([`crate::policy::Code`]).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Lint { $($(#[doc = $doc])+ $name,)+ }

        impl Lint {
            /// All, in the order of the reference.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// As written in reports and annotations.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// How bad it is.
            pub const fn severity(self) -> Severity {
                match self { $(Self::$name => Severity::$severity,)+ }
            }

            /// What it is about, in a sentence.
            pub const fn summary(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

lints! {
    /// A rule decides about no flow: others decide about all that it matches.
    UnreachableRule = "unreachable-rule", Warning;
    /// A selector matches no workload of the tree.
    EmptySelector = "empty-selector", Warning;
    /// What a rule allows is denied by a higher tier.
    OverruledAllow = "overruled-allow", Warning;
    /// A policy cuts a workload off from its health checks or from DNS.
    CutOff = "cut-off", Warning;
    /// Two policies say the same.
    SamePolicy = "same-policy", Warning;
    /// A policy or rule has ended.
    EndedRule = "ended-rule", Warning;
    /// More rules about a workload begin or end than the kernel knows ahead.
    ManyMoments = "many-moments", Warning;
    /// Any peer is allowed where flows show few.
    WidePeer = "wide-peer", Note;
    /// An annotation that silences a lint is wrong or gives no reason.
    BadSilence = "bad-silence", Error;
}

impl Serialize for Lint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Something that a lint has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which lint.
    pub code: Lint,
    /// How bad it is.
    pub severity: Severity,
    /// As in [`Origin::file`].
    pub file: Arc<str>,
    /// 1-based.
    pub line: u32,
    /// 1-based, in characters.
    pub column: u32,
    /// What was found.
    pub message: String,
    /// What to do.
    pub help: String,
    /// Other places that belong to it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub related: Vec<Related>,
    /// The line of the file.
    pub snippet: String,
    /// The name of the rule that it is about, if it is about one.
    #[serde(skip)]
    pub(super) rule: Option<String>,
    /// Documents whose annotations can silence it.
    #[serde(skip)]
    pub(super) documents: Vec<Origin>,
    /// What is marked in the snippet: first byte and length.
    #[serde(skip)]
    mark: (usize, usize),
}

/// Another place that belongs to a finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Related {
    /// What is there.
    pub message: String,
    /// As in [`Origin::file`].
    pub file: Arc<str>,
    /// 1-based.
    pub line: u32,
}

impl Related {
    pub(super) fn new(message: impl Into<String>, at: &Origin) -> Self {
        Self {
            message: message.into(),
            file: at.file.clone(),
            line: at.line,
        }
    }
}

impl Finding {
    /// About something that is written `at`, in `document`.
    pub(super) fn new(
        code: Lint,
        at: &Origin,
        document: &Origin,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self {
            code,
            severity: code.severity(),
            file: at.file.clone(),
            line: at.line,
            column: at.column,
            message: message.into(),
            help: help.into(),
            related: Vec::new(),
            snippet: String::new(),
            rule: None,
            documents: vec![document.clone()],
            mark: (0, 0),
        }
    }

    /// The same, about a rule.
    pub(super) fn of_rule(mut self, name: &str) -> Self {
        self.rule = Some(name.to_owned());
        self
    }

    /// The same, with other places.
    pub(super) fn with(mut self, related: Vec<Related>) -> Self {
        self.related = related;
        self
    }

    pub(super) fn place(&self) -> (&str, u32, u32, Lint, &str) {
        (&self.file, self.line, self.column, self.code, &self.message)
    }

    /// Fills in the line of the file.
    pub(super) fn quote(&mut self, files: &HashMap<&str, &SourceFile>) {
        let file = files.get(&*self.file);
        let line = file.map_or("", |file| file.line(self.line));
        let at = Position {
            line: self.line,
            column: self.column,
            width: 1,
        };
        (self.snippet, self.mark) = crate::policy::cut(line, at);
    }
}

/// For people: one frame for each finding.
pub fn render(findings: &[Finding], colour: bool) -> String {
    let mut text = String::new();
    for finding in findings {
        let mut help = finding.help.clone();
        for related in &finding.related {
            help.push('\n');
            help.push_str(&related.message);
            help.push_str(" at ");
            help.push_str(&related.file);
            help.push(':');
            help.push_str(&related.line.to_string());
        }
        Frame {
            code: finding.code.as_str(),
            severity: match finding.severity {
                Severity::Note => miette::Severity::Advice,
                Severity::Warning => miette::Severity::Warning,
                Severity::Error => miette::Severity::Error,
            },
            message: &finding.message,
            help: &help,
            file: &finding.file,
            line: finding.line,
            column: finding.column,
            snippet: &finding.snippet,
            mark: finding.mark,
        }
        .render(colour, &mut text);
    }
    text
}
