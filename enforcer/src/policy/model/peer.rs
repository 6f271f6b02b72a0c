//! The other side of a flow.

use std::sync::Arc;

use ipnet::IpNet;

use super::{
    Assurance,
    selector::{LabelSelector, WorkloadSelector},
};

/// The other side of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Peer {
    /// Everybody.
    Any,
    /// This host's own processes that belong to no workload, and its addresses.
    Host,
    /// Other hosts of which there is a document.
    RemoteHost,
    /// This host and other ones, by their labels.
    Hosts(LabelSelector),
    /// Whatever belongs to no workload and to no host that is known.
    World,
    /// Workloads.
    Workloads(WorkloadSelector),
    /// Peers known by an address in `prefix` and in none of `except`, workload or not. A peer
    /// that its own socket proves (a cgroup workload of this host) is matched by labels only.
    Cidr {
        /// Network.
        prefix: IpNet,
        /// Networks inside `prefix` that do not count.
        except: Vec<IpNet>,
    },
    /// Any of the peers of a group.
    Group(Arc<Group>),
    /// One that is known at least so well.
    Assured {
        /// The minimum.
        at_least: Assurance,
        /// Who.
        peer: Box<Peer>,
    },
}

impl Peer {
    /// Whether everybody is meant.
    pub fn is_any(&self) -> bool {
        match self {
            Self::Any => true,
            Self::Group(group) => group.peers.iter().any(Self::is_any),
            Self::Assured { at_least, peer } => *at_least == Assurance::Address && peer.is_any(),
            _ => false,
        }
    }

    /// Calls `visit` with every peer in it that is no group and no minimum of assurance.
    pub fn each_plain<'a>(&'a self, visit: &mut impl FnMut(&'a Self)) {
        match self {
            Self::Group(group) => group.peers.iter().for_each(|peer| peer.each_plain(visit)),
            Self::Assured { peer, .. } => peer.each_plain(visit),
            plain => visit(plain),
        }
    }

    /// Calls `visit` with every minimum of assurance in it.
    pub fn each_assurance(&self, visit: &mut impl FnMut(Assurance)) {
        match self {
            Self::Group(group) => {
                group
                    .peers
                    .iter()
                    .for_each(|peer| peer.each_assurance(visit));
            }
            Self::Assured { at_least, peer } => {
                visit(*at_least);
                peer.each_assurance(visit);
            }
            _ => {}
        }
    }
}

/// A named group of peers (kind `Group`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Group {
    /// `None`: for policies of every namespace.
    pub namespace: Option<String>,
    /// Unique in its namespace.
    pub name: String,
    /// Any of them. Those of groups that it refers to are [`Peer::Group`] again; there is no
    /// cycle.
    pub peers: Vec<Peer>,
}
