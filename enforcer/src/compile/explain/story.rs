//! What the documents say about a flow: the side of an explanation that no kernel knows.

use std::collections::BTreeSet;

use enforcer_common::{Action, Direction};

use super::{
    Explainer,
    explanation::{AuditView, Decided, FlowQuery, Mismatch, PolicyView, RuleView, TierView},
    words::in_words,
};
use crate::{
    compile::{
        image::{Assurance, Identity, IdentitySubject},
        peers::{self, Surroundings},
        rules,
        tiers::{Cause, Ground, Matching, Outcome, Weight},
    },
    policy::model::{
        Mode, Moment, NamedPort, NodeSettings, Policy, PortMatch, Rule, RuleAction, Subject, Tier,
    },
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
        endpoint: Option<&IdentitySubject>,
        direction: Direction,
        peer: &Identity,
        query: &FlowQuery,
    ) -> Self {
        let surroundings = Surroundings::of(explainer.policy);
        let addressed = match direction {
            Direction::Egress => Some(&peer.subject),
            Direction::Ingress => endpoint,
        };
        let flow = Flow {
            surroundings,
            now: explainer.now,
            peer,
            query,
            ports: addressed.and_then(IdentitySubject::ports),
        };
        let mut policies: Vec<(&Policy, &[Rule])> = explainer
            .policy
            .policies
            .iter()
            .filter(|policy| is_about(policy, endpoint, surroundings))
            .filter_map(|policy| Some((&**policy, policy.rules[direction as usize].as_deref()?)))
            .collect();
        policies.sort_by_key(|(policy, _)| policy.rank());
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
            let isolates = policy.tier == Tier::Application && policy.validity.holds(explainer.now);
            let number = rules::count(index);
            if isolates {
                let comes_first = |known: Option<u32>| {
                    known.is_none_or(|known| {
                        let (known, _) = story.policies[known as usize];
                        policy.isolation_rank() < known.isolation_rank()
                    })
                };
                if comes_first(story.ground.isolation) {
                    story.ground.isolation = Some(number);
                }
                if mode == Mode::Enforce && comes_first(story.ground.enforced_isolation) {
                    story.ground.enforced_isolation = Some(number);
                }
            }
            let mut views = Vec::with_capacity(rules.len());
            for (place, rule) in rules.iter().enumerate() {
                let mismatch = flow.mismatch(policy, rule);
                if mismatch.is_none() {
                    let number = rules::count(story.rules.len());
                    let weight = Weight {
                        tier: policy.tier,
                        ordered: policy.priority.is_some(),
                        action: rule.action,
                        enforced: mode == Mode::Enforce,
                    };
                    story.matching.add(number, weight);
                }
                story.rules.push((index, place));
                views.push(RuleView {
                    name: rule.name.clone(),
                    origin: rule.origin.clone(),
                    action: rule.action,
                    log: rule.log,
                    accountability: policy.accountability.with(&rule.accountability),
                    matches: mismatch.is_none(),
                    mismatch,
                    why_not: mismatch.map(|mismatch| {
                        let known = flow.known_too_little(rule);
                        in_words(mismatch, policy, rule, flow.now, known)
                    }),
                    decides: false,
                });
            }
            let view = PolicyView {
                kind: policy.kind,
                priority: policy.priority,
                accountability: policy.accountability.clone(),
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

    /// The verdict of the documents.
    pub fn action(&self) -> Action {
        self.matching.decide(&self.ground).0
    }

    /// Where the evaluation ends: without the denials of policies in audit mode, or with all.
    pub fn end(&self, enforced_only: bool) -> Decided {
        self.decided(self.matching.evaluate(&self.ground, enforced_only))
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

pub(super) fn is_about(
    policy: &Policy,
    endpoint: Option<&IdentitySubject>,
    surroundings: Surroundings<'_>,
) -> bool {
    match (&policy.subject, endpoint) {
        (Subject::Host, None) => true,
        (Subject::Workloads(selectors), Some(endpoint)) => {
            let mut selectors = selectors.iter();
            selectors.any(|selector| peers::selects(selector, endpoint, surroundings))
        }
        _ => false,
    }
}

/// What rules are held against.
struct Flow<'a> {
    surroundings: Surroundings<'a>,
    now: Moment,
    peer: &'a Identity,
    query: &'a FlowQuery,
    /// Named ports of the workload that the flow goes to.
    ports: Option<&'a BTreeSet<NamedPort>>,
}

impl Flow<'_> {
    /// How well the peer is known, where some peer of the rule is who it is and demands more.
    fn known_too_little(&self, rule: &Rule) -> Option<Assurance> {
        let proven = Identity {
            assurance: Assurance::Attested,
            ..self.peer.clone()
        };
        let is = |who: &Identity| {
            let mut peers = rule.peers.iter();
            peers.any(|peer| peers::matches(peer, who, self.surroundings))
        };
        (!is(self.peer) && is(&proven)).then_some(self.peer.assurance)
    }

    fn mismatch(&self, policy: &Policy, rule: &Rule) -> Option<Mismatch> {
        if !policy.validity.holds(self.now) || !rule.validity.holds(self.now) {
            return Some(Mismatch::Time);
        }
        let mut peers = rule.peers.iter();
        if !peers.any(|peer| peers::matches(peer, self.peer, self.surroundings)) {
            return Some(Mismatch::Peer);
        }
        let protocol = self.query.protocol;
        let of_protocol = |ports: &PortMatch| match ports {
            PortMatch::Range(range) => range.protocol.is_none_or(|p| p == protocol),
            PortMatch::Named(named) => named.protocol.is_none_or(|p| p == protocol),
        };
        if !rule.ports.iter().any(of_protocol) {
            return Some(Mismatch::Protocol);
        }
        let hit = |ports: &PortMatch| match ports {
            PortMatch::Range(range) => range.contains(protocol, self.query.port),
            PortMatch::Named(named) => self.ports.into_iter().flatten().any(|port| {
                named.matches(port) && port.protocol == protocol && port.port == self.query.port
            }),
        };
        (!rule.ports.iter().any(hit)).then_some(Mismatch::Port)
    }
}
