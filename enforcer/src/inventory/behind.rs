//! Which workloads are behind which interfaces.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Interface, Snapshot,
    place::{PlacedEndpoint, Placement, Problem, key, name_of, names_of},
};
use crate::{
    datapath::desired::EndpointPlace,
    policy::model::{Place, Workload},
};

/// Places those of the workloads that are behind an interface.
pub(super) fn place_interfaces(
    workloads: &[Arc<Workload>],
    behind: &[usize],
    snapshot: &Snapshot,
    placement: &mut Placement,
) {
    let mut claims: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    let mut unsure = Vec::new();
    for &index in behind {
        match &workloads[index].place {
            Some(Place::Interface(name)) => claims.entry(name).or_default().push(index),
            Some(Place::Route(address)) => match snapshot.interfaces_towards(*address)[..] {
                [] => {}
                [one] => claims.entry(&one.name).or_default().push(index),
                ref several => unsure.push((index, *address, several.to_vec())),
            },
            _ => {}
        }
    }
    // Whoever can change the addresses of its own namespace can take on another pod's, but keeps
    // the interface that is surely its own: what others have is not the one that is looked for.
    let others: BTreeSet<&str> = claims.keys().copied().collect();
    let mut found = Vec::new();
    for (index, address, several) in unsure {
        let free = |interface: &&&Interface| !others.contains(interface.name.as_str());
        let mut left = several.iter().filter(free);
        if let (Some(one), None) = (left.next(), left.next()) {
            found.push((one.name.as_str(), index));
        } else {
            placement.problems.push(Problem::AddressContested {
                workload: name_of(&workloads[index]),
                address,
                interfaces: several.iter().map(|i| i.name.clone()).collect(),
            });
        }
    }
    for (name, index) in found {
        claims.entry(name).or_default().push(index);
    }
    for (name, claims) in claims {
        if let [index] = claims[..] {
            if let Some(interface) = snapshot.interface(name) {
                placement.endpoints.push(PlacedEndpoint {
                    key: key(&workloads[index], format!("interface:{name}")),
                    workload: index,
                    place: EndpointPlace::Interface {
                        ifindex: interface.ifindex,
                        name: name.to_owned(),
                    },
                    unit: None,
                });
            }
        } else {
            placement.problems.push(Problem::InterfaceContested {
                name: name.to_owned(),
                workloads: names_of(workloads, claims.into_iter()),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::place::{
            place,
            tests::{endpoints, snapshot, workload},
        },
        *,
    };

    fn veth(ifindex: u32, name: &str, controller: Option<u32>) -> Interface {
        Interface {
            ifindex,
            name: name.into(),
            up: true,
            loopback: false,
            kind: Some("veth".into()),
            peer: Some(2),
            peer_netns: Some(0),
            controller,
        }
    }

    fn route(text: &str) -> Place {
        Place::Route(text.parse().unwrap())
    }

    #[test]
    fn interfaces_are_placed_by_name() {
        let mut host = snapshot(&["/"]);
        host.interfaces.push(veth(7, "veth0", None));
        let mut workloads = vec![workload("pod", Place::Interface("veth0".into()))];
        let found = place(&workloads, &host);
        assert_eq!(
            found.endpoints[0].place,
            EndpointPlace::Interface {
                ifindex: 7,
                name: "veth0".into()
            }
        );
        workloads.push(workload("pod2", Place::Interface("veth0".into())));
        let found = place(&workloads, &host);
        assert!(found.endpoints.is_empty());
        assert!(matches!(
            found.problems[..],
            [Problem::InterfaceContested { .. }]
        ));
    }

    #[test]
    fn pods_are_behind_the_interface_that_their_route_leaves_by() {
        let mut host = snapshot(&["/"]);
        host.interfaces = vec![veth(7, "veth7", None), veth(8, "veth8", None)];
        let net = |text: &str| text.parse().unwrap();
        host.direct_routes = [(net("10.244.0.0/24"), 7), (net("10.244.0.9/32"), 8)].into();
        let workloads = [
            workload("a", route("10.244.0.7")),
            workload("b", route("10.244.0.9")),
            workload("elsewhere", route("10.244.1.7")),
        ];
        let found = place(&workloads, &host);
        assert_eq!(
            endpoints(&found),
            [("a", "interface:veth7"), ("b", "interface:veth8")]
        );
        assert!(found.problems.is_empty(), "{:?}", found.problems);
        let two = [
            workload("a", route("10.244.0.7")),
            workload("b", Place::Interface("veth7".into())),
        ];
        let found = place(&two, &host);
        assert!(found.endpoints.is_empty());
        assert!(matches!(
            found.problems[..],
            [Problem::InterfaceContested { .. }]
        ));
    }

    /// A bridge with three ports; behind the first two are 10.244.0.7 and .8.
    fn bridged() -> Snapshot {
        let mut host = snapshot(&["/"]);
        let mut bridge = veth(6, "cni0", None);
        (bridge.kind, bridge.peer, bridge.peer_netns) = (Some("bridge".into()), None, None);
        host.interfaces = vec![bridge];
        for index in 7..10 {
            let port = veth(index, &format!("veth{index}"), Some(6));
            host.interfaces.push(port);
        }
        host.interfaces.push(veth(10, "veth10", None));
        host.direct_routes = [("10.244.0.0/24".parse().unwrap(), 6)].into();
        for (address, port) in [("10.244.0.7", 7), ("10.244.0.8", 8), ("10.244.0.10", 10)] {
            let ports = [port].into();
            host.port_addresses.insert(address.parse().unwrap(), ports);
        }
        host
    }

    #[test]
    fn pods_are_behind_the_port_whose_other_end_has_their_address() {
        let workloads = [
            workload("a", route("10.244.0.7")),
            workload("b", route("10.244.0.8")),
            workload("nowhere", route("10.244.0.9")),
            workload("no-port-of-it", route("10.244.0.10")),
        ];
        let found = place(&workloads, &bridged());
        assert_eq!(
            endpoints(&found),
            [("a", "interface:veth7"), ("b", "interface:veth8")]
        );
        assert!(found.problems.is_empty(), "{:?}", found.problems);
    }

    #[test]
    fn an_address_of_two_is_of_who_has_no_other() {
        let mut host = bridged();
        let taken = "10.244.0.8".parse().unwrap();
        host.port_addresses.insert(taken, [7, 8].into());
        let both = [
            workload("thief", route("10.244.0.7")),
            workload("victim", route("10.244.0.8")),
        ];
        let found = place(&both, &host);
        assert_eq!(
            endpoints(&found),
            [("thief", "interface:veth7"), ("victim", "interface:veth8")]
        );
        let found = place(&both[1..], &host);
        assert!(found.endpoints.is_empty());
        assert_eq!(
            found.problems[0].to_string(),
            "default/victim (w.yaml:1) is not enforced: its address 10.244.0.8 is behind veth7 \
             and veth8; name its interface in a Workload, or take the address away from who it \
             does not belong to"
        );
    }
}
