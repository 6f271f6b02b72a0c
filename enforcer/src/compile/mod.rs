//! From resolved policy and the host's addresses to the image. Pure: what comes out depends on
//! nothing but the inputs and the numbers given out before.
//!
//! 1. `known` collects who there is: an identity for every address, prefix and local workload.
//! 2. `rules` lays the rules of a direction out flat, in the order in which they are named.
//! 3. `sets` finds, for each list of policies that selects some local workload, the classes of
//!    peers that the rules tell apart, and `tiers` resolves each class by protocol and port.
//! 4. `across` adds what one end of a flow judges for the other end, between hosts of a fleet.
//!
//! Nothing in it is quadratic in workloads: a set costs what its rules match. A [`Compiler`]
//! remembers the last compilation, so that the next one costs what differs; what comes out is
//! the same.

pub mod bridge;
pub mod elsewhere;
pub mod explain;
pub mod fingerprint;
pub mod image;
pub mod limits;
pub mod numbered;
pub mod numbers;
pub mod tables;

mod across;
mod known;
mod moments;
mod peers;
pub(crate) mod prefix_table;
mod ranges;
mod rules;
mod sets;
mod tiers;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use enforcer_common::{Direction, identity, policy_key::ALLOW_ALL};

use self::{
    across::Behind,
    elsewhere::Elsewhere,
    image::WorkloadName,
    known::Known,
    peers::PeerIndex,
    rules::{Rulebook, Shelf, count},
    sets::{SetBuilder, SetShelf},
};
pub use self::{
    image::Image,
    limits::{CompileError, Limits},
    numbers::Numbers,
};
use crate::policy::model::{Mode, Moment, NodeSettings, RemoteHost, ResolvedPolicy};

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
}

/// What a compilation leaves for the next one.
#[derive(Debug)]
struct Memory {
    // What must be as it was for the rest to be of use.
    serial: u64,
    mode: Mode,
    host_addresses: Vec<IpAddr>,
    subjects: Subjects,
    node: NodeSettings,
    hosts: Vec<Arc<RemoteHost>>,

    known: Known,
    index: PeerIndex,
    shelves: [(Shelf, SetShelf); 2],
    behind: Behind,
}

impl Memory {
    fn new(inputs: &Inputs<'_>) -> Self {
        Self {
            serial: 0,
            mode: inputs.mode,
            host_addresses: inputs.host_addresses.to_vec(),
            subjects: inputs.subjects,
            node: inputs.policy.node.clone(),
            hosts: inputs.policy.hosts.clone(),
            known: Known::default(),
            index: PeerIndex::new(inputs.policy),
            shelves: Default::default(),
            behind: Behind::default(),
        }
    }

    fn fits(&self, inputs: &Inputs<'_>, numbers: &Numbers) -> bool {
        self.serial == numbers.serial()
            && self.mode == inputs.mode
            && self.host_addresses == inputs.host_addresses
            && self.subjects == inputs.subjects
            && self.node == inputs.policy.node
            && self.hosts == inputs.policy.hosts
            && self.index.fits(inputs.policy)
    }

    /// `None`: what is remembered does not fit after all.
    fn build(
        &mut self,
        inputs: &Inputs<'_>,
        numbers: &mut Numbers,
    ) -> Result<Option<Image>, CompileError> {
        self.serial = numbers.begin();
        let mut image = Image {
            serial: self.serial,
            ..Image::default()
        };
        let node = &inputs.policy.node;
        let Self {
            known,
            index,
            shelves,
            behind,
            ..
        } = self;
        let before = known.identities.clone();
        if !known.update(inputs, numbers)? {
            return Ok(None);
        }
        if !index.add(known.identities.missing_in(&before)) {
            return Ok(None);
        }
        let moments::Ahead { moments, beyond } = moments::ahead(inputs, known, index);
        let mut lines = across::Lines::new();
        let mut ingress = Vec::new();
        for direction in [Direction::Egress, Direction::Ingress] {
            let (rule_shelf, set_shelf) = &mut shelves[direction as usize];
            rule_shelf.open();
            let times = std::iter::once(inputs.now).chain(moments.iter().copied());
            let books = times.map(|now| Rulebook::new(inputs, now, direction, index, rule_shelf));
            let books: Vec<Rulebook> = books.collect();
            rule_shelf.close();
            let mut builder = SetBuilder::new(
                &books[0],
                index,
                node,
                inputs.mode,
                numbers,
                &mut image,
                set_shelf,
            );
            for (time, book) in books.iter().enumerate() {
                if time > 0 {
                    builder.turn(book);
                }
                let mut enter = |identity, number| {
                    let line = lines.entry(identity);
                    let line = line.or_insert_with(|| vec![[ALLOW_ALL; 2]; books.len()]);
                    line[time][direction as usize] = number;
                };
                let host = builder.set(identity::HOST, &book.about_host())?;
                enter(identity::HOST, host);
                for (position, policies) in book.about_workloads(index).iter().enumerate() {
                    let number = index.identity(count(position));
                    if known.is_local(number) {
                        enter(number, builder.set(number, policies)?);
                    }
                }
            }
            builder.finish();
            ingress = books;
        }
        let ground = across::Ground {
            inputs,
            known,
            index,
        };
        across::put(&ground, &ingress, numbers, &mut image, &mut lines, behind)?;
        index.settle();
        image.sets = lines
            .into_iter()
            .map(|(identity, line)| (identity, moments::sets_of(&line, &moments)))
            .collect();
        image.moments = moments::in_use(&image.sets);
        image.moments_beyond = beyond;
        sets::blocked(node, inputs.mode, numbers, &mut image)?;
        image.rules = numbers.live_rules().clone();
        image.addresses = known.addresses.clone();
        image.host_addresses = known.host_addresses.clone();
        image.prefixes = known.prefixes.clone();
        image.services = known.services.clone();
        image.workloads = known.workloads.clone();
        image.attested = known.attested.clone();
        image.identities = known.identities.clone();
        Ok(Some(image))
    }
}
