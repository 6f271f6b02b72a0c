//! Precedence: what tiers, actions and modes make of the rules that match.

use std::collections::{BTreeMap, BTreeSet};

use enforcer_common::Action;

use crate::policy::model::{Fallback, Mode, RuleAction, Tier};

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

/// What a rule weighs when it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Weight {
    pub tier: Tier,
    /// Its policy has a priority.
    pub ordered: bool,
    pub action: RuleAction,
    /// Whether its denials are carried out.
    pub enforced: bool,
}

/// The rules that match a flow. Rules are numbered in the order in which they are named, which
/// for those of policies with a priority is the order in which they are asked. Precedence is
/// that of [`crate::policy::model::Policy`].
#[derive(Clone, Debug, Default)]
pub(super) struct Matching {
    tiers: [TierMatching; 4],
}

#[derive(Clone, Debug, Default)]
struct TierMatching {
    allow: BTreeSet<u32>,
    pass: BTreeSet<u32>,
    deny: BTreeSet<u32>,
    enforced_deny: BTreeSet<u32>,
    ordered: BTreeMap<u32, Weight>,
}

impl Matching {
    pub fn add(&mut self, rule: u32, weight: Weight) {
        let tier = &mut self.tiers[weight.tier as usize];
        if weight.ordered {
            tier.ordered.insert(rule, weight);
            return;
        }
        match weight.action {
            RuleAction::Allow => tier.allow.insert(rule),
            RuleAction::Pass => tier.pass.insert(rule),
            RuleAction::Deny => {
                if weight.enforced {
                    tier.enforced_deny.insert(rule);
                }
                tier.deny.insert(rule)
            }
        };
    }

    pub fn remove(&mut self, rule: u32, weight: Weight) {
        let tier = &mut self.tiers[weight.tier as usize];
        if weight.ordered {
            tier.ordered.remove(&rule);
            return;
        }
        match weight.action {
            RuleAction::Allow => tier.allow.remove(&rule),
            RuleAction::Pass => tier.pass.remove(&rule),
            RuleAction::Deny => {
                tier.enforced_deny.remove(&rule);
                tier.deny.remove(&rule)
            }
        };
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
        'tiers: for (tier, matching) in self.tiers.iter().enumerate() {
            let denies = if enforced_only {
                &matching.enforced_deny
            } else {
                &matching.deny
            };
            if let Some(rule) = denies.first() {
                return (Action::Deny, Cause::Rule(*rule));
            }
            if !matching.pass.is_empty() {
                continue;
            }
            if let Some(rule) = matching.allow.first() {
                return (Action::Allow, Cause::Rule(*rule));
            }
            for (rule, weight) in &matching.ordered {
                match weight.action {
                    RuleAction::Deny if enforced_only && !weight.enforced => {}
                    RuleAction::Deny => return (Action::Deny, Cause::Rule(*rule)),
                    RuleAction::Allow => return (Action::Allow, Cause::Rule(*rule)),
                    RuleAction::Pass => continue 'tiers,
                }
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
            let action = if *deny {
                RuleAction::Deny
            } else {
                RuleAction::Allow
            };
            matching.add(*rule, weight(*tier, false, action, *enforced));
        }
        matching.decide(ground)
    }

    fn weight(tier: Tier, ordered: bool, action: RuleAction, enforced: bool) -> Weight {
        Weight {
            tier,
            ordered,
            action,
            enforced,
        }
    }

    fn decide_weights(rules: &[(u32, Weight)], ground: &Ground) -> Outcome {
        let mut matching = Matching::default();
        for (rule, weight) in rules {
            matching.add(*rule, *weight);
        }
        matching.decide(ground)
    }

    #[test]
    fn pass_beats_allow_and_skips_isolation() {
        let allow = (1, weight(Tier::Admin, false, RuleAction::Allow, true));
        let pass = (2, weight(Tier::Admin, false, RuleAction::Pass, true));
        let deny = (3, weight(Tier::Admin, false, RuleAction::Deny, true));
        let below = (4, weight(Tier::Baseline, false, RuleAction::Deny, true));
        let to_baseline = (5, weight(Tier::Application, false, RuleAction::Pass, true));
        let isolated = Ground {
            isolation: Some(7),
            enforced_isolation: Some(7),
            ..OPEN
        };
        let cases = [
            (vec![allow, pass], (Action::Deny, Cause::Isolation(7))),
            (vec![allow, pass, deny], (Action::Deny, Cause::Rule(3))),
            (
                vec![allow, pass, to_baseline],
                (Action::Allow, Cause::Default),
            ),
            (
                vec![pass, to_baseline, below],
                (Action::Deny, Cause::Rule(4)),
            ),
        ];
        for (rules, expected) in cases {
            assert_eq!(decide_weights(&rules, &isolated), expected, "{rules:?}");
        }
    }

    #[test]
    fn with_priorities_the_first_that_matches_decides_after_those_without() {
        let rule = |action, enforced| weight(Tier::Admin, true, action, enforced);
        let unordered = (1, weight(Tier::Admin, false, RuleAction::Allow, true));
        let deny = (2, rule(RuleAction::Deny, true));
        let allow = (3, rule(RuleAction::Allow, true));
        let pass = (4, rule(RuleAction::Pass, true));
        let audited = (2, rule(RuleAction::Deny, false));
        let below = (9, weight(Tier::Baseline, false, RuleAction::Deny, true));
        let cases = [
            (vec![deny, allow], (Action::Deny, Cause::Rule(2))),
            (vec![unordered, deny], (Action::Allow, Cause::Rule(1))),
            (vec![allow, pass, below], (Action::Allow, Cause::Rule(3))),
            (vec![pass, below], (Action::Deny, Cause::Rule(9))),
            (vec![audited, allow], (Action::Audit, Cause::Rule(2))),
            (vec![audited, pass, below], (Action::Deny, Cause::Rule(9))),
        ];
        for (rules, expected) in cases {
            assert_eq!(decide_weights(&rules, &OPEN), expected, "{rules:?}");
        }
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
