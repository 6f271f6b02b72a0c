//! A policy of ours that is being made of somebody else's.

use std::collections::BTreeSet;

use enforcer_common::Direction;

use crate::policy::model::{
    Accountability, Group, Origin, Peer, Policy, PolicyKind, PortMatch, Rule, RuleAction, Subject,
    Tier, Validity, WorkloadSelector,
};

/// Annotation that says of what a document was made.
pub(super) const ORIGIN: &str = "enforcer.dev/imported-from";
/// Name of the rule that lets a host reach its own workloads, as clusters do.
pub(super) const LOCAL_NODE: &str = "local-node";

/// A policy, and what is written beside it.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) policy: Policy,
    /// What it was made of, as in `CiliumNetworkPolicy shop/web (web.yaml:3)`.
    pub(super) from: String,
    /// Lines above it.
    pub(super) comments: Vec<String>,
}

/// A group, and what it was made of.
#[derive(Clone, Debug)]
pub(super) struct DraftGroup {
    pub(super) group: Group,
    pub(super) from: String,
}

/// A policy that says nothing yet.
pub(super) fn policy(
    namespace: Option<&str>,
    name: String,
    tier: Tier,
    subject: Subject,
    origin: Origin,
) -> Policy {
    Policy {
        kind: PolicyKind::SegmentPolicy,
        namespace: namespace.map(str::to_owned),
        name,
        origin,
        tier,
        priority: None,
        mode: None,
        validity: Validity::default(),
        accountability: Accountability::default(),
        subject,
        rules: [None, None],
    }
}

/// A rule.
pub(super) fn rule(
    name: String,
    origin: Origin,
    action: RuleAction,
    peers: Vec<Peer>,
    ports: Vec<PortMatch>,
) -> Rule {
    Rule {
        name,
        origin,
        action,
        log: false,
        validity: Validity::default(),
        accountability: Accountability::default(),
        peers,
        ports,
    }
}

/// A host may always reach its own workloads.
pub(super) fn local_node(origin: Origin) -> Rule {
    rule(
        LOCAL_NODE.to_owned(),
        origin,
        RuleAction::Allow,
        vec![Peer::Host],
        vec![PortMatch::ANY],
    )
}

/// Workloads; `None` where nobody can be selected.
pub(super) fn subject(selectors: Vec<WorkloadSelector>) -> Option<Subject> {
    (!selectors.is_empty()).then_some(Subject::Workloads(selectors))
}

/// Both directions, as [`Policy::rules`] has them.
pub(super) const DIRECTIONS: [(Direction, &str); 2] = [
    (Direction::Ingress, "ingress"),
    (Direction::Egress, "egress"),
];

/// Names that are given already.
#[derive(Debug, Default)]
pub(super) struct Names(BTreeSet<(Option<String>, String)>);

impl Names {
    /// This name, or one like it that nobody has.
    pub(super) fn unique(&mut self, namespace: Option<&str>, wanted: &str) -> String {
        let key = |name: &str| (namespace.map(str::to_owned), name.to_owned());
        let numbered = (2..).map(|number: u32| format!("{wanted}-{number}"));
        let mut names = std::iter::once(wanted.to_owned()).chain(numbered);
        // One of more names than there are others is free.
        let name = names.find(|name| !self.0.contains(&key(name)));
        let name = name.unwrap_or_else(|| wanted.to_owned());
        self.0.insert(key(&name));
        name
    }
}
