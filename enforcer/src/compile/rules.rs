//! The rules that are about one workload in one direction, flat and in the order in which they
//! are asked and named: by tier, priority, namespace, policy and place in the document.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use enforcer_common::Direction;

use super::{peers::PeerIndex, ranges, tiers::Weight};
use crate::policy::model::{
    Mode, Moment, NamedPort, NamedPortMatch, Peer, Policy, PortMatch, Rule, Subject, Tier,
};

/// The rules of the policies that select some workload, or the host, in one direction.
#[derive(Debug)]
pub(super) struct Rulebook<'a> {
    /// In the order of [`Policy::rank`].
    policies: Vec<BookPolicy<'a>>,
}

/// A policy in the book.
#[derive(Debug)]
struct BookPolicy<'a> {
    says: &'a PolicyRules,
    /// Number of its first rule.
    first: u32,
}

/// What a policy says in one direction of workloads with certain ports, ready for a book. It
/// stays the same while the policy does.
#[derive(Debug)]
pub(super) struct PolicyRules {
    pub policy: Arc<Policy>,
    pub mode: Mode,
    /// Tells it from all others that there ever were.
    pub id: u64,
    /// The moment that it was made for.
    pub as_of: Moment,
    pub rules: Vec<BookRule>,
    /// Whether some rule is about every peer.
    pub for_everybody: bool,
}

impl PolicyRules {
    /// Whether it isolates; with `enforced_only`, whether its isolation also denies.
    pub fn isolates(&self, enforced_only: bool) -> bool {
        self.policy.tier == Tier::Application && (!enforced_only || self.mode == Mode::Enforce)
    }

    /// The numbers of its rules' peers, with repetitions.
    pub fn peers(&self) -> impl Iterator<Item = u32> {
        let peers = self.rules.iter().filter_map(|rule| rule.peers.as_deref());
        peers.flatten().copied()
    }
}

#[derive(Debug)]
pub(super) struct BookRule {
    /// Place in the document.
    pub place: usize,
    /// How many rules before it in the document have its name.
    pub namesakes: u32,
    /// The first of [`PolicyRules::rules`] that is the same rule. A rule of egress that names
    /// ports is there once for its numbers, and once for each port that some peer has under such
    /// a name.
    pub head: u32,
    pub weight: Weight,
    /// Report what it allows.
    pub log: bool,
    /// `None`: every peer. Otherwise their numbers.
    pub peers: Option<Vec<u32>>,
    /// Every protocol and port. Then `ranges` does not count.
    pub all_ports: bool,
    /// By protocol, disjoint and not touching.
    pub ranges: Vec<(u8, u16, u16)>,
}

impl<'a> Rulebook<'a> {
    /// The book of these policies, which are in the order of [`Policy::rank`].
    pub fn new(policies: &'a [Arc<PolicyRules>]) -> Self {
        let mut first = 0;
        let policies = policies.iter().map(|says| {
            let policy = BookPolicy { says, first };
            first += count(says.rules.len());
            policy
        });
        Self {
            policies: policies.collect(),
        }
    }

    /// A policy by its place in the order.
    pub fn policy(&self, place: u32) -> &'a PolicyRules {
        self.policies[place as usize].says
    }

    /// The policies, in order.
    pub fn policies(&self) -> impl Iterator<Item = &'a PolicyRules> {
        self.policies.iter().map(|policy| policy.says)
    }

    /// Every rule with its number, in order.
    pub fn rules(&self) -> impl Iterator<Item = (u32, &'a BookRule)> {
        let policies = self.policies.iter();
        policies.flat_map(|policy| (policy.first..).zip(&policy.says.rules))
    }

    /// A rule by number, its policy, and its place in that.
    pub fn rule(&self, number: u32) -> (&'a PolicyRules, usize) {
        let policy = self.policy_of(number);
        (policy.says, (number - policy.first) as usize)
    }

    /// What a rule says.
    pub fn says(&self, number: u32) -> &'a BookRule {
        let (policy, place) = self.rule(number);
        &policy.rules[place]
    }

    /// The first number of the rule that has this number.
    pub fn head(&self, number: u32) -> u32 {
        self.policy_of(number).first + self.says(number).head
    }

    fn policy_of(&self, rule: u32) -> &BookPolicy<'a> {
        // One without rules has the number of the next one.
        let after = self.policies.partition_point(|policy| policy.first <= rule);
        &self.policies[after.saturating_sub(1)]
    }
}

impl PolicyRules {
    /// What a policy says at a moment. `subject_ports`: where rules of ingress name ports, the
    /// ports that its workloads have under these names.
    pub fn new(
        policy: &Arc<Policy>,
        (id, mode, now): (u64, Mode, Moment),
        subject_ports: &[NamedPort],
        direction: Direction,
        index: &mut PeerIndex,
    ) -> Self {
        let rules = rules_of(policy, direction);
        let mut names: HashMap<&str, u32> = HashMap::new();
        let mut book_rules: Vec<BookRule> = Vec::with_capacity(rules.len());
        for (place, rule) in rules.iter().enumerate() {
            let same_name = names.entry(&rule.name).or_default();
            let namesakes = *same_name;
            *same_name += 1;
            if !rule.validity.holds(now) {
                continue;
            }
            let head = count(book_rules.len());
            let weight = Weight {
                tier: policy.tier,
                ordered: policy.priority.is_some(),
                action: rule.action,
                enforced: mode == Mode::Enforce,
            };
            let everything =
                |ports: &PortMatch| matches!(ports, PortMatch::Range(r) if r.protocol.is_none());
            let all_ports = rule.ports.iter().any(everything);
            let mut add = |peers, ranges| {
                book_rules.push(BookRule {
                    place,
                    namesakes,
                    head,
                    weight,
                    log: rule.log,
                    peers,
                    all_ports,
                    ranges,
                });
            };
            let mut by_name = BTreeSet::new();
            if !all_ports {
                for wanted in named_ports(rule) {
                    by_name.extend(index.named_ports(wanted).cloned());
                }
            }
            let of_subject = subject_ports.iter();
            let of_subject = of_subject.filter(|port| by_name.contains(*port));
            let ranges = port_ranges(rule, of_subject);
            if all_ports || !ranges.is_empty() {
                let any = rule.peers.iter().any(Peer::is_any);
                let peers = rule.peers.iter();
                let peers = peers.flat_map(|peer| index.numbers_of(peer, None));
                add((!any).then(|| peers.collect()), ranges);
            }
            if direction == Direction::Egress {
                for port in &by_name {
                    let peers = rule.peers.iter();
                    let peers = peers.flat_map(|peer| index.numbers_of(peer, Some(port)));
                    add(
                        Some(peers.collect()),
                        vec![(port.protocol, port.port, port.port)],
                    );
                }
            }
        }
        Self {
            policy: policy.clone(),
            mode,
            id,
            as_of: now,
            for_everybody: book_rules.iter().any(|rule| rule.peers.is_none()),
            rules: book_rules,
        }
    }
}

/// The rules of a policy in one direction.
fn rules_of(policy: &Policy, direction: Direction) -> &[Rule] {
    policy.rules[direction as usize]
        .as_deref()
        .unwrap_or_default()
}

/// Whether a policy says something in one direction at a moment: it isolates or has rules.
pub(super) fn says_something(policy: &Policy, direction: Direction, now: Moment) -> bool {
    policy.rules[direction as usize].is_some()
        && policy.validity.holds(now)
        && (policy.tier == Tier::Application
            || rules_of(policy, direction)
                .iter()
                .any(|rule| rule.validity.holds(now)))
}

/// Whether rules of a policy name ports in one direction.
pub(super) fn names_ports(policy: &Policy, direction: Direction) -> bool {
    rules_of(policy, direction)
        .iter()
        .any(|rule| named_ports(rule).next().is_some())
}

/// The ports that the workload at a position has under the names that a policy's rules of
/// ingress ask for.
pub(super) fn ports_asked(policy: &Policy, index: &PeerIndex, position: u32) -> Vec<NamedPort> {
    let asked = rules_of(policy, Direction::Ingress)
        .iter()
        .flat_map(named_ports);
    let asked: Vec<&NamedPortMatch> = asked.collect();
    let ports = index.ports_at(position).into_iter().flatten();
    let relevant = ports.filter(|port| asked.iter().any(|wanted| wanted.matches(port)));
    relevant.cloned().collect()
}

/// The peer numbers of a policy's selectors; `None`: the host.
pub(super) fn subject_of(policy: &Policy, index: &mut PeerIndex) -> Option<Arc<[u32]>> {
    match &policy.subject {
        Subject::Host => None,
        Subject::Workloads(selectors) => {
            let peers = selectors.iter().map(|s| Peer::Workloads(s.clone()));
            let numbers = peers.flat_map(|peer| index.numbers_of(&peer, None));
            Some(numbers.collect())
        }
    }
}

fn named_ports(rule: &Rule) -> impl Iterator<Item = &NamedPortMatch> {
    rule.ports.iter().filter_map(|ports| match ports {
        PortMatch::Named(wanted) => Some(wanted),
        PortMatch::Range(_) => None,
    })
}

/// By protocol, disjoint and not touching: what a rule says in numbers, and these ports.
fn port_ranges<'a>(rule: &Rule, named: impl Iterator<Item = &'a NamedPort>) -> Vec<(u8, u16, u16)> {
    let numbers = rule.ports.iter().filter_map(|ports| match ports {
        PortMatch::Range(range) => Some((range.protocol?, range.first, range.last)),
        PortMatch::Named(_) => None,
    });
    let named = named.map(|port| (port.protocol, port.port, port.port));
    let mut by_protocol: Vec<(u8, Vec<(u16, u16)>)> = Vec::new();
    for (protocol, first, last) in numbers.chain(named) {
        match by_protocol.iter_mut().find(|(p, _)| *p == protocol) {
            Some((_, ranges)) => ranges.push((first, last)),
            None => by_protocol.push((protocol, vec![(first, last)])),
        }
    }
    let ranges = by_protocol.into_iter().flat_map(|(protocol, ranges)| {
        let ranges = ranges::merged(ranges).into_iter();
        ranges.map(move |(first, last)| (protocol, first, last))
    });
    ranges.collect()
}

/// A count as the 32-bit number that tables hold. More than 2^32 of anything does not fit into
/// memory.
pub(super) fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
