//! The numbers of what decides: rules, isolating policies, the node's default, blocked sources.

use std::collections::HashMap;

use enforcer_common::{Action, Decision, Reason, verdict::decision_flag};

use super::SetBuilder;
use crate::{
    compile::{
        image::{Image, RuleInfo},
        limits::CompileError,
        numbers::{Numbers, RuleKey, RuleName},
        rules::{PolicyRules, Rulebook},
        tiers::{Cause, Outcome},
    },
    policy::model::{Accountability, Fallback, Mode, NodeSettings, PolicyKind, RuleAction},
};

/// Numbers that were given in one compilation, for one direction.
#[derive(Debug, Default)]
pub(in crate::compile) struct Given {
    /// By [`PolicyRules::id`].
    policies: HashMap<u64, GivenPolicy>,
    default: Option<u32>,
}

/// Numbers of one policy.
#[derive(Debug)]
struct GivenPolicy {
    /// 0 where none was given yet.
    rules: Vec<u32>,
    isolation: Option<u32>,
}

impl Given {
    fn policy(&mut self, says: &PolicyRules) -> &mut GivenPolicy {
        self.policies.entry(says.id).or_insert_with(|| GivenPolicy {
            rules: vec![0; says.rules.len()],
            isolation: None,
        })
    }
}

impl SetBuilder<'_> {
    /// Numbers the cause of an outcome.
    pub(in crate::compile) fn decision(
        &mut self,
        book: &Rulebook<'_>,
        (action, cause): Outcome,
    ) -> Result<Decision, CompileError> {
        let (reason, rule) = match cause {
            Cause::Rule(rule) => (Reason::Rule, self.rule_number(book, rule)?),
            Cause::Isolation(place) => {
                let policy = book.policy(place);
                (Reason::Isolation, self.isolation_number(policy)?)
            }
            Cause::Default => (Reason::NodeDefault, self.default_number()?),
        };
        let log = match cause {
            Cause::Rule(rule) => action == Action::Allow && book.says(rule).log,
            _ => false,
        };
        Ok(Decision {
            flags: if log { decision_flag::LOG } else { 0 },
            ..Decision::new(action, reason, rule)
        })
    }

    fn rule_number(&mut self, book: &Rulebook<'_>, number: u32) -> Result<u32, CompileError> {
        let (policy, place) = book.rule(number);
        let given = self.given.policy(policy).rules[place];
        if given != 0 {
            return Ok(given);
        }
        let book_rule = &policy.rules[place];
        let document = &policy.policy;
        let rules = document.rules[self.direction as usize].as_deref();
        let rules = rules.unwrap_or_default();
        let rule = &rules[book_rule.place];
        let key = RuleKey {
            kind: document.kind,
            namespace: document.namespace.clone(),
            policy: document.name.clone(),
            rule: RuleName::Rule(rule.name.clone(), book_rule.namesakes),
            direction: Some(self.direction.into()),
        };
        let info = || RuleInfo {
            kind: document.kind,
            namespace: document.namespace.clone(),
            policy: document.name.clone(),
            rule: rule.name.clone(),
            tier: Some(document.tier),
            direction: Some(self.direction.into()),
            action: rule.action,
            mode: policy.mode,
            accountability: document.accountability.with(&rule.accountability),
            origin: Some(rule.origin.clone()),
        };
        let number = self.numbers.rule(key, info)?;
        self.given.policy(policy).rules[place] = number;
        Ok(number)
    }

    fn isolation_number(&mut self, policy: &PolicyRules) -> Result<u32, CompileError> {
        if let Some(given) = self.given.policy(policy).isolation {
            return Ok(given);
        }
        let document = &policy.policy;
        let key = RuleKey {
            kind: document.kind,
            namespace: document.namespace.clone(),
            policy: document.name.clone(),
            rule: RuleName::Isolation,
            direction: Some(self.direction.into()),
        };
        let info = || RuleInfo {
            kind: document.kind,
            namespace: document.namespace.clone(),
            policy: document.name.clone(),
            rule: "isolation".to_owned(),
            tier: Some(document.tier),
            direction: Some(self.direction.into()),
            action: RuleAction::Deny,
            mode: policy.mode,
            accountability: document.accountability.clone(),
            origin: Some(document.origin.clone()),
        };
        let number = self.numbers.rule(key, info)?;
        self.given.policy(policy).isolation = Some(number);
        Ok(number)
    }

    fn default_number(&mut self) -> Result<u32, CompileError> {
        if let Some(given) = self.given.default {
            return Ok(given);
        }
        let direction = self.direction;
        let key = RuleKey {
            kind: PolicyKind::default(),
            namespace: None,
            policy: String::new(),
            rule: RuleName::Default,
            direction: Some(direction.into()),
        };
        let info = || RuleInfo {
            kind: PolicyKind::default(),
            namespace: None,
            policy: self.node.name.clone(),
            rule: "default".to_owned(),
            tier: None,
            direction: Some(direction.into()),
            action: match self.node.default[direction as usize] {
                Fallback::Allow => RuleAction::Allow,
                Fallback::Deny => RuleAction::Deny,
            },
            mode: self.node_mode,
            accountability: Accountability::default(),
            origin: self.node.origin.clone(),
        };
        let number = self.numbers.rule(key, info)?;
        self.given.default = Some(number);
        Ok(number)
    }
}

/// What blocks sources at the uplinks.
pub(in crate::compile) fn blocked(
    node: &NodeSettings,
    node_mode: Mode,
    numbers: &mut Numbers,
    image: &mut Image,
) -> Result<(), CompileError> {
    for (place, blocked) in node.blocked.iter().enumerate() {
        let prefix = blocked.prefix.trunc();
        if image.blocked.contains_key(&prefix) {
            continue;
        }
        let key = RuleKey {
            kind: PolicyKind::default(),
            namespace: None,
            policy: String::new(),
            rule: RuleName::Blocked(prefix.to_string()),
            direction: None,
        };
        let info = || RuleInfo {
            kind: PolicyKind::default(),
            namespace: None,
            policy: node.name.clone(),
            rule: format!("blocked[{place}]"),
            tier: None,
            direction: None,
            action: RuleAction::Deny,
            mode: node_mode,
            accountability: Accountability::default(),
            origin: Some(blocked.origin.clone()),
        };
        let number = numbers.rule(key, info)?;
        let audit = node_mode == Mode::Audit;
        image.blocked.insert(prefix, (number, audit));
    }
    Ok(())
}
