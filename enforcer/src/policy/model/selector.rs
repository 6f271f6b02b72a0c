//! Which workloads are meant.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    labels::Labels,
    pattern::{SpiffePattern, UnitPattern},
};

/// The label that every namespace has by itself: its name (as in Kubernetes).
pub const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Labels of the namespaces. Those that no document describes have [`NAME_LABEL`] only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespaces(BTreeMap<String, Labels>);

impl Namespaces {
    /// Describes a namespace, whose [`NAME_LABEL`] need not be among `labels`.
    pub fn insert(&mut self, name: String, mut labels: Labels) {
        labels.insert(NAME_LABEL.to_owned(), name.clone());
        self.0.insert(name, labels);
    }

    /// Names and labels of those that documents describe.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Labels)> {
        self.0.iter().map(|(name, labels)| (name.as_str(), labels))
    }

    /// Whether a selector selects a namespace by its labels.
    pub fn matches(&self, selector: &LabelSelector, namespace: &str) -> bool {
        match self.0.get(namespace) {
            Some(labels) => selector.matches(labels),
            None if selector.is_empty() => true,
            None => selector.matches(&Labels::from([(
                NAME_LABEL.to_owned(),
                namespace.to_owned(),
            )])),
        }
    }
}

/// Demands on labels, with the meaning that they have in Kubernetes. Empty: none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LabelSelector {
    /// Every one must be there.
    pub match_labels: Labels,
    /// Every one must hold.
    pub expressions: Vec<Expression>,
}

/// A demand on one label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Expression {
    /// The label's key.
    pub key: String,
    /// What is demanded.
    pub operator: Operator,
    /// Never empty for `In` and `NotIn`, otherwise always.
    pub values: BTreeSet<String>,
}

/// What an [`Expression`] demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operator {
    /// The label is there and has one of the values.
    In,
    /// The label is absent, or has none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

impl Operator {
    /// As written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::In => "In",
            Self::NotIn => "NotIn",
            Self::Exists => "Exists",
            Self::DoesNotExist => "DoesNotExist",
        }
    }
}

impl Expression {
    /// Whether labels meet the demand.
    pub fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match self.operator {
            Operator::In => value.is_some_and(|value| self.values.contains(value)),
            Operator::NotIn => value.is_none_or(|value| !self.values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

impl LabelSelector {
    /// Demands these labels.
    pub fn of(match_labels: Labels) -> Self {
        Self {
            match_labels,
            expressions: Vec::new(),
        }
    }

    /// Whether nothing is demanded.
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.expressions.is_empty()
    }

    /// How many demands there are.
    pub fn demands(&self) -> usize {
        self.match_labels.len() + self.expressions.len()
    }

    /// Whether labels meet every demand.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.match_labels
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
            && self.expressions.iter().all(|e| e.matches(labels))
    }
}

/// Selects workloads: all that is said must hold. Empty: every workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadSelector {
    /// `None`: every namespace.
    pub namespace: Option<String>,
    /// Labels of the namespace.
    pub namespace_labels: LabelSelector,
    /// Labels of the workload.
    pub labels: LabelSelector,
    /// SPIFFE ID.
    pub spiffe_id: Option<SpiffePattern>,
    /// Service account.
    pub service_account: Option<String>,
    /// systemd unit, by what the workload's document names.
    pub unit: Option<UnitPattern>,
}

impl WorkloadSelector {
    /// Workloads of a namespace (`None`: of every one) with these labels.
    pub fn labelled(namespace: Option<String>, match_labels: Labels) -> Self {
        Self {
            namespace,
            labels: LabelSelector::of(match_labels),
            ..Self::default()
        }
    }

    /// How much is demanded of a workload; 0: nothing.
    pub fn demands(&self) -> usize {
        usize::from(self.namespace.is_some())
            + self.namespace_labels.demands()
            + self.labels.demands()
            + usize::from(self.spiffe_id.is_some())
            + usize::from(self.service_account.is_some())
            + usize::from(self.unit.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        let pairs = pairs.iter();
        pairs.map(|(k, v)| ((*k).into(), (*v).into())).collect()
    }

    fn expression(operator: Operator, values: &[&str]) -> Expression {
        Expression {
            key: "app".to_owned(),
            operator,
            values: values.iter().map(|v| (*v).to_owned()).collect(),
        }
    }

    #[test]
    fn expressions_mean_what_they_mean_in_kubernetes() {
        let (web, db, none) = (
            labels(&[("app", "web")]),
            labels(&[("app", "db")]),
            labels(&[("zone", "a")]),
        );
        let cases = [
            (
                expression(Operator::In, &["web", "x"]),
                [true, false, false],
            ),
            (
                expression(Operator::NotIn, &["web", "x"]),
                [false, true, true],
            ),
            (expression(Operator::Exists, &[]), [true, true, false]),
            (
                expression(Operator::DoesNotExist, &[]),
                [false, false, true],
            ),
        ];
        for (expression, expected) in cases {
            let found = [&web, &db, &none].map(|labels| expression.matches(labels));
            assert_eq!(found, expected, "{expression:?}");
        }
    }

    #[test]
    fn every_namespace_has_its_name_as_a_label() {
        let mut namespaces = Namespaces::default();
        namespaces.insert("shop".to_owned(), labels(&[("team", "a")]));
        let by_name = |name| LabelSelector::of(labels(&[(NAME_LABEL, name)]));
        assert!(namespaces.matches(&by_name("shop"), "shop"));
        assert!(namespaces.matches(&by_name("other"), "other"));
        assert!(!namespaces.matches(&by_name("shop"), "other"));
        let by_team = LabelSelector::of(labels(&[("team", "a")]));
        assert!(namespaces.matches(&by_team, "shop"));
        assert!(!namespaces.matches(&by_team, "other"));
        assert!(namespaces.matches(&LabelSelector::default(), "other"));
    }
}
