//! Who may be behind what another host receives, and which rules are about them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::compile::{
    image::Identity,
    peers::PeerIndex,
    rules::{Rulebook, count},
};

/// Senders, each as policy sees it at the other end; by number.
#[derive(Debug, Default)]
pub(in crate::compile) struct Senders {
    identities: Vec<Identity>,
    numbers: HashMap<Identity, u32>,
    /// By the peer of a rule that matches them.
    by_peer: HashMap<u32, Vec<u32>>,
    /// How many peers there were.
    peers: usize,
}

impl Senders {
    /// Whoever is there is held against the peers that came since.
    pub fn catch_up(&mut self, index: &PeerIndex) {
        for peer in self.peers..index.peers() {
            let peer = count(peer);
            let all = (0_u32..).zip(&self.identities);
            let matching = all.filter(|(_, identity)| index.is_peer(peer, identity));
            let matching: Vec<u32> = matching.map(|(number, _)| number).collect();
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
        let number = count(self.identities.len());
        let peers: BTreeSet<u32> = index.matched_by_identity(&identity).collect();
        for peer in peers {
            self.by_peer.entry(peer).or_default().push(number);
        }
        self.identities.push(identity.clone());
        self.numbers.insert(identity, number);
        number
    }
}

/// Which rules of a book are about some sender in particular: by policy and sender, ascending.
pub(super) struct Matched(HashMap<u32, BTreeMap<u32, Vec<u32>>>);

impl Matched {
    /// Of some policies.
    pub fn of(book: &Rulebook, policies: &BTreeSet<u32>, senders: &Senders) -> Self {
        let mut matched: HashMap<u32, BTreeMap<u32, Vec<u32>>> = HashMap::new();
        for number in policies {
            let policy = &book.policies[*number as usize];
            for (rule, said) in (policy.first..).zip(&policy.says.rules) {
                let peers = said.peers.iter().flatten();
                for sender in peers.filter_map(|peer| senders.by_peer.get(peer)).flatten() {
                    let of_sender = matched.entry(*number).or_default();
                    let rules = of_sender.entry(*sender).or_default();
                    // Another peer of the rule may have matched already.
                    if rules.last() != Some(&rule) {
                        rules.push(rule);
                    }
                }
            }
        }
        Self(matched)
    }

    /// Whether a rule of one of these policies is about some sender.
    pub fn is_about_some(&self, policies: &[u32]) -> bool {
        policies.iter().any(|policy| self.0.contains_key(policy))
    }

    /// Every sender that some rule of these policies is about.
    pub fn senders(&self, policies: &[u32]) -> BTreeSet<u32> {
        let of_policies = policies.iter().filter_map(|policy| self.0.get(policy));
        of_policies.flat_map(BTreeMap::keys).copied().collect()
    }

    /// The rules of these policies that are about a sender, and those for everybody, ascending.
    pub fn rules(&self, policies: &[u32], sender: u32, for_everybody: &[u32]) -> Vec<u32> {
        let of_policies = policies.iter().filter_map(|policy| self.0.get(policy));
        let own = of_policies
            .filter_map(|senders| senders.get(&sender))
            .flatten();
        let mut rules: Vec<u32> = own.chain(for_everybody).copied().collect();
        rules.sort_unstable();
        rules
    }
}
