//! What the documents say about a flow: the side of an explanation that no kernel knows.

use enforcer_common::{Action, Direction};

use super::{
    Explainer,
    explanation::{AuditView, Decided, FlowQuery, Mismatch, PolicyView, RuleView, TierView},
    words::in_words,
};
use crate::{
    compile::{
        image::Identity,
        peers, rules,
        tiers::{Cause, Ground, Matching, Outcome},
    },
    policy::model::{Mode, NodeSettings, Policy, Rule, RuleAction, Subject, Tier, Workload},
};

/// The documents' side of an explanation.
pub(super) struct Story<'a> {
    ground: Ground,
    node: &'a NodeSettings,
    /// Those about the endpoint, in the order in which they are named.
    policies: Vec<(&'a Policy, &'a [Rule])>,
    /// By number, which is the order in which they are named: policy and place in it.
    rules: Vec<(usize, usize)>,
    matching: Matching,
    /// What was considered, and what of it decided.
    pub tiers: Vec<TierView>,
}

impl<'a> Story<'a> {
    pub fn new(
        explainer: &Explainer<'a>,
        endpoint: Option<&Workload>,
        direction: Direction,
        peer: &Identity,
        query: &FlowQuery,
    ) -> Self {
        let mut policies: Vec<(&Policy, &[Rule])> = explainer
            .policy
            .policies
            .iter()
            .filter(|policy| is_about(policy, endpoint))
            .filter_map(|policy| Some((&**policy, policy.rules[direction as usize].as_deref()?)))
            .collect();
        policies.sort_by_key(|(p, _)| (p.tier, &p.namespace, &p.name));
        let node = &explainer.policy.node;
        let mut story = Self {
            ground: Ground {
                isolation: None,
                enforced_isolation: None,
                default: node.default[direction as usize],
                mode: explainer.mode,
            },
            node,
            policies,
            rules: Vec::new(),
            matching: Matching::default(),
            tiers: Vec::new(),
        };
        for (index, (policy, rules)) in story.policies.iter().enumerate() {
            let mode = policy.mode.unwrap_or(explainer.mode);
            let isolates = policy.tier == Tier::Application;
            let number = rules::count(index);
            if isolates {
                story.ground.isolation.get_or_insert(number);
                if mode == Mode::Enforce {
                    story.ground.enforced_isolation.get_or_insert(number);
                }
            }
            let mut views = Vec::with_capacity(rules.len());
            for (place, rule) in rules.iter().enumerate() {
                let mismatch = mismatch(rule, peer, query);
                if mismatch.is_none() {
                    let number = rules::count(story.rules.len());
                    let deny = rule.action == RuleAction::Deny;
                    let enforced = mode == Mode::Enforce;
                    story.matching.add(number, policy.tier, deny, enforced);
                }
                story.rules.push((index, place));
                views.push(RuleView {
                    name: rule.name.clone(),
                    origin: rule.origin.clone(),
                    action: rule.action,
                    matches: mismatch.is_none(),
                    mismatch,
                    why_not: mismatch.map(|mismatch| in_words(mismatch, rule)),
                    decides: false,
                });
            }
            let view = PolicyView {
                namespace: policy.namespace.clone(),
                name: policy.name.clone(),
                origin: policy.origin.clone(),
                mode,
                isolates,
                isolation_decides: false,
                rules: views,
            };
            match story.tiers.last_mut() {
                Some(tier) if tier.tier == policy.tier => tier.policies.push(view),
                _ => story.tiers.push(TierView {
                    tier: policy.tier,
                    reached: true,
                    policies: vec![view],
                }),
            }
        }
        story
    }

    /// Marks what decided; `action` is the verdict.
    pub fn tell(&mut self, action: Action) -> Option<AuditView> {
        let enforced = self.matching.evaluate(&self.ground, true);
        let all = self.matching.evaluate(&self.ground, false);
        let (_, cause) = if action == Action::Deny {
            enforced
        } else {
            all
        };
        let tier = match cause {
            Cause::Rule(number) => {
                let (policy, place) = self.rules[number as usize];
                if let Some(view) = self.view(policy) {
                    view.rules[place].decides = true;
                }
                Some(self.policies[policy].0.tier)
            }
            Cause::Isolation(policy) => {
                if let Some(view) = self.view(policy as usize) {
                    view.isolation_decides = true;
                }
                Some(Tier::Application)
            }
            Cause::Default => None,
        };
        for view in &mut self.tiers {
            view.reached = tier.is_none_or(|tier| view.tier <= tier);
        }
        (enforced != all).then(|| AuditView {
            enforced: self.decided(enforced),
            all: self.decided(all),
        })
    }

    fn view(&mut self, policy: usize) -> Option<&mut PolicyView> {
        let mut views = self.tiers.iter_mut().flat_map(|tier| &mut tier.policies);
        views.nth(policy)
    }

    fn decided(&self, (action, cause): Outcome) -> Decided {
        let action = match action {
            Action::Allow => RuleAction::Allow,
            Action::Deny | Action::Audit => RuleAction::Deny,
        };
        let (policy, rule, origin) = match cause {
            Cause::Rule(number) => {
                let (policy, place) = self.rules[number as usize];
                let (policy, rules) = self.policies[policy];
                let rule = &rules[place];
                (Some(policy), rule.name.as_str(), Some(&rule.origin))
            }
            Cause::Isolation(policy) => {
                let (policy, _) = self.policies[policy as usize];
                (Some(policy), "isolation", Some(&policy.origin))
            }
            Cause::Default => (None, "default", self.node.origin.as_ref()),
        };
        Decided {
            action,
            tier: policy.map(|policy| policy.tier),
            policy: policy.map(|policy| match &policy.namespace {
                Some(namespace) => format!("{namespace}/{}", policy.name),
                None => policy.name.clone(),
            }),
            rule: rule.to_owned(),
            origin: origin.cloned(),
        }
    }
}

fn is_about(policy: &Policy, endpoint: Option<&Workload>) -> bool {
    match (&policy.subject, endpoint) {
        (Subject::Host, None) => true,
        (Subject::Workloads(selector), Some(workload)) => {
            selector.matches(&workload.namespace, &workload.labels)
        }
        _ => false,
    }
}

fn mismatch(rule: &Rule, peer: &Identity, query: &FlowQuery) -> Option<Mismatch> {
    if !rule.peers.iter().any(|p| peers::matches(p, peer)) {
        return Some(Mismatch::Peer);
    }
    let mut of_protocol = rule
        .ports
        .iter()
        .filter(|ports| ports.protocol.is_none_or(|p| p == query.protocol))
        .peekable();
    if of_protocol.peek().is_none() {
        return Some(Mismatch::Protocol);
    }
    let hit = of_protocol.any(|p| p.protocol.is_none() || (p.first..=p.last).contains(&query.port));
    (!hit).then_some(Mismatch::Port)
}
