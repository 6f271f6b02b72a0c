//! The numbers of what decides: rules, isolating policies, the node's default, blocked sources.

use enforcer_common::{Action, Decision, Reason, verdict::decision_flag};

use super::SetBuilder;
use crate::{
    compile::{
        image::{Image, RuleInfo},
        limits::CompileError,
        numbers::{Numbers, RuleKey, RuleName},
        tiers::{Cause, Outcome},
    },
    policy::model::{Accountability, Fallback, Mode, NodeSettings, PolicyKind, RuleAction},
};

impl SetBuilder<'_> {
    /// Numbers the cause of an outcome.
    pub(in crate::compile) fn decision(
        &mut self,
        (action, cause): Outcome,
    ) -> Result<Decision, CompileError> {
        let (reason, rule) = match cause {
            Cause::Rule(rule) => (Reason::Rule, self.rule_number(rule)?),
            Cause::Isolation(policy) => (Reason::Isolation, self.isolation_number(policy)?),
            Cause::Default => (Reason::NodeDefault, self.default_number()?),
        };
        let log = match cause {
            Cause::Rule(rule) => action == Action::Allow && self.book.rule(rule).1.log,
            _ => false,
        };
        Ok(Decision {
            flags: if log { decision_flag::LOG } else { 0 },
            ..Decision::new(action, reason, rule)
        })
    }

    fn rule_number(&mut self, index: u32) -> Result<u32, CompileError> {
        let given = self.rule_numbers[index as usize];
        if given != 0 {
            return Ok(given);
        }
        let (policy, book_rule) = self.book.rule(index);
        let policy = &self.book.policies[policy as usize].says;
        let document = &policy.policy;
        let rules = document.rules[self.book.direction as usize].as_deref();
        let rules = rules.unwrap_or_default();
        let rule = &rules[book_rule.place];
        let key = RuleKey {
            kind: document.kind,
            namespace: document.namespace.clone(),
            policy: document.name.clone(),
            rule: RuleName::Rule(rule.name.clone(), book_rule.namesakes),
            direction: Some(self.book.direction.into()),
        };
        let info = || RuleInfo {
            kind: document.kind,
            namespace: document.namespace.clone(),
            policy: document.name.clone(),
            rule: rule.name.clone(),
            tier: Some(document.tier),
            direction: Some(self.book.direction.into()),
            action: rule.action,
            mode: policy.mode,
            accountability: document.accountability.with(&rule.accountability),
            origin: Some(rule.origin.clone()),
        };
        let number = self.numbers.rule(key, info)?;
        self.rule_numbers[index as usize] = number;
        Ok(number)
    }

    fn isolation_number(&mut self, index: u32) -> Result<u32, CompileError> {
        let given = self.isolation_numbers[index as usize];
        if given != 0 {
            return Ok(given);
        }
        let policy = &self.book.policies[index as usize].says;
        let document = &policy.policy;
        let key = RuleKey {
            kind: document.kind,
            namespace: document.namespace.clone(),
            policy: document.name.clone(),
            rule: RuleName::Isolation,
            direction: Some(self.book.direction.into()),
        };
        let info = || RuleInfo {
            kind: document.kind,
            namespace: document.namespace.clone(),
            policy: document.name.clone(),
            rule: "isolation".to_owned(),
            tier: Some(document.tier),
            direction: Some(self.book.direction.into()),
            action: RuleAction::Deny,
            mode: policy.mode,
            accountability: document.accountability.clone(),
            origin: Some(document.origin.clone()),
        };
        let number = self.numbers.rule(key, info)?;
        self.isolation_numbers[index as usize] = number;
        Ok(number)
    }

    fn default_number(&mut self) -> Result<u32, CompileError> {
        if self.default_number == 0 {
            let direction = self.book.direction;
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
            self.default_number = self.numbers.rule(key, info)?;
        }
        Ok(self.default_number)
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
