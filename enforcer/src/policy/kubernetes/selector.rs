//! Label selectors, and the names and labels of objects.

use super::object::{Located, Metadata, TextMap, objects};
use crate::policy::{
    diagnostic::{Code, Position},
    model::{self, Labels, Operator},
    name,
    reader::{Reader, quoted},
    selector::OPERATORS,
};

objects! {
    /// `LabelSelector`. Empty, it selects everything.
    LabelSelector strict "a label selector" {
        /// Every one must be there.
        match_labels: TextMap = "matchLabels",
        /// Every one must hold.
        match_expressions: Vec<LabelSelectorRequirement> = "matchExpressions",
    }

    /// A demand on one label.
    LabelSelectorRequirement strict "an expression" {
        /// The label's key.
        key: Located<String> = "key",
        /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
        operator: Located<String> = "operator",
        /// What `In` and `NotIn` compare with.
        values: Vec<Located<String>> = "values",
    }
}

const EXPRESSION: &str = "write `{key: app, operator: In, values: [web, api]}`";

/// Namespace, name and labels of an object.
pub(super) struct Named {
    pub name: String,
    pub name_at: Position,
    /// `default` where none is said; `None` for kinds without namespaces.
    pub namespace: Option<String>,
    pub labels: Labels,
}

impl Reader<'_> {
    /// `metadata`, of an object that is at `at`.
    pub(super) fn name_and_labels(
        &mut self,
        metadata: Option<&Metadata>,
        at: Position,
        namespaced: bool,
    ) -> Option<Named> {
        let help = "write `metadata:` and below it `name: some-name`";
        let metadata = self.must(metadata, at, "an object needs `metadata`", help)?;
        let labels = self.text_labels(metadata.labels.as_ref());
        let namespace = match &metadata.namespace {
            Some(written) if !namespaced => {
                let message = "an object of this kind is in no namespace";
                self.error(Code::UnknownField, written.at, message, "remove it");
                None
            }
            None if !namespaced => Some(None),
            None => Some(Some("default".to_owned())),
            Some(written) if name::is_dns_label(&written.value) => {
                Some(Some(written.value.clone()))
            }
            Some(written) => {
                let message = format!("{} cannot be a namespace", quoted(&written.value));
                self.error(Code::BadName, written.at, message, name::DNS_LABEL);
                None
            }
        };
        let message = "`metadata` needs `name`";
        let name = self.must(
            metadata.name.as_ref(),
            metadata.at,
            message,
            "write `name: some-name`",
        )?;
        if !name::is_dns_subdomain(&name.value) {
            self.error(
                Code::BadName,
                name.at,
                format!("{} cannot be a name", quoted(&name.value)),
                "use a to z, 0 to 9, and `-` or `.` between them, at most 253 characters",
            );
            return None;
        }
        Some(Named {
            name: name.value.clone(),
            name_at: name.at,
            namespace: namespace?,
            labels: labels?,
        })
    }

    /// Labels, or those that a selector demands.
    pub(super) fn text_labels(&mut self, labels: Option<&TextMap>) -> Option<Labels> {
        let mut checked = Labels::new();
        let mut good = true;
        for (key, value) in labels.into_iter().flatten() {
            good &= self.label_key(key, value.at);
            good &= self.label_text(&value.value, value.at);
            checked.insert(key.clone(), value.value.clone());
        }
        good.then_some(checked)
    }

    /// A label selector. `None` selects everything.
    pub(super) fn selector(
        &mut self,
        selector: Option<&LabelSelector>,
    ) -> Option<model::LabelSelector> {
        let Some(selector) = selector else {
            return Some(model::LabelSelector::default());
        };
        let match_labels = self.text_labels(selector.match_labels.as_ref());
        let written = selector.match_expressions.as_deref().unwrap_or_default();
        let expressions: Vec<_> = written
            .iter()
            .filter_map(|written| self.requirement(written))
            .collect();
        (expressions.len() == written.len()).then_some(model::LabelSelector {
            match_labels: match_labels?,
            expressions,
        })
    }

    fn requirement(&mut self, written: &LabelSelectorRequirement) -> Option<model::Expression> {
        let message = "an expression needs `key`";
        let key = self.must(written.key.as_ref(), written.at, message, EXPRESSION);
        let message = "an expression needs `operator`";
        let operator = self.must(written.operator.as_ref(), written.at, message, EXPRESSION);
        let operator = operator.and_then(|written| self.word(written, "`operator`", &OPERATORS));
        let key = key.filter(|key| self.label_key(&key.value, key.at));
        let values = written.values.as_deref().unwrap_or_default();
        let mut good = true;
        for value in values {
            good &= self.label_text(&value.value, value.at);
        }
        let (key, operator) = (key?, operator?);
        let needs_values = matches!(operator, Operator::In | Operator::NotIn);
        if needs_values == values.is_empty() {
            let name = operator.name();
            let (message, help) = if needs_values {
                (
                    format!("`{name}` without values"),
                    "write `values:` with a list of them, or `operator: Exists`",
                )
            } else {
                (
                    format!("`{name}` with values"),
                    "remove `values`, or write `operator: In` or `operator: NotIn`",
                )
            };
            self.error(Code::BadSelector, written.at, message, help);
            return None;
        }
        good.then_some(model::Expression {
            key: key.value.clone(),
            operator,
            values: values.iter().map(|value| value.value.clone()).collect(),
        })
    }

    /// One of a few words.
    pub(super) fn word<T: Clone>(
        &mut self,
        written: &Located<String>,
        what: &str,
        options: &[(&'static str, T)],
    ) -> Option<T> {
        self.choose(&written.value, written.at, what, options)
    }
}
