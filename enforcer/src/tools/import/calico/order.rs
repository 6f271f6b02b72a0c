//! Calico asks rules in an order; ours has none inside a tier, where deny beats pass and pass
//! beats allow. Rules that could match the same flow keep their order if the earlier one is the
//! stronger one, or stands in a higher tier. So a rule whose stronger successor would win goes to
//! tier `admin`, and what must come before it follows. A denial that nothing comes after is what
//! isolation says anyway. What then still does not fit is left out, and told.

use std::collections::BTreeSet;

use enforcer_common::Direction;

use super::CalicoPolicy;
use crate::{
    policy::model::{Peer, PortMatch, Rule, RuleAction, WorkloadSelector},
    tools::import::{
        draft::{self, LOCAL_NODE},
        overlap,
        report::{Effect, Fate, LeftOut},
    },
};

/// The order of Kubernetes' own policies among Calico's.
const KUBERNETES: f64 = 1000.0;

/// Rules by direction.
type Rules = [Option<Vec<Rule>>; 2];

/// Where rules stand.
#[derive(Default)]
pub(super) struct Placed {
    /// Of each policy: those of tier `admin`, then those of tier `application`.
    pub(super) rules: Vec<[Rules; 2]>,
    pub(super) left_out: Vec<LeftOut>,
    /// Lines for documents, by the object of which they are made.
    pub(super) notes: Vec<(String, String)>,
}

/// A rule and whom it is about.
struct Item<'p> {
    /// Index of its policy; `None` for one of Kubernetes.
    policy: Option<usize>,
    rule: Rule,
    workloads: &'p [WorkloadSelector],
    /// Whether it stands in tier `admin`.
    is_first: bool,
}

impl Item<'_> {
    fn strength(&self) -> u8 {
        match self.rule.action {
            RuleAction::Allow => 0,
            RuleAction::Pass => 1,
            RuleAction::Deny => 2,
        }
    }

    fn meets(&self, other: &Self) -> bool {
        overlap::rules((self.workloads, &self.rule), (other.workloads, &other.rule))
    }
}

/// Places the rules of all policies.
pub(super) fn place(policies: &[CalicoPolicy], kubernetes: &BTreeSet<String>) -> Placed {
    let mut placed = Placed {
        rules: policies
            .iter()
            .map(|_| [[None, None], [None, None]])
            .collect(),
        ..Placed::default()
    };
    let of_kubernetes: Vec<Vec<WorkloadSelector>> = kubernetes
        .iter()
        .map(|namespace| {
            vec![WorkloadSelector {
                namespace: Some(namespace.clone()),
                ..WorkloadSelector::default()
            }]
        })
        .collect();
    for direction in [Direction::Egress, Direction::Ingress] {
        let mut items = ordered(policies, &of_kubernetes, direction);
        leave_to_isolation(&mut items, policies, &mut placed);
        while let Some(bad) = raise(&mut items) {
            let item = items.remove(bad);
            placed.left_out.push(left_out(&item, policies, direction));
        }
        let place = direction as usize;
        for (rules, policy) in placed.rules.iter_mut().zip(policies) {
            // A policy that says anything in a direction isolates there.
            rules[1][place] = policy.rules[place].as_ref().map(|_| Vec::new());
        }
        for item in items {
            let Some(policy) = item.policy else { continue };
            let tier = usize::from(!item.is_first);
            let rules = placed.rules[policy][tier][place].get_or_insert_default();
            rules.push(item.rule);
        }
    }
    placed
}

/// All rules in the order in which Calico asks them.
fn ordered<'p>(
    policies: &'p [CalicoPolicy],
    of_kubernetes: &'p [Vec<WorkloadSelector>],
    direction: Direction,
) -> Vec<Item<'p>> {
    let mut sorted: Vec<_> = policies.iter().enumerate().collect();
    let key = |policy: &CalicoPolicy| (policy.name.clone(), policy.namespace.clone());
    sorted.sort_by(|(_, one), (_, other)| {
        one.order
            .total_cmp(&other.order)
            .then_with(|| key(one).cmp(&key(other)))
    });
    let mut items = Vec::new();
    // Before all else, a host may reach its own workloads.
    if direction == Direction::Ingress {
        for (place, policy) in &sorted {
            if policy.rules[direction as usize].is_some() {
                items.push(Item {
                    policy: Some(*place),
                    rule: draft::local_node(policy.origin.clone()),
                    workloads: &policy.workloads,
                    is_first: false,
                });
            }
        }
    }
    let mut of_kubernetes = Some(of_kubernetes);
    for (place, policy) in sorted {
        if policy.order > KUBERNETES {
            items.extend(
                of_kubernetes
                    .take()
                    .into_iter()
                    .flatten()
                    .map(allowed_by_kubernetes),
            );
        }
        let rules = policy.rules[direction as usize].iter().flatten();
        items.extend(rules.map(|rule| Item {
            policy: Some(place),
            rule: rule.clone(),
            workloads: &policy.workloads,
            is_first: false,
        }));
    }
    items.extend(
        of_kubernetes
            .take()
            .into_iter()
            .flatten()
            .map(allowed_by_kubernetes),
    );
    items
}

/// Anything may be allowed by a NetworkPolicy of Kubernetes in its namespace.
fn allowed_by_kubernetes(workloads: &Vec<WorkloadSelector>) -> Item<'_> {
    let origin = crate::policy::model::Origin {
        file: "".into(),
        line: 1,
        column: 1,
    };
    let peers = vec![Peer::Any];
    let ports = vec![PortMatch::ANY];
    Item {
        policy: None,
        rule: draft::rule(String::new(), origin, RuleAction::Allow, peers, ports),
        workloads,
        is_first: false,
    }
}

/// Takes out denials that come after something weaker and before nothing that could still match:
/// what no rule allows, isolation denies.
fn leave_to_isolation(items: &mut Vec<Item<'_>>, policies: &[CalicoPolicy], placed: &mut Placed) {
    let is_redundant: Vec<bool> = items
        .iter()
        .enumerate()
        .map(|(place, item)| {
            let weaker = |other: &Item<'_>| other.strength() < item.strength() && other.meets(item);
            item.rule.action == RuleAction::Deny
                && items[..place].iter().any(weaker)
                && !items[place + 1..].iter().any(weaker)
        })
        .collect();
    let mut redundant = is_redundant.iter();
    items.retain(|item| {
        if redundant.next() != Some(&true) {
            return true;
        }
        if let Some(policy) = item.policy {
            let note = format!(
                "Rule {} denies what no rule allows: isolation does that.",
                item.rule.name
            );
            placed.notes.push((policies[policy].object.clone(), note));
        }
        false
    });
}

/// Puts rules into tier `admin` where that keeps their order. The place of one that cannot keep
/// it, if there is any.
fn raise(items: &mut [Item<'_>]) -> Option<usize> {
    for item in &mut *items {
        item.is_first = false;
    }
    let count = items.len();
    let mut before: Vec<Vec<usize>> = vec![Vec::new(); count];
    for later in 0..count {
        for earlier in 0..later {
            let (one, other) = (&items[earlier], &items[later]);
            if one.strength() != other.strength() && one.meets(other) {
                before[later].push(earlier);
            }
        }
    }
    loop {
        let mut changed = false;
        for later in (0..count).rev() {
            for &earlier in &before[later] {
                let weaker = items[earlier].strength() < items[later].strength();
                if (weaker || items[later].is_first) && !items[earlier].is_first {
                    items[earlier].is_first = true;
                    changed = true;
                }
            }
        }
        if !changed {
            break;
        }
    }
    for later in 0..count {
        let item = &items[later];
        // A pass of tier `admin` hands on to tier `application`, and not past it.
        if item.is_first && item.policy.is_some() && item.rule.action == RuleAction::Pass {
            return Some(later);
        }
        for &earlier in &before[later] {
            let one = &items[earlier];
            // What Kubernetes allows stays where it is: then the denial after it has no place.
            if one.policy.is_none() && one.is_first {
                return Some(later);
            }
            if one.strength() < item.strength() && item.is_first {
                return Some(if one.policy.is_none() { later } else { earlier });
            }
        }
    }
    None
}

fn left_out(item: &Item<'_>, policies: &[CalicoPolicy], direction: Direction) -> LeftOut {
    let policy = item.policy.map(|policy| &policies[policy]);
    let origin = &item.rule.origin;
    let word = match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    let place = item
        .rule
        .name
        .split_once('.')
        .map_or("", |(_, place)| place);
    let is_local = item.rule.name == LOCAL_NODE;
    let message = if is_local {
        "a host always reaches its own workloads in Calico, but a denial that would have to stay \
         in tier `admin` denies it here"
            .to_owned()
    } else {
        "comes between rules of which others are stronger here: no two tiers keep this order"
            .to_owned()
    };
    LeftOut {
        file: origin.file.clone(),
        line: origin.line,
        column: origin.column,
        object: policy.map_or_else(String::new, |policy| policy.object.clone()),
        path: if is_local {
            "spec".to_owned()
        } else {
            format!("spec.{word}[{place}]")
        },
        message,
        help: "narrow the rules so that no flow is matched by both, or write the policy by hand \
               in the tiers `admin`, `application` and `baseline`"
            .to_owned(),
        fate: Fate::Omitted,
        effect: match item.rule.action {
            RuleAction::Allow => Effect::Narrower,
            RuleAction::Deny => Effect::Wider,
            RuleAction::Pass => Effect::Either,
        },
        snippet: String::new(),
        mark: (0, 0),
    }
}
