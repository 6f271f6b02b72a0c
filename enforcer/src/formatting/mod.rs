//! `enforcer fmt`: one way to write a document. Keys in the order of the reference, two spaces
//! for each level, comments kept. What is in flow style (`{…}`, `[…]`) and every scalar stays as
//! it is written.
//!
//! The text is parsed to a tree that keeps spelling and comments (`tree`), ordered (`order`) and
//! written (`write`). Whatever comes out is read again: a text that would mean something else, or
//! that lost a comment, is refused instead of returned.

mod kubernetes;
mod order;
mod tree;
mod write;

use thiserror::Error;

use crate::policy;

/// Why a text is left as it is.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FormatError {
    /// It is no YAML.
    #[error("it has errors: `enforcer check` says which")]
    Broken,
    /// It has something that is rare in policy and not understood here.
    #[error("line {line} has {what}, which is left to its writer")]
    Unsupported {
        /// 1-based.
        line: usize,
        /// What it has.
        what: &'static str,
    },
    /// The check of the result failed.
    #[error("it cannot be formatted without changing it")]
    Unsafe,
}

/// The text in canonical form.
pub fn format(text: &str) -> Result<String, FormatError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if policy::stray_return(text).is_some() {
        return Err(FormatError::Broken);
    }
    let mut documents = Vec::new();
    for (line, part) in parts(text)? {
        let formatted = document(part).map_err(|error| match error {
            FormatError::Unsupported { line: inner, what } => FormatError::Unsupported {
                line: line + inner,
                what,
            },
            other => other,
        })?;
        if !formatted.is_empty() {
            documents.push(formatted);
        }
    }
    let formatted = documents.join("---\n");
    if !policy::same_documents(text, &formatted) || comments(text) != comments(&formatted) {
        return Err(FormatError::Unsafe);
    }
    Ok(formatted)
}

/// The parts between `---`, each with the number of lines before it.
fn parts(text: &str) -> Result<Vec<(usize, &str)>, FormatError> {
    let mut parts = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let content = line.trim_end();
        if content == "---" {
            parts.push((start_line, &text[start..offset]));
            (start, start_line) = (offset + line.len(), number + 1);
        } else if is_marker(content) || line.starts_with('%') {
            return Err(FormatError::Unsupported {
                line: number + 1,
                what: "a marker or directive",
            });
        }
        offset += line.len();
    }
    parts.push((start_line, &text[start..]));
    Ok(parts)
}

/// Whether a line is a marker of a document, alone or with something behind it: `---a` is text.
fn is_marker(line: &str) -> bool {
    ["---", "..."].iter().any(|mark| {
        line.strip_prefix(mark)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t']))
    })
}

fn document(text: &str) -> Result<String, FormatError> {
    let mut document = tree::read(text)?;
    order::apply(&mut document);
    Ok(write::document(&document))
}

/// The texts of all comments, sorted.
fn comments(text: &str) -> Vec<String> {
    let events = granit_parser::Parser::new_from_str(text);
    let mut comments: Vec<_> = events
        .filter_map(|event| match event {
            Ok((granit_parser::Event::Comment(text, _), _)) => Some(text.trim_end().to_owned()),
            _ => None,
        })
        .collect();
    comments.sort();
    comments
}

#[cfg(test)]
mod tests;
