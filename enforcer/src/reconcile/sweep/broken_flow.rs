//! Flows that the kernel has broken, and their sockets.

use std::{
    collections::HashSet,
    net::{Ipv6Addr, SocketAddr},
};

use enforcer_common::event::{Event, event_flag};

use super::condemned::is_open;
use crate::inventory::sockets::Socket;

/// A flow that the kernel has broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BrokenFlow {
    /// The workload's end.
    pub local: SocketAddr,
    /// The peer's end.
    pub remote: SocketAddr,
    /// Number of the endpoint that judged.
    pub endpoint: u32,
}

impl BrokenFlow {
    /// From an event, if it is about a TCP flow that a policy change broke.
    pub fn from_event(event: &Event) -> Option<Self> {
        let is_tcp = event.protocol == enforcer_common::Protocol::TCP;
        (is_tcp && event.flags & event_flag::BROKEN != 0).then(|| Self {
            local: address(event.local, event.local_port),
            remote: address(event.remote, event.remote_port),
            endpoint: event.endpoint,
        })
    }
}

fn address(bytes: [u8; 16], port: u16) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::from(bytes).to_canonical(), port)
}

/// The sockets of flows that the kernel broke.
pub(super) fn matching(sockets: &[Socket], broken: &HashSet<BrokenFlow>) -> Vec<Socket> {
    if broken.is_empty() {
        return Vec::new();
    }
    let ends: HashSet<_> = broken.iter().map(|b| (b.local, b.remote)).collect();
    sockets
        .iter()
        .filter(|s| is_open(s) && ends.contains(&(s.local, s.remote)))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_flows_are_tcp_and_ipv4_is_ipv4() {
        let mut event = crate::observe::fixtures::event();
        event.protocol = enforcer_common::Protocol::TCP;
        event.flags = event_flag::BROKEN;
        event.local = enforcer_common::flow_key::mapped([10, 0, 0, 1]);
        event.local_port = 80;
        let flow = BrokenFlow::from_event(&event).unwrap();
        assert_eq!(flow.local, "10.0.0.1:80".parse().unwrap());
        event.flags = 0;
        assert_eq!(BrokenFlow::from_event(&event), None);
        event.flags = event_flag::BROKEN;
        event.protocol = enforcer_common::Protocol::UDP;
        assert_eq!(BrokenFlow::from_event(&event), None);
    }
}
