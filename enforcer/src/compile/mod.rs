//! From resolved policy and the host's addresses to the image. Pure: what comes out depends on
//! nothing but the inputs and the numbers given out before.
//!
//! 1. `known` collects who there is: an identity for every address, prefix and local workload.
//! 2. `book` knows which policies select whom, and whom a change concerns.
//! 3. `rules` lays the rules of such a list of policies out flat, in the order in which they are
//!    named.
//! 4. `sets` finds the classes of peers that these rules tell apart, and `tiers` resolves each
//!    class by protocol and port.
//! 5. `across` adds what one end of a flow judges for the other end, between hosts of a fleet.
//!
//! Nothing in it is quadratic in workloads: a set costs what its rules match. A [`Compiler`]
//! remembers all of it, and goes through it again only where something changed: a policy that
//! came or went, a workload that did, a moment that passed. What comes out is the same as if it
//! were made from nothing.

pub mod bridge;
pub mod elsewhere;
pub mod explain;
pub mod fingerprint;
pub mod image;
pub mod limits;
pub mod numbers;
pub mod paged;
pub mod tables;

mod across;
mod book;
mod known;
mod moments;
mod peers;
pub(crate) mod prefix_table;
mod ranges;
mod rules;
mod sets;
mod tiers;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use enforcer_common::{Direction, identity};

use self::{
    across::{Across, Again, Before, Ground, Said},
    book::Book,
    elsewhere::Elsewhere,
    image::{Sets, WorkloadName},
    known::{Changes, Known},
    moments::{Ahead, Schedule, Timed},
    peers::PeerIndex,
    sets::{Line, Lines, Workshop},
};
pub use self::{
    image::Image,
    limits::{CompileError, Limits},
    numbers::Numbers,
};
use crate::policy::model::{Mode, Moment, RemoteHost, ResolvedPolicy};

/// Everything that an image is made from.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The tree.
    pub policy: &'a ResolvedPolicy,
    /// The node's mode in effect: the tree's, the command line's or the default.
    pub mode: Mode,
    /// Policies and rules that do not hold at this moment are left out. Who is known, and by
    /// which number, does not depend on it.
    pub now: Moment,
    /// Addresses of this host itself.
    pub host_addresses: &'a [IpAddr],
    /// Who runs on other hosts, beside those whom the tree declares.
    pub elsewhere: &'a Elsewhere,
    /// Workloads of which a proof by mTLS is bound to everything that sends by their addresses:
    /// as peers they are known by it ([`NOBODY`] where there are none).
    pub attested: &'a BTreeSet<WorkloadName>,
    /// Whose policy sets are wanted.
    pub subjects: Subjects,
    /// What the kernel has room for.
    pub limits: &'a Limits,
    /// The image that the kernel holds: it stays beside the new one until the swap, so both
    /// must fit together.
    pub in_force: Option<&'a Image>,
}

/// No workload at all.
pub const NOBODY: &BTreeSet<WorkloadName> = &BTreeSet::new();

/// Which workloads get policy sets. The host endpoint always does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subjects {
    /// Those that can run on this node: the ones with a place.
    Placed,
    /// All, for questions about policy that no kernel enforces here.
    All,
}

/// Compiles a policy. On failure nothing has changed, `numbers` included.
pub fn compile(inputs: &Inputs<'_>, numbers: &mut Numbers) -> Result<Image, CompileError> {
    Compiler::default().compile(inputs, numbers)
}

/// Compiles again and again.
#[derive(Debug, Default)]
pub struct Compiler(Option<Memory>);

impl Compiler {
    /// As [`compile`], and with the same result, but what is as in the last call (policies and
    /// workloads are compared by place in memory) costs little. `numbers` are those of the last
    /// call.
    pub fn compile(
        &mut self,
        inputs: &Inputs<'_>,
        numbers: &mut Numbers,
    ) -> Result<Image, CompileError> {
        // After a failure there is nothing to remember.
        let memory = self.0.take().filter(|memory| memory.fits(inputs, numbers));
        let mut memory = memory.unwrap_or_else(|| Memory::new(inputs));
        let mut result = memory.build(inputs, numbers);
        if matches!(result, Ok(None)) {
            numbers.roll_back();
            memory = Memory::new(inputs);
            result = memory.build(inputs, numbers);
        }
        let checked = result.and_then(|image| {
            let image = image.unwrap_or_default();
            limits::check(&image, inputs.in_force, inputs.limits)?;
            Ok(image)
        });
        match &checked {
            Ok(_) => self.0 = Some(memory),
            Err(_) => numbers.roll_back(),
        }
        checked
    }

    /// What the last compilation had to do; nothing after one that failed.
    pub fn work(&self) -> Work {
        self.0
            .as_ref()
            .map(|memory| memory.workshop.work)
            .unwrap_or_default()
    }
}

/// What a compilation leaves for the next one: the same, whatever the way that led to it.
#[derive(Debug)]
struct Memory {
    // What must be as it was for the rest to be of use.
    host_addresses: Vec<IpAddr>,
    subjects: Subjects,
    hosts: Vec<Arc<RemoteHost>>,

    known: Known,
    index: PeerIndex,
    timed: Timed,
    /// By direction.
    books: [Book; 2],
    lines: [Lines; 2],
    workshop: Workshop,
    across: Across,
    schedule: Schedule,
}

/// What one compilation had to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Policies that came or went.
    pub policies: usize,
    /// Identities whose policies were looked at, in each direction.
    pub subjects: usize,
    /// Policy sets that were made.
    pub sets: usize,
    /// Entries that were found for sets: peers, or classes of peers, whose rules were weighed.
    pub entries: usize,
    /// Pairs of somebody here and somebody elsewhere, in each direction and at each moment, for
    /// which was found what one end of a flow judges for the other.
    pub between: usize,
}

impl Memory {
    fn new(inputs: &Inputs<'_>) -> Self {
        let book = |direction| Book::new(direction, inputs.mode);
        Self {
            host_addresses: inputs.host_addresses.to_vec(),
            subjects: inputs.subjects,
            hosts: inputs.policy.hosts.clone(),
            known: Known::default(),
            index: PeerIndex::new(inputs.policy),
            timed: Timed::default(),
            books: [book(Direction::Egress), book(Direction::Ingress)],
            lines: Default::default(),
            workshop: Workshop::new(inputs.policy.node.clone(), inputs.mode),
            across: Across::default(),
            schedule: Schedule::default(),
        }
    }

    fn fits(&self, inputs: &Inputs<'_>, numbers: &Numbers) -> bool {
        self.workshop.serial == numbers.serial()
            && self.workshop.mode == inputs.mode
            && self.host_addresses == inputs.host_addresses
            && self.subjects == inputs.subjects
            && self.workshop.node == inputs.policy.node
            && self.hosts == inputs.policy.hosts
            && self.index.fits(inputs.policy)
    }

    /// `None`: what is remembered does not fit after all.
    fn build(
        &mut self,
        inputs: &Inputs<'_>,
        numbers: &mut Numbers,
    ) -> Result<Option<Image>, CompileError> {
        self.workshop.begin(numbers.begin());
        let before = self.known.identities.clone();
        let Some(changes) = self.known.update(inputs, numbers)? else {
            return Ok(None);
        };
        if !self.index.add(self.known.identities.missing_in(&before)) {
            return Ok(None);
        }
        let (gone, come) = (&changes.policies_gone, &changes.policies_come);
        self.workshop.work.policies = gone.len() + come.len();
        self.timed.follow(gone, come);
        let ahead = self.timed.ahead(inputs, &self.known, &mut self.index);
        let Ahead { moments, beyond } = ahead;
        let times: Vec<Moment> = std::iter::once(inputs.now)
            .chain(moments.iter().copied())
            .collect();

        for direction in [Direction::Egress, Direction::Ingress] {
            self.follow(direction, &changes, &times);
        }
        let ground = Ground {
            inputs,
            known: &self.known,
            index: &self.index,
        };
        let come = self.known.identities.missing_in(&before);
        let ingress = &mut self.books[Direction::Ingress as usize];
        let again = (self.across).follow(&ground, &changes, come, times.len(), ingress);
        let (egress, _) = self.look_again(Direction::Egress, &times, numbers)?;
        let (ingress, said) = self.look_again(Direction::Ingress, &times, numbers)?;
        let looked_at = [&egress, &ingress];
        let put = self.put_across(inputs, again, (looked_at, said), numbers)?;
        self.index.settle();
        self.workshop.contents.settle();
        for identity in egress.into_iter().chain(ingress).chain(put) {
            let sets = self.sets_of(identity, &moments);
            self.schedule.put(identity, sets);
        }

        let mut image = Image {
            serial: self.workshop.serial,
            policies: self.workshop.contents.policies.clone(),
            ports: self.workshop.contents.ports.clone(),
            sets: self.schedule.sets.clone(),
            moments: self.schedule.moments(),
            moments_beyond: beyond,
            ..Image::default()
        };
        sets::blocked(&inputs.policy.node, inputs.mode, numbers, &mut image)?;
        image.rules = numbers.live_rules().clone();
        let known = &self.known;
        image.addresses = known.addresses.clone();
        image.host_addresses = known.host_addresses.clone();
        image.prefixes = known.prefixes.clone();
        image.services = known.services.clone();
        image.workloads = known.workloads.clone();
        image.attested = known.attested.clone();
        image.identities = known.identities.clone();
        Ok(Some(image))
    }

    /// Brings a direction's book up to date.
    fn follow(&mut self, direction: Direction, changes: &Changes, times: &[Moment]) {
        let book = &mut self.books[direction as usize];
        for policy in &changes.policies_gone {
            book.remove(policy, &self.index);
        }
        let mut numbers = changes.local.clone();
        if direction == Direction::Ingress {
            numbers.extend(&changes.elsewhere);
        }
        let known = &self.known;
        let is_in = |number| {
            let elsewhere = direction == Direction::Ingress && known.is_elsewhere(number);
            known.is_local(number) || elsewhere
        };
        book.follow_identities(numbers.into_iter(), is_in, &self.index);
        for policy in &changes.policies_come {
            book.add(policy, &mut self.index);
        }
        book.follow(&self.index, times);
    }

    /// Finds the sets of those for whom something may be different. Returns who they are; and in
    /// a fleet, what the policies say of everybody in the book who was looked at.
    fn look_again(
        &mut self,
        direction: Direction,
        times: &[Moment],
        numbers: &mut Numbers,
    ) -> Result<(BTreeSet<u32>, Said), CompileError> {
        let book = &mut self.books[direction as usize];
        let lines = &mut self.lines[direction as usize];
        let dirty = std::mem::take(&mut book.dirty);
        let host = dirty.host.then_some(None);
        let subjects: Vec<Option<u32>> = host
            .into_iter()
            .chain(dirty.positions.into_iter().map(Some))
            .collect();
        // What their policies say, by moment: numbers are given in this order.
        let mut wanted = Vec::new();
        let mut dismissed = Vec::new();
        let mut said = Said::new();
        if direction == Direction::Ingress && self.across.is_at_work() {
            said.resize_with(times.len(), BTreeMap::new);
        }
        for (time, moment) in times.iter().enumerate() {
            for subject in &subjects {
                let identity = subject.map_or(identity::HOST, |p| self.index.identity(p));
                let is_here = identity == identity::HOST || self.known.is_local(identity);
                if time == 0 && !is_here {
                    dismissed.push(identity);
                }
                if subject.is_some_and(|position| !book.is_enrolled(position))
                    || time > 0 && !book.is_timed(*subject)
                {
                    continue;
                }
                let says = book.says(*subject, *moment, &mut self.index);
                if let Some(said) = said.get_mut(time) {
                    said.insert(identity, says.clone());
                }
                if is_here {
                    wanted.push((identity, says));
                }
            }
        }
        book.settle();

        self.workshop.work.subjects += subjects.len();
        let workshop = &mut self.workshop;
        let mut builder = workshop.builder(direction, &book.grown, &self.index, numbers);
        let mut fresh: BTreeMap<u32, Line> = BTreeMap::new();
        for (identity, says) in wanted {
            let line = fresh.entry(identity).or_default();
            // Of the same moment's predecessor, or of the moment before.
            let former = line.first().or_else(|| lines.of(identity)?.first());
            let former = former.cloned().flatten();
            let set = lines.set(says, former.as_deref(), &mut builder)?;
            line.push(set);
        }
        let looked_at = fresh.keys().chain(&dismissed).copied().collect();
        for (identity, line) in fresh {
            lines.put(identity, Some(line));
        }
        for identity in dismissed {
            lines.put(identity, None);
        }
        lines.settle(&mut self.workshop.contents);
        Ok((looked_at, said))
    }

    /// Makes what is different between hosts. Returns whose sets that changes.
    fn put_across(
        &mut self,
        inputs: &Inputs<'_>,
        again: Again,
        (looked_at, said): ([&BTreeSet<u32>; 2], Said),
        numbers: &mut Numbers,
    ) -> Result<BTreeSet<u32>, CompileError> {
        let ground = Ground {
            inputs,
            known: &self.known,
            index: &self.index,
        };
        let direction = Direction::Ingress;
        let grown = &self.books[direction as usize].grown;
        let workshop = &mut self.workshop;
        let mut builder = workshop.builder(direction, grown, &self.index, numbers);
        let before = Before {
            lines: &self.lines,
            looked_at,
            said,
        };
        self.across.make(ground, again, before, &mut builder)
    }

    /// The sets of an identity, given the moments ahead; `None`: it has none.
    fn sets_of(&self, identity: u32, moments: &[Moment]) -> Option<Sets> {
        let lines = [Direction::Egress, Direction::Ingress]
            .map(|direction| (direction, self.lines[direction as usize].of(identity)));
        if lines.iter().all(|(_, line)| line.is_none()) {
            return None;
        }
        let line = (0..=moments.len()).map(|time| {
            lines.map(|(direction, line)| {
                let changed = self.across.set(identity, time, direction);
                changed.unwrap_or_else(|| sets::number_of(line, time))
            })
        });
        let line: Vec<_> = line.collect();
        Some(moments::sets_of(&line, moments))
    }
}
