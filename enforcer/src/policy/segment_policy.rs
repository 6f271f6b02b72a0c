//! Kind `SegmentPolicy`.

use std::{collections::HashMap, sync::Arc};

use enforcer_common::Direction;

use super::{
    answerable::FIELDS,
    diagnostic::{Code, Position},
    document::Node,
    model::{
        Mode, Peer, Policy, PolicyKind, PortMatch, Rule, RuleAction, Subject, Tier,
        WorkloadSelector,
    },
    reader::{Fields, Reader, quoted},
    selector::FACTS,
};

/// Words for [`Mode`].
pub(super) const MODES: [(&str, Mode); 2] = [("audit", Mode::Audit), ("enforce", Mode::Enforce)];

const TIERS: [(&str, Tier); 4] = [
    ("quarantine", Tier::Quarantine),
    ("admin", Tier::Admin),
    ("application", Tier::Application),
    ("baseline", Tier::Baseline),
];

const ACTIONS: [(&str, RuleAction); 3] = [
    ("allow", RuleAction::Allow),
    ("deny", RuleAction::Deny),
    ("pass", RuleAction::Pass),
];

/// A policy whose groups are not looked up yet.
#[derive(Clone, Debug)]
pub(super) struct PolicyDocument {
    pub(super) policy: Arc<Policy>,
    pub(super) name_at: Position,
    /// Where rules refer to groups, in the order of [`Policy::rules`].
    pub(super) references: Vec<Position>,
    /// The group that it selects.
    pub(super) subject_group: Option<(String, Position)>,
}

/// Fields of a selector that stand alone.
const ALONE: [&str; 2] = ["host", "group"];

/// In the order of [`Policy::rules`]: the direction's name, and its word for the peers.
const DIRECTIONS: [(Direction, &str, &str); 2] = [
    (Direction::Egress, "egress", "to"),
    (Direction::Ingress, "ingress", "from"),
];

impl Reader<'_> {
    /// A whole document.
    pub(super) fn segment_policy(&mut self, document: &Fields<'_>) -> Option<PolicyDocument> {
        let metadata = self.metadata(document, true);
        let help = "write `spec:` with `selector`, and `ingress`, `egress` or both";
        let spec = self.required(document, "spec", "a SegmentPolicy", help)?;
        let known = ["tier", "mode", "selector", "ingress", "egress"];
        let known: Vec<_> = known.into_iter().chain(FIELDS).collect();
        let spec = self.fields(spec, "`spec` of a SegmentPolicy", &known)?;
        let validity = self.validity(&spec);
        let accountability = self.accountability(&spec);
        let tier = match spec.find("tier") {
            Some(node) => self.choice(node, "`tier`", &TIERS),
            None => Some(Tier::Application),
        };
        let mode = match spec.find("mode") {
            Some(node) => self.choice(node, "`mode`", &MODES).map(Some),
            None => Some(None),
        };
        let namespace = metadata.as_ref().and_then(|m| m.namespace.clone());
        let subject = self.subject(&spec, namespace.as_deref());
        let mut rules = [None, None];
        let mut good = true;
        for (slot, (direction, name, _)) in rules.iter_mut().zip(DIRECTIONS) {
            if let Some(node) = spec.find(name) {
                *slot = self.rules(node, direction, tier, namespace.as_deref());
                good &= slot.is_some();
            }
        }
        if DIRECTIONS
            .iter()
            .all(|(_, name, _)| spec.find(name).is_none())
        {
            self.error(
                Code::NoEffect,
                spec.at,
                "neither `ingress` nor `egress`: this policy decides nothing",
                "write rules, or `ingress: []` to deny everything that comes in",
            );
            good = false;
        }
        let metadata = metadata?;
        let (subject, subject_group) = subject?;
        let policy = Policy {
            namespace: metadata.namespace,
            name: metadata.name,
            origin: self.origin(document.at),
            kind: PolicyKind::SegmentPolicy,
            tier: tier?,
            priority: None,
            mode: mode?,
            validity: validity?,
            accountability: accountability?,
            subject,
            rules,
        };
        good.then(|| PolicyDocument {
            policy: Arc::new(policy),
            name_at: metadata.at,
            references: std::mem::take(&mut self.references),
            subject_group,
        })
    }

    /// What is selected, and the group by which, where it is one.
    fn subject(
        &mut self,
        spec: &Fields<'_>,
        namespace: Option<&str>,
    ) -> Option<(Subject, Option<(String, Position)>)> {
        let help = "write `selector: {matchLabels: {app: web}}`, `selector: {}` for every \
                    workload, or `selector: {host: true}`";
        let node = self.required(spec, "selector", "`spec`", help)?;
        let known = ["matchLabels", "namespaceSelector"];
        let known: Vec<_> = known.into_iter().chain(FACTS).chain(ALONE).collect();
        let fields = self.fields(node, "`selector`", &known)?;
        for alone in ALONE {
            let mut others = known.iter().filter(|name| **name != alone);
            if fields.find(alone).is_some()
                && let Some(other) = others.find(|name| fields.find(name).is_some())
            {
                let message = format!("`{other}` and `{alone}` in one selector");
                let help = match alone {
                    "host" => "the host endpoint is no workload: write one policy for each",
                    _ => "write one policy for each, or put both into the group",
                };
                self.error(Code::BadSelector, node.at, message, help);
                return None;
            }
        }
        if let Some(node) = fields.find("group") {
            let group = self.group_name(node)?;
            let nobody = Subject::Workloads(Vec::new());
            return Some((nobody, Some((group.name, node.at))));
        }
        if let Some(node) = fields.find("host") {
            if self.truth(node, "`host`")? {
                return Some((Subject::Host, None));
            }
            self.error(
                Code::BadSelector,
                node.at,
                "`host: false` selects nothing",
                "write `host: true`, or select workloads with `matchLabels`",
            );
            return None;
        }
        let facts = self.facts(&fields, "matchLabels");
        if let (Some(at), Some(namespace)) = (fields.key("namespaceSelector"), namespace) {
            let message = format!("`namespaceSelector` in a policy of namespace `{namespace}`");
            let help = "it selects in its own namespace only: remove one of the two";
            self.error(Code::BadSelector, at, message, help);
            return None;
        }
        let selector = WorkloadSelector {
            namespace: namespace.map(str::to_owned),
            ..facts?
        };
        Some((Subject::Workloads(vec![selector]), None))
    }

    fn rules(
        &mut self,
        node: &Node,
        direction: Direction,
        tier: Option<Tier>,
        namespace: Option<&str>,
    ) -> Option<Vec<Rule>> {
        let name = DIRECTIONS[direction as usize].1;
        let isolates = tier.is_none_or(|tier| tier == Tier::Application);
        // In the other tiers an empty list would look like isolation and do nothing.
        let empty = "only tier `application` isolates: write `- action: deny` to deny everything";
        let items = self.list(node, &format!("`{name}`"), (!isolates).then_some(empty))?;
        let mut rules = Vec::with_capacity(items.len());
        let mut first_of: HashMap<String, Position> = HashMap::new();
        let mut good = true;
        for (index, item) in items.iter().enumerate() {
            let Some((rule, named)) = self.rule(item, direction, index, namespace) else {
                good = false;
                continue;
            };
            if let Some(at) = named
                && let Some(first) = first_of.insert(rule.name.clone(), at)
            {
                good = false;
                self.error(
                    Code::DuplicateName,
                    at,
                    format!(
                        "two rules below `{name}` are called {}; the first one in line {}",
                        quoted(&rule.name),
                        first.line
                    ),
                    "reports name rules: give each its own name",
                );
            }
            rules.push(rule);
        }
        good.then_some(rules)
    }

    /// A rule, and where its name is written.
    fn rule(
        &mut self,
        node: &Node,
        direction: Direction,
        index: usize,
        namespace: Option<&str>,
    ) -> Option<(Rule, Option<Position>)> {
        let (_, below, peers_word) = DIRECTIONS[direction as usize];
        let (_, _, wrong_word) = DIRECTIONS[direction.reverse() as usize];
        let known = ["name", "action", "log", "from", "to", "ports"];
        let known: Vec<_> = known.into_iter().chain(FIELDS).collect();
        let fields = self.fields(node, "a rule", &known)?;
        let validity = self.validity(&fields);
        let accountability = self.accountability(&fields);
        let mut good = true;
        if let Some(at) = fields.key(wrong_word) {
            good = false;
            self.error(
                Code::WrongDirection,
                at,
                format!("`{wrong_word}` below `{below}`"),
                format!("write `{peers_word}`: peers of {below} rules are named there"),
            );
        }
        let named = fields.find("name");
        let name = match named {
            Some(node) => self.rule_name(node),
            None => Some(format!("{below}[{index}]")),
        };
        let action = match fields.find("action") {
            Some(node) => self.choice(node, "`action`", &ACTIONS),
            None => Some(RuleAction::Allow),
        };
        let log = match fields.find("log") {
            Some(node) => self.truth(node, "`log`"),
            None => Some(false),
        };
        if let (Some(true), Some(action)) = (log, action)
            && action != RuleAction::Allow
        {
            good = false;
            let at = fields.key("log").unwrap_or(node.at);
            let message = format!("`log` of a rule that says `{}`", action.name());
            let help = match action {
                RuleAction::Deny => "remove it: every denial is reported",
                _ => "remove it: the rule that decides is reported, in a lower tier",
            };
            self.error(Code::NoEffect, at, message, help);
        }
        // Peers in the wrong word are read too, for the errors that are in them.
        let peers = match fields.find(peers_word).or(fields.find(wrong_word)) {
            Some(node) => {
                let empty = format!("leave `{peers_word}` out for anybody, or remove the rule");
                self.each(node, peers_word, &empty, |reader, item| {
                    reader.peer(item, namespace)
                })
            }
            None => Some(vec![Peer::Any]),
        };
        let ports = match fields.find("ports") {
            Some(node) => {
                let empty = "leave `ports` out for every protocol and port, or remove the rule";
                self.each(node, "ports", empty, Reader::port_match)
            }
            None => Some(vec![PortMatch::ANY]),
        };
        let rule = Rule {
            name: name?,
            origin: self.origin(node.at),
            action: action?,
            log: log?,
            validity: validity?,
            accountability: accountability?,
            peers: peers?,
            ports: ports?,
        };
        good.then_some((rule, named.map(|node| node.at)))
    }

    fn each<T>(
        &mut self,
        node: &Node,
        what: &str,
        empty: &str,
        mut read: impl FnMut(&mut Self, &Node) -> Option<T>,
    ) -> Option<Vec<T>> {
        let items = self.list(node, &format!("`{what}`"), Some(empty))?;
        let mut good = Vec::with_capacity(items.len());
        for item in items {
            good.extend(read(self, item));
        }
        (good.len() == items.len()).then_some(good)
    }
}
