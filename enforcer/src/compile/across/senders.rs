//! Who may be behind what another host receives, and which rules are about them.

use std::collections::{BTreeSet, HashMap};

use crate::compile::{
    image::Identity,
    peers::PeerIndex,
    rules::{Rulebook, count},
};

/// Senders, each as policy sees it at the other end; by number. They only grow, as the peers
/// that they are held against do.
#[derive(Debug, Default)]
pub(super) struct Senders {
    all: Vec<Sender>,
    numbers: HashMap<Identity, u32>,
    /// By the peer of a rule that matches them.
    by_peer: HashMap<u32, Vec<u32>>,
    /// How many peers there were.
    peers: usize,
    /// By peer, how many senders it matches that somebody holds.
    held: HashMap<u32, usize>,
    /// Peers that matched nobody who is held and do now, or the other way round.
    turned: BTreeSet<u32>,
}

#[derive(Debug)]
struct Sender {
    identity: Identity,
    /// Those that match it.
    peers: Vec<u32>,
    holders: usize,
}

impl Senders {
    /// Whoever is there is held against the peers that came since.
    pub fn catch_up(&mut self, index: &PeerIndex) {
        for peer in self.peers..index.peers() {
            let peer = count(peer);
            let mut matching = Vec::new();
            for (number, sender) in (0_u32..).zip(&mut self.all) {
                if index.is_peer(peer, &sender.identity) {
                    matching.push(number);
                    sender.peers.push(peer);
                    if sender.holders > 0 {
                        *self.held.entry(peer).or_default() += 1;
                    }
                }
            }
            if !matching.is_empty() {
                self.by_peer.insert(peer, matching);
            }
        }
        self.peers = index.peers();
    }

    /// The number of a sender, given if need be. No peers came since [`Senders::catch_up`].
    pub fn number(&mut self, identity: Identity, index: &PeerIndex) -> u32 {
        if let Some(number) = self.numbers.get(&identity) {
            return *number;
        }
        let number = count(self.all.len());
        let peers: BTreeSet<u32> = index.matched_by_identity(&identity).collect();
        for peer in &peers {
            self.by_peer.entry(*peer).or_default().push(number);
        }
        self.all.push(Sender {
            identity: identity.clone(),
            peers: peers.into_iter().collect(),
            holders: 0,
        });
        self.numbers.insert(identity, number);
        number
    }

    /// Somebody is known to others as this sender.
    pub fn hold(&mut self, number: u32) {
        let sender = &mut self.all[number as usize];
        sender.holders += 1;
        if sender.holders == 1 {
            for peer in &sender.peers {
                let times = self.held.entry(*peer).or_default();
                *times += 1;
                if *times == 1 {
                    self.turned.insert(*peer);
                }
            }
        }
    }

    /// Takes back [`Senders::hold`].
    pub fn release(&mut self, number: u32) {
        let sender = &mut self.all[number as usize];
        sender.holders -= 1;
        if sender.holders == 0 {
            for peer in &sender.peers {
                let times = self.held.entry(*peer).or_default();
                *times = times.saturating_sub(1);
                if *times == 0 {
                    self.held.remove(peer);
                    self.turned.insert(*peer);
                }
            }
        }
    }

    /// The peers that began or ceased to match somebody who is held since the last call.
    pub fn turned(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.turned)
    }

    /// Whether one of these peers matches somebody who is held.
    pub fn are_among(&self, mut peers: impl Iterator<Item = u32>) -> bool {
        peers.any(|peer| self.held.contains_key(&peer))
    }
}

/// Which rules of a book are about some sender in particular: by sender, ascending.
pub(super) struct Matched {
    by_sender: HashMap<u32, Vec<u32>>,
    for_everybody: Vec<u32>,
}

impl Matched {
    /// Of the rules of a book.
    pub fn of(book: &Rulebook<'_>, senders: &Senders) -> Self {
        let mut matched = Self {
            by_sender: HashMap::new(),
            for_everybody: Vec::new(),
        };
        for (number, rule) in book.rules() {
            let Some(peers) = &rule.peers else {
                matched.for_everybody.push(number);
                continue;
            };
            for sender in peers
                .iter()
                .filter_map(|peer| senders.by_peer.get(peer))
                .flatten()
            {
                let rules = matched.by_sender.entry(*sender).or_default();
                // Another peer of the rule may have matched already.
                if rules.last() != Some(&number) {
                    rules.push(number);
                }
            }
        }
        matched
    }

    /// Every sender that some rule is about.
    pub fn senders(&self) -> impl Iterator<Item = u32> {
        self.by_sender.keys().copied()
    }

    /// The rules that are about a sender, and those for everybody, ascending.
    pub fn rules(&self, sender: u32) -> Vec<u32> {
        let own = self.by_sender.get(&sender).into_iter().flatten();
        let mut rules: Vec<u32> = own.chain(&self.for_everybody).copied().collect();
        rules.sort_unstable();
        rules
    }

    /// The rules for everybody, ascending.
    pub fn for_everybody(&self) -> &[u32] {
        &self.for_everybody
    }
}
