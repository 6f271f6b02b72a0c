//! Workloads about which more rules begin or end than the kernel knows ahead.

use std::collections::BTreeMap;

use enforcer_common::config::MOMENTS;

use super::{Finding, Lint, ground::Ground};
use crate::{
    policy::model::{Moment, Policy, Workload},
    policy_test::full_name,
};

/// What does not fit needs the daemon to run when one of the moments before it passes.
pub(super) fn find(ground: &Ground<'_>) -> Vec<Finding> {
    let policies = ground.policy.policies.iter();
    let timed = policies.filter(|policy| policy.boundaries().any(|b| b > ground.now));
    let timed: Vec<&Policy> = timed.map(AsRef::as_ref).collect();
    let boundaries = timed.iter().flat_map(|policy| policy.boundaries());
    if boundaries.count() <= MOMENTS {
        return Vec::new();
    }
    let workloads = ground.policy.workloads.iter().map(|w| Some(w.as_ref()));
    let subjects = std::iter::once(None).chain(workloads);
    let mut first_beyond: BTreeMap<(Moment, &str), (&Policy, String)> = BTreeMap::new();
    for subject in subjects {
        if let Some((moment, policy)) = beyond(ground, &timed, subject) {
            let name = subject.map_or_else(
                || "the host endpoint".to_owned(),
                |w| format!("workload {}", full_name(Some(&w.namespace), &w.name)),
            );
            // One finding for all that a policy selects.
            let key = (moment, policy.name.as_str());
            first_beyond.entry(key).or_insert((policy, name));
        }
    }
    let found = first_beyond.into_iter();
    let finding = |((moment, _), (policy, subject)): ((Moment, &str), (&Policy, String))| {
        let message = format!(
            "the kernel knows {MOMENTS} moments ahead, and of those at which rules about \
             {subject} begin or end, {moment} is a later one: it needs the daemon to run when \
             one before it passes"
        );
        Finding::new(
            Lint::ManyMoments,
            &policy.origin,
            &policy.origin,
            message,
            "let rules begin and end together, or add some of them later",
        )
    };
    found.map(finding).collect()
}

/// The first moment of a subject that does not fit, and the policy that it is of.
fn beyond<'p>(
    ground: &Ground<'_>,
    timed: &[&'p Policy],
    subject: Option<&Workload>,
) -> Option<(Moment, &'p Policy)> {
    let explainer = ground.explainer();
    let mut moments = BTreeMap::new();
    for policy in timed {
        let ahead = policy.boundaries().filter(|b| *b > ground.now);
        if explainer.is_about(policy, subject) {
            moments.extend(ahead.map(|moment| (moment, *policy)));
        }
    }
    moments.into_iter().nth(MOMENTS)
}
