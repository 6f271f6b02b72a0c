//! Where a flow that was seen is judged in a tree, and as whose.

use std::net::IpAddr;

use enforcer_common::{Direction, identity};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Seen, Who};
use crate::{
    compile::image::{RuleDirection, WorkloadName},
    tools::tree::{Ruling, Tree, name_of},
};

/// Why a tree has nothing to say about a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unjudged {
    /// The workload at the judging side is not in the tree.
    NoSuchWorkload,
    /// Nobody in the tree has the address at that side: the other side alone decides.
    NobodyThere,
    /// The tree has no workload like the other side, and its address is not known.
    UnknownPeer,
}

impl Unjudged {
    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::NoSuchWorkload => "of workloads that are not in the tree",
            Self::NobodyThere => "sides of a capture that are no workload of the tree",
            Self::UnknownPeer => "with a workload that is not in the tree and has no address",
        }
    }
}

/// A side of a flow in a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The workload that judges; `None` for the host.
    pub endpoint: Option<WorkloadName>,
    /// Its policy set in the direction of the flow.
    pub set: u32,
    /// Identity of the peer.
    pub peer: u32,
    /// Who the peer is.
    pub party: PlacedPeer,
}

/// Who a peer is in a tree.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PlacedPeer {
    /// The host.
    Host,
    /// A workload, and the address by which it is known if its socket does not prove it.
    Workload(WorkloadName, Option<IpAddr>),
    /// Nobody of the tree, at this address if there is one.
    World(Option<IpAddr>),
}

/// Finds the sides of a flow.
pub fn place(tree: &Tree, seen: &Seen) -> Result<Placed, Unjudged> {
    let direction = match seen.direction {
        RuleDirection::Egress => Direction::Egress,
        RuleDirection::Ingress => Direction::Ingress,
    };
    let endpoint = match &seen.endpoint {
        Who::Host | Who::HostAddress(_) => None,
        Who::Proven(name) => {
            let workload = tree.workload(name).ok_or(Unjudged::NoSuchWorkload)?;
            Some(name_of(workload))
        }
        Who::Address(address) => {
            let owner = tree
                .owner(IpNet::from(*address))
                .ok_or(Unjudged::NobodyThere)?;
            Some(name_of(owner))
        }
        Who::Described(..) | Who::World => return Err(Unjudged::NoSuchWorkload),
    };
    let sets = match &endpoint {
        None => tree.host_sets(),
        Some(name) => tree.sets_of(name).ok_or(Unjudged::NoSuchWorkload)?,
    };
    let (peer, party) = peer(tree, &seen.peer)?;
    Ok(Placed {
        endpoint,
        set: sets[direction as usize],
        peer,
        party,
    })
}

fn peer(tree: &Tree, who: &Who) -> Result<(u32, PlacedPeer), Unjudged> {
    let proven = |name: &WorkloadName| {
        let peer = tree.peer_proven(name).ok_or(Unjudged::UnknownPeer)?;
        Ok((peer, PlacedPeer::Workload(name.clone(), None)))
    };
    match who {
        Who::Host => Ok((identity::HOST, PlacedPeer::Host)),
        Who::HostAddress(address) => Ok((tree.peer_at(IpNet::from(*address)), PlacedPeer::Host)),
        Who::World => Ok((identity::WORLD, PlacedPeer::World(None))),
        Who::Proven(name) => proven(name),
        Who::Described(namespace, labels) => {
            let mut workloads = tree.policy.workloads.iter();
            let alike = workloads.find(|w| w.namespace == *namespace && w.labels == *labels);
            proven(&name_of(alike.ok_or(Unjudged::UnknownPeer)?))
        }
        Who::Address(address) => {
            let network = IpNet::from(*address);
            let peer = tree.peer_at(network);
            if tree.image.host_addresses.contains_key(address) {
                return Ok((peer, PlacedPeer::Host));
            }
            // A network of a workload may hold addresses of others, such as of a remote host.
            let owner = tree
                .owner(network)
                .filter(|owner| tree.is_known_as(peer, owner));
            let party = match owner {
                Some(owner) => PlacedPeer::Workload(name_of(owner), Some(*address)),
                None => PlacedPeer::World(Some(*address)),
            };
            Ok((peer, party))
        }
    }
}

impl Placed {
    /// What the tree says of it.
    pub fn ruling(&self, tree: &Tree, seen: &Seen) -> Ruling {
        tree.ruling(self.set, self.peer, seen.protocol, seen.port)
    }
}
