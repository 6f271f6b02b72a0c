//! The canonical text of a document.

use super::tree::{Document, Entry, Item, Line, Shape, Value};

/// Columns of one level.
const LEVEL: usize = 2;

/// The text, empty where there is nothing in it.
pub(super) fn document(document: &Document) -> String {
    let mut out = String::new();
    lines(&document.head, 0, &mut out);
    if let Some(root) = &document.root {
        match &root.shape {
            Shape::Map(entries) => map(entries, 0, false, &mut out),
            Shape::List(items) => list(items, 0, &mut out),
            _ => {
                let begin = out.len();
                value(root, 0, 0, &mut out);
                // Nothing stands before it.
                if out[begin..].starts_with(' ') {
                    out.remove(begin);
                }
            }
        }
    }
    lines(&document.tail, 0, &mut out);
    let text = out.trim_start_matches('\n').trim_end_matches('\n');
    if text.is_empty() {
        String::new()
    } else {
        format!("{text}\n")
    }
}

fn lines(lines: &[Line], indent: usize, out: &mut String) {
    for line in lines {
        match line {
            Line::Blank => {}
            Line::Comment(text) => {
                spaces(indent, out);
                out.push('#');
                out.push_str(text);
            }
        }
        out.push('\n');
    }
}

fn spaces(count: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', count));
}

fn map(entries: &[Entry], indent: usize, inline: bool, out: &mut String) {
    for (number, entry) in entries.iter().enumerate() {
        let first = number == 0;
        let before = &entry.before[..];
        // No blank line at the beginning of a mapping.
        let skipped = before
            .iter()
            .take_while(|line| first && **line == Line::Blank)
            .count();
        if !(first && inline) {
            lines(&before[skipped..], indent, out);
            spaces(indent, out);
        }
        out.push_str(&entry.key);
        out.push(':');
        let line_indent = if first && inline {
            indent - LEVEL
        } else {
            indent
        };
        value(&entry.value, indent, line_indent, out);
    }
}

fn list(items: &[Item], indent: usize, out: &mut String) {
    for (number, item) in items.iter().enumerate() {
        let before = &item.before[..];
        let skipped = before
            .iter()
            .take_while(|line| number == 0 && **line == Line::Blank)
            .count();
        lines(&before[skipped..], indent, out);
        // What stands first now may have stood further down, with comments of its own.
        if let (Shape::Map(entries), None, None) =
            (&item.value.shape, &item.value.anchor, &item.value.comment)
            && let Some(first) = entries.first()
        {
            for line in first.before.iter().filter(|line| **line != Line::Blank) {
                lines(std::slice::from_ref(line), indent, out);
            }
        }
        spaces(indent, out);
        out.push('-');
        match &item.value {
            Value {
                anchor: None,
                comment: None,
                shape: Shape::Map(entries),
            } => {
                out.push(' ');
                map(entries, indent + LEVEL, true, out);
            }
            other => value(other, indent, indent, out),
        }
    }
}

/// What comes behind a key or a dash at `indent`, on a line that is indented by `line_indent`.
fn value(value: &Value, indent: usize, line_indent: usize, out: &mut String) {
    if let Some(anchor) = &value.anchor {
        out.push_str(" &");
        out.push_str(anchor);
    }
    let comment = |out: &mut String| {
        if let Some(comment) = &value.comment {
            out.push_str(" #");
            out.push_str(comment);
        }
        out.push('\n');
    };
    match &value.shape {
        Shape::Empty => comment(out),
        Shape::Raw(first, rest) => {
            out.push(' ');
            out.push_str(first);
            for (beyond, line) in rest {
                out.push('\n');
                if !line.is_empty() {
                    let beyond = usize::try_from(*beyond).unwrap_or(0);
                    spaces(line_indent + beyond.max(LEVEL), out);
                    out.push_str(line);
                }
            }
            comment(out);
        }
        Shape::Block(text, mark) => {
            out.push_str(" |");
            out.push_str(mark);
            comment(out);
            for line in text {
                if !line.is_empty() {
                    spaces(indent + LEVEL, out);
                    out.push_str(line);
                }
                out.push('\n');
            }
        }
        Shape::Map(entries) => {
            comment(out);
            map(entries, indent + LEVEL, false, out);
        }
        Shape::List(items) => {
            comment(out);
            list(items, indent + LEVEL, out);
        }
    }
}
