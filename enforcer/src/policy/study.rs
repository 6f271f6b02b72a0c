//! A tree as those see it who work on policy: with what the daemon leaves alone.

use std::{collections::HashMap, sync::Arc};

use super::{
    diagnostic::Position,
    document::{Node, Value},
    loader::Tree,
    model::{Origin, ResolvedPolicy},
    policy_test::PolicyTest,
    source::SourceFile,
};

/// A tree without errors.
#[derive(Clone, Debug)]
pub struct Study {
    /// What it means.
    pub policy: ResolvedPolicy,
    /// Its files, by name.
    pub files: Vec<Arc<SourceFile>>,
    /// Its tests, in the order of files and lines.
    pub tests: Vec<PolicyTest>,
    /// Annotations of its documents.
    pub annotations: Annotations,
}

impl From<Tree> for Study {
    fn from(tree: Tree) -> Self {
        let mut tests = Vec::new();
        let mut annotations = Annotations::default();
        for file in &tree.statements {
            tests.extend(file.tests());
            annotations.add(&file.source.name, &file.annotations);
        }
        Self {
            policy: tree.policy,
            files: tree.files,
            tests,
            annotations,
        }
    }
}

impl Study {
    /// The text of a line, empty where there is none.
    pub fn line(&self, file: &str, line: u32) -> &str {
        let found = self.files.iter().find(|source| *source.name == *file);
        found.map_or("", |source| source.line(line))
    }
}

/// An annotation of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Annotation {
    /// Key.
    pub key: String,
    /// Value.
    pub value: String,
    /// Where the key is written.
    pub at: Position,
}

/// Annotations, by the file and line at which their document begins.
#[derive(Clone, Debug, Default)]
pub struct Annotations(HashMap<(Arc<str>, u32), Vec<Annotation>>);

impl Annotations {
    /// Those of the document that begins there.
    pub fn of(&self, document: &Origin) -> &[Annotation] {
        let found = self.0.get(&(document.file.clone(), document.line));
        found.map_or(&[], Vec::as_slice)
    }

    /// All, by the file and line of their document; in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u32, &Annotation)> {
        self.0.iter().flat_map(|((file, line), annotations)| {
            annotations.iter().map(|one| (&**file, *line, one))
        })
    }

    fn add(&mut self, file: &Arc<str>, documents: &[(u32, Vec<Annotation>)]) {
        for (line, annotations) in documents {
            self.0.insert((file.clone(), *line), annotations.clone());
        }
    }
}

/// The annotations of a document of whatever kind.
pub(super) fn annotations(document: &Node) -> Vec<Annotation> {
    let find = |node: &Node, name: &str| {
        let Value::Map(entries) = &node.value else {
            return None;
        };
        let mut entries = entries.iter();
        let found =
            entries.find(|(key, _)| matches!(&key.value, Value::Text(text) if text == name));
        found.map(|(_, value)| value.clone())
    };
    let annotations = find(document, "metadata").and_then(|m| find(&m, "annotations"));
    let Some(Value::Map(entries)) = annotations.map(|node| node.value) else {
        return Vec::new();
    };
    let text = |(key, value): (Node, Node)| match (key.value, value.value) {
        (Value::Text(name), Value::Text(text)) => Some(Annotation {
            key: name,
            value: text,
            at: key.at,
        }),
        _ => None,
    };
    entries.into_iter().filter_map(text).collect()
}
