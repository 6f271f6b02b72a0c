//! The rules of one direction, flat and in the order in which they are named: by tier, then
//! namespace, policy and place in the document.

use std::{cell::OnceCell, collections::HashMap};

use enforcer_common::Direction;

use super::{peers::PeerIndex, ranges};
use crate::policy::model::{Mode, Peer, Policy, ResolvedPolicy, RuleAction, Subject, Tier};

/// Every policy that says something in one direction.
pub(super) struct Rulebook<'a> {
    pub direction: Direction,
    /// In the order of (tier, namespace, name).
    pub policies: Vec<BookPolicy<'a>>,
    /// In the order of (policy, place in it).
    pub rules: Vec<BookRule>,
    /// Distinct peers, and the positions that each matches, once somebody asked.
    peers: Vec<(&'a Peer, OnceCell<Vec<u32>>)>,
}

pub(super) struct BookPolicy<'a> {
    pub policy: &'a Policy,
    pub mode: Mode,
    /// Where its rules are in [`Rulebook::rules`].
    pub first: u32,
    pub end: u32,
}

impl BookPolicy<'_> {
    pub fn isolates(&self) -> bool {
        self.policy.tier == Tier::Application
    }
}

pub(super) struct BookRule {
    /// Index into [`Rulebook::policies`].
    pub policy: u32,
    /// Place in the document.
    pub place: usize,
    /// How many rules before it in the document have its name.
    pub namesakes: u32,
    pub tier: Tier,
    pub deny: bool,
    /// Whether its denials are carried out.
    pub enforced: bool,
    /// `None`: every peer. Otherwise indices into [`Rulebook::peers`].
    peers: Option<Vec<u32>>,
    /// Every protocol and port. Then `ranges` does not count.
    pub all_ports: bool,
    /// By protocol, disjoint and not touching.
    pub ranges: Vec<(u8, u16, u16)>,
}

impl<'a> Rulebook<'a> {
    pub fn new(policy: &'a ResolvedPolicy, node_mode: Mode, direction: Direction) -> Self {
        let mut sorted: Vec<_> = policy.policies.iter().collect();
        sorted.sort_by_key(|p| (p.tier, &p.namespace, &p.name));
        let mut book = Self {
            direction,
            policies: Vec::new(),
            rules: Vec::new(),
            peers: Vec::new(),
        };
        let mut peer_ids: HashMap<&Peer, u32> = HashMap::new();
        for policy in sorted {
            let Some(rules) = &policy.rules[direction as usize] else {
                continue;
            };
            let index = count(book.policies.len());
            let mode = policy.mode.unwrap_or(node_mode);
            let first = count(book.rules.len());
            let mut names: HashMap<&str, u32> = HashMap::new();
            for (place, rule) in rules.iter().enumerate() {
                let same_name = names.entry(&rule.name).or_default();
                let namesakes = *same_name;
                *same_name += 1;
                let any = rule.peers.contains(&Peer::Any);
                let peers = rule.peers.iter().map(|peer| {
                    *peer_ids.entry(peer).or_insert_with(|| {
                        book.peers.push((peer, OnceCell::new()));
                        count(book.peers.len()) - 1
                    })
                });
                let peers = (!any).then(|| peers.collect());
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
                book.rules.push(BookRule {
                    policy: index,
                    place,
                    namesakes,
                    tier: policy.tier,
                    deny: rule.action == RuleAction::Deny,
                    enforced: mode == Mode::Enforce,
                    peers,
                    all_ports: rule.ports.iter().any(|p| p.protocol.is_none()),
                    ranges: ranges.collect(),
                });
            }
            // A policy that neither isolates nor has rules says nothing.
            if policy.tier == Tier::Application || !rules.is_empty() {
                book.policies.push(BookPolicy {
                    policy,
                    mode,
                    first,
                    end: count(book.rules.len()),
                });
            }
        }
        book
    }

    /// The policies that select the host endpoint, ascending.
    pub fn about_host(&self) -> Vec<u32> {
        (0_u32..)
            .zip(&self.policies)
            .filter(|(_, p)| p.policy.subject == Subject::Host)
            .map(|(index, _)| index)
            .collect()
    }

    /// By position: the policies that select it, ascending.
    pub fn about_workloads(&self, index: &PeerIndex<'_>) -> Vec<Vec<u32>> {
        let mut lists = vec![Vec::new(); index.len()];
        for (number, policy) in (0_u32..).zip(&self.policies) {
            if let Subject::Workloads(selector) = &policy.policy.subject {
                for position in index.select(selector) {
                    lists[position as usize].push(number);
                }
            }
        }
        lists
    }

    /// For a rule that does not match every peer, the lists of positions that it does.
    pub fn peer_lists<'s>(
        &'s self,
        rule: &'s BookRule,
        index: &'s PeerIndex<'_>,
    ) -> Option<impl Iterator<Item = &'s [u32]>> {
        let peers = rule.peers.as_ref()?;
        Some(peers.iter().map(|peer| {
            let (peer, matching) = &self.peers[*peer as usize];
            matching.get_or_init(|| index.matching(peer)).as_slice()
        }))
    }
}

/// A count as the 32-bit number that tables hold. More than 2^32 of anything does not fit into
/// memory.
pub(super) fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
