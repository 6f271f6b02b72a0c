//! Selectors: labels with expressions, and what else tells workloads apart.

use std::collections::BTreeSet;

use super::{
    diagnostic::Code,
    document::Node,
    model::{Expression, LabelSelector, Operator, SpiffePattern, UnitPattern, WorkloadSelector},
    reader::{Fields, Reader, quoted},
};

pub(super) const OPERATORS: [(&str, Operator); 4] = [
    ("In", Operator::In),
    ("NotIn", Operator::NotIn),
    ("Exists", Operator::Exists),
    ("DoesNotExist", Operator::DoesNotExist),
];

/// Fields that select workloads by what they are, besides the labels.
pub(super) const FACTS: [&str; 4] = ["matchExpressions", "spiffeId", "serviceAccount", "unit"];

impl Reader<'_> {
    /// What a mapping says of workloads, with their labels in the field `labels`. The namespace
    /// is left open.
    pub(super) fn facts(&mut self, fields: &Fields<'_>, labels: &str) -> Option<WorkloadSelector> {
        let labels = self.demands(fields, labels);
        let spiffe_id = match fields.find("spiffeId") {
            Some(node) => self.spiffe_pattern(node).map(Some),
            None => Some(None),
        };
        let service_account = match fields.find("serviceAccount") {
            Some(node) => self.service_account(node).map(Some),
            None => Some(None),
        };
        let unit = match fields.find("unit") {
            Some(node) => self.unit_pattern(node).map(Some),
            None => Some(None),
        };
        let namespace_labels = match fields.find("namespaceSelector") {
            Some(node) => self.label_selector(node, "`namespaceSelector`"),
            None => Some(LabelSelector::default()),
        };
        Some(WorkloadSelector {
            namespace: None,
            namespace_labels: namespace_labels?,
            labels: labels?,
            spiffe_id: spiffe_id?,
            service_account: service_account?,
            unit: unit?,
        })
    }

    fn label_selector(&mut self, node: &Node, what: &str) -> Option<LabelSelector> {
        let fields = self.fields(node, what, &["matchLabels", "matchExpressions"])?;
        self.demands(&fields, "matchLabels")
    }

    fn demands(&mut self, fields: &Fields<'_>, labels: &str) -> Option<LabelSelector> {
        let match_labels = match fields.find(labels) {
            Some(node) => self.labels(node),
            None => Some(super::model::Labels::new()),
        };
        let expressions = match fields.find("matchExpressions") {
            Some(node) => {
                let items = self.list(node, "`matchExpressions`", None)?;
                let read: Vec<_> = items.iter().filter_map(|i| self.expression(i)).collect();
                (read.len() == items.len()).then_some(read)
            }
            None => Some(Vec::new()),
        };
        Some(LabelSelector {
            match_labels: match_labels?,
            expressions: expressions?,
        })
    }

    fn expression(&mut self, node: &Node) -> Option<Expression> {
        let what = "an expression";
        let fields = self.fields(node, what, &["key", "operator", "values"])?;
        let help = "write `{key: app, operator: In, values: [web, api]}`";
        let key = self.required(&fields, "key", what, help);
        let key = key.and_then(|node| {
            let key = self.text(node, "`key`")?;
            self.label_key(key, node.at).then(|| key.to_owned())
        });
        let operator = self.required(&fields, "operator", what, help);
        let operator = operator.and_then(|node| self.choice(node, "`operator`", &OPERATORS));
        let mut values = BTreeSet::new();
        let mut good = true;
        if let Some(node) = fields.find("values") {
            for item in self.list(node, "`values`", None)? {
                match self.label_value(item) {
                    Some(value) => {
                        values.insert(value.to_owned());
                    }
                    None => good = false,
                }
            }
        }
        let (key, operator) = (key?, operator?);
        let name = operator.name();
        let needs_values = matches!(operator, Operator::In | Operator::NotIn);
        if good && needs_values && values.is_empty() {
            let message = format!("`{name}` without values");
            let help = "write `values:` with a list of them, or `operator: Exists`";
            self.error(Code::BadSelector, node.at, message, help);
            return None;
        }
        if !needs_values && !values.is_empty() {
            let at = fields.key("values").unwrap_or(node.at);
            let message = format!("`{name}` with values");
            let help = "remove `values`, or write `operator: In` or `operator: NotIn`";
            self.error(Code::BadSelector, at, message, help);
            return None;
        }
        good.then_some(Expression {
            key,
            operator,
            values,
        })
    }

    fn spiffe_pattern(&mut self, node: &Node) -> Option<SpiffePattern> {
        let text = self.text(node, "`spiffeId`")?;
        match super::name::check_spiffe_pattern(text) {
            Ok(()) => Some(SpiffePattern::new(text)),
            Err(why) => {
                self.error(
                    Code::BadSpiffeId,
                    node.at,
                    format!("{} is no pattern of SPIFFE IDs: {why}", quoted(text)),
                    "write `spiffe://example.org/ns/shop/sa/web`; in the path `*` stands for \
                     text inside a segment, and `**` for any number of segments",
                );
                None
            }
        }
    }

    fn unit_pattern(&mut self, node: &Node) -> Option<UnitPattern> {
        let text = self.text(node, "`unit`")?;
        let (why, help) = match super::place::check_unit(text) {
            Ok(()) if !text.contains(['[', ']', '{', '}']) => return Some(UnitPattern::new(text)),
            Ok(()) => (
                "brackets are not known here".to_owned(),
                "`*` stands for any text and `?` for a character; write one peer for each \
                 alternative"
                    .to_owned(),
            ),
            Err(wrong) => wrong,
        };
        let message = format!("{} cannot be `unit`: {why}", quoted(text));
        self.error(Code::BadPlace, node.at, message, help);
        None
    }
}
