//! Workloads, as Calico selects them: by labels, namespaces and service accounts, some of which
//! are labels for Calico.

use std::collections::BTreeSet;

use super::{
    Reader,
    selector::{self, Selector},
};
use crate::{
    policy::model::{Expression, LabelSelector, Labels, NAME_LABEL, Operator, WorkloadSelector},
    tools::import::{cilium::selector::label_selector, field::Field},
};

/// Calico's own label for the name of a namespace or service account.
pub(super) const NAME: &str = "projectcalico.org/name";

/// Of which namespaces workloads are.
#[derive(Clone, Debug)]
pub(super) enum Demands {
    /// This one.
    Own(String),
    /// Those with these labels.
    Labels(Selector),
}

impl Demands {
    pub fn own(namespace: &str) -> Self {
        Self::Own(namespace.to_owned())
    }
}

impl Reader<'_, '_> {
    /// Workloads, by their labels, namespaces and service accounts.
    pub(super) fn workloads(
        &mut self,
        field: &Field<'_>,
        labels: &Selector,
        namespaces: &Demands,
        accounts: Option<&[String]>,
    ) -> Option<Vec<WorkloadSelector>> {
        let mut found = Vec::new();
        for alternative in &labels.any {
            let Some(sorted) = self.sorted(field, alternative)? else {
                continue;
            };
            let alternatives = match namespaces {
                Demands::Own(_) => vec![LabelSelector::default()],
                Demands::Labels(selector) => selector.any.clone(),
            };
            for of_namespace in alternatives {
                let mut demands = renamed(&of_namespace);
                demands.extend(sorted.namespace.iter().cloned());
                let mut selector = WorkloadSelector {
                    labels: label_selector(sorted.labels.clone()),
                    ..WorkloadSelector::default()
                };
                if let Demands::Own(own) = namespaces {
                    let own_labels = Labels::from([(NAME_LABEL.to_owned(), own.clone())]);
                    if !demands.iter().all(|demand| demand.matches(&own_labels)) {
                        continue;
                    }
                    selector.namespace = Some(own.clone());
                } else {
                    selector.namespace_labels = label_selector(demands);
                }
                let of_label = sorted.accounts.as_deref();
                let accounts: Vec<_> = match (accounts, of_label) {
                    (None, None) => {
                        found.push(selector);
                        continue;
                    }
                    (Some(one), None) | (None, Some(one)) => one.to_vec(),
                    (Some(one), Some(other)) => one
                        .iter()
                        .filter(|name| other.contains(name))
                        .cloned()
                        .collect(),
                };
                found.extend(accounts.into_iter().map(|account| WorkloadSelector {
                    service_account: Some(account),
                    ..selector.clone()
                }));
            }
        }
        let mut seen = BTreeSet::new();
        found.retain(|selector| seen.insert(selector.clone()));
        Some(found)
    }

    /// Demands on labels of workloads, without those on labels that Calico gives them. The inner
    /// `None`: no workload meets them.
    #[expect(
        clippy::option_option,
        reason = "absence is said by one, what was left out by the other"
    )]
    fn sorted(&mut self, field: &Field<'_>, selector: &LabelSelector) -> Option<Option<Sorted>> {
        let mut sorted = Sorted::default();
        for demand in selector::demands(selector) {
            let lists = |value: &str| demand.values.contains(value);
            match demand.key.as_str() {
                "projectcalico.org/namespace" => match demand.operator {
                    Operator::Exists => {}
                    Operator::DoesNotExist => return Some(None),
                    Operator::In | Operator::NotIn => sorted.namespace.push(Expression {
                        key: NAME_LABEL.to_owned(),
                        ..demand
                    }),
                },
                // Every workload here is one of the orchestrator's.
                "projectcalico.org/orchestrator" => match demand.operator {
                    Operator::In if !lists("k8s") => return Some(None),
                    Operator::NotIn if lists("k8s") => return Some(None),
                    Operator::DoesNotExist => return Some(None),
                    _ => {}
                },
                "projectcalico.org/serviceaccount" if demand.operator == Operator::In => {
                    let names = demand.values.into_iter();
                    sorted.accounts = Some(match sorted.accounts {
                        None => names.collect(),
                        Some(old) => names.filter(|name| old.contains(name)).collect(),
                    });
                }
                key if key.starts_with("projectcalico.org/") => {
                    let message = format!("selects by the label `{key}`, which Calico gives");
                    let help = "select by labels of the workloads themselves";
                    self.report.omit(field, message, help);
                    return None;
                }
                _ => sorted.labels.push(demand),
            }
        }
        Some(Some(sorted))
    }
}

#[derive(Default)]
struct Sorted {
    labels: Vec<Expression>,
    namespace: Vec<Expression>,
    accounts: Option<Vec<String>>,
}

/// Demands on labels of namespaces, with Kubernetes' word for their name.
fn renamed(selector: &LabelSelector) -> Vec<Expression> {
    let mut demands = selector::demands(selector);
    for demand in &mut demands {
        if demand.key == NAME {
            NAME_LABEL.clone_into(&mut demand.key);
        }
    }
    demands
}
