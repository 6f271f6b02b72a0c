//! Which workloads a selector of Cilium means.

use std::collections::BTreeSet;

use super::{Reader, Scope};
use crate::{
    policy::model::{Expression, LabelSelector, NAME_LABEL, Operator, Subject, WorkloadSelector},
    tools::import::field::Field,
};

const NAMESPACE: &str = "io.kubernetes.pod.namespace";
const NAMESPACE_LABEL: &str = "io.cilium.k8s.namespace.labels.";
const ACCOUNT: &str = "io.cilium.k8s.policy.serviceaccount";
const CLUSTER: &str = "io.cilium.k8s.policy.cluster";

/// Demands of a selector, by what they are about.
#[derive(Default)]
struct Demands {
    labels: Vec<Expression>,
    namespace: Vec<Expression>,
    accounts: Vec<Expression>,
    /// Whether the namespace itself is among them.
    names_namespace: bool,
}

impl Reader<'_, '_> {
    /// Whom a policy is about.
    pub(super) fn subject(&mut self, spec: &Field<'_>) -> Option<Subject> {
        match (spec.find("endpointSelector"), spec.find("nodeSelector")) {
            (Some(field), None) => {
                let demands = self.demands(&field)?;
                let selectors = match self.scope {
                    Scope::Cluster => self.selectors(&field, demands, None)?,
                    Scope::Namespace(own) => {
                        if !demands.namespace.iter().all(|demand| meets(demand, own)) {
                            self.report.omit(
                                &field,
                                "selects by namespace, in a policy that has one itself",
                                "remove that: a policy is about workloads of its own namespace",
                            );
                            return None;
                        }
                        let demands = Demands {
                            namespace: Vec::new(),
                            names_namespace: false,
                            ..demands
                        };
                        self.selectors(&field, demands, Some(own))?
                    }
                };
                crate::tools::import::draft::subject(selectors)
            }
            (None, Some(field)) if field.is_mapping() && field.entries().is_empty() => {
                Some(Subject::Host)
            }
            (None, Some(field)) => {
                self.report.omit(
                    &field,
                    "selects some of the nodes",
                    "write a SegmentPolicy with `selector: {host: true}` and give it to those \
                     hosts only",
                );
                None
            }
            (Some(_), Some(field)) => {
                let help = "write two policies";
                self.report
                    .omit(&field, "stands beside `endpointSelector`", help);
                None
            }
            (None, None) => {
                let help = "write `endpointSelector: {}` for all of the namespace";
                self.report.omit(spec, "has no `endpointSelector`", help);
                None
            }
        }
    }

    /// Workloads that a peer means.
    pub(super) fn workloads(&mut self, field: &Field<'_>) -> Option<Vec<WorkloadSelector>> {
        let demands = self.demands(field)?;
        let own = match self.scope {
            Scope::Namespace(own) if demands.namespace.is_empty() && !demands.names_namespace => {
                Some(own)
            }
            _ => None,
        };
        self.selectors(field, demands, own)
    }

    /// The label `reserved:…` of a selector that demands nothing else.
    pub(super) fn reserved<'n>(field: &Field<'n>) -> Option<&'n str> {
        let entries = field.entries();
        let [(_, labels)] = entries.as_slice() else {
            return None;
        };
        let labels = labels.entries();
        let [(key, _)] = labels.as_slice() else {
            return None;
        };
        key.strip_prefix("reserved:")
            .or(key.strip_prefix("reserved."))
    }

    fn selectors(
        &mut self,
        field: &Field<'_>,
        demands: Demands,
        own: Option<&str>,
    ) -> Option<Vec<WorkloadSelector>> {
        let (namespace, namespace_labels) = match (own, demands.namespace.as_slice()) {
            (Some(own), _) => (Some(own.to_owned()), LabelSelector::default()),
            (None, [one]) if one.key == NAME_LABEL && is_one(one) => {
                (one.values.first().cloned(), LabelSelector::default())
            }
            (None, _) => (None, label_selector(demands.namespace)),
        };
        let one = WorkloadSelector {
            namespace,
            namespace_labels,
            labels: label_selector(demands.labels),
            ..WorkloadSelector::default()
        };
        match demands.accounts.as_slice() {
            [] => Some(vec![one]),
            [accounts] if accounts.operator == Operator::In => {
                let accounts = accounts.values.iter();
                let selectors = accounts.map(|account| WorkloadSelector {
                    service_account: Some(account.clone()),
                    ..one.clone()
                });
                Some(selectors.collect())
            }
            _ => {
                self.report.omit(
                    field,
                    "selects service accounts in another way than by their names",
                    "write a `serviceAccount:` for each",
                );
                None
            }
        }
    }

    fn demands(&mut self, field: &Field<'_>) -> Option<Demands> {
        if !self
            .report
            .knows(field, &["matchLabels", "matchExpressions"])
        {
            return None;
        }
        let mut demands = Demands::default();
        let labels = field.find("matchLabels");
        for (key, value) in labels.iter().flat_map(Field::entries) {
            let text = self.report.text(&value)?;
            let values = [text.to_owned()].into();
            self.sort(&mut demands, &value, key, Operator::In, &values)?;
        }
        for item in self.report.list(field, "matchExpressions")? {
            if !self.report.knows(&item, &["key", "operator", "values"]) {
                return None;
            }
            let operator = match item.text_of("operator") {
                Some("In") => Operator::In,
                Some("NotIn") => Operator::NotIn,
                Some("Exists") => Operator::Exists,
                Some("DoesNotExist") => Operator::DoesNotExist,
                _ => {
                    let help = "write `In`, `NotIn`, `Exists` or `DoesNotExist`";
                    self.report
                        .omit(&item, "has no operator that is known", help);
                    return None;
                }
            };
            let mut values = BTreeSet::new();
            for value in self.report.list(&item, "values")? {
                values.insert(self.report.text(&value)?.to_owned());
            }
            let needs_values = matches!(operator, Operator::In | Operator::NotIn);
            let key = item
                .text_of("key")
                .filter(|_| needs_values != values.is_empty());
            let Some(key) = key else {
                let help = "write `{key: app, operator: In, values: [web]}`";
                self.report.omit(&item, "is no expression", help);
                return None;
            };
            self.sort(&mut demands, &item, key, operator, &values)?;
        }
        Some(demands)
    }

    /// Puts a demand to those that it belongs to.
    fn sort(
        &mut self,
        demands: &mut Demands,
        field: &Field<'_>,
        key: &str,
        operator: Operator,
        values: &BTreeSet<String>,
    ) -> Option<()> {
        let key = match key.split_once(':') {
            Some(("k8s" | "any", key)) => key,
            Some((source, _)) => {
                let message = format!("selects by a label of source `{source}`");
                let help = "select workloads by labels of Kubernetes, or write an `entity`";
                self.report.omit(field, message, help);
                return None;
            }
            None => key,
        };
        let demand = |key: &str| Expression {
            key: key.to_owned(),
            operator,
            values: values.clone(),
        };
        if key == NAMESPACE {
            demands.names_namespace = true;
            match operator {
                // Every pod has one.
                Operator::Exists => {}
                Operator::DoesNotExist => {
                    let help = "write an `entity` for what is no pod";
                    self.report
                        .omit(field, "selects what is in no namespace", help);
                    return None;
                }
                Operator::In | Operator::NotIn => demands.namespace.push(demand(NAME_LABEL)),
            }
        } else if let Some(label) = key.strip_prefix(NAMESPACE_LABEL) {
            demands.namespace.push(demand(label));
        } else if key == ACCOUNT {
            demands.accounts.push(demand(key));
        } else if key == CLUSTER {
            let help = "policy knows one cluster: remove the label where it names this one";
            self.report.omit(field, "selects by cluster", help);
            return None;
        } else {
            demands.labels.push(demand(key));
        }
        Some(())
    }
}

fn is_one(demand: &Expression) -> bool {
    demand.operator == Operator::In && demand.values.len() == 1
}

/// Whether a demand on the namespace holds for this one, as far as its name tells.
fn meets(demand: &Expression, own: &str) -> bool {
    demand.key == NAME_LABEL && demand.matches(&[(NAME_LABEL.to_owned(), own.to_owned())].into())
}

/// Demands on labels: those of one value as labels, where no other names the same key.
pub(in crate::tools::import) fn label_selector(demands: Vec<Expression>) -> LabelSelector {
    let mut selector = LabelSelector::default();
    for demand in demands {
        let is_label = is_one(&demand) && !selector.match_labels.contains_key(&demand.key);
        match demand.values.first().filter(|_| is_label) {
            Some(value) => {
                let value = value.clone();
                selector.match_labels.insert(demand.key, value);
            }
            None if selector.expressions.contains(&demand) => {}
            None => selector.expressions.push(demand),
        }
    }
    selector
}
