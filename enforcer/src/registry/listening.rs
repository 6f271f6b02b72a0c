//! At which ports the workloads of this host's cgroups listen.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::record::{Listen, is_of_one_host};
use crate::{
    compile::image::WorkloadName,
    inventory::sockets::{Protocol, Socket, SocketError, SocketTable, State},
    reconcile::{in_force::InForce, sweep::CgroupEndpoints},
};

/// Ports by workload.
pub type Listening = BTreeMap<WorkloadName, BTreeSet<Listen>>;

/// Reads the sockets of the calling thread's network namespace.
pub fn listening(now: &InForce) -> Result<Listening, SocketError> {
    let mut table = SocketTable::here()?;
    let mut sockets = table.listeners(Protocol::Tcp)?;
    sockets.extend(table.listeners(Protocol::Udp)?);
    Ok(of_workloads(now, &sockets))
}

fn of_workloads(now: &InForce, sockets: &[Socket]) -> Listening {
    let places = CgroupEndpoints::new(now);
    let mut listening = Listening::new();
    for socket in sockets {
        let listens = match socket.protocol {
            Protocol::Tcp => socket.state == State::Listen,
            Protocol::Udp => !socket.is_connected() && socket.local.port() != 0,
        };
        let Some(endpoint) = (socket.cgroup).and_then(|cgroup| places.endpoint(cgroup)) else {
            continue;
        };
        let Some(namespace) = endpoint.namespace.clone() else {
            continue;
        };
        let Some(addresses) = addresses(now, socket).filter(|_| listens) else {
            continue;
        };
        let name = WorkloadName {
            namespace,
            name: endpoint.name.clone(),
        };
        listening.entry(name).or_default().insert(Listen {
            protocol: socket.protocol.number(),
            port: socket.local.port(),
            addresses,
        });
    }
    listening
}

/// The addresses of this host at which a socket can be reached from others: empty for all,
/// `None` for none.
fn addresses(now: &InForce, socket: &Socket) -> Option<Vec<IpAddr>> {
    let ip = socket.local.ip();
    if !ip.is_unspecified() {
        return is_of_one_host(ip).then(|| vec![ip]);
    }
    if ip.is_ipv6() && !socket.v6_only {
        return Some(Vec::new());
    }
    let host = now.snapshot.host_addresses.iter().copied();
    let family: Vec<IpAddr> = host
        .filter(|address| address.is_ipv4() == ip.is_ipv4() && is_of_one_host(*address))
        .collect();
    (!family.is_empty()).then_some(family)
}
