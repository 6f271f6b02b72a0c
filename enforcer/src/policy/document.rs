//! From the text of a file to its documents, as trees that know where each node is written.
//!
//! The tree is generic, and not a `Deserialize` of each kind, because a derived one ends at the
//! first thing that it does not like; people want to see everything that is wrong at once.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{DuplicateKeyPolicy, Error, Options, Spanned, options::NonFiniteFloatPolicy};

use super::{
    diagnostic::{Code, Collector, Position},
    source::SourceFile,
};

/// Deepest nesting; the language itself needs nine levels.
const DEPTH: usize = 32;
/// Most nodes of a document: a rule of usual size has about twenty.
const NODES: usize = 10_000_000;
/// Most nodes that aliases may repeat in a document.
const REPEATED_NODES: usize = 200_000;
/// Most aliases and anchors of a document.
const ALIASES: usize = 100_000;

/// A node of a document.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Where it is written; for what an alias repeats, where it is written first.
    pub(crate) at: Position,
    pub(crate) value: Value,
    /// First byte and length in the document's text.
    bytes: (usize, usize),
}

/// What a node holds.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// Text as written, whatever YAML would make of it: `8080` and `1.10` keep their spelling.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A mapping, in the order of writing, duplicates included.
    Map(Vec<(Node, Node)>),
    /// A number or truth value whose spelling is yet to be taken from the text.
    Unspelt,
}

impl Node {
    /// For messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Text(_) | Value::Unspelt => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// What is written, without places and the order of keys.
    pub(super) fn spelling(&self) -> String {
        match &self.value {
            Value::Null | Value::Unspelt => "~".to_owned(),
            Value::Text(text) => format!("{text:?}"),
            Value::List(items) => {
                let items: Vec<_> = items.iter().map(Self::spelling).collect();
                format!("[{}]", items.join(","))
            }
            Value::Map(entries) => {
                let entry = |(key, value): &(Self, Self)| {
                    format!("{}:{}", key.spelling(), value.spelling())
                };
                let mut entries: Vec<_> = entries.iter().map(entry).collect();
                entries.sort();
                format!("{{{}}}", entries.join(","))
            }
        }
    }

    /// Fills in what only the text knows, and makes positions count from the file's first line.
    fn settle(&mut self, text: &str, lines_before: u32) {
        self.at.line += lines_before;
        match &mut self.value {
            Value::Null | Value::Text(_) => {}
            Value::Unspelt => {
                let (start, length) = self.bytes;
                let spelling = text.get(start..start + length).unwrap_or_default();
                self.value = Value::Text(spelling.trim().to_owned());
            }
            Value::List(items) => {
                for item in items {
                    item.settle(text, lines_before);
                }
            }
            Value::Map(entries) => {
                for (key, value) in entries {
                    key.settle(text, lines_before);
                    value.settle(text, lines_before);
                }
            }
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        let location = spanned.defined;
        // A span of 0 would mean that it got lost on the way (see Spanned); better no policy
        // than errors and denials that name no line.
        if location.line() == 0 {
            return Err(serde::de::Error::custom("a value without a line"));
        }
        let span = location.span();
        let width = match spanned.value {
            Value::Text(_) | Value::Unspelt => span.len().max(1),
            Value::Null | Value::List(_) | Value::Map(_) => 1,
        };
        let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let size = |number: Option<u64>| {
            number.map_or(0, |number| usize::try_from(number).unwrap_or(usize::MAX))
        };
        Ok(Self {
            at: Position {
                line: small(location.line()),
                column: small(location.column()),
                width: small(width),
            },
            bytes: (size(span.byte_offset()), size(span.byte_len())),
            value: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

macro_rules! unspelt {
    ($($method:ident: $kind:ty,)+) => {
        $(fn $method<E>(self, _: $kind) -> Result<Value, E> { Ok(Value::Unspelt) })+
    };
}

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value, a list or a mapping")
    }

    unspelt! {
        visit_bool: bool,
        visit_i64: i64,
        visit_i128: i128,
        visit_u64: u64,
        visit_u128: u128,
        visit_f64: f64,
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::Text(text))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Value::Map(entries))
    }
}

/// The first carriage return that has no line feed behind it. YAML would end the line there
/// (YAML 1.2.2, 5.4) and nothing else does, so that what follows, behind a comment for one,
/// would be policy that a reader does not see as such.
pub(crate) fn stray_return(text: &str) -> Option<Position> {
    let stray = |line: &str| {
        let content = line.strip_suffix("\r\n").unwrap_or(line);
        content.find('\r').map(|at| content[..at].chars().count())
    };
    let small = |number| u32::try_from(number).unwrap_or(u32::MAX);
    let mut lines = text.split_inclusive('\n').enumerate();
    let (line, column) = lines.find_map(|(number, line)| Some((number, stray(line)?)))?;
    Some(Position {
        line: small(line + 1),
        column: small(column + 1),
        width: 1,
    })
}

/// A document's text in its file.
struct Part<'t> {
    text: &'t str,
    lines_before: u32,
}

/// Where a file's documents begin and end. `---` and `...` at the beginning of a line are
/// markers wherever they stand, even in quotes (YAML 1.2.2, 9.1.2: c-forbidden), so the text
/// can be parted without parsing, and an error in one document does not hide the others'.
fn parts(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut start = (0, 0);
    let mut empty = true;
    let mut after_marker = false;
    let mut offset = 0;
    let mut push = |(start, lines_before): (usize, u32), end: usize, empty: bool| {
        if !empty {
            let text = &text[start..end];
            parts.push(Part { text, lines_before });
        }
    };
    for (number, line) in (0_u32..).zip(text.split_inclusive('\n')) {
        let begins_with = |mark: &str| {
            line.strip_prefix(mark)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\n', '\r']))
        };
        let content = line.trim();
        if begins_with("---") {
            // Directives, which end at the marker, belong to the document behind it.
            if after_marker || !empty {
                push(start, offset, empty);
                start = (offset, number);
            }
            after_marker = true;
            let rest = content[3..].trim_start();
            empty = rest.is_empty() || rest.starts_with('#');
        } else if begins_with("...") {
            push(start, offset + line.len(), empty);
            start = (offset + line.len(), number + 1);
            (empty, after_marker) = (true, false);
        } else if !content.is_empty() && !content.starts_with('#') && !line.starts_with('%') {
            empty = false;
        }
        offset += line.len();
    }
    push(start, offset, empty);
    parts
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH,
            flow_nesting_limit: DEPTH,
            max_nodes: NODES,
            max_events: 2 * NODES,
            max_aliases: ALIASES,
            max_anchors: ALIASES,
            max_merge_keys: ALIASES,
            // One anchor for labels that many rules share is good style, not an attack; what
            // repeats too much is stopped by the limit on repeated nodes.
            enforce_alias_anchor_ratio: false,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: REPEATED_NODES,
            max_replay_stack_depth: DEPTH,
        },
        // Reported by our own reader of mappings, together with what else is wrong.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        reject_unsupported_tags: true,
        strict_booleans: true,
        emit_comments: false,
        with_snippet: false,
    }
}

/// Gives `each` the documents of a file, one after the other. Empty ones are left out; broken
/// ones are reported.
pub(super) fn parse(
    file: &SourceFile,
    errors: &mut Collector,
    mut each: impl FnMut(Node, &mut Collector),
) {
    if let Some(at) = stray_return(&file.text) {
        let message = "a carriage return within a line";
        let help = "end lines with a line feed, or with both: for YAML this ends the line, \
                    while reviews and editors show what follows as part of it";
        errors.add(Code::YamlSyntax, file, at, message, help);
        return;
    }
    for part in parts(&file.text) {
        match serde_saphyr::from_str_with_options::<Node>(part.text, options()) {
            Ok(mut node) => {
                node.settle(part.text, part.lines_before);
                if !matches!(node.value, Value::Null) {
                    each(node, errors);
                }
            }
            Err(error) => refuse(file, &part, &error, errors),
        }
    }
}

fn refuse(file: &SourceFile, part: &Part<'_>, error: &Error, errors: &mut Collector) {
    let mut error = error.without_snippet();
    let location = error.location();
    while let Error::AliasError { error: inner, .. } = error {
        error = inner.without_snippet();
    }
    let at = location.map_or((1, 1), |location| (location.line(), location.column()));
    let at = within(part, at);
    let (code, message, help) = explain(error, file.line(at.line), at.column);
    errors.add(code, file, at, message, help);
}

/// A position in a part, as one in the file. What is unclosed is noticed behind the part's end.
fn within(part: &Part<'_>, (line, column): (u64, u64)) -> Position {
    let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX).max(1);
    let (mut line, mut column) = (small(line), small(column));
    let last = part.text.trim_end().lines().count().max(1);
    let last = u32::try_from(last).unwrap_or(u32::MAX);
    if line > last {
        let text = part.text.lines().nth(last as usize - 1).unwrap_or_default();
        line = last;
        column = small(text.trim_end().chars().count() as u64);
    }
    Position {
        line: line + part.lines_before,
        column,
        width: 1,
    }
}

const SPLIT: &str = "split the document, or check that it is what you meant";
const REPEAT: &str = "write out what aliases (`*name`) repeat, or split the document";

/// Code, message and help for an error of the parser in this line.
fn explain(error: &Error, line: &str, column: u32) -> (Code, String, &'static str) {
    use serde_saphyr::{MessageFormatter as _, budget::BudgetBreach};
    let depth = format!("nested more than {DEPTH} levels deep");
    match error {
        Error::Budget {
            breach: BudgetBreach::Depth { .. },
            ..
        } => return (Code::YamlLimit, depth, SPLIT),
        Error::Budget { .. } => {
            let message = format!("a document of more than {NODES} values, or {ALIASES} aliases");
            return (Code::YamlLimit, message, SPLIT);
        }
        Error::AliasReplayLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayCounterOverflow { .. } => {
            let message = format!("aliases repeat more than {REPEATED_NODES} values");
            return (Code::YamlLimit, message, REPEAT);
        }
        Error::UnknownAnchor { .. } => {
            return (
                Code::YamlSyntax,
                "an alias to an anchor that is not in this document".to_owned(),
                "write the anchor (`&name`) before its alias (`*name`), or put a text that \
                 begins with `*` into quotes",
            );
        }
        Error::UnsupportedTag { tag, .. } => {
            return (
                Code::YamlSyntax,
                format!("the tag `{tag}`"),
                "remove it, or put a text that begins with `!` into quotes",
            );
        }
        _ => {}
    }
    let message = serde_saphyr::UserMessageFormatter
        .format_message(error)
        .into_owned();
    if message.contains("recursion limit") {
        return (Code::YamlLimit, depth, SPLIT);
    }
    let indentation = &line[..line.len() - line.trim_start().len()];
    let special = line
        .chars()
        .nth(column as usize - 1)
        .is_some_and(|c| "*&!@`%|>".contains(c));
    let help = if indentation.contains('\t') {
        "indent with spaces: YAML does not allow tabs there"
    } else if special {
        "put a text that begins with one of * & ! @ ` % | > into quotes"
    } else if line.matches(": ").count() > 1 && !line.contains(['{', '"', '\'']) {
        "put a text that contains `: ` into quotes, or begin a new line after the first `:`"
    } else {
        "check indentation, quotes and brackets here and in the lines before"
    };
    (Code::YamlSyntax, message, help)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn documents(text: &str) -> (Vec<Node>, Collector) {
        let mut errors = Collector::default();
        let mut nodes = Vec::new();
        let file = SourceFile::new("a.yaml", text);
        parse(&file, &mut errors, |node, _| nodes.push(node));
        (nodes, errors)
    }

    fn shown(node: &Node) -> String {
        let Position {
            line,
            column,
            width,
        } = node.at;
        match &node.value {
            Value::Null => "~".to_owned(),
            Value::Unspelt => "?".to_owned(),
            Value::Text(text) => format!("{text}@{line}:{column}+{width}"),
            Value::List(items) => {
                let items: Vec<_> = items.iter().map(shown).collect();
                format!("[{}]", items.join(" "))
            }
            Value::Map(entries) => {
                let entries: Vec<_> = entries
                    .iter()
                    .map(|(key, value)| format!("{}={}", shown(key), shown(value)))
                    .collect();
                format!("{{{}}}@{line}:{column}", entries.join(" "))
            }
        }
    }

    #[test]
    fn every_node_knows_where_it_is_written_and_keeps_its_spelling() {
        let text = "# c\n---\na: 0x1F\nb: [1.10, yes, \"x y\", ~, true]\nc:\n  - d: 080\n";
        let (nodes, errors) = documents(text);
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(
            shown(&nodes[0]),
            "{a@3:1+1=0x1F@3:4+4 b@4:1+1=[1.10@4:5+4 yes@4:11+3 x y@4:16+5 ~ true@4:26+4] \
             c@5:1+1=[{d@6:5+1=080@6:8+3}@6:5]}@3:1"
        );
    }

    #[test]
    fn huge_and_infinite_numbers_keep_their_spelling() {
        let (nodes, errors) =
            documents("a: [99999999999999999999999999999999999999999999, .nan, -.inf, 1e999]\n");
        assert!(errors.is_empty(), "{errors:?}");
        assert!(shown(&nodes[0]).contains("[99999999999999999999999999999999999999999999@1:5"));
    }

    #[test]
    fn an_error_in_one_document_does_not_hide_the_others() {
        let (nodes, errors) = documents("a: 1\n---\nb: [\n---\nc: 1\n...\n---\nd: {\n--- {e: 1}\n");
        assert_eq!(nodes.len(), 3, "{nodes:?}");
        assert_eq!(nodes[1].at.line, 5);
        let errors = errors.finish().unwrap();
        assert_eq!(errors.count(), 2, "{errors:?}");
    }

    #[test]
    fn a_line_ends_where_a_reader_sees_its_end() {
        let (nodes, errors) = documents("a: 1\r\nb: 2\r\n");
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(shown(&nodes[0]), "{a@1:1+1=1@1:4+1 b@2:1+1=2@2:4+1}@1:1");
        for (text, at) in [("a: 1\n# é\rb: 2\n", (2, 4)), ("a: 1\r", (1, 5))] {
            let (nodes, errors) = documents(text);
            assert!(nodes.is_empty(), "{nodes:?}");
            let errors = errors.finish().unwrap();
            let error = &errors.errors()[0];
            assert_eq!((error.line, error.column), at, "{error:?}");
        }
    }

    #[test]
    fn directives_comments_and_empty_documents_are_no_documents() {
        let (nodes, errors) = documents("%YAML 1.2\n---\n# only\n---\n---\n~\n...\n# end\n");
        assert!(
            nodes.is_empty() && errors.is_empty(),
            "{nodes:?} {errors:?}"
        );
        let (nodes, errors) = documents("%YAML 1.2\n---\na: b\n");
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(nodes[0].at.line, 3);
    }

    #[test]
    fn aliases_and_merges_point_to_where_the_text_is() {
        let (nodes, errors) = documents("a: &x {k: 1}\nb: *x\nc:\n  <<: *x\n  l: 2\n");
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(
            shown(&nodes[0]),
            "{a@1:1+1={k@1:8+1=1@1:11+1}@1:7 b@2:1+1={k@1:8+1=1@1:11+1}@1:7 \
             c@3:1+1={l@5:3+1=2@5:6+1 k@1:8+1=1@1:11+1}@4:3}@1:1"
        );
    }

    #[test]
    fn a_bomb_of_aliases_is_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..10 {
            let inner = vec![format!("*a{}", level - 1); 10].join(", ");
            let _ = writeln!(text, "a{level}: &a{level} [{inner}]");
        }
        let (nodes, errors) = documents(&text);
        assert!(nodes.is_empty());
        assert_eq!(errors.finish().unwrap().errors()[0].code, Code::YamlLimit);
    }

    #[test]
    fn deep_nesting_is_refused() {
        for text in [
            "[".repeat(100_000),
            "- ".repeat(10_000),
            "{a: ".repeat(1000),
        ] {
            let (nodes, errors) = documents(&text);
            assert!(nodes.is_empty() && !errors.is_empty());
        }
    }
}
