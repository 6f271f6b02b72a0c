//! What one tree allows and another does not.

use std::{collections::HashMap, rc::Rc};

use serde::{Deserialize, Serialize};

use super::{
    parties::{self, Group, GroupKind},
    reach::{BothRulings, BothView, Pair, Reach},
    services::Service,
    tree::Tree,
};
use crate::{
    compile::explain::Answer,
    policy::model::{Mode, NodeSettings},
    protocol_name,
};

/// Version of [`Difference`], in its field `version`.
pub const DIFF_VERSION: u32 = 1;

/// How the reachability of two trees differs. A public, versioned schema (docs/tools.md).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// [`DIFF_VERSION`].
    pub version: u32,
    /// The mode of the node that verdicts are for, before and after.
    pub modes: [Mode; 2],
    /// Groups that `changes` name.
    pub groups: Vec<GroupView>,
    /// Changes of reachability, by what they are, then by name.
    pub changes: Vec<Change>,
    /// Settings of the node that changed and are not part of reachability.
    pub settings: Vec<SettingChange>,
}

impl Difference {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.settings.is_empty()
    }
}

/// A group of workloads, or of networks, that neither tree tells apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupView {
    /// As in [`Change::from`] and [`Change::to`].
    pub name: String,
    /// What it is.
    pub kind: GroupKind,
    /// Everybody in it.
    pub members: Vec<String>,
    /// Only the new tree has these workloads.
    pub new: bool,
    /// Only the old tree has them.
    pub gone: bool,
}

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// Allowed, and was not.
    Gained,
    /// Was allowed, and is not.
    Lost,
    /// Denied where it was only reported, or the other way round.
    Changed,
}

/// A change of what one group may do with another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What changed.
    pub change: ChangeKind,
    /// Who opens the flow.
    pub from: String,
    /// Who is addressed.
    pub to: String,
    /// `5432/tcp`, `8000-8999/udp`, `8.0/icmp`, `tcp`; `other`: every protocol that is not in
    /// `other_than`.
    pub services: Vec<String>,
    /// The protocols that `other` does not mean.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_than: Vec<String>,
    /// The old tree's verdict and rules.
    pub before: BothView,
    /// The new tree's.
    pub after: BothView,
    /// `services`, not in words.
    #[serde(skip)]
    pub stretches: Vec<Service>,
    /// `other_than`, by number.
    #[serde(skip)]
    pub besides: Vec<u8>,
}

/// A setting of the node that changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingChange {
    /// As in the kind `Node`.
    pub setting: String,
    /// Before.
    pub before: String,
    /// After.
    pub after: String,
}

/// Changes of one pair, without names.
struct PairChanges {
    found: Vec<(ChangeKind, BothRulings, BothRulings, Vec<Service>)>,
    /// Protocols that are not told with all the others.
    named: Vec<u8>,
}

/// Compares two trees.
pub fn diff(old: &Tree, new: &Tree) -> Difference {
    let trees = [old, new];
    let groups = parties::groups(&trees);
    let mut reach = Reach::new(&trees);
    let mut known: HashMap<(Pair, Pair), Rc<PairChanges>> = HashMap::new();
    let mut changes = Vec::new();
    let mut named = vec![false; groups.len()];
    for (i, from) in groups.iter().enumerate() {
        for (j, to) in groups.iter().enumerate() {
            if !from.can_open_to(to) {
                continue;
            }
            let (before, after) = (reach.pair(0, from, to), reach.pair(1, from, to));
            if reach.same_verdicts(before, after) {
                continue;
            }
            let pair_changes = known
                .entry((before, after))
                .or_insert_with(|| Rc::new(compare(&reach, before, after)))
                .clone();
            for (change, old, new, stretches) in &pair_changes.found {
                (named[i], named[j]) = (true, true);
                let others = stretches.iter().any(|service| service.protocol.is_none());
                let besides = if others {
                    pair_changes.named.clone()
                } else {
                    Vec::new()
                };
                changes.push(Change {
                    change: *change,
                    from: from.name.clone(),
                    to: to.name.clone(),
                    services: stretches.iter().map(Service::to_string).collect(),
                    before: reach.view(0, *old, from, to),
                    after: reach.view(1, *new, from, to),
                    other_than: besides.iter().map(|p| protocol_name::text(*p)).collect(),
                    stretches: stretches.clone(),
                    besides,
                });
            }
        }
    }
    changes.sort_by(|a, b| (a.change, &a.from, &a.to).cmp(&(b.change, &b.from, &b.to)));
    let groups = groups.iter().zip(named).filter(|(_, named)| *named);
    Difference {
        version: DIFF_VERSION,
        modes: [old.mode, new.mode],
        groups: groups.map(|(group, _)| group_view(group)).collect(),
        changes,
        settings: settings(&old.policy.node, &new.policy.node),
    }
}

fn compare(reach: &Reach<'_>, before: Pair, after: Pair) -> PairChanges {
    let both = reach
        .rulings(before)
        .join(&reach.rulings(after), |a, b| (*a, *b));
    let mut found: Vec<(ChangeKind, BothRulings, BothRulings, Vec<Service>)> = Vec::new();
    for (service, (old, new)) in both.iter() {
        let change = match (old.verdict(), new.verdict()) {
            (a, b) if a == b => continue,
            (_, Answer::Allow) => ChangeKind::Gained,
            (Answer::Allow, _) => ChangeKind::Lost,
            _ => ChangeKind::Changed,
        };
        let same = found
            .iter_mut()
            .find(|(c, o, n, _)| (*c, o, n) == (change, old, new));
        match same {
            Some((.., services)) => services.push(service),
            None => found.push((change, *old, *new, vec![service])),
        }
    }
    PairChanges {
        found,
        named: both.named().collect(),
    }
}

fn group_view(group: &Group) -> GroupView {
    GroupView {
        name: group.name.clone(),
        kind: group.kind,
        members: group.members.clone(),
        new: group.is_new,
        gone: group.is_gone,
    }
}

/// What the node does besides policy. Defaults show in reachability.
fn settings(old: &NodeSettings, new: &NodeSettings) -> Vec<SettingChange> {
    let words = |node: &NodeSettings| {
        let failsafe = node.failsafe_in_force().iter().map(|port| {
            let direction = match port.direction {
                enforcer_common::Direction::Egress => "egress",
                enforcer_common::Direction::Ingress => "ingress",
            };
            let service = Service {
                protocol: Some(port.protocol),
                first: port.port,
                last: port.port,
            };
            format!("{direction} {service}")
        });
        let blocked = node.blocked.iter().map(|b| b.prefix.trunc().to_string());
        [
            (
                "mode",
                node.mode.map_or("not said".to_owned(), |mode| lower(&mode)),
            ),
            ("failsafe", sorted(failsafe)),
            ("blockedSources", sorted(blocked)),
            ("flowTableFull", lower(&node.flow_table_full)),
            ("unknownWorkload", lower(&node.unknown_workload)),
            ("denied", lower(&node.denied)),
        ]
    };
    let both = words(old).into_iter().zip(words(new));
    both.filter(|((_, before), (_, after))| before != after)
        .map(|((setting, before), (_, after))| SettingChange {
            setting: setting.to_owned(),
            before,
            after,
        })
        .collect()
}

fn sorted(words: impl Iterator<Item = String>) -> String {
    let mut words: Vec<_> = words.collect();
    words.sort();
    words.dedup();
    if words.is_empty() {
        return "none".to_owned();
    }
    words.join(", ")
}

fn lower(value: &impl std::fmt::Debug) -> String {
    format!("{value:?}").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::load_text;

    const TREE: &str = "
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: db, namespace: shop}
spec:
  selector: {matchLabels: {app: db}}
  ingress:
    - name: web
      from: [{labels: {app: web}}]
      ports: [5432/tcp]
---
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: web-1, namespace: shop, labels: {app: web}}
spec: {interface: a, addresses: [10.0.0.1]}
---
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: web-2, namespace: shop, labels: {app: web}}
spec: {interface: b, addresses: [10.0.0.2]}
---
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {interface: c, addresses: [10.0.1.1]}
";

    fn tree(text: &str) -> Tree {
        let policy = load_text("a.yaml", text).unwrap_or_else(|e| panic!("{}", e.render(false)));
        Tree::new(
            policy,
            Mode::Enforce,
            crate::policy::model::Moment::default(),
            &[],
        )
        .unwrap()
    }

    fn told(difference: &Difference) -> Vec<String> {
        let told = |change: &Change| {
            let Change {
                change,
                from,
                to,
                services,
                ..
            } = change;
            let services = services.join(" ");
            format!("{change:?} {from} -> {to}: {services}")
        };
        difference.changes.iter().map(told).collect()
    }
    fn change_of<'a>(difference: &'a Difference, from: &str, to: &str) -> &'a Change {
        let mut changes = difference.changes.iter();
        changes.find(|c| c.from == from && c.to == to).unwrap()
    }

    #[test]
    fn a_tree_does_not_differ_from_itself() {
        assert!(diff(&tree(TREE), &tree(TREE)).is_empty());
    }

    #[test]
    fn a_changed_port_is_gained_and_lost_with_its_line() {
        let difference = diff(
            &tree(TREE),
            &tree(&TREE.replace("[5432/tcp]", "[5433/tcp]")),
        );
        assert_eq!(
            told(&difference),
            [
                "Gained shop/web-1 and 1 more -> shop/db: 5433/tcp",
                "Lost shop/web-1 and 1 more -> shop/db: 5432/tcp",
            ]
        );
        let lost = &difference.changes[1];
        let rule = lost.before.ingress.as_ref().unwrap().rule.as_ref().unwrap();
        assert_eq!(
            (&*rule.rule, rule.origin.as_ref().unwrap().line),
            ("web", 8)
        );
        let after = lost.after.ingress.as_ref().unwrap();
        assert_eq!((after.verdict, &*after.reason), (Answer::Deny, "isolation"));
        assert_eq!(difference.groups.len(), 2);
        assert_eq!(difference.groups[1].members, ["shop/web-1", "shop/web-2"]);
    }

    #[test]
    fn a_group_falls_apart_where_one_of_the_trees_tells_it_apart() {
        let relabelled = TREE.replace(
            "web-2, namespace: shop, labels: {app: web}",
            "web-2, namespace: shop",
        );
        let difference = diff(&tree(TREE), &tree(&relabelled));
        assert_eq!(told(&difference), ["Lost shop/web-2 -> shop/db: 5432/tcp"]);
    }

    #[test]
    fn audit_shows_as_a_loss_that_still_passes() {
        let audited = TREE.replace("spec:\n  selector", "spec:\n  mode: audit\n  selector");
        let none = TREE
            .split("---\n")
            .skip(1)
            .collect::<Vec<_>>()
            .join("---\n");
        let difference = diff(&tree(&none), &tree(&audited));
        let change = change_of(&difference, "world", "shop/db");
        assert_eq!(
            (change.change, change.after.verdict),
            (ChangeKind::Lost, Answer::Audit)
        );
        let difference = diff(&tree(&audited), &tree(TREE));
        assert!(
            difference
                .changes
                .iter()
                .all(|c| c.change == ChangeKind::Changed)
        );
        assert!(!difference.is_empty());
    }

    #[test]
    fn settings_of_the_node_are_differences_too() {
        let node = "---\napiVersion: enforcer.dev/v1alpha1\nkind: Node\nmetadata: {name: n}\n\
                    spec: {mode: enforce, failsafe: [], blockedSources: [192.0.2.0/24]}\n";
        let difference = diff(&tree(TREE), &tree(&format!("{TREE}{node}")));
        let settings: Vec<_> = difference.settings.iter().map(|s| &*s.setting).collect();
        assert_eq!(settings, ["mode", "failsafe", "blockedSources"]);
        assert!(difference.changes.is_empty());
    }
}
