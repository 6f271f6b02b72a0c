//! How objects of Kubernetes are put into types: from a document, with the place of every value
//! and with all errors at once; or with serde, as they come from the Kubernetes API.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use crate::policy::{
    diagnostic::{Code, Position},
    document::{Node, Value},
    port::decimal,
    reader::{Fields, Reader, quoted},
};

/// A value and where it is written. What comes from the API is [`Position::START`] of its object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Where it is written.
    pub at: Position,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Located<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(|value| Self {
            value,
            at: Position::START,
        })
    }
}

/// A port: a number or a name (`IntOrString`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum NumberOrName {
    /// A number.
    Number(i32),
    /// A name.
    Name(String),
}

/// A mapping of text to text, as labels are.
pub type TextMap = BTreeMap<String, Located<String>>;

/// What a document's node is read as.
pub(super) trait Decode: Sized {
    /// Reads it, or says what is wrong with it. `what` names it in messages, as in "`port`".
    fn decode(reader: &mut Reader<'_>, node: &Node, what: &str) -> Option<Self>;
}

impl Decode for String {
    fn decode(reader: &mut Reader<'_>, node: &Node, what: &str) -> Option<Self> {
        reader.text(node, what).map(str::to_owned)
    }
}

impl Decode for bool {
    fn decode(reader: &mut Reader<'_>, node: &Node, what: &str) -> Option<Self> {
        reader.truth(node, what)
    }
}

impl Decode for i32 {
    fn decode(reader: &mut Reader<'_>, node: &Node, what: &str) -> Option<Self> {
        let text = reader.text(node, what)?;
        // `decimal` has at most nine digits.
        if let Some(number) = decimal(text).and_then(|number| Self::try_from(number).ok()) {
            return Some(number);
        }
        let message = format!("{what} is {}, not a number", quoted(text));
        reader.error(Code::WrongType, node.at, message, "write a decimal number");
        None
    }
}

impl Decode for NumberOrName {
    fn decode(reader: &mut Reader<'_>, node: &Node, what: &str) -> Option<Self> {
        let text = reader.text(node, what)?;
        let number = decimal(text).and_then(|number| i32::try_from(number).ok());
        Some(number.map_or_else(|| Self::Name(text.to_owned()), Self::Number))
    }
}

impl<T: Decode> Decode for Located<T> {
    fn decode(reader: &mut Reader<'_>, node: &Node, what: &str) -> Option<Self> {
        let value = T::decode(reader, node, what)?;
        Some(Self { value, at: node.at })
    }
}

impl<T: Decode> Decode for Vec<T> {
    fn decode(reader: &mut Reader<'_>, node: &Node, what: &str) -> Option<Self> {
        let items = reader.list(node, what, None)?;
        let mut read = Self::with_capacity(items.len());
        for item in items {
            read.extend(T::decode(reader, item, &format!("an item of {what}")));
        }
        (read.len() == items.len()).then_some(read)
    }
}

impl Decode for TextMap {
    fn decode(reader: &mut Reader<'_>, node: &Node, what: &str) -> Option<Self> {
        let pairs = reader.pairs(node, what)?;
        let mut read = Self::new();
        for (key, at, value) in &pairs {
            let named = format!("the value of {}", quoted(key));
            if let Some(text) = reader.text(value, &named) {
                let (value, at) = (text.to_owned(), *at);
                read.insert((*key).to_owned(), Located { value, at });
            }
        }
        (read.len() == pairs.len()).then_some(read)
    }
}

/// A field that may be absent; without a value it is, as in Kubernetes. The outer `None`: an
/// error was reported.
#[expect(
    clippy::option_option,
    reason = "absence is said by one, errors by the other"
)]
pub(super) fn field<T: Decode>(
    reader: &mut Reader<'_>,
    fields: &Fields<'_>,
    name: &str,
) -> Option<Option<T>> {
    match fields.find(name) {
        None => Some(None),
        Some(node) if matches!(node.value, Value::Null) => Some(None),
        Some(node) => T::decode(reader, node, &format!("`{name}`")).map(Some),
    }
}

/// Declares objects: each a struct whose fields are all optional, as serde and [`Decode`] read
/// it. After the name stands how messages call it, and whether fields that are not declared are
/// errors (`strict`) or are left alone (`open`).
macro_rules! objects {
    ($(
        $(#[$meta:meta])*
        $name:ident $mode:ident $what:literal {
            $($(#[$field_meta:meta])* $field:ident: $type:ty = $key:literal,)*
        }
    )+) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, serde::Deserialize)]
        pub struct $name {
            /// Where it is written.
            #[serde(skip, default = "crate::policy::kubernetes::object::start")]
            pub at: crate::policy::diagnostic::Position,
            $($(#[$field_meta])* #[serde(default, rename = $key)] pub $field: Option<$type>,)*
        }

        impl crate::policy::kubernetes::object::Decode for $name {
            fn decode(
                reader: &mut crate::policy::reader::Reader<'_>,
                node: &crate::policy::document::Node,
                _: &str,
            ) -> Option<Self> {
                use crate::policy::kubernetes::object::field;
                let fields = objects!(@$mode reader, node, $what, &[$($key),*])?;
                // All of them before the first `?`: every error is wanted.
                $(let $field = field(reader, &fields, $key);)*
                // What is missing may be what was not understood.
                if fields.doubtful {
                    return None;
                }
                Some(Self { at: fields.at, $($field: $field?,)* })
            }
        }
    )+};
    (@strict $reader:ident, $node:ident, $what:literal, $keys:expr) => {
        $reader.fields($node, $what, $keys)
    };
    (@open $reader:ident, $node:ident, $what:literal, $keys:expr) => {
        $reader.some_fields($node, $what, $keys)
    };
}
pub(super) use objects;

/// For fields that serde skips.
pub(super) const fn start() -> Position {
    Position::START
}

objects! {
    /// What all objects have.
    Metadata open "`metadata`" {
        /// Unique among those of its kind, in its namespace if it has one.
        name: Located<String> = "name",
        /// Namespace.
        namespace: Located<String> = "namespace",
        /// Labels.
        labels: TextMap = "labels",
    }
}

impl Reader<'_> {
    /// A field without which the object means nothing.
    pub(super) fn must<'o, T>(
        &mut self,
        field: Option<&'o T>,
        at: Position,
        message: &str,
        help: &str,
    ) -> Option<&'o T> {
        if field.is_none() {
            self.error(Code::MissingField, at, message, help);
        }
        field
    }
}

impl<T: Decode> Decode for Box<T> {
    fn decode(reader: &mut Reader<'_>, node: &Node, what: &str) -> Option<Self> {
        T::decode(reader, node, what).map(Self::new)
    }
}
