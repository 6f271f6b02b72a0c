//! What is behind the ports of bridges. A route leads to a bridge only; which of its ports an
//! address is behind is known from the other ends of the ports, in their network namespaces.
//!
//! Neither the neighbour table nor the bridge's forwarding database is asked: both believe
//! whatever frames say, so a pod could make itself out to be another one, and both are empty
//! until somebody has spoken.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use futures::TryStreamExt as _;
use rtnetlink::{
    Error, Handle,
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressMessage},
    },
};

use super::interfaces::{Interface, host_address};

/// Addresses that the far ends of ports have, each with the indices of these ports.
pub type PortAddresses = BTreeMap<IpAddr, BTreeSet<u32>>;

/// Kind of a bridge, as `ip link` shows it.
const BRIDGE: &str = "bridge";

/// Whether an interface is a bridge.
pub(super) fn is_bridge(interface: &Interface) -> bool {
    interface.kind.as_deref() == Some(BRIDGE)
}

/// Asks for the addresses at the far ends of the ports of all bridges. The handle's socket must
/// have strict checks: otherwise the kernel does not look for another namespace in a request,
/// and answers with the addresses of its own.
pub(super) async fn addresses(
    handle: &Handle,
    interfaces: &[Interface],
) -> Result<PortAddresses, Error> {
    let mut found = PortAddresses::new();
    for (namespace, ports) in ports_by_namespace(interfaces) {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = handle.address().get();
            let message = request.message_mut();
            message.header.family = family;
            let target = AddressAttribute::TargetNetNsId(namespace);
            message.attributes.push(target);
            let listed: Result<Vec<AddressMessage>, _> = request.execute().try_collect().await;
            let listed = match listed {
                Ok(listed) => listed,
                Err(error) if is_gone(&error) => break,
                Err(error) => return Err(error),
            };
            for message in &listed {
                let port = ports.get(&message.header.index);
                let address = host_address(message).filter(|address| !is_link_local(*address));
                if let (Some(port), Some(address)) = (port, address) {
                    found.entry(address).or_default().insert(*port);
                }
            }
        }
    }
    Ok(found)
}

/// By the number of a namespace, the interfaces in it that are far ends of ports, each with the
/// index of its port here.
fn ports_by_namespace(interfaces: &[Interface]) -> BTreeMap<i32, BTreeMap<u32, u32>> {
    let bridges = interfaces.iter().filter(|i| is_bridge(i));
    let bridges: BTreeSet<u32> = bridges.map(|bridge| bridge.ifindex).collect();
    let mut namespaces: BTreeMap<i32, BTreeMap<u32, u32>> = BTreeMap::new();
    for port in interfaces {
        let is_port = port.controller.is_some_and(|c| bridges.contains(&c));
        if is_port && let (Some(namespace), Some(peer)) = (port.peer_netns, port.peer) {
            let ends = namespaces.entry(namespace).or_default();
            ends.insert(peer, port.ifindex);
        }
    }
    namespaces
}

/// Whether the kernel says that no namespace has this number any more.
fn is_gone(error: &Error) -> bool {
    let Error::NetlinkError(message) = error else {
        return false;
    };
    message.code.is_some_and(|code| code.get() == -libc::EINVAL)
}

/// Of one link only, and so nothing by which a pod is known.
fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(ifindex: u32, kind: &str, far: Option<(i32, u32)>, bridge: u32) -> Interface {
        Interface {
            ifindex,
            name: format!("link{ifindex}"),
            up: true,
            loopback: false,
            kind: Some(kind.into()),
            peer: far.map(|(_, peer)| peer),
            peer_netns: far.map(|(namespace, _)| namespace),
            controller: (bridge != 0).then_some(bridge),
        }
    }

    #[test]
    fn only_ports_of_bridges_that_lead_to_other_namespaces_are_asked_about() {
        let interfaces = [
            interface(1, "bridge", None, 0),
            interface(2, "vrf", None, 0),
            interface(3, "veth", Some((0, 7)), 1),
            interface(4, "veth", Some((1, 7)), 1),
            interface(5, "veth", Some((1, 8)), 1),
            interface(6, "veth", Some((2, 9)), 2),
            interface(7, "veth", Some((3, 9)), 0),
            interface(8, "vxlan", None, 1),
        ];
        let expected = [(0, [(7, 3)].into()), (1, [(7, 4), (8, 5)].into())];
        assert_eq!(ports_by_namespace(&interfaces), expected.into());
    }
}
