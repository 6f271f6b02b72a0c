//! Random flows.

use enforcer::policy::model::ResolvedPolicy;
use enforcer_common::Direction;
use proptest::{prelude::*, sample::Index};

use super::policy::{address, port, protocol};
use crate::model::{RawEndpoint, RawFlow, RawPeer};

/// A flow before it is known which workloads there are.
#[derive(Clone, Debug)]
pub struct FlowSeed {
    host_endpoint: bool,
    endpoint: Index,
    egress: bool,
    peer: PeerSeed,
    protocol: u8,
    port: u16,
}

#[derive(Clone, Debug)]
enum PeerSeed {
    Host,
    Workload(Index),
    Address(std::net::IpAddr),
}

impl FlowSeed {
    /// The flow in a tree. Where that has no workloads, it is one of the host.
    pub fn flow(&self, policy: &ResolvedPolicy) -> RawFlow {
        let count = policy.workloads.len();
        RawFlow {
            endpoint: if self.host_endpoint || count == 0 {
                RawEndpoint::Host
            } else {
                RawEndpoint::Workload(self.endpoint.index(count))
            },
            direction: if self.egress {
                Direction::Egress
            } else {
                Direction::Ingress
            },
            peer: match &self.peer {
                PeerSeed::Workload(index) if count > 0 => RawPeer::Workload(index.index(count)),
                PeerSeed::Address(address) => RawPeer::Address(*address),
                PeerSeed::Host | PeerSeed::Workload(_) => RawPeer::Host,
            },
            protocol: self.protocol,
            port: self.port,
        }
    }
}

/// Flows to and from the addresses and ports that policies speak of, mostly.
pub fn flow_seed() -> impl Strategy<Value = FlowSeed> {
    let peer = prop_oneof![
        1 => Just(PeerSeed::Host),
        3 => any::<Index>().prop_map(PeerSeed::Workload),
        6 => address().prop_map(PeerSeed::Address),
    ];
    let port = prop_oneof![4 => port(), 1 => any::<u16>()];
    (
        prop::bool::weighted(0.25),
        any::<Index>(),
        any::<bool>(),
        peer,
        protocol(),
        port,
    )
        .prop_map(
            |(host_endpoint, endpoint, egress, peer, protocol, port)| FlowSeed {
                host_endpoint,
                endpoint,
                egress,
                peer,
                protocol,
                port,
            },
        )
}
