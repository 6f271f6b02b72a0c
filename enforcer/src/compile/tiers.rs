//! Precedence: what tiers, actions and modes make of the rules that match.

use std::collections::BTreeSet;

use enforcer_common::Action;

use crate::policy::model::{Fallback, Mode, Tier};

/// What decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Cause {
    /// A rule, by index.
    Rule(u32),
    /// The isolation by a policy, by index.
    Isolation(u32),
    /// The node's default.
    Default,
}

/// An action and its cause.
pub(super) type Outcome = (Action, Cause);

/// What holds for every flow of an endpoint in one direction, besides the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ground {
    /// The first policy that isolates, whatever its mode.
    pub isolation: Option<u32>,
    /// The first policy that isolates and is enforced.
    pub enforced_isolation: Option<u32>,
    /// The node's default.
    pub default: Fallback,
    /// The node's mode.
    pub mode: Mode,
}

/// The rules that match a flow. Rules are numbered in the order in which they are named.
#[derive(Clone, Debug, Default)]
pub(super) struct Matching {
    tiers: [TierMatching; 4],
}

#[derive(Clone, Debug, Default)]
struct TierMatching {
    allow: BTreeSet<u32>,
    deny: BTreeSet<u32>,
    enforced_deny: BTreeSet<u32>,
}

impl Matching {
    pub fn add(&mut self, rule: u32, tier: Tier, deny: bool, enforced: bool) {
        let tier = &mut self.tiers[tier as usize];
        if deny {
            tier.deny.insert(rule);
            if enforced {
                tier.enforced_deny.insert(rule);
            }
        } else {
            tier.allow.insert(rule);
        }
    }

    pub fn remove(&mut self, rule: u32, tier: Tier) {
        let tier = &mut self.tiers[tier as usize];
        tier.allow.remove(&rule);
        tier.deny.remove(&rule);
        tier.enforced_deny.remove(&rule);
    }

    /// The verdict: once as if policies in audit mode denied nothing, and once as if everything
    /// were enforced. What only the second denies is audited.
    pub fn decide(&self, ground: &Ground) -> Outcome {
        if let (Action::Deny, cause) = self.evaluate(ground, true) {
            return (Action::Deny, cause);
        }
        match self.evaluate(ground, false) {
            (Action::Deny, cause) => (Action::Audit, cause),
            allowed => allowed,
        }
    }

    /// One evaluation: with or without the denials of policies in audit mode.
    pub fn evaluate(&self, ground: &Ground, enforced_only: bool) -> Outcome {
        for (tier, matching) in self.tiers.iter().enumerate() {
            let denies = if enforced_only {
                &matching.enforced_deny
            } else {
                &matching.deny
            };
            if let Some(rule) = denies.first() {
                return (Action::Deny, Cause::Rule(*rule));
            }
            if let Some(rule) = matching.allow.first() {
                return (Action::Allow, Cause::Rule(*rule));
            }
            let isolation = if enforced_only {
                ground.enforced_isolation
            } else {
                ground.isolation
            };
            if tier == Tier::Application as usize
                && let Some(policy) = isolation
            {
                return (Action::Deny, Cause::Isolation(policy));
            }
        }
        let carried_out = ground.mode == Mode::Enforce || !enforced_only;
        match ground.default {
            Fallback::Deny if carried_out => (Action::Deny, Cause::Default),
            _ => (Action::Allow, Cause::Default),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: Ground = Ground {
        isolation: None,
        enforced_isolation: None,
        default: Fallback::Allow,
        mode: Mode::Enforce,
    };

    fn decide(rules: &[(u32, Tier, bool, bool)], ground: &Ground) -> Outcome {
        let mut matching = Matching::default();
        for (rule, tier, deny, enforced) in rules {
            matching.add(*rule, *tier, *deny, *enforced);
        }
        matching.decide(ground)
    }

    #[test]
    fn deny_beats_allow_in_a_tier_and_a_higher_tier_beats_both() {
        let admin = (1, Tier::Admin, false, true);
        let allow = (2, Tier::Application, false, true);
        let deny = (3, Tier::Application, true, true);
        assert_eq!(
            decide(&[allow, deny], &OPEN),
            (Action::Deny, Cause::Rule(3))
        );
        assert_eq!(
            decide(&[admin, allow, deny], &OPEN),
            (Action::Allow, Cause::Rule(1))
        );
    }

    #[test]
    fn isolation_comes_before_baseline() {
        let ground = Ground {
            isolation: Some(7),
            enforced_isolation: Some(7),
            ..OPEN
        };
        let baseline = (1, Tier::Baseline, false, true);
        assert_eq!(
            decide(&[baseline], &ground),
            (Action::Deny, Cause::Isolation(7))
        );
        assert_eq!(decide(&[baseline], &OPEN), (Action::Allow, Cause::Rule(1)));
    }

    #[test]
    fn audit_policies_deny_nothing_but_are_heard() {
        let audit = (1, Tier::Admin, true, false);
        let enforced = (2, Tier::Baseline, true, true);
        assert_eq!(decide(&[audit], &OPEN), (Action::Audit, Cause::Rule(1)));
        assert_eq!(
            decide(&[audit, enforced], &OPEN),
            (Action::Deny, Cause::Rule(2))
        );
        // Without the audited deny the application tier allows, so the flow passes, audited.
        let allow = (3, Tier::Application, false, true);
        assert_eq!(
            decide(&[audit, enforced, allow], &OPEN),
            (Action::Audit, Cause::Rule(1))
        );
    }

    #[test]
    fn default_deny_is_under_the_nodes_mode() {
        let closed = Ground {
            default: Fallback::Deny,
            ..OPEN
        };
        assert_eq!(decide(&[], &closed), (Action::Deny, Cause::Default));
        let audit = Ground {
            mode: Mode::Audit,
            ..closed
        };
        assert_eq!(decide(&[], &audit), (Action::Audit, Cause::Default));
        assert_eq!(decide(&[], &OPEN), (Action::Allow, Cause::Default));
    }
}
