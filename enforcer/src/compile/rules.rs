//! The rules of one direction, flat and in the order in which they are asked and named: by tier,
//! priority, namespace, policy and place in the document.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use enforcer_common::Direction;

use super::{Inputs, peers::PeerIndex, ranges, tiers::Weight};
use crate::policy::model::{
    Mode, Moment, NamedPort, NamedPortMatch, Peer, Policy, PortMatch, Rule, Subject, Tier,
};

/// Every policy that says something in one direction.
pub(super) struct Rulebook {
    pub direction: Direction,
    /// In the order of [`Policy::rank`]. Where rules of ingress name ports, a policy is there
    /// once for each list of ports that workloads have under these names.
    pub policies: Vec<BookPolicy>,
    /// Index into `policies`, and place in it: in the order of both.
    rules: Vec<(u32, u32)>,
}

/// A policy in the book.
pub(super) struct BookPolicy {
    pub says: Arc<PolicyRules>,
    /// Number of its first rule.
    pub first: u32,
}

/// What a policy says in one direction, ready for the book. It stays the same while the policy
/// and its mode do.
#[derive(Debug)]
pub(super) struct PolicyRules {
    pub policy: Arc<Policy>,
    pub mode: Mode,
    /// Tells it from all others that there ever were.
    pub id: u64,
    /// The moment that it was made for.
    as_of: Moment,
    /// The peer numbers of its selectors; `None`: the host.
    subject: Option<Arc<[u32]>>,
    /// Where rules of ingress name ports: the ports that its workloads have under these names.
    subject_ports: Option<Vec<NamedPort>>,
    /// Where rules of egress name ports: [`PeerIndex::ports_known`] when it was made.
    ports_known: Option<usize>,
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

/// What the policies of the last book say, by where they are in memory and by
/// [`PolicyRules::subject_ports`].
#[derive(Debug, Default)]
pub(super) struct Shelf {
    /// More than one where a policy has rules that begin or end.
    known: HashMap<ShelfKey, Vec<Arc<PolicyRules>>>,
    /// Those of the compilation before, while one is under way.
    before: HashMap<ShelfKey, Vec<Arc<PolicyRules>>>,
    last_id: u64,
}

type ShelfKey = (usize, Option<Vec<NamedPort>>);

impl Shelf {
    /// A compilation begins: what it does not take again is forgotten at its end.
    pub fn open(&mut self) {
        self.before = std::mem::take(&mut self.known);
    }

    /// A compilation ends.
    pub fn close(&mut self) {
        self.before = HashMap::new();
    }

    fn take(
        &mut self,
        key: &ShelfKey,
        fits: impl Fn(&PolicyRules) -> bool,
    ) -> Option<Arc<PolicyRules>> {
        let find = |shelf: &HashMap<ShelfKey, Vec<Arc<PolicyRules>>>| {
            let known = shelf.get(key)?.iter();
            known.into_iter().find(|known| fits(known)).cloned()
        };
        if let Some(known) = find(&self.known) {
            return Some(known);
        }
        let known = find(&self.before)?;
        let kept = self.known.entry(key.clone()).or_default();
        kept.push(known.clone());
        Some(known)
    }
}

impl Rulebook {
    /// The book of a moment: that of the inputs, or one ahead.
    pub fn new(
        inputs: &Inputs<'_>,
        now: Moment,
        direction: Direction,
        index: &mut PeerIndex,
        shelf: &mut Shelf,
    ) -> Self {
        let holding = inputs.policy.policies.iter();
        let mut sorted: Vec<_> = holding.filter(|p| p.validity.holds(now)).collect();
        sorted.sort_by(|a, b| a.rank().cmp(&b.rank()));
        let mut book = Self {
            direction,
            policies: Vec::new(),
            rules: Vec::new(),
        };
        for policy in sorted {
            let Some(rules) = &policy.rules[direction as usize] else {
                continue;
            };
            // A policy that neither isolates nor has rules says nothing.
            let mut holding = rules.iter().filter(|rule| rule.validity.holds(now));
            if policy.tier != Tier::Application && holding.next().is_none() {
                continue;
            }
            let mode = policy.mode.unwrap_or(inputs.mode);
            for subject_ports in variants(policy, rules, direction, index) {
                // While it is known here, nothing else can be where it is.
                let key = (Arc::as_ptr(policy).addr(), subject_ports);
                let known = shelf.take(&key, |known| {
                    known.mode == mode
                        && known.ports_known.is_none_or(|k| k == index.ports_known())
                        && policy.means_the_same(known.as_of, now)
                });
                let says = known.unwrap_or_else(|| {
                    shelf.last_id += 1;
                    let ports = key.1.clone();
                    let fresh = PolicyRules::new(policy, rules, mode, now, ports, direction, index);
                    let fresh = Arc::new(PolicyRules {
                        id: shelf.last_id,
                        ..fresh
                    });
                    shelf.known.entry(key).or_default().push(fresh.clone());
                    fresh
                });
                let (first, number) = (count(book.rules.len()), count(book.policies.len()));
                let places = 0..count(says.rules.len());
                book.rules.extend(places.map(|place| (number, place)));
                book.policies.push(BookPolicy { says, first });
            }
        }
        book
    }

    /// A rule by number, and the index of its policy.
    pub fn rule(&self, number: u32) -> (u32, &BookRule) {
        let (policy, place) = self.rules[number as usize];
        let policies = &self.policies[policy as usize];
        (policy, &policies.says.rules[place as usize])
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// The policies that select the host endpoint, ascending.
    pub fn about_host(&self) -> Vec<u32> {
        (0_u32..)
            .zip(&self.policies)
            .filter(|(_, p)| p.says.subject.is_none())
            .map(|(index, _)| index)
            .collect()
    }

    /// By position: the policies that select it, ascending.
    pub fn about_workloads(&self, index: &PeerIndex) -> Vec<Vec<u32>> {
        let mut lists = vec![Vec::new(); index.len()];
        for (number, policy) in (0_u32..).zip(&self.policies) {
            for peer in policy.says.subject.iter().flat_map(|peers| peers.iter()) {
                for position in index.matching(*peer) {
                    let list = &mut lists[*position as usize];
                    // Another selector of the policy may have selected it already.
                    if list.last() != Some(&number) && policy.says.is_for(index, *position) {
                        list.push(number);
                    }
                }
            }
        }
        lists
    }

    /// The first number of the rule that has this number.
    pub fn head(&self, number: u32) -> u32 {
        let (policy, rule) = self.rule(number);
        self.policies[policy as usize].first + rule.head
    }
}

impl PolicyRules {
    fn new(
        policy: &Arc<Policy>,
        rules: &[Rule],
        mode: Mode,
        now: Moment,
        subject_ports: Option<Vec<NamedPort>>,
        direction: Direction,
        index: &mut PeerIndex,
    ) -> Self {
        let mut names: HashMap<&str, u32> = HashMap::new();
        let mut book_rules: Vec<BookRule> = Vec::with_capacity(rules.len());
        let mut asks_peers = false;
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
                    asks_peers |= direction == Direction::Egress;
                    by_name.extend(index.named_ports(wanted).cloned());
                }
            }
            let of_subject = subject_ports.iter().flatten();
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
            id: 0,
            as_of: now,
            subject: subject_of(policy, index),
            subject_ports,
            ports_known: asks_peers.then(|| index.ports_known()),
            for_everybody: book_rules.iter().any(|rule| rule.peers.is_none()),
            rules: book_rules,
        }
    }

    /// Whether the workload at a position has the ports that this is about.
    fn is_for(&self, index: &PeerIndex, position: u32) -> bool {
        let Some(own) = &self.subject_ports else {
            return true;
        };
        let rules = self.policy.rules[Direction::Ingress as usize].as_deref();
        relevant(index, position, &asked(rules.unwrap_or_default())) == *own
    }
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

/// The lists of ports for which a policy is to be in the book.
fn variants(
    policy: &Policy,
    rules: &[Rule],
    direction: Direction,
    index: &mut PeerIndex,
) -> Vec<Option<Vec<NamedPort>>> {
    let asked = asked(rules);
    if direction == Direction::Egress || asked.is_empty() {
        return vec![None];
    }
    let Some(subject) = subject_of(policy, index) else {
        return vec![Some(Vec::new())];
    };
    let mut variants: BTreeSet<Vec<NamedPort>> = BTreeSet::new();
    for peer in subject.iter() {
        for position in index.matching(*peer) {
            variants.insert(relevant(index, *position, &asked));
        }
    }
    variants.into_iter().map(Some).collect()
}

/// Of the named ports of the workload at a position, those that are asked for.
fn relevant(index: &PeerIndex, position: u32, asked: &[&NamedPortMatch]) -> Vec<NamedPort> {
    let ports = index.ports_at(position).into_iter().flatten();
    let relevant = ports.filter(|port| asked.iter().any(|wanted| wanted.matches(port)));
    relevant.cloned().collect()
}

/// The ports that rules name.
fn asked(rules: &[Rule]) -> Vec<&NamedPortMatch> {
    rules.iter().flat_map(named_ports).collect()
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
