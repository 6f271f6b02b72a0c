//! Between hosts of a fleet: what is judged at one end of a flow for the other end.
//!
//! Workloads in cgroups share the addresses of their host, so the host that a flow comes to
//! cannot see which of them sent it. The host that it comes from can. Therefore
//!
//! - the egress of everybody here denies what the ingress of the workload (or host) elsewhere
//!   denies it (`sending`), by the rule that denies it there;
//! - the ingress of everybody here lets in from the shared address of a node that enforces what
//!   one of those behind it may send (`receiving`), at the ports that others know of: for any
//!   other port nobody has enforced anything yet.
//!
//! Both count the sender as known by the word of its node: assurance `orchestrator` at most.
//!
//! This comes after the sets of single identities, and makes further ones from them: none where
//! nothing is different. What it adds to the egress of an identity is about those elsewhere whose
//! ingress names somebody of this host, and nobody else.

mod receiving;
mod ruling;
mod senders;
mod sending;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use enforcer_common::{Action, Decision, Direction, Reason, identity, policy_key::PolicyEntry};

pub(super) use self::receiving::Behind;
use self::ruling::Ruling;
use super::{
    Inputs,
    image::Image,
    known::Known,
    limits::CompileError,
    numbers::Numbers,
    peers::PeerIndex,
    rules::Rulebook,
    sets::{SetBuilder, SetShelf},
    tiers::Outcome,
};

/// The numbers of sets by identity: for the moment of the inputs and for each one ahead, egress
/// and ingress.
pub(super) type Lines = HashMap<u32, Vec<[u32; 2]>>;

/// Puts sets in the place of those that are different between hosts. `books`: ingress, for the
/// moment of the inputs and for each one ahead.
pub(super) fn put(
    ground: &Ground<'_>,
    books: &[Rulebook],
    numbers: &mut Numbers,
    image: &mut Image,
    lines: &mut Lines,
    behind: &mut Behind,
) -> Result<(), CompileError> {
    if ground.inputs.elsewhere.nodes.is_empty() {
        return Ok(());
    }
    for (time, book) in books.iter().enumerate() {
        let mut shelf = SetShelf::default();
        let mut across = Across::new(ground, book, numbers, image, &mut shelf);
        // In the order of their numbers, so that new ones come out the same each time.
        let local: BTreeMap<u32, [u32; 2]> = (lines.iter())
            .map(|(identity, line)| (*identity, line[time]))
            .collect();
        let egress = across.sending(&local)?;
        let ingress = across.receiving(&local, behind)?;
        for (direction, sets) in [(Direction::Egress, egress), (Direction::Ingress, ingress)] {
            for (identity, set) in sets {
                if let Some(line) = lines.get_mut(&identity) {
                    line[time][direction as usize] = set;
                }
            }
        }
    }
    Ok(())
}

/// What holds at every moment.
#[derive(Clone, Copy)]
pub(super) struct Ground<'a> {
    pub inputs: &'a Inputs<'a>,
    pub known: &'a Known,
    pub index: &'a PeerIndex,
}

/// One moment.
struct Across<'a> {
    inputs: &'a Inputs<'a>,
    known: &'a Known,
    index: &'a PeerIndex,
    book: &'a Rulebook,
    builder: SetBuilder<'a>,
    /// By position: the policies of ingress about it.
    about: Vec<Vec<u32>>,
    about_host: Vec<u32>,
}

impl<'a> Across<'a> {
    fn new(
        ground: &Ground<'a>,
        book: &'a Rulebook,
        numbers: &'a mut Numbers,
        image: &'a mut Image,
        shelf: &'a mut SetShelf,
    ) -> Self {
        let Ground {
            inputs,
            known,
            index,
        } = *ground;
        let node = &inputs.policy.node;
        Self {
            inputs,
            known,
            index,
            book,
            builder: SetBuilder::new(book, index, node, inputs.mode, numbers, image, shelf),
            about: book.about_workloads(index),
            about_host: book.about_host(),
        }
    }

    /// The policies of ingress about an identity, and whether that is a host.
    fn policies_of(&self, number: u32) -> (bool, &[u32]) {
        if number == identity::HOST {
            return (true, &self.about_host);
        }
        let position = self.index.position(number);
        let is_host = self.known.is_host(number);
        let policies = if is_host {
            Some(&self.about_host)
        } else {
            position.map(|position| &self.about[position as usize])
        };
        (is_host, policies.map_or(&[], Vec::as_slice))
    }

    /// What these (ascending) rules of these policies say.
    fn outcomes(&self, policies: &[u32], rules: &[u32]) -> Ruling<Outcome> {
        let default = self.inputs.policy.node.default[Direction::Ingress as usize];
        let ground = self.builder.ground(policies, default);
        let (default, differing) = self.builder.outcomes(rules, &ground);
        Ruling::new(default, differing)
    }

    /// The rules of policies that are about every peer, ascending.
    fn for_everybody(&self, policies: &[u32]) -> Vec<u32> {
        let mut rules = Vec::new();
        for policy in policies {
            let policy = &self.book.policies[*policy as usize];
            let numbered = (policy.first..).zip(&policy.says.rules);
            let all = numbered.filter(|(_, rule)| rule.peers.is_none());
            rules.extend(all.map(|(number, _)| number));
        }
        rules
    }

    /// Writes a ruling.
    fn entry(&mut self, ruling: &Ruling<Pick>) -> Result<PolicyEntry, CompileError> {
        let default = self.decision(ruling.default)?;
        let mut differing = Vec::with_capacity(ruling.differing.len());
        for (protocol, first, last, pick) in &ruling.differing {
            differing.push((*protocol, *first, *last, self.decision(*pick)?));
        }
        // Different picks may come out as the same decision.
        let ruling = Ruling::new(default, differing);
        self.builder.table(&ruling.differing, ruling.default)
    }

    fn decision(&mut self, pick: Pick) -> Result<Decision, CompileError> {
        match pick {
            Pick::Keep(decision) => Ok(decision),
            Pick::Instead(outcome) => self.builder.decision(outcome),
        }
    }

    /// A set that says of some peers something else than `base` does.
    fn changed(
        &mut self,
        base: u32,
        different: &BTreeMap<u32, PolicyEntry>,
    ) -> Result<u32, CompileError> {
        let mut entries: BTreeMap<u32, PolicyEntry> = match self.builder.image().policies.part(base)
        {
            Some(entries) => entries.iter().copied().collect(),
            None => BTreeMap::from([(identity::ANY, UNRESTRICTED)]),
        };
        entries.extend(different);
        self.builder.put(entries.into_iter().collect())
    }

    /// The entry of a set for a peer, and whether it is about this one in particular.
    fn said_of(&self, set: u32, peer: u32) -> (PolicyEntry, bool) {
        let Some(entries) = self.builder.image().policies.part(set) else {
            return (UNRESTRICTED, false);
        };
        let find = |peer| {
            let found = entries.binary_search_by_key(&peer, |(peer, _)| *peer);
            found.ok().map(|at| entries[at].1)
        };
        match find(peer) {
            Some(entry) => (entry, true),
            // Every set has a wildcard.
            None => (find(identity::ANY).unwrap_or(UNRESTRICTED), false),
        }
    }

    fn ruling(&self, entry: &PolicyEntry) -> Ruling<Decision> {
        let table = self.builder.image().ports.part(entry.table);
        let table = table.filter(|_| entry.lengths != 0).map(Arc::as_ref);
        Ruling::of(entry, table)
    }
}

/// What a set that does not exist says.
const UNRESTRICTED: PolicyEntry = PolicyEntry {
    decision: Decision::new(Action::Allow, Reason::Unrestricted, 0),
    table: 0,
    lengths: 0,
    rule: 0,
};

/// What decides in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Pick {
    /// What the set says already.
    Keep(Decision),
    /// What ingress says of who may be the sender.
    Instead(Outcome),
}

/// How much an action lets through.
const fn strictness(action: Action) -> u8 {
    match action {
        Action::Allow => 0,
        Action::Audit => 1,
        Action::Deny => 2,
    }
}
