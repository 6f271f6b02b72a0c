//! A node of a cluster: three namespaces of three pods, somebody outside, and the node itself.
//!
//! ```text
//!  node     uplink up0 10.79.0.1 fd79::1, on every pod's link 10.78.0.1 fd78::1
//!  x/a ...  pod-xa     10.78.1.11 fd78:1::11    (x is 1, y 2, z 3; a is 11, b 12, c 13)
//!  outside             10.79.0.2 fd79::2
//! ```
//!
//! Pods are connected as plugins that route do it: each has a veth pair, and the node a route to
//! each of its addresses.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
};

use anyhow::{Context, Result};

use super::{
    Daemon, Lab, Namespace, Place, Process, cgroup,
    namespace::{End, cable},
    shop::{Host, Party, UPLINK},
};

/// Ports on which everybody listens, by TCP, UDP and SCTP.
pub const PORTS: [u16; 2] = [80, 81];

/// Everybody, in the order of truth tables.
pub const NAMES: [&str; 11] = [
    "x/a", "x/b", "x/c", "y/a", "y/b", "y/c", "z/a", "z/b", "z/c", "outside", "node",
];

const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const PODS: [&str; 3] = ["a", "b", "c"];

/// A node and its pods.
#[derive(Debug)]
pub struct Cluster {
    /// The node.
    pub node: Host,
    /// In the order of [`NAMES`].
    pub parties: Vec<Party>,
    /// The network of each pod.
    insides: Vec<Namespace>,
}

/// Addresses of one pod.
pub type Addresses = (Ipv4Addr, Ipv6Addr);

/// Addresses of a pod, counted from 0.
fn pod_addresses(namespace: usize, pod: usize) -> Result<Addresses> {
    let (net, host) = (u8::try_from(namespace + 1)?, u8::try_from(pod + 11)?);
    Ok((
        Ipv4Addr::new(10, 78, net, host),
        // The decimal digits, read as hexadecimal.
        Ipv6Addr::new(0xfd78, net.into(), 0, 0, 0, 0, 0, u16::from(host) + 6),
    ))
}

impl Cluster {
    /// Builds the node and its pods, without daemon and servers.
    pub fn build(lab: &Lab) -> Result<Self> {
        let namespace = lab.namespace("node")?;
        namespace.forward()?;
        let cgroup_root = lab.cgroup("node")?;
        cgroup::make(&cgroup_root.join("system"))?;
        let addresses = (
            Ipv4Addr::new(10, 79, 0, 1),
            Ipv6Addr::new(0xfd79, 0, 0, 0, 0, 0, 0, 1),
        );
        let node = Host {
            name: "node",
            namespace,
            cgroup_root,
            addresses,
        };
        let outside = lab.namespace("outside")?;
        let beyond = (
            Ipv4Addr::new(10, 79, 0, 2),
            Ipv6Addr::new(0xfd79, 0, 0, 0, 0, 0, 0, 2),
        );
        let end = |namespace, link, (v4, v6)| End {
            namespace,
            link,
            v4,
            v6,
        };
        cable(
            &end(&node.namespace, UPLINK, addresses),
            &end(&outside, "eth0", beyond),
        )?;
        node.namespace.ip(&[
            format!("route add default via {}", beyond.0),
            format!("route add default via {}", beyond.1),
        ])?;
        outside.ip(&[
            format!("route add default via {}", addresses.0),
            format!("route add default via {}", addresses.1),
        ])?;
        let mut parties = Vec::new();
        let mut insides = Vec::new();
        for (n, namespace) in NAMESPACES.into_iter().enumerate() {
            for (p, pod) in PODS.into_iter().enumerate() {
                let name = format!("{namespace}{pod}");
                let (party, inside) = connect(lab, &node, &name, pod_addresses(n, p)?)?;
                parties.push(party);
                insides.push(inside);
            }
        }
        parties.push(Party {
            place: Place::new("outside", &outside, lab.cgroup("/outside")?)?,
            addresses: beyond,
        });
        parties.push(node.party()?);
        Ok(Self {
            node,
            parties,
            insides,
        })
    }

    /// Starts servers of everybody.
    pub fn serve(&self) -> Result<Vec<Process>> {
        let serve = |p: &Party| p.place.serve_sctp_too(&PORTS, &PORTS, &PORTS);
        self.parties.iter().map(serve).collect()
    }

    /// Gives a pod, counted as [`NAMES`] is, other addresses in place of its own.
    pub fn readdress(&mut self, pod: usize, (v4, v6): Addresses) -> Result<()> {
        let (old_v4, old_v6) = self.parties[pod].addresses;
        self.insides[pod].ip(&[
            format!("addr add {v4}/32 dev eth0"),
            format!("addr add {v6}/128 dev eth0 nodad"),
            format!("addr del {old_v4}/32 dev eth0"),
            format!("addr del {old_v6}/128 dev eth0"),
        ])?;
        let link = format!("pod-{}", self.parties[pod].name());
        self.node.namespace.ip(&[
            format!("route del {old_v4}/32 dev {link}"),
            format!("route del {old_v6}/128 dev {link}"),
            format!("route add {v4}/32 dev {link} src {}", self.node.addresses.0),
            format!(
                "route add {v6}/128 dev {link} src {}",
                self.node.addresses.1
            ),
        ])?;
        self.parties[pod].addresses = (v4, v6);
        Ok(())
    }

    /// Starts the node's daemon in mode enforce.
    pub fn start_daemon(&self, lab: &Lab, policies: &Path) -> Result<Daemon> {
        self.node.start_daemon(lab, policies)
    }
}

/// A pod behind a veth pair, with a route to each of its addresses.
fn connect(lab: &Lab, node: &Host, name: &str, addresses: Addresses) -> Result<(Party, Namespace)> {
    let inside: Namespace = lab.namespace(name)?;
    let link = format!("pod-{name}");
    let (v4, v6) = addresses;
    node.namespace.ip(&[
        format!(
            "link add {link} type veth peer name eth0 netns {}",
            inside.name()
        ),
        format!("addr add 10.78.0.1/32 dev {link}"),
        format!("addr add fd78::1/128 dev {link} nodad"),
        format!("link set {link} up"),
    ])?;
    inside.ip(&[
        format!("addr add {v4}/32 dev eth0"),
        format!("addr add {v6}/128 dev eth0 nodad"),
        "link set eth0 up".to_owned(),
        "route add 10.78.0.1 dev eth0".to_owned(),
        "route add default via 10.78.0.1".to_owned(),
        "route add fd78::1 dev eth0".to_owned(),
        "route add default via fd78::1".to_owned(),
    ])?;
    node.namespace.ip(&[
        // Servers of the node answer from the address that they were asked at.
        format!("route add {v4}/32 dev {link} src {}", node.addresses.0),
        format!("route add {v6}/128 dev {link} src {}", node.addresses.1),
    ])?;
    let cgroup = node.cgroup_root.join("pods").join(name);
    let party = Party {
        place: Place::new(name, &inside, cgroup)?,
        addresses,
    };
    Ok((party, inside))
}

/// A `Pod` as a cluster would write it down, with the addresses that [`Cluster::build`] gave it.
pub fn pod(namespace: &str, name: &str, labels: &str, ports: &str) -> Result<String> {
    let at = |list: [&str; 3], wanted: &str| list.iter().position(|one| *one == wanted);
    let place = at(NAMESPACES, namespace).zip(at(PODS, name));
    let (n, p) = place.with_context(|| format!("no pod {namespace}/{name}"))?;
    Ok(pod_at(namespace, name, labels, ports, pod_addresses(n, p)?))
}

/// The same, with these addresses.
pub fn pod_at(
    namespace: &str,
    name: &str,
    labels: &str,
    ports: &str,
    (v4, v6): Addresses,
) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\n\
         metadata: {{name: {name}, namespace: {namespace}, labels: {labels}}}\n\
         spec: {{containers: [{{name: serve, image: serve, ports: {ports}}}]}}\n\
         status: {{phase: Running, podIP: {v4}, podIPs: [{{ip: {v4}}}, {{ip: '{v6}'}}]}}\n---\n"
    )
}
