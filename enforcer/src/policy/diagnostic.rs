//! What is wrong with a tree, said so that its writer can put it right.

use std::{fmt, sync::Arc};

use miette::{
    Diagnostic, LabeledSpan, MietteError, MietteSpanContents, SourceCode, SourceSpan, SpanContents,
};
use serde::{Serialize, Serializer};

use super::source::SourceFile;

/// At most this many errors of one tree are kept; the rest is only counted. A tree with more of
/// them has one cause repeated, and a report must not need more memory than the tree.
const KEPT_ERRORS: usize = 1000;

/// Longest piece of a source line that is shown, in characters.
const SNIPPET_CHARS: usize = 160;

macro_rules! codes {
    ($($(#[$doc:meta])+ $name:ident = $text:literal,)+) => {
        /// Stable codes of errors: never reused with another meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code { $($(#[$doc])+ $name,)+ }

        impl Code {
            /// All codes, in the order of the reference.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// As written in reports.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

codes! {
    /// A file or directory cannot be read, or is no regular file.
    Unreadable = "unreadable",
    /// There is no document in the tree.
    EmptyTree = "empty-tree",
    /// A file is not UTF-8.
    NotUtf8 = "not-utf8",
    /// Files, directories or bytes beyond what one tree may have.
    TreeLimit = "tree-limit",
    /// Not well-formed YAML.
    YamlSyntax = "yaml-syntax",
    /// YAML that is too large, too deep, or repeats itself too often.
    YamlLimit = "yaml-limit",
    /// A mapping where a list should be, and so on.
    WrongType = "wrong-type",
    /// A field that the language does not have.
    UnknownField = "unknown-field",
    /// A field that must be there.
    MissingField = "missing-field",
    /// The same key twice in a mapping.
    DuplicateKey = "duplicate-key",
    /// Part of the language, but not of this version.
    NotYet = "not-yet",
    /// `apiVersion` is not one of ours.
    UnknownApiVersion = "unknown-api-version",
    /// `kind` is not one of ours.
    UnknownKind = "unknown-kind",
    /// A word that is none of the allowed ones.
    UnknownValue = "unknown-value",
    /// A name of a document, namespace or rule breaks the rules for names.
    BadName = "bad-name",
    /// A label or annotation breaks Kubernetes' rules.
    BadLabel = "bad-label",
    /// Two documents of a kind, or two rules of a policy, have one name.
    DuplicateName = "duplicate-name",
    /// A policy decides nothing.
    NoEffect = "no-effect",
    /// A selector says nothing or two things.
    BadSelector = "bad-selector",
    /// A peer says nothing or two things.
    BadPeer = "bad-peer",
    /// A group of this name is not there.
    UnknownGroup = "unknown-group",
    /// A group that refers to itself, by whatever way.
    GroupCycle = "group-cycle",
    /// A group where it cannot be used.
    BadGroup = "bad-group",
    /// Not a moment, or an end before its beginning.
    BadTime = "bad-time",
    /// `from` below `egress`, or `to` below `ingress`.
    WrongDirection = "wrong-direction",
    /// Not an address or network.
    BadCidr = "bad-cidr",
    /// A network with bits set beyond its prefix.
    HostBits = "host-bits",
    /// An exception outside of its network.
    ExceptOutside = "except-outside",
    /// Not a protocol.
    BadProtocol = "bad-protocol",
    /// Not a port.
    BadPort = "bad-port",
    /// A range that ends before it begins.
    ReversedRange = "reversed-range",
    /// A port for a protocol without ports, or an ICMP type for another protocol.
    PortProtocol = "port-protocol",
    /// Not an ICMP type or code.
    BadIcmp = "bad-icmp",
    /// Not a SPIFFE ID of a workload.
    BadSpiffeId = "bad-spiffe-id",
    /// A trust domain's name, bundle, file or serial number cannot be.
    BadTrustDomain = "bad-trust-domain",
    /// Not a place of a workload.
    BadPlace = "bad-place",
    /// Two workloads claim one address.
    DuplicateAddress = "duplicate-address",
    /// Two workloads claim one place.
    DuplicatePlace = "duplicate-place",
    /// Would lock the operator out.
    LockOut = "lock-out",
    /// More failsafe ports than the kernel programs have room for.
    TooManyFailsafe = "too-many-failsafe",
    /// Compiled, it is more than the kernel maps have room for.
    DoesNotFit = "does-not-fit",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// 1-based.
    pub line: u32,
    /// 1-based, in characters.
    pub column: u32,
    /// What is meant there, in characters of that line; at least 1.
    pub width: u32,
}

impl Position {
    /// The beginning of a file: for what is wrong with the file as a whole.
    pub const START: Self = Self {
        line: 1,
        column: 1,
        width: 1,
    };
}

/// One error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyDiagnostic {
    /// What kind of error it is.
    pub code: Code,
    /// As in [`super::model::Origin::file`].
    pub file: Arc<str>,
    /// 1-based.
    pub line: u32,
    /// 1-based, in characters.
    pub column: u32,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: String,
    /// The line of the file, shortened around the column where it is very long; empty where the
    /// error is about the file as a whole.
    pub snippet: String,
    /// Where in the snippet: first byte and length in bytes.
    #[serde(skip)]
    mark: (usize, usize),
}

impl PolicyDiagnostic {
    fn new(code: Code, file: &SourceFile, at: Position, message: &str, help: &str) -> Self {
        let (snippet, mark) = cut(file.line(at.line), at);
        Self {
            code,
            file: file.name.clone(),
            line: at.line,
            column: at.column,
            message: printable(message),
            help: printable(help),
            snippet,
            mark,
        }
    }
}

/// The part of a line that is worth showing, and the marked bytes in it.
pub(crate) fn cut(line: &str, at: Position) -> (String, (usize, usize)) {
    let column = at.column as usize - 1;
    let skipped = if column > SNIPPET_CHARS * 3 / 4 {
        column - SNIPPET_CHARS / 4
    } else {
        0
    };
    // A tab counts as one column and is shown as one.
    let snippet: String = line
        .chars()
        .skip(skipped)
        .take(SNIPPET_CHARS)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let byte = |chars: usize| {
        snippet
            .char_indices()
            .nth(chars)
            .map_or(snippet.len(), |(index, _)| index)
    };
    let start = byte(column - skipped);
    let end = byte(column - skipped + at.width as usize);
    (snippet, (start, end.max(start) - start))
}

impl fmt::Display for PolicyDiagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}:{}: {}",
            printable(&self.file),
            self.line,
            self.column,
            self.message
        )
    }
}

impl std::error::Error for PolicyDiagnostic {}

/// How miette shows an error or a finding: its frame names file, line and column already.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) code: &'a str,
    pub(crate) severity: miette::Severity,
    pub(crate) message: &'a str,
    pub(crate) help: &'a str,
    pub(crate) file: &'a str,
    pub(crate) line: u32,
    pub(crate) column: u32,
    /// The line; empty where the frame is about a file as a whole.
    pub(crate) snippet: &'a str,
    /// Where in the snippet: first byte and length in bytes.
    pub(crate) mark: (usize, usize),
}

impl Frame<'_> {
    /// Adds it to a text.
    pub(crate) fn render(&self, colour: bool, text: &mut String) {
        use miette::{GraphicalReportHandler, GraphicalTheme};
        let theme = if colour {
            GraphicalTheme::unicode()
        } else {
            GraphicalTheme::unicode_nocolor()
        };
        let handler = GraphicalReportHandler::new_themed(theme)
            // Terminals wrap by themselves, and then no word to copy is torn.
            .with_wrap_lines(false)
            .with_links(false);
        // Writing into a string fails only where a Display does, and none of ours does.
        let _ = handler.render_report(text, self);
        text.push('\n');
    }
}

impl fmt::Display for Frame<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.snippet.is_empty() {
            write!(f, "{}: {}", printable(self.file), self.message)
        } else {
            f.write_str(self.message)
        }
    }
}

impl std::error::Error for Frame<'_> {}

impl Diagnostic for Frame<'_> {
    fn severity(&self) -> Option<miette::Severity> {
        Some(self.severity)
    }

    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(self.code))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(self.help))
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        (!self.snippet.is_empty()).then_some(self as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let (start, length) = self.mark;
        let span = LabeledSpan::new(Some("here".to_owned()), start, length);
        Some(Box::new(std::iter::once(span)))
    }
}

impl SourceCode for Frame<'_> {
    fn read_span<'a>(
        &'a self,
        _span: &SourceSpan,
        _before: usize,
        _after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let Self {
            snippet,
            file,
            line,
            column,
            ..
        } = self;
        let covered = SourceSpan::from((0, snippet.len()));
        Ok(Box::new(MietteSpanContents::new_named(
            printable(file),
            snippet.as_bytes(),
            covered,
            *line as usize - 1,
            *column as usize - 1,
            1,
        )))
    }
}

/// Everything that is wrong with a tree. Never empty. In the order of file, line and column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyErrors {
    errors: Vec<PolicyDiagnostic>,
    omitted: usize,
}

impl PolicyErrors {
    /// One error about a tree as a whole, which is called `shown`.
    pub fn about_tree(code: Code, shown: &str, message: &str, help: &str) -> Self {
        let file = SourceFile::new(shown, "");
        let error = PolicyDiagnostic::new(code, &file, Position::START, message, help);
        Self {
            errors: vec![error],
            omitted: 0,
        }
    }

    /// The errors: at least one, and at most a thousand.
    pub fn errors(&self) -> &[PolicyDiagnostic] {
        &self.errors
    }

    /// How many there are, those left out of [`PolicyErrors::errors`] included.
    pub fn count(&self) -> usize {
        self.errors.len() + self.omitted
    }

    /// For people: one frame for each error, then a line with their number.
    pub fn render(&self, colour: bool) -> String {
        use std::fmt::Write as _;

        let mut text = String::new();
        for error in &self.errors {
            Frame {
                code: error.code.as_str(),
                severity: miette::Severity::Error,
                message: &error.message,
                help: &error.help,
                file: &error.file,
                line: error.line,
                column: error.column,
                snippet: &error.snippet,
                mark: error.mark,
            }
            .render(colour, &mut text);
        }
        if self.omitted > 0 {
            let _ = writeln!(text, "… and {} more", self.omitted);
        }
        text
    }
}

impl Serialize for PolicyErrors {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.errors.serialize(serializer)
    }
}

impl fmt::Display for PolicyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.count();
        let plural = if count == 1 { "error" } else { "errors" };
        write!(f, "{count} {plural} in the policy; {}", self.errors[0])
    }
}

impl std::error::Error for PolicyErrors {}

/// Collects the errors of a tree.
#[derive(Debug, Default)]
pub(super) struct Collector {
    errors: Vec<PolicyDiagnostic>,
    omitted: usize,
}

impl Collector {
    /// Adds an error.
    pub(super) fn add(
        &mut self,
        code: Code,
        file: &SourceFile,
        at: Position,
        message: impl AsRef<str>,
        help: impl AsRef<str>,
    ) {
        if self.errors.len() < KEPT_ERRORS {
            let error = PolicyDiagnostic::new(code, file, at, message.as_ref(), help.as_ref());
            self.errors.push(error);
        } else {
            self.omitted += 1;
        }
    }

    /// Takes over what another one has collected.
    pub(super) fn append(&mut self, other: Self) {
        self.omitted += other.omitted;
        self.errors.extend(other.errors);
        let excess = self.errors.len().saturating_sub(KEPT_ERRORS);
        self.errors.truncate(KEPT_ERRORS);
        self.omitted += excess;
    }

    /// How many were added.
    pub(super) fn count(&self) -> usize {
        self.errors.len() + self.omitted
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// The errors in order, or nothing where there are none.
    pub(super) fn finish(mut self) -> Option<PolicyErrors> {
        if self.errors.is_empty() {
            return None;
        }
        self.errors
            .sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
        // What an alias repeats is wrong once.
        self.errors.dedup();
        Some(PolicyErrors {
            errors: self.errors,
            omitted: self.omitted,
        })
    }
}

/// The candidate that `word` was probably meant to be: letters swapped, missing or wrong, or
/// another case.
pub(crate) fn closest<'c>(
    word: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    // Words of this length are no misspelling, and the distance costs their product.
    if word.len() > 64 {
        return None;
    }
    let lower = word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| {
            let other = candidate.to_lowercase();
            let distance = if other.len() >= 3 && lower.len() > 3 && lower.starts_with(&other) {
                1
            } else {
                strsim::damerau_levenshtein(&lower, &other)
            };
            (distance, candidate)
        })
        .filter(|(distance, candidate)| *distance <= (candidate.len().max(word.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Text from outside, so that it cannot drive a terminal: control characters become escapes.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// "`a`, `b` or `c`".
pub(crate) fn listed<'c>(words: impl IntoIterator<Item = &'c str>) -> String {
    let words: Vec<String> = words.into_iter().map(|word| format!("`{word}`")).collect();
    match words.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_words_are_found() {
        let fields = ["ingress", "egress", "selector", "tier", "mode"];
        assert_eq!(closest("ingres", fields), Some("ingress"));
        assert_eq!(closest("Egress", fields), Some("egress"));
        assert_eq!(closest("teir", fields), Some("tier"));
        assert_eq!(closest("something", fields), None);
        assert_eq!(closest("tcp", ["TCP", "UDP"]), Some("TCP"));
    }

    #[test]
    fn long_lines_are_cut_around_the_column() {
        let line = format!("{}é{}", "a".repeat(1000), "b".repeat(1000));
        let at = Position {
            line: 1,
            column: 1001,
            width: 1,
        };
        let (snippet, (start, length)) = cut(&line, at);
        assert_eq!(snippet.chars().count(), SNIPPET_CHARS);
        assert_eq!(&snippet[start..start + length], "é");
    }

    #[test]
    fn codes_are_distinct_words() {
        let mut words: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Code::ALL.len());
    }

    #[test]
    fn errors_beyond_the_limit_are_counted() {
        let file = SourceFile::new("a.yaml", "text");
        let mut errors = Collector::default();
        for index in 0..KEPT_ERRORS + 5 {
            errors.add(
                Code::BadName,
                &file,
                Position::START,
                index.to_string(),
                "h",
            );
        }
        let errors = errors.finish().expect("there are errors");
        assert_eq!(errors.errors().len(), KEPT_ERRORS);
        assert_eq!(errors.count(), KEPT_ERRORS + 5);
    }
}
