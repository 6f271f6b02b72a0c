//! From resolved policy and the host's addresses to the image. Pure: what comes out depends on
//! nothing but the inputs and the numbers given out before.
//!
//! 1. `known` collects who there is: an identity for every address, prefix and local workload.
//! 2. `rules` lays the rules of a direction out flat, in the order in which they are named.
//! 3. `sets` finds, for each list of policies that selects some local workload, the classes of
//!    peers that the rules tell apart, and `tiers` resolves each class by protocol and port.
//!
//! Nothing in it is quadratic in workloads: a set costs what its rules match.

pub mod bridge;
pub mod explain;
pub mod image;
pub mod limits;
pub mod numbers;

mod known;
mod peers;
mod prefix_table;
mod ranges;
mod rules;
mod sets;
mod tiers;

use std::{collections::HashMap, net::IpAddr};

use enforcer_common::{Direction, identity, policy_key::ALLOW_ALL};

pub use self::{
    image::Image,
    limits::{CompileError, Limits},
    numbers::Numbers,
};
use self::{image::Sets, known::Known, peers::PeerIndex, rules::Rulebook, sets::SetBuilder};
use crate::policy::model::{Mode, ResolvedPolicy};

/// Everything that an image is made from.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The tree.
    pub policy: &'a ResolvedPolicy,
    /// The node's mode in effect: the tree's, the command line's or the default.
    pub mode: Mode,
    /// Addresses of this host itself.
    pub host_addresses: &'a [IpAddr],
    /// Whose policy sets are wanted.
    pub subjects: Subjects,
    /// What the kernel has room for.
    pub limits: &'a Limits,
    /// The image that the kernel holds: it stays beside the new one until the swap, so both
    /// must fit together.
    pub in_force: Option<&'a Image>,
}

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
    let mut tentative = numbers.clone();
    let image = build(inputs, &mut tentative)?;
    limits::check(&image, inputs.in_force, inputs.limits)?;
    *numbers = tentative;
    Ok(image)
}

fn build(inputs: &Inputs<'_>, numbers: &mut Numbers) -> Result<Image, CompileError> {
    let mut image = Image {
        serial: numbers.begin(),
        ..Image::default()
    };
    let node = &inputs.policy.node;
    let known = Known::collect(inputs, numbers)?;
    let index = PeerIndex::new(&known.identities);
    let mut sets: HashMap<u32, Sets> = HashMap::new();
    for direction in [Direction::Egress, Direction::Ingress] {
        let book = Rulebook::new(inputs.policy, inputs.mode, direction);
        let mut about = book.about_workloads(&index);
        let mut builder = SetBuilder::new(&book, &index, node, inputs.mode, numbers, &mut image);
        let mut enter = |identity, number| {
            let entry = sets.entry(identity).or_insert(Sets {
                numbers: [ALLOW_ALL; 2],
            });
            entry.numbers[direction as usize] = number;
        };
        enter(identity::HOST, builder.set(book.about_host())?);
        for (position, policies) in about.iter_mut().enumerate() {
            let number = index.number(rules::count(position));
            if known.is_local(number) {
                enter(number, builder.set(std::mem::take(policies))?);
            }
        }
    }
    image.sets = sets;
    sets::blocked(node, inputs.mode, numbers, &mut image)?;
    image.rules = numbers.live_rules().clone();
    image.addresses = known.addresses;
    image.host_addresses = known.host_addresses;
    image.prefixes = known.prefixes;
    image.workloads = known.workloads;
    image.identities = known.identities;
    Ok(image)
}
