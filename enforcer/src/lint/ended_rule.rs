//! Policies and rules that have ended.

use super::{Finding, Lint, ground::Ground};
use crate::{policy::model::Validity, policy_test::full_name};

/// What has ended does nothing, and hides what is in force from those who read.
pub(super) fn find(ground: &Ground<'_>) -> Vec<Finding> {
    let ended = |validity: &Validity| validity.until.filter(|until| *until <= ground.now);
    let help = "remove it, or write another `validUntil`";
    let mut findings = Vec::new();
    for policy in &ground.study.policy.policies {
        if let Some(until) = ended(&policy.validity) {
            let name = full_name(policy.namespace.as_deref(), &policy.name);
            let message = format!("policy {name} ended on {until}");
            let at = &policy.origin;
            findings.push(Finding::new(Lint::EndedRule, at, at, message, help));
            continue;
        }
        for rule in policy.rules.iter().flatten().flatten() {
            if let Some(until) = ended(&rule.validity) {
                let message = format!("rule {} ended on {until}", rule.name);
                let finding =
                    Finding::new(Lint::EndedRule, &rule.origin, &policy.origin, message, help);
                findings.push(finding.of_rule(&rule.name));
            }
        }
    }
    findings
}
