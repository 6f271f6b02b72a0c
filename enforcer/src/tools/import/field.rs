//! A value of a document and the way to it.

use crate::policy::{DocumentNode, DocumentValue, Position};

/// A value, where it is, and by which fields one gets there.
#[derive(Clone, Debug)]
pub(super) struct Field<'n> {
    pub(super) node: &'n DocumentNode,
    /// Of the field's name, or of the item.
    pub(super) at: Position,
    /// As in `spec.ingress[0].toPorts`.
    pub(super) path: String,
}

impl<'n> Field<'n> {
    /// A document.
    pub(super) fn root(node: &'n DocumentNode) -> Self {
        Self {
            node,
            at: node.at,
            path: String::new(),
        }
    }

    /// A field of a mapping. What has no value is not there, as in Kubernetes.
    pub(super) fn find(&self, name: &str) -> Option<Self> {
        self.entries()
            .into_iter()
            .find_map(|(key, field)| (key == name).then_some(field))
    }

    /// The fields of a mapping that have values.
    pub(super) fn entries(&self) -> Vec<(&'n str, Self)> {
        let DocumentValue::Map(entries) = &self.node.value else {
            return Vec::new();
        };
        let entries = entries.iter().filter_map(|(key, node)| {
            let DocumentValue::Text(name) = &key.value else {
                return None;
            };
            let dot = if self.path.is_empty() { "" } else { "." };
            let field = Self {
                node,
                at: key.at,
                path: format!("{}{dot}{name}", self.path),
            };
            (!matches!(node.value, DocumentValue::Null)).then_some((name.as_str(), field))
        });
        entries.collect()
    }

    /// Whether it is a mapping.
    pub(super) fn is_mapping(&self) -> bool {
        matches!(self.node.value, DocumentValue::Map(_))
    }

    /// The items of a list.
    pub(super) fn items(&self) -> Option<Vec<Self>> {
        let DocumentValue::List(items) = &self.node.value else {
            return None;
        };
        let items = items.iter().enumerate().map(|(place, node)| Self {
            node,
            at: node.at,
            path: format!("{}[{place}]", self.path),
        });
        Some(items.collect())
    }

    /// A single value, as written.
    pub(super) fn text(&self) -> Option<&'n str> {
        match &self.node.value {
            DocumentValue::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The text of a field of a mapping.
    pub(super) fn text_of(&self, name: &str) -> Option<&'n str> {
        self.find(name)?.text()
    }
}
