//! A document with its spelling and comments.

use std::iter::Peekable;

use granit_parser::{Event, Parser, ScalarStyle, Span, StructureStyle};

use super::FormatError;

/// A document.
#[derive(Debug, Default)]
pub(super) struct Document {
    /// Comments before the first key.
    pub head: Vec<Line>,
    /// `None`: comments only.
    pub root: Option<Value>,
    /// Comments after the last value.
    pub tail: Vec<Line>,
    /// Whether it has aliases: then nothing may move, because an alias comes after its anchor.
    pub has_aliases: bool,
}

/// A line that is no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    Blank,
    /// What is behind the `#`.
    Comment(String),
}

/// A value and what stands on its line.
#[derive(Debug)]
pub(super) struct Value {
    /// As written, without `&`.
    pub anchor: Option<String>,
    /// Behind it, or behind its key.
    pub comment: Option<String>,
    pub shape: Shape,
}

#[derive(Debug)]
pub(super) enum Shape {
    /// Nothing is written.
    Empty,
    /// Scalars, aliases and what is in flow style, as written. Lines after the first with the
    /// number of columns that they are indented beyond the line on which it begins.
    Raw(String, Vec<(isize, String)>),
    /// A block of text, written with `|`: its lines, and what is behind the `|`.
    Block(Vec<String>, &'static str),
    Map(Vec<Entry>),
    List(Vec<Item>),
}

#[derive(Debug)]
pub(super) struct Entry {
    pub before: Vec<Line>,
    /// As written.
    pub key: String,
    pub value: Value,
}

#[derive(Debug)]
pub(super) struct Item {
    pub before: Vec<Line>,
    pub value: Value,
}

/// Reads one document.
pub(super) fn read(text: &str) -> Result<Document, FormatError> {
    let options = granit_parser::options! { emit_anchor_events: true };
    let parser = Parser::new_from_str_with_options(text, options);
    let events: Vec<(Event<'_>, Span)> = parser
        .collect::<Result<_, _>>()
        .map_err(|_| FormatError::Broken)?;
    let has_aliases = events
        .iter()
        .any(|(event, _)| matches!(event, Event::Alias(_)));
    let mut reader = Reader {
        text,
        lines: text.lines().collect(),
        events: events.into_iter().peekable(),
        pending: Vec::new(),
    };
    let mut document = Document {
        has_aliases,
        ..Document::default()
    };
    loop {
        reader.gather();
        let Some((event, span)) = reader.events.next() else {
            break;
        };
        match event {
            Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(..)
            | Event::DocumentEnd => {}
            event => {
                document.head = reader.take(None);
                document.root = Some(reader.value(event, span)?);
            }
        }
    }
    document.tail = reader.take(None);
    Ok(document)
}

struct Reader<'t> {
    text: &'t str,
    lines: Vec<&'t str>,
    events: Peekable<std::vec::IntoIter<(Event<'t>, Span)>>,
    /// Comments that were met and belong to what comes next, with their lines.
    pending: Vec<(usize, String)>,
}

impl Reader<'_> {
    /// Collects comments up to the next other event.
    fn gather(&mut self) {
        while let Some((Event::Comment(..), _)) = self.events.peek() {
            if let Some((Event::Comment(text, _), span)) = self.events.next() {
                self.pending
                    .push((span.start.line(), text.trim_end().to_owned()));
            }
        }
    }

    /// The collected comments, and where blank lines are between them and before what begins in
    /// line `at`.
    fn take(&mut self, at: Option<usize>) -> Vec<Line> {
        let mut before = Vec::new();
        let after_blank = |line: usize| line >= 2 && self.lines[line - 2].trim().is_empty();
        for (line, text) in std::mem::take(&mut self.pending) {
            if after_blank(line) {
                before.push(Line::Blank);
            }
            before.push(Line::Comment(text));
        }
        if at.is_some_and(after_blank) {
            before.push(Line::Blank);
        }
        before
    }

    /// A comment behind something that ends in this line.
    fn trailing(&mut self, line: usize) -> Option<String> {
        let on_line = |(event, span): &(Event<'_>, Span)| {
            matches!(event, Event::Comment(..)) && span.start.line() == line
        };
        match self.events.next_if(on_line) {
            Some((Event::Comment(text, _), _)) => Some(text.trim_end().to_owned()),
            _ => None,
        }
    }

    fn anchor(&mut self) -> Option<String> {
        let is_anchor = |(event, _): &(Event<'_>, Span)| matches!(event, Event::Anchor(..));
        match self.events.next_if(is_anchor) {
            Some((Event::Anchor(_, name), _)) => Some(name.into_owned()),
            _ => None,
        }
    }

    fn value(&mut self, event: Event<'_>, span: Span) -> Result<Value, FormatError> {
        let line = span.start.line();
        let unsupported = |what| Err(FormatError::Unsupported { line, what });
        let anchor = self.anchor();
        let (shape, last_line) = match event {
            Event::Scalar(_, _, _, Some(_))
            | Event::SequenceStart(_, _, Some(_))
            | Event::MappingStart(_, _, Some(_)) => return unsupported("a tag"),
            Event::Scalar(text, ScalarStyle::Literal | ScalarStyle::Folded, ..) => {
                return Ok(Value {
                    anchor,
                    comment: None,
                    shape: block(&text).ok_or(FormatError::Unsupported {
                        line,
                        what: "a block of text",
                    })?,
                });
            }
            Event::Scalar(text, style, ..) if text.is_empty() && style == ScalarStyle::Plain => {
                (Shape::Empty, line)
            }
            Event::Scalar(..) | Event::Alias(_) => (self.raw(span)?, span.end.line()),
            Event::SequenceStart(StructureStyle::Flow, ..)
            | Event::MappingStart(StructureStyle::Flow, ..) => self.flow(span)?,
            Event::MappingStart(..) => {
                let entries = self.entries()?;
                return Ok(Value {
                    anchor,
                    comment: None,
                    shape: Shape::Map(entries),
                });
            }
            Event::SequenceStart(..) => {
                let items = self.items()?;
                return Ok(Value {
                    anchor,
                    comment: None,
                    shape: Shape::List(items),
                });
            }
            _ => return unsupported("something unexpected"),
        };
        Ok(Value {
            anchor,
            comment: self.trailing(last_line),
            shape,
        })
    }

    fn entries(&mut self) -> Result<Vec<Entry>, FormatError> {
        let mut entries = Vec::new();
        loop {
            self.gather();
            let Some((event, span)) = self.events.next() else {
                return Err(FormatError::Broken);
            };
            let line = span.start.line();
            let unsupported = |what| Err(FormatError::Unsupported { line, what });
            let key = match event {
                Event::MappingEnd => return Ok(entries),
                Event::Scalar(_, ScalarStyle::Literal | ScalarStyle::Folded, ..) => {
                    return unsupported("a block of text as a key");
                }
                Event::Scalar(_, _, 0, None) => self.raw(span)?,
                _ => return unsupported("a key that is no plain word"),
            };
            let Shape::Raw(key, rest) = key else {
                unreachable!("raw() gives Raw")
            };
            if !rest.is_empty() {
                return unsupported("a key of several lines");
            }
            let before = self.take(Some(line));
            let comment = self.trailing(line);
            self.gather();
            let Some((event, span)) = self.events.next() else {
                return Err(FormatError::Broken);
            };
            let mut value = self.value(event, span)?;
            // One comment fits on a line; a second one goes before what comes next.
            match (&value.comment, comment) {
                (None, comment) => value.comment = comment,
                (Some(_), Some(comment)) => self.pending.push((line, comment)),
                (Some(_), None) => {}
            }
            entries.push(Entry { before, key, value });
        }
    }

    fn items(&mut self) -> Result<Vec<Item>, FormatError> {
        let mut items = Vec::new();
        loop {
            self.gather();
            let Some((event, span)) = self.events.next() else {
                return Err(FormatError::Broken);
            };
            if event == Event::SequenceEnd {
                return Ok(items);
            }
            let mut before = self.take(Some(span.start.line()));
            let mut value = self.value(event, span)?;
            // A mapping begins on the line of its item.
            if let Shape::Map(entries) = &mut value.shape
                && let Some(first) = entries.first_mut()
            {
                let comments = first.before.drain(..).filter(|line| *line != Line::Blank);
                before.extend(comments);
            }
            items.push(Item { before, value });
        }
    }

    /// As written.
    fn raw(&self, span: Span) -> Result<Shape, FormatError> {
        let written = span.slice(self.text).ok_or(FormatError::Broken)?;
        Ok(self.spelling(span.start.line(), written))
    }

    fn spelling(&self, line: usize, written: &str) -> Shape {
        let indent = |line: &str| line.len() - line.trim_start_matches(' ').len();
        let first_indent = self.lines.get(line - 1).map_or(0, |line| indent(line));
        let mut lines = written.trim_end().lines();
        let first = lines.next().unwrap_or_default().trim_end().to_owned();
        let rest = lines.map(|line| {
            let beyond = indent(line).cast_signed() - first_indent.cast_signed();
            (beyond, line.trim().to_owned())
        });
        Shape::Raw(first, rest.collect())
    }

    /// A collection in flow style as written, and the line on which it ends.
    fn flow(&mut self, span: Span) -> Result<(Shape, usize), FormatError> {
        let start = span.start.byte_offset().ok_or(FormatError::Broken)?;
        let mut depth = 1;
        for (event, span) in self.events.by_ref() {
            match event {
                Event::SequenceStart(..) | Event::MappingStart(..) => depth += 1,
                Event::SequenceEnd | Event::MappingEnd => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                let end = span.end.byte_offset().ok_or(FormatError::Broken)?;
                let written = self.text.get(start..end).ok_or(FormatError::Broken)?;
                let first_line = self.text[..start].matches('\n').count() + 1;
                return Ok((self.spelling(first_line, written), span.end.line()));
            }
        }
        Err(FormatError::Broken)
    }
}

/// A text as a block, if `|` can say it.
fn block(text: &str) -> Option<Shape> {
    let body = text.trim_end_matches('\n');
    let mark = match text.len() - body.len() {
        0 => "-",
        1 => "",
        _ => return None,
    };
    let lines: Vec<_> = body.split('\n').map(str::to_owned).collect();
    // Where the first line begins with a space, `|` needs a number.
    let plain = lines
        .first()
        .is_some_and(|line| !line.is_empty() && !line.starts_with(' '));
    plain.then_some(Shape::Block(lines, mark))
}
