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
//!
//! It is kept from one compilation to the next. An entry is about a pair, somebody here and
//! somebody elsewhere, and is found anew where something that it is made of is not what it was:
//! the set of the one, how others see or reach it, the policies of ingress that judge the pair.
//! Who that may be, the books of policies say.

mod parties;
mod receiving;
mod ruling;
mod senders;
mod sending;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use enforcer_common::{Action, Decision, Direction, Reason, identity, policy_key::PolicyEntry};

use self::{
    parties::Parties,
    receiving::{Behind, Open, Receiving},
    ruling::Ruling,
    sending::{Anew, Sending},
};
use super::{
    Inputs,
    book::Book,
    image::Identity,
    known::{Changes, Known},
    limits::CompileError,
    peers::PeerIndex,
    rules::{PolicyRules, Rulebook},
    sets::{self, KnownSet, Lines, SetBuilder},
    tiers::Outcome,
};

/// All that is different between hosts.
#[derive(Debug, Default)]
pub(super) struct Across {
    parties: Parties,
    behind: Behind,
    open: Open,
    /// For the moment of the inputs and for each one ahead; none where there is no other node.
    times: Vec<AtMoment>,
}

/// What is different at one moment.
#[derive(Debug, Default)]
struct AtMoment {
    /// Who judges what comes to hosts.
    of_hosts: Option<Arc<Judge>>,
    sending: Sending,
    receiving: Receiving,
}

/// What a compilation has to find anew.
#[derive(Default)]
pub(super) struct Again {
    /// What was there and is of no use any more.
    past: Vec<AtMoment>,
    /// Identities of this host that others see in another way.
    parties: BTreeSet<u32>,
    /// Identities that came to be elsewhere, or are there no more.
    elsewhere: BTreeSet<u32>,
    /// Identities of shared addresses that came.
    shared: BTreeSet<u32>,
    /// There are more moments than before, at which nobody has looked yet.
    all: bool,
}

/// What the policies of ingress say that select somebody: by moment, and by identity. Who is not
/// there at a later moment has what it has at the first one.
pub(super) type Said = Vec<BTreeMap<u32, Vec<Arc<PolicyRules>>>>;

/// What comes before this in a compilation.
pub(super) struct Before<'a> {
    /// By direction, the sets without this.
    pub lines: &'a [Lines; 2],
    /// By direction, the identities of this host whose sets were looked at.
    pub looked_at: [&'a BTreeSet<u32>; 2],
    /// Of everybody in the book of ingress who was looked at.
    pub said: Said,
}

/// Where everything is that this is made from.
#[derive(Clone, Copy)]
pub(super) struct Ground<'a> {
    pub inputs: &'a Inputs<'a>,
    pub known: &'a Known,
    pub index: &'a PeerIndex,
}

/// The compilation at work.
struct Site<'s, 'a> {
    ground: Ground<'s>,
    builder: &'s mut SetBuilder<'a>,
}

impl Across {
    /// Finds out what is not as it was in the last compilation, and has the book of ingress look
    /// again at those whom that concerns. `come`: identities. `times`: how many moments there
    /// are, with that of the inputs.
    pub fn follow<'i>(
        &mut self,
        ground: &Ground<'_>,
        changes: &Changes,
        come: impl Iterator<Item = (&'i u32, &'i Arc<Identity>)>,
        times: usize,
        book: &mut Book,
    ) -> Again {
        let mut again = Again::default();
        let Ground {
            inputs,
            known,
            index,
        } = ground;
        if inputs.elsewhere.nodes.is_empty() {
            again.past = std::mem::take(self).times;
            return again;
        }
        let first = self.times.is_empty();
        // At another moment, everybody is looked at for whom it says something else.
        again.all = self.times.len() < times;
        again.past = self.times.split_off(times.min(self.times.len()));
        self.times.resize_with(times, AtMoment::default);
        if again.all {
            book.look_at_all();
        }

        again.elsewhere.clone_from(&changes.elsewhere);
        self.parties.senders.catch_up(index);
        let here = known.local().chain([identity::HOST]);
        let concerned: BTreeSet<u32> = if first || changes.renamed {
            // Who is not of this host any more is still among the parties.
            here.chain(self.parties.all().keys().copied()).collect()
        } else {
            changes.placed.clone()
        };
        for number in concerned {
            if self.parties.look(number, ground) {
                again.parties.insert(number);
            }
        }
        let turned = self.parties.senders.turned();
        book.look_at_those_about(&turned, index);

        self.behind.senders.catch_up(index);
        again.shared = if first {
            self.behind.follow(known.identities.iter(), ground)
        } else {
            self.behind.follow(come, ground)
        };
        if !self.open.is_of(inputs.elsewhere.own.as_ref()) || !changes.placed.is_empty() {
            for number in self.open.follow(ground) {
                let position = (number != identity::HOST).then(|| index.position(number));
                book.look_at(position.flatten());
            }
        }
        again
    }

    /// Whether there are other nodes.
    pub fn is_at_work(&self) -> bool {
        !self.times.is_empty()
    }

    /// Makes what is different anew where that is called for. Returns those whose sets are
    /// others than before because of this.
    pub fn make(
        &mut self,
        ground: Ground<'_>,
        again: Again,
        before: Before<'_>,
        builder: &mut SetBuilder<'_>,
    ) -> Result<BTreeSet<u32>, CompileError> {
        let mut site = Site { ground, builder };
        let mut touched = BTreeSet::new();
        for past in again.past {
            let sent = past.sending.changed.into_iter();
            for (number, changed) in sent.chain(past.receiving.into_changed()) {
                changed.end(&mut site);
                touched.insert(number);
            }
        }
        if self.times.is_empty() {
            return Ok(touched);
        }
        self.parties.senders.catch_up(ground.index);
        self.behind.senders.catch_up(ground.index);
        let judges: Vec<BTreeMap<u32, Arc<Judge>>> = before.said.into_iter().map(judges).collect();
        for (time, at) in self.times.iter_mut().enumerate() {
            let judge_of = |number: u32| {
                let of_moment = [time, 0].map(|time| judges.get(time)?.get(&number));
                of_moment.into_iter().flatten().next()
            };
            let in_force = |number: u32, direction: Direction| {
                self.parties.all().contains_key(&number).then(|| {
                    let line = before.lines[direction as usize].of(number);
                    sets::number_of(line, time)
                })
            };

            let mut anew = Anew::default();
            let of_hosts = judge_of(identity::HOST);
            let mut elsewhere = again.elsewhere.clone();
            elsewhere.extend(judges.iter().flat_map(BTreeMap::keys));
            if let Some(judge) = of_hosts {
                at.of_hosts = Some(Arc::clone(judge));
                let known = ground.known;
                elsewhere.extend(known.elsewhere().filter(|number| known.is_host(*number)));
            }
            for number in elsewhere {
                let judge = if !ground.known.is_elsewhere(number) {
                    None
                } else if ground.known.is_host(number) {
                    at.of_hosts.as_ref()
                } else {
                    judge_of(number)
                };
                let is_local = ground.known.is_local(number);
                at.sending
                    .judge(number, judge, is_local, &self.parties, &mut anew);
            }
            let mut senders = before.looked_at[Direction::Egress as usize].clone();
            senders.extend(&again.parties);
            if again.all {
                senders.extend(self.parties.all().keys());
            }
            for number in senders {
                let set = in_force(number, Direction::Egress);
                let seen = again.parties.contains(&number);
                at.sending.follow(&mut site, number, set, seen, &mut anew);
            }
            touched.extend(at.sending.make(&mut site, &self.parties, &anew)?);

            let mut anew = BTreeSet::new();
            for number in before.looked_at[Direction::Ingress as usize] {
                let set = in_force(*number, Direction::Ingress);
                let now = set.zip(judge_of(*number));
                if at.receiving.follow(&mut site, *number, now, &self.open) {
                    anew.insert(*number);
                }
            }
            let made = (at.receiving).make(&mut site, &anew, &again.shared, &self.behind)?;
            touched.extend(made);
        }
        Ok(touched)
    }

    /// The number of a set that an identity has in place of that of its own policies: by moment,
    /// that of the inputs first.
    pub fn set(&self, identity: u32, time: usize, direction: Direction) -> Option<u32> {
        let at = self.times.get(time)?;
        let changed = match direction {
            Direction::Egress => at.sending.changed.get(&identity),
            Direction::Ingress => at.receiving.changed(identity),
        };
        Some(changed?.set.as_ref()?.number())
    }
}

fn judges(said: BTreeMap<u32, Vec<Arc<PolicyRules>>>) -> BTreeMap<u32, Arc<Judge>> {
    let said = said.into_iter();
    let judges = said.map(|(number, says)| {
        let is_host = number == identity::HOST;
        (number, Arc::new(Judge { is_host, says }))
    });
    judges.collect()
}

/// The policies of ingress that say who may come in to somebody.
#[derive(Debug)]
struct Judge {
    is_host: bool,
    says: Vec<Arc<PolicyRules>>,
}

impl Judge {
    fn book(&self) -> Rulebook<'_> {
        Rulebook::new(&self.says)
    }

    /// What tells it from those that say something else.
    fn key(&self) -> (bool, Vec<u64>) {
        (self.is_host, self.ids().collect())
    }

    fn is_same(&self, other: &Self) -> bool {
        self.is_host == other.is_host && self.ids().eq(other.ids())
    }

    fn ids(&self) -> impl Iterator<Item = u64> {
        self.says.iter().map(|says| says.id)
    }
}

/// A set that says of some peers something else than another does.
#[derive(Debug)]
struct Changed {
    /// The other one.
    base: u32,
    /// By peer.
    different: BTreeMap<u32, PolicyEntry>,
    /// `None`: nothing is different.
    set: Option<Arc<KnownSet>>,
}

impl Changed {
    fn new(base: u32) -> Self {
        Self {
            base,
            different: BTreeMap::new(),
            set: None,
        }
    }

    /// Forgets what is different.
    fn start_over(&mut self, base: u32) {
        self.base = base;
        self.different.clear();
    }

    /// Says something else of a peer, or (`None`) what `base` says. Returns whether that is
    /// news.
    fn say(&mut self, peer: u32, entry: Option<PolicyEntry>) -> bool {
        let former = match entry {
            Some(entry) => self.different.insert(peer, entry),
            None => self.different.remove(&peer),
        };
        former != entry
    }

    /// Makes the set.
    fn make(&mut self, site: &mut Site<'_, '_>) -> Result<(), CompileError> {
        let set = if self.different.is_empty() {
            None
        } else {
            let policies = &site.builder.contents.policies;
            let mut entries: BTreeMap<u32, PolicyEntry> = match policies.part(self.base) {
                Some(entries) => entries.iter().copied().collect(),
                None => BTreeMap::from([(identity::ANY, UNRESTRICTED)]),
            };
            entries.extend(&self.different);
            Some(site.builder.hold(entries.into_iter().collect())?)
        };
        if let Some(former) = std::mem::replace(&mut self.set, set) {
            site.builder.contents.release(&former);
        }
        Ok(())
    }

    /// Nobody has it any more.
    fn end(self, site: &mut Site<'_, '_>) {
        if let Some(set) = self.set {
            site.builder.contents.release(&set);
        }
    }
}

impl Site<'_, '_> {
    /// What these (ascending) rules of a book say.
    fn outcomes(&self, book: &Rulebook<'_>, rules: &[u32]) -> Ruling<Outcome> {
        let ground = self.builder.ground(book, self.builder.default());
        let (default, differing) = SetBuilder::outcomes(book, rules, &ground);
        Ruling::new(default, differing)
    }

    /// Writes a ruling.
    fn entry(
        &mut self,
        book: &Rulebook<'_>,
        ruling: &Ruling<Pick>,
    ) -> Result<PolicyEntry, CompileError> {
        let default = self.decision(book, ruling.default)?;
        let mut differing = Vec::with_capacity(ruling.differing.len());
        for (protocol, first, last, pick) in &ruling.differing {
            differing.push((*protocol, *first, *last, self.decision(book, *pick)?));
        }
        // Different picks may come out as the same decision.
        let ruling = Ruling::new(default, differing);
        self.builder.table(&ruling.differing, ruling.default)
    }

    fn decision(&mut self, book: &Rulebook<'_>, pick: Pick) -> Result<Decision, CompileError> {
        match pick {
            Pick::Keep(decision) => Ok(decision),
            Pick::Instead(outcome) => self.builder.decision(book, outcome),
        }
    }

    /// The entry of a set for a peer, and whether it is about this one in particular.
    fn said_of(&self, set: u32, peer: u32) -> (PolicyEntry, bool) {
        let Some(entries) = self.builder.contents.policies.part(set) else {
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
        let table = self.builder.contents.ports.part(entry.table);
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
