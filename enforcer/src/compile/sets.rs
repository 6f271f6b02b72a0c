//! Policy sets: what one list of policies says of every peer.

use std::collections::HashMap;

use enforcer_common::{
    Decision, Reason, identity,
    policy_key::{ALLOW_ALL, PolicyEntry, PolicyKey, PortKey},
};
use sha2::{Digest, Sha256};

use super::{
    image::{Image, RuleInfo},
    limits::CompileError,
    numbers::{ContentDigest, Numbers, RuleKey, RuleName},
    peers::PeerIndex,
    ranges,
    rules::{Rulebook, count},
    tiers::{Cause, Ground, Matching, Outcome},
};
use crate::policy::model::{Fallback, Mode, NodeSettings, RuleAction};

/// Compiles the sets of one direction into an image.
pub(super) struct SetBuilder<'a> {
    book: &'a Rulebook<'a>,
    index: &'a PeerIndex<'a>,
    node: &'a NodeSettings,
    node_mode: Mode,
    numbers: &'a mut Numbers,
    image: &'a mut Image,
    /// Sets by the list of policies that they come from.
    done: HashMap<Vec<u32>, u32>,
    /// Numbers of rules, isolating policies and the default; 0 where not given yet.
    rule_numbers: Vec<u32>,
    isolation_numbers: Vec<u32>,
    default_number: u32,
    /// By position: the class of the peer in the set at work; [`ROOT`] between sets.
    class_of: Vec<u32>,
}

/// Peers of one class are matched by the same rules. A class is the one that it was before the
/// last rule, and that rule.
#[derive(Clone, Copy)]
struct Class {
    parent: u32,
    rule: u32,
    /// The class that this one becomes by `next_rule`.
    next: u32,
    next_rule: u32,
}

/// The class of peers that no rule matches by itself.
const ROOT: u32 = 0;
const NO_RULE: u32 = u32::MAX;

impl<'a> SetBuilder<'a> {
    pub fn new(
        book: &'a Rulebook<'a>,
        index: &'a PeerIndex<'a>,
        node: &'a NodeSettings,
        node_mode: Mode,
        numbers: &'a mut Numbers,
        image: &'a mut Image,
    ) -> Self {
        Self {
            book,
            index,
            node,
            node_mode,
            numbers,
            image,
            done: HashMap::new(),
            rule_numbers: vec![0; book.rules.len()],
            isolation_numbers: vec![0; book.policies.len()],
            default_number: 0,
            class_of: vec![ROOT; index.len()],
        }
    }

    /// The number of the set that the policies at these (ascending) indices make.
    pub fn set(&mut self, policies: Vec<u32>) -> Result<u32, CompileError> {
        let default = self.node.default[self.book.direction as usize];
        if policies.is_empty() && default == Fallback::Allow {
            return Ok(ALLOW_ALL);
        }
        if let Some(number) = self.done.get(&policies) {
            return Ok(*number);
        }
        let entries = self.entries(&policies, default)?;
        let mut digest = Sha256::new();
        for (peer, entry) in &entries {
            digest.update(bytemuck::bytes_of(peer));
            digest.update(bytemuck::bytes_of(entry));
        }
        let set = self.numbers.set(&shortened(digest))?;
        for (peer, entry) in entries {
            self.image.policies.insert(PolicyKey { set, peer }, entry);
        }
        self.done.insert(policies, set);
        Ok(set)
    }

    /// The entries of a set by peer, ascending, the wildcard first.
    fn entries(
        &mut self,
        policies: &[u32],
        default: Fallback,
    ) -> Result<Vec<(u32, PolicyEntry)>, CompileError> {
        let (book, index) = (self.book, self.index);
        let mut isolating = policies
            .iter()
            .copied()
            .filter(|p| book.policies[*p as usize].isolates());
        let ground = Ground {
            isolation: isolating.clone().next(),
            enforced_isolation: isolating
                .find(|p| book.policies[*p as usize].mode == Mode::Enforce),
            default,
            mode: self.node_mode,
        };

        let mut for_everybody = Vec::new();
        let mut classes = vec![Class {
            parent: ROOT,
            rule: NO_RULE,
            next: ROOT,
            next_rule: NO_RULE,
        }];
        let mut touched = Vec::new();
        for policy in policies {
            let policy = &book.policies[*policy as usize];
            for rule in policy.first..policy.end {
                let Some(lists) = book.peer_lists(&book.rules[rule as usize], index) else {
                    for_everybody.push(rule);
                    continue;
                };
                for position in lists.flatten() {
                    let class = &mut self.class_of[*position as usize];
                    let new = refine(&mut classes, *class, rule);
                    if *class == ROOT {
                        touched.push(*position);
                    }
                    *class = new;
                }
            }
        }

        let wildcard = self.entry(&for_everybody, &ground)?;
        let mut entries = vec![(identity::ANY, wildcard)];
        let mut by_class: Vec<Option<PolicyEntry>> = vec![None; classes.len()];
        // By position, which is by identity number.
        touched.sort_unstable();
        for position in touched {
            let class = std::mem::replace(&mut self.class_of[position as usize], ROOT);
            let entry = if let Some(entry) = by_class[class as usize] {
                entry
            } else {
                let rules = rules_of(&classes, class, &for_everybody);
                *by_class[class as usize].insert(self.entry(&rules, &ground)?)
            };
            if entry != wildcard {
                entries.push((index.number(position), entry));
            }
        }
        Ok(entries)
    }

    /// What these (ascending) rules say of a peer, by protocol and port.
    fn entry(&mut self, rules: &[u32], ground: &Ground) -> Result<PolicyEntry, CompileError> {
        let book = self.book;
        let mut everywhere = Matching::default();
        let mut protocols = Vec::new();
        for number in rules {
            let rule = &book.rules[*number as usize];
            if rule.all_ports {
                everywhere.add(*number, rule.tier, rule.deny, rule.enforced);
            } else {
                protocols.extend(rule.ranges.iter().map(|(protocol, ..)| *protocol));
            }
        }
        let default = everywhere.decide(ground);
        protocols.sort_unstable();
        protocols.dedup();
        let mut differing = Vec::new();
        for protocol in protocols {
            for (first, last, outcome) in self.by_port(rules, protocol, &everywhere, ground) {
                if outcome != default {
                    differing.push((protocol, first, last, outcome));
                }
            }
        }
        self.table(&differing, default)
    }

    /// Disjoint ranges that cover every port of a protocol, ascending, each with its outcome.
    fn by_port(
        &self,
        rules: &[u32],
        protocol: u8,
        everywhere: &Matching,
        ground: &Ground,
    ) -> Vec<(u16, u16, Outcome)> {
        // (port, whether the rule begins there, rule)
        let mut edges: Vec<(u32, bool, u32)> = Vec::new();
        for number in rules {
            let rule = &self.book.rules[*number as usize];
            if rule.all_ports {
                continue;
            }
            for (_, first, last) in rule.ranges.iter().filter(|(p, ..)| *p == protocol) {
                edges.push((u32::from(*first), true, *number));
                edges.push((u32::from(*last) + 1, false, *number));
            }
        }
        edges.sort_unstable();
        let mut matching = everywhere.clone();
        let mut ranges: Vec<(u16, u16, Outcome)> = Vec::new();
        let mut edges = edges.into_iter().peekable();
        let mut start = 0_u32;
        while start < 1 << 16 {
            while let Some((_, begins, number)) = edges.next_if(|(port, ..)| *port == start) {
                let rule = &self.book.rules[number as usize];
                if begins {
                    matching.add(number, rule.tier, rule.deny, rule.enforced);
                } else {
                    matching.remove(number, rule.tier);
                }
            }
            let end = edges.peek().map_or(1 << 16, |(port, ..)| *port);
            let outcome = matching.decide(ground);
            let last = u16::try_from(end - 1).unwrap_or(u16::MAX);
            match ranges.last_mut() {
                Some(previous) if previous.2 == outcome => previous.1 = last,
                _ => {
                    let first = u16::try_from(start).unwrap_or(u16::MAX);
                    ranges.push((first, last, outcome));
                }
            }
            start = end;
        }
        ranges
    }

    /// Writes a port table and the entry that points to it.
    fn table(
        &mut self,
        differing: &[(u8, u16, u16, Outcome)],
        default: Outcome,
    ) -> Result<PolicyEntry, CompileError> {
        let decision = self.decision(default)?;
        let mut lengths = 0;
        let mut content = Vec::new();
        let mut digest = Sha256::new();
        for (protocol, first, last, outcome) in differing {
            let decision = self.decision(*outcome)?;
            for (length, port) in ranges::prefixes(*first, *last) {
                let key = PortKey::covering(0, *protocol, port, length);
                lengths |= 1 << length;
                digest.update(bytemuck::bytes_of(&key));
                digest.update(bytemuck::bytes_of(&decision));
                content.push((key, decision));
            }
        }
        let table = if content.is_empty() {
            0
        } else {
            self.numbers.table(&shortened(digest))?
        };
        for (key, decision) in content {
            self.image.ports.insert(PortKey { table, ..key }, decision);
        }
        Ok(PolicyEntry {
            decision,
            table,
            lengths,
        })
    }

    /// Numbers the cause of an outcome.
    fn decision(&mut self, (action, cause): Outcome) -> Result<Decision, CompileError> {
        let (reason, rule) = match cause {
            Cause::Rule(rule) => (Reason::Rule, self.rule_number(rule)?),
            Cause::Isolation(policy) => (Reason::Isolation, self.isolation_number(policy)?),
            Cause::Default => (Reason::NodeDefault, self.default_number()?),
        };
        Ok(Decision::new(action, reason, rule))
    }

    fn rule_number(&mut self, index: u32) -> Result<u32, CompileError> {
        let given = self.rule_numbers[index as usize];
        if given != 0 {
            return Ok(given);
        }
        let book_rule = &self.book.rules[index as usize];
        let policy = &self.book.policies[book_rule.policy as usize];
        let document = policy.policy;
        let rules = document.rules[self.book.direction as usize].as_deref();
        let rules = rules.unwrap_or_default();
        let rule = &rules[book_rule.place];
        let key = RuleKey {
            namespace: document.namespace.clone(),
            policy: document.name.clone(),
            rule: RuleName::Rule(rule.name.clone(), book_rule.namesakes),
            direction: Some(self.book.direction.into()),
        };
        let info = || RuleInfo {
            namespace: document.namespace.clone(),
            policy: document.name.clone(),
            rule: rule.name.clone(),
            tier: Some(document.tier),
            direction: Some(self.book.direction.into()),
            action: rule.action,
            mode: policy.mode,
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
        let policy = &self.book.policies[index as usize];
        let document = policy.policy;
        let key = RuleKey {
            namespace: document.namespace.clone(),
            policy: document.name.clone(),
            rule: RuleName::Isolation,
            direction: Some(self.book.direction.into()),
        };
        let info = || RuleInfo {
            namespace: document.namespace.clone(),
            policy: document.name.clone(),
            rule: "isolation".to_owned(),
            tier: Some(document.tier),
            direction: Some(self.book.direction.into()),
            action: RuleAction::Deny,
            mode: policy.mode,
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
                namespace: None,
                policy: String::new(),
                rule: RuleName::Default,
                direction: Some(direction.into()),
            };
            let info = || RuleInfo {
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
                origin: self.node.origin.clone(),
            };
            self.default_number = self.numbers.rule(key, info)?;
        }
        Ok(self.default_number)
    }
}

/// The class that `class` becomes when `rule` matches too.
fn refine(classes: &mut Vec<Class>, class: u32, rule: u32) -> u32 {
    let Class {
        rule: last,
        next,
        next_rule,
        ..
    } = classes[class as usize];
    if last == rule {
        // Another peer of the same rule matched already.
        return class;
    }
    if next_rule == rule {
        return next;
    }
    let new = count(classes.len());
    classes[class as usize].next = new;
    classes[class as usize].next_rule = rule;
    classes.push(Class {
        parent: class,
        rule,
        next: ROOT,
        next_rule: NO_RULE,
    });
    new
}

/// The rules that match a class of peers, ascending.
fn rules_of(classes: &[Class], mut class: u32, for_everybody: &[u32]) -> Vec<u32> {
    let mut rules = for_everybody.to_vec();
    while class != ROOT {
        let Class { parent, rule, .. } = classes[class as usize];
        rules.push(rule);
        class = parent;
    }
    rules.sort_unstable();
    rules
}

fn shortened(digest: Sha256) -> ContentDigest {
    let mut short = ContentDigest::default();
    for (to, from) in short.iter_mut().zip(digest.finalize()) {
        *to = from;
    }
    short
}

/// What blocks sources at the uplinks.
pub(super) fn blocked(
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
            namespace: None,
            policy: String::new(),
            rule: RuleName::Blocked(prefix.to_string()),
            direction: None,
        };
        let info = || RuleInfo {
            namespace: None,
            policy: node.name.clone(),
            rule: format!("blocked[{place}]"),
            tier: None,
            direction: None,
            action: RuleAction::Deny,
            mode: node_mode,
            origin: Some(blocked.origin.clone()),
        };
        let number = numbers.rule(key, info)?;
        let audit = node_mode == Mode::Audit;
        image.blocked.insert(prefix, (number, audit));
    }
    Ok(())
}
