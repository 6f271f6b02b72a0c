//! Policies that say the same.

use std::collections::BTreeMap;

use super::{Finding, Lint, Related, ground::Ground};
use crate::{
    policy::model::{Accountability, Origin, Policy},
    policy_test::full_name,
};

/// By what is left of a policy without names and places.
pub(super) fn find(ground: &Ground<'_>) -> Vec<Finding> {
    let mut by_meaning: BTreeMap<String, Vec<&Policy>> = BTreeMap::new();
    // As written: a policy that is only tried out may stand beside the one in force.
    for policy in &ground.study.policy.policies {
        by_meaning.entry(meaning(policy)).or_default().push(policy);
    }
    let mut findings = Vec::new();
    for same in by_meaning.values() {
        let Some((first, others)) = same.split_first() else {
            continue;
        };
        let name = |policy: &Policy| full_name(policy.namespace.as_deref(), &policy.name);
        for other in others {
            let finding = Finding::new(
                Lint::SamePolicy,
                &other.origin,
                &other.origin,
                format!(
                    "policy {} says the same as policy {}",
                    name(other),
                    name(first)
                ),
                "remove one of them",
            );
            let related = Related::new(format!("policy {}", name(first)), &first.origin);
            findings.push(finding.with(vec![related]));
        }
    }
    findings
}

/// The same text for policies that say the same. The order of peers and ports does not count,
/// that of rules only in policies that have one.
fn meaning(policy: &Policy) -> String {
    let nowhere = Origin {
        file: "".into(),
        line: 0,
        column: 0,
    };
    let mut policy = Policy::clone(policy);
    policy.name.clear();
    policy.origin = nowhere.clone();
    policy.accountability = Accountability::default();
    let is_ordered = policy.priority.is_some();
    for rules in policy.rules.iter_mut().flatten() {
        for rule in &mut *rules {
            rule.name.clear();
            rule.origin = nowhere.clone();
            rule.accountability = Accountability::default();
            rule.peers.sort();
            rule.ports.sort();
        }
        if !is_ordered {
            rules.sort_by_cached_key(|rule| format!("{rule:?}"));
        }
    }
    format!("{policy:?}")
}
