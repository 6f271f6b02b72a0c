//! A node whose pods are behind a bridge, as the bridge plugin of CNI connects them.
//!
//! ```text
//!  node     uplink up0 10.81.0.1 fd81::1, bridge cni0 10.80.0.1 fd80::1
//!  pods     port-NAME  10.80.0.HOST fd80::HOST
//!  outside             10.81.0.2 fd81::2
//! ```
//!
//! Or without an uplink of its own: then outside is at a port of the bridge, 10.80.0.2 fd80::2, and
//! the way out of everybody.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use super::{
    Lab, Namespace, Place, cgroup,
    namespace::{End, cable},
    shop::{Host, Party, UPLINK},
};

/// Name of the bridge.
pub const BRIDGE: &str = "cni0";

/// A node, a bridge, and somebody outside.
#[derive(Debug)]
pub struct BridgedNode {
    /// The node.
    pub node: Host,
    /// Somebody that policy does not know.
    pub outside: Party,
}

/// A pod at a port of the bridge.
#[derive(Debug)]
pub struct BridgedPod {
    /// Its place and addresses.
    pub party: Party,
    /// Its network.
    pub inside: Namespace,
}

impl BridgedNode {
    /// Builds the node without pods.
    pub fn build(lab: &Lab) -> Result<Self> {
        Self::with_uplink(lab, true)
    }

    /// The same, with the bridge as its uplink.
    pub fn build_on_uplink(lab: &Lab) -> Result<Self> {
        Self::with_uplink(lab, false)
    }

    fn with_uplink(lab: &Lab, apart: bool) -> Result<Self> {
        let namespace = lab.namespace("node")?;
        namespace.forward()?;
        let cgroup_root = lab.cgroup("node")?;
        cgroup::make(&cgroup_root.join("system"))?;
        let outside = lab.namespace("outside")?;
        namespace.ip(&[
            format!("link add {BRIDGE} type bridge"),
            format!("addr add 10.80.0.1/24 dev {BRIDGE}"),
            format!("addr add fd80::1/64 dev {BRIDGE} nodad"),
            format!("link set {BRIDGE} up"),
        ])?;
        let net = if apart { 81 } else { 80 };
        let group = if apart { 0xfd81 } else { 0xfd80 };
        let addresses_of = |host: u8| {
            let v6 = Ipv6Addr::new(group, 0, 0, 0, 0, 0, 0, host.into());
            (Ipv4Addr::new(10, net, 0, host), v6)
        };
        let (addresses, beyond) = (addresses_of(1), addresses_of(2));
        if apart {
            let end = |namespace, link, (v4, v6)| End {
                namespace,
                link,
                v4,
                v6,
            };
            let near = end(&namespace, UPLINK, addresses);
            cable(&near, &end(&outside, "eth0", beyond))?;
        } else {
            plug(&namespace, "port-outside", &outside, beyond)?;
        }
        namespace.ip(&[
            format!("route add default via {}", beyond.0),
            format!("route add default via {}", beyond.1),
        ])?;
        outside.ip(&[
            format!("route replace default via {}", addresses.0),
            format!("route replace default via {}", addresses.1),
        ])?;
        Ok(Self {
            outside: Party {
                place: Place::new("outside", &outside, lab.cgroup("/outside")?)?,
                addresses: beyond,
            },
            node: Host {
                name: "node",
                namespace,
                cgroup_root,
                addresses,
            },
        })
    }

    /// Connects a pod, with addresses that end with `host`.
    pub fn connect(&self, lab: &Lab, name: &str, host: u8) -> Result<BridgedPod> {
        let inside = lab.namespace(name)?;
        let addresses = (
            Ipv4Addr::new(10, 80, 0, host),
            Ipv6Addr::new(0xfd80, 0, 0, 0, 0, 0, 0, host.into()),
        );
        plug(
            &self.node.namespace,
            &format!("port-{name}"),
            &inside,
            addresses,
        )?;
        inside.ip(&[
            "route add default via 10.80.0.1",
            "route add default via fd80::1",
        ])?;
        let cgroup = self.node.cgroup_root.join("pods").join(name);
        Ok(BridgedPod {
            party: Party {
                place: Place::new(name, &inside, cgroup)?,
                addresses,
            },
            inside,
        })
    }
}

/// Connects a namespace to a port of the bridge, in the order of the plugin: the port first, the
/// addresses last.
fn plug(
    node: &Namespace,
    port: &str,
    inside: &Namespace,
    (v4, v6): (Ipv4Addr, Ipv6Addr),
) -> Result<()> {
    node.ip(&[
        format!(
            "link add {port} type veth peer name eth0 netns {}",
            inside.name()
        ),
        format!("link set {port} master {BRIDGE} up"),
    ])?;
    inside.ip(&[
        "link set eth0 up".to_owned(),
        format!("addr add {v4}/24 dev eth0"),
        format!("addr add {v6}/64 dev eth0 nodad"),
    ])
}
