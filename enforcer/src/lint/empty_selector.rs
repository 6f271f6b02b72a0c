//! Selectors that match no workload of the tree.

use std::collections::HashMap;

use super::{Finding, Lint, ground::Ground};
use crate::{
    compile::explain::peer_in_words,
    policy::model::{Peer, Subject},
};

/// Only of trees that say which workloads there are: policies alone are a library.
pub(super) fn find(ground: &Ground<'_>) -> Vec<Finding> {
    if ground.policy.workloads.is_empty() {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for policy in &ground.policy.policies {
        // The host is there always.
        let is_of_workloads = matches!(policy.subject, Subject::Workloads(_));
        if is_of_workloads && policy.validity.holds(ground.now) && !ground.is_about_somebody(policy)
        {
            let name = crate::policy_test::full_name(policy.namespace.as_deref(), &policy.name);
            findings.push(Finding::new(
                Lint::EmptySelector,
                &policy.origin,
                &policy.origin,
                format!("policy {name} selects no workload of this tree"),
                "correct its selector or its namespace, or add the workload",
            ));
        }
    }
    let mut meant: HashMap<&Peer, bool> = HashMap::new();
    for place in ground.rules() {
        for peer in &place.rule.peers {
            if *meant.entry(peer).or_insert_with(|| ground.is_anybody(peer)) {
                continue;
            }
            let finding = Finding::new(
                Lint::EmptySelector,
                &place.rule.origin,
                &place.policy.origin,
                format!(
                    "a peer of rule {} is nobody in this tree: {}",
                    place.rule.name,
                    peer_in_words(peer)
                ),
                "correct its labels or its namespace, or add the workload",
            );
            findings.push(finding.of_rule(&place.rule.name));
        }
    }
    findings
}
