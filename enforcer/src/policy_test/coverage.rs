//! Which rules the tests of a tree reach.

use std::collections::BTreeSet;

use enforcer_common::Direction;
use serde::Serialize;

use crate::{
    compile::{explain::Explanation, image::RuleDirection},
    policy::model::{Origin, ResolvedPolicy, RuleAction},
};

/// A rule is reached when it decides some flow of a test at one of its sides, whether or not the
/// test expected that.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Coverage {
    /// How many rules there are.
    pub rules: usize,
    /// How many of them are reached.
    pub reached: usize,
    /// The others, in the order of policies.
    pub unreached: Vec<UnreachedRule>,
    #[serde(skip)]
    seen: BTreeSet<(Origin, RuleDirection, usize)>,
}

/// A rule that no test reaches.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UnreachedRule {
    /// Policy, as `namespace/name` or `name`.
    pub policy: String,
    /// Direction.
    pub direction: RuleDirection,
    /// Name.
    pub rule: String,
    /// Where it is written.
    pub origin: Origin,
    #[serde(skip)]
    document: Origin,
    #[serde(skip)]
    place: usize,
}

impl Coverage {
    /// Of a tree, before any test.
    pub(super) fn of(policy: &ResolvedPolicy) -> Self {
        let mut unreached = Vec::new();
        for policy in &policy.policies {
            for direction in [Direction::Egress, Direction::Ingress] {
                let rules = policy.rules[direction as usize].iter().flatten();
                let rules = rules.enumerate().filter(|(_, rule)| !policy.adds(rule));
                unreached.extend(rules.map(|(place, rule)| UnreachedRule {
                    policy: super::full_name(policy.namespace.as_deref(), &policy.name),
                    direction: direction.into(),
                    rule: rule.name.clone(),
                    origin: rule.origin.clone(),
                    document: policy.origin.clone(),
                    place,
                }));
            }
        }
        Self {
            rules: unreached.len(),
            reached: 0,
            unreached,
            seen: BTreeSet::new(),
        }
    }

    /// Counts what decided.
    pub(super) fn add(&mut self, side: &Explanation) {
        let tiers = side.tiers.iter().filter(|tier| tier.reached);
        for policy in tiers.flat_map(|tier| &tier.policies) {
            for (place, rule) in policy.rules.iter().enumerate() {
                // What hands on never has the last word.
                let hands_on = rule.action == RuleAction::Pass && rule.matches;
                if rule.decides || hands_on {
                    let key = (policy.origin.clone(), side.direction, place);
                    self.seen.insert(key);
                }
            }
        }
    }

    /// When all is added.
    pub(super) fn count(&mut self) {
        let seen = std::mem::take(&mut self.seen);
        self.unreached
            .retain(|rule| !seen.contains(&(rule.document.clone(), rule.direction, rule.place)));
        self.reached = self.rules - self.unreached.len();
    }

    /// Whole percent, rounded down; 100 of a tree without rules.
    pub fn percent(&self) -> usize {
        (self.reached * 100).checked_div(self.rules).unwrap_or(100)
    }
}
