//! Reads the nodes of one document and says what is wrong with them: what all kinds share.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use super::{
    diagnostic::{Code, Collector, Position, closest, listed, printable},
    document::{Node, Value},
    model::Origin,
    source::SourceFile,
};

/// Longest piece of a document that a message repeats, in characters.
const QUOTED_CHARS: usize = 60;

/// Why a name of the network is refused, and what to write.
pub(super) const NO_NAMES: &str =
    "names are not looked up in this version: write the addresses as `cidr`";

/// Words of the language that this version does not have, and what to write meanwhile.
const LATER: &[(&str, &str)] = &[
    ("fqdn", NO_NAMES),
    ("fqdns", NO_NAMES),
    ("toFQDNs", NO_NAMES),
    ("dns", NO_NAMES),
    ("domain", NO_NAMES),
    ("domains", NO_NAMES),
    ("domainName", NO_NAMES),
    ("domainNames", NO_NAMES),
    ("hostname", NO_NAMES),
    (
        "priority",
        "leave it out; `tier` is the only order between policies",
    ),
    ("service", "select the workloads behind it by their labels"),
];

/// Fields that people look for elsewhere: in what, the field, and what to write.
const ELSEWHERE: &[(&str, &str, &str)] = &[
    (
        "`spec` of a Workload",
        "labels",
        "write the labels under `metadata.labels`",
    ),
    (
        "`spec` of a SegmentPolicy",
        "podSelector",
        "write `selector: {matchLabels: ...}`",
    ),
    (
        "`spec` of a SegmentPolicy",
        "policyTypes",
        "leave it out: a direction that is written \
     isolates, even as `ingress: []`",
    ),
    ("`selector`", "labels", "write `matchLabels`"),
    (
        "`selector`",
        "namespace",
        "write the namespace in `metadata.namespace` of the policy",
    ),
    (
        "a peer",
        "podSelector",
        "write `labels`, without `matchLabels`",
    ),
    ("a peer", "ipBlock", "write `cidr` and `except` directly"),
    ("a peer", "matchLabels", "write `labels`"),
    ("a peer", "selector", "write `labels`"),
    (
        "a rule",
        "peers",
        "write `from` below `ingress` and `to` below `egress`",
    ),
];

/// Reads one document.
pub(super) struct Reader<'a> {
    pub(super) file: &'a Arc<SourceFile>,
    pub(super) errors: &'a mut Collector,
    /// Where groups are referred to, in the order of reading.
    pub(super) references: Vec<Position>,
}

/// An error was reported. (Where a value may be absent; elsewhere readers return an `Option`,
/// and `None` means this.)
pub(super) struct Reported;

/// A mapping whose keys are all known and written once.
pub(super) struct Fields<'n> {
    /// Of the mapping.
    pub(super) at: Position,
    /// Some field was not understood: what seems to be missing may be meant by it, and is not
    /// worth another error.
    pub(super) doubtful: bool,
    entries: Vec<(&'n str, Position, &'n Node)>,
}

impl<'n> Fields<'n> {
    /// A field's value.
    pub(super) fn find(&self, name: &str) -> Option<&'n Node> {
        let entry = self.entries.iter().find(|(key, _, _)| *key == name);
        entry.map(|(_, _, value)| *value)
    }

    /// Where a field's name is written.
    pub(super) fn key(&self, name: &str) -> Option<Position> {
        let entry = self.entries.iter().find(|(key, _, _)| *key == name);
        entry.map(|(_, at, _)| *at)
    }
}

impl Reader<'_> {
    /// Reports an error.
    pub(super) fn error(
        &mut self,
        code: Code,
        at: Position,
        message: impl AsRef<str>,
        help: impl AsRef<str>,
    ) {
        self.errors.add(code, self.file, at, message, help);
    }

    /// Where a node is written.
    pub(super) fn origin(&self, at: Position) -> Origin {
        Origin {
            file: self.file.name.clone(),
            line: at.line,
            column: at.column,
        }
    }

    /// A mapping without unknown keys. `what` names it in messages, as in "a rule".
    pub(super) fn fields<'n>(
        &mut self,
        node: &'n Node,
        what: &str,
        known: &[&'static str],
    ) -> Option<Fields<'n>> {
        let Value::Map(entries) = &node.value else {
            self.wrong_type(
                node,
                what,
                "a mapping",
                &format!("fields {}", listed(known.iter().copied())),
            );
            return None;
        };
        let mut fields = Fields {
            at: node.at,
            doubtful: false,
            entries: Vec::with_capacity(entries.len()),
        };
        for (key, value) in entries {
            let Some(name) = self.key(key) else {
                fields.doubtful = true;
                continue;
            };
            if !known.contains(&name) {
                // A misspelt field is read as what was meant, for the errors that are in it.
                match self.unknown_field(name, key.at, what, known) {
                    Some(meant) if !has_key(entries, meant) && fields.key(meant).is_none() => {
                        fields.entries.push((meant, key.at, value));
                    }
                    _ => fields.doubtful = true,
                }
            } else if let Some(first) = fields.key(name) {
                self.twice(name, key.at, first);
            } else {
                fields.entries.push((name, key.at, value));
            }
        }
        Some(fields)
    }

    /// The fields of a mapping that are looked for. The others are left alone: an object of a
    /// cluster has many that policy does not ask for.
    pub(super) fn some_fields<'n>(
        &mut self,
        node: &'n Node,
        what: &str,
        wanted: &[&'static str],
    ) -> Option<Fields<'n>> {
        let entries = self.pairs(node, what)?;
        let wanted = entries
            .into_iter()
            .filter(|(key, _, _)| wanted.contains(key));
        Some(Fields {
            at: node.at,
            doubtful: false,
            entries: wanted.collect(),
        })
    }

    fn key<'n>(&mut self, key: &'n Node) -> Option<&'n str> {
        if let Value::Text(name) = &key.value {
            return Some(name);
        }
        let message = format!("{} as a key", key.kind());
        self.error(Code::WrongType, key.at, message, "write a word as the key");
        None
    }

    fn twice(&mut self, name: &str, at: Position, first: Position) {
        self.error(
            Code::DuplicateKey,
            at,
            format!(
                "{} is there twice; first in line {}",
                quoted(name),
                first.line
            ),
            "keep one of them",
        );
    }

    /// Says what to write instead, and which field was probably meant.
    fn unknown_field(
        &mut self,
        name: &str,
        at: Position,
        what: &str,
        known: &[&'static str],
    ) -> Option<&'static str> {
        let allowed = listed(known.iter().copied());
        let elsewhere = ELSEWHERE
            .iter()
            .find(|(of, field, _)| *of == what && *field == name);
        let later = LATER.iter().find(|(word, _)| *word == name);
        let meant = closest(name, known.iter().copied());
        let unknown = format!("{what} has no field {}", quoted(name));
        if let Some((_, _, instead)) = elsewhere {
            self.error(Code::UnknownField, at, unknown, *instead);
            None
        } else if let Some((word, instead)) = later {
            let message = format!("`{word}` is not in this version of the language");
            self.error(Code::NotYet, at, message, *instead);
            None
        } else if let Some(meant) = meant {
            let help = format!("write `{meant}`; the fields are {allowed}");
            self.error(Code::UnknownField, at, unknown, help);
            Some(meant)
        } else {
            let help = format!("remove it; the fields are {allowed}");
            self.error(Code::UnknownField, at, unknown, help);
            None
        }
    }

    /// A field that must be there.
    pub(super) fn required<'n>(
        &mut self,
        fields: &Fields<'n>,
        name: &str,
        what: &str,
        help: &str,
    ) -> Option<&'n Node> {
        let found = fields.find(name);
        if found.is_none() && !fields.doubtful {
            let message = format!("{what} needs `{name}`");
            self.error(Code::MissingField, fields.at, message, help);
        }
        found
    }

    fn wrong_type(&mut self, node: &Node, what: &str, wanted: &str, help: &str) {
        self.error(
            Code::WrongType,
            node.at,
            format!("{what} is {}, not {wanted}", node.kind()),
            format!("write {wanted}: {help}"),
        );
    }

    /// A single value, as written.
    pub(super) fn text<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n str> {
        if let Value::Text(text) = &node.value {
            return Some(text);
        }
        self.wrong_type(
            node,
            what,
            "a single value",
            "text or a number; `\"\"` where it is empty",
        );
        None
    }

    /// A list. `empty` says what to do about one without items; without it that is fine.
    pub(super) fn list<'n>(
        &mut self,
        node: &'n Node,
        what: &str,
        empty: Option<&str>,
    ) -> Option<&'n [Node]> {
        let Value::List(items) = &node.value else {
            let help = "every item on a line of its own that begins with `-`, or `[]` for none";
            self.wrong_type(node, what, "a list", help);
            return None;
        };
        if let (true, Some(help)) = (items.is_empty(), empty) {
            self.error(Code::NoEffect, node.at, format!("{what} is empty"), help);
            return None;
        }
        Some(items)
    }

    /// Text keys and values. Every key is there once.
    pub(super) fn pairs<'n>(
        &mut self,
        node: &'n Node,
        what: &str,
    ) -> Option<Vec<(&'n str, Position, &'n Node)>> {
        let Value::Map(entries) = &node.value else {
            self.wrong_type(
                node,
                what,
                "a mapping",
                "`key: value` on each line, or `{}` for none",
            );
            return None;
        };
        let mut first: HashMap<&str, Position> = HashMap::with_capacity(entries.len());
        let mut pairs = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let Some(name) = self.key(key) else { continue };
            match first.entry(name) {
                Entry::Occupied(first) => self.twice(name, key.at, *first.get()),
                Entry::Vacant(place) => {
                    place.insert(key.at);
                    pairs.push((name, key.at, value));
                }
            }
        }
        Some(pairs)
    }

    /// One of a few words.
    pub(super) fn choice<T: Clone>(
        &mut self,
        node: &Node,
        what: &str,
        options: &[(&'static str, T)],
    ) -> Option<T> {
        let text = self.text(node, what)?;
        self.choose(text, node.at, what, options)
    }

    /// One of a few words, where it is known already what is written.
    pub(super) fn choose<T: Clone>(
        &mut self,
        text: &str,
        at: Position,
        what: &str,
        options: &[(&'static str, T)],
    ) -> Option<T> {
        if let Some((_, value)) = options.iter().find(|(word, _)| *word == text) {
            return Some(value.clone());
        }
        let words = options.iter().map(|(word, _)| *word);
        if let Some((word, instead)) = LATER.iter().find(|(word, _)| *word == text) {
            let message = format!("{what} `{word}` is not in this version of the language");
            self.error(Code::NotYet, at, message, *instead);
            return None;
        }
        let help = match closest(text, words.clone()) {
            Some(meant) => format!("write `{meant}`; allowed are {}", listed(words)),
            None => format!("write {}", listed(words)),
        };
        let message = format!("{what} cannot be {}", quoted(text));
        self.error(Code::UnknownValue, at, message, help);
        None
    }

    /// `true` or `false`.
    pub(super) fn truth(&mut self, node: &Node, what: &str) -> Option<bool> {
        self.choice(node, what, &[("true", true), ("false", false)])
    }
}

fn has_key(entries: &[(Node, Node)], name: &str) -> bool {
    entries
        .iter()
        .any(|(key, _)| matches!(&key.value, Value::Text(text) if text == name))
}

/// A piece of a document in a message: in backquotes, without control characters, and short.
pub(super) fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(QUOTED_CHARS).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("`{}`", printable(&shown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_text_is_short_and_harmless() {
        assert_eq!(quoted("a\u{1b}[31m"), "`a\\u{1b}[31m`");
        assert_eq!(quoted(&"x".repeat(100)).chars().count(), QUOTED_CHARS + 3);
    }
}
