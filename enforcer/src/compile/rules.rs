//! The rules of one direction, flat and in the order in which they are named: by tier, then
//! namespace, policy and place in the document.

use std::{collections::HashMap, sync::Arc};

use enforcer_common::Direction;

use super::{peers::PeerIndex, ranges};
use crate::policy::model::{Mode, Peer, Policy, ResolvedPolicy, Rule, RuleAction, Subject, Tier};

/// Every policy that says something in one direction.
pub(super) struct Rulebook {
    pub direction: Direction,
    /// In the order of (tier, namespace, name).
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
    /// The peer number of its selector; `None`: the host.
    subject: Option<u32>,
    pub rules: Vec<BookRule>,
    /// Whether some rule is about every peer.
    pub for_everybody: bool,
}

impl PolicyRules {
    pub fn isolates(&self) -> bool {
        self.policy.tier == Tier::Application
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
    pub tier: Tier,
    pub deny: bool,
    /// Whether its denials are carried out.
    pub enforced: bool,
    /// `None`: every peer. Otherwise their numbers.
    pub peers: Option<Vec<u32>>,
    /// Every protocol and port. Then `ranges` does not count.
    pub all_ports: bool,
    /// By protocol, disjoint and not touching.
    pub ranges: Vec<(u8, u16, u16)>,
}

/// What the policies of the last book say, by where they are in memory.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    known: HashMap<usize, Arc<PolicyRules>>,
    last_id: u64,
}

impl Rulebook {
    pub fn new(
        policy: &ResolvedPolicy,
        node_mode: Mode,
        direction: Direction,
        index: &mut PeerIndex,
        shelf: &mut Shelf,
    ) -> Self {
        let mut sorted: Vec<_> = policy.policies.iter().collect();
        sorted.sort_by_key(|p| (p.tier, &p.namespace, &p.name));
        let mut book = Self {
            direction,
            policies: Vec::new(),
            rules: Vec::new(),
        };
        let mut before = std::mem::take(&mut shelf.known);
        for policy in sorted {
            let Some(rules) = &policy.rules[direction as usize] else {
                continue;
            };
            // A policy that neither isolates nor has rules says nothing.
            if policy.tier != Tier::Application && rules.is_empty() {
                continue;
            }
            let mode = policy.mode.unwrap_or(node_mode);
            // While it is known here, nothing else can be where it is.
            let address = Arc::as_ptr(policy).addr();
            let known = before.remove(&address).filter(|known| known.mode == mode);
            let says = known.unwrap_or_else(|| {
                shelf.last_id += 1;
                Arc::new(PolicyRules::new(policy, rules, mode, shelf.last_id, index))
            });
            shelf.known.insert(address, says.clone());
            let (first, number) = (count(book.rules.len()), count(book.policies.len()));
            let places = 0..count(says.rules.len());
            book.rules.extend(places.map(|place| (number, place)));
            book.policies.push(BookPolicy { says, first });
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
            if let Some(subject) = policy.says.subject {
                for position in index.matching(subject) {
                    lists[*position as usize].push(number);
                }
            }
        }
        lists
    }
}

impl PolicyRules {
    fn new(
        policy: &Arc<Policy>,
        rules: &[Rule],
        mode: Mode,
        id: u64,
        index: &mut PeerIndex,
    ) -> Self {
        let mut names: HashMap<&str, u32> = HashMap::new();
        let mut book_rules = Vec::with_capacity(rules.len());
        for (place, rule) in rules.iter().enumerate() {
            let same_name = names.entry(&rule.name).or_default();
            let namesakes = *same_name;
            *same_name += 1;
            let any = rule.peers.contains(&Peer::Any);
            let peers = rule.peers.iter().map(|peer| index.number_of(peer));
            book_rules.push(BookRule {
                place,
                namesakes,
                tier: policy.tier,
                deny: rule.action == RuleAction::Deny,
                enforced: mode == Mode::Enforce,
                peers: (!any).then(|| peers.collect()),
                all_ports: rule.ports.iter().any(|p| p.protocol.is_none()),
                ranges: port_ranges(rule),
            });
        }
        let subject = match &policy.subject {
            Subject::Host => None,
            Subject::Workloads(selector) => {
                Some(index.number_of(&Peer::Workloads(selector.clone())))
            }
        };
        Self {
            policy: policy.clone(),
            mode,
            id,
            subject,
            for_everybody: book_rules.iter().any(|rule| rule.peers.is_none()),
            rules: book_rules,
        }
    }
}

/// By protocol, disjoint and not touching.
fn port_ranges(rule: &Rule) -> Vec<(u8, u16, u16)> {
    let mut by_protocol: Vec<(u8, Vec<(u16, u16)>)> = Vec::new();
    for ports in &rule.ports {
        let Some(protocol) = ports.protocol else {
            continue;
        };
        let range = (ports.first, ports.last);
        match by_protocol.iter_mut().find(|(p, _)| *p == protocol) {
            Some((_, ranges)) => ranges.push(range),
            None => by_protocol.push((protocol, vec![range])),
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
