//! A node whose pods are behind a bridge, as the bridge plugin of CNI connects them.
//!
//! ```text
//!  node     uplink up0 10.81.0.1 fd81::1, bridge cni0 10.80.0.1 fd80::1
//!  pods     port-NAME  10.80.0.HOST fd80::HOST
//!  outside             10.81.0.2 fd81::2
//! ```

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
        let namespace = lab.namespace("node")?;
        namespace.forward()?;
        let cgroup_root = lab.cgroup("node")?;
        cgroup::make(&cgroup_root.join("system"))?;
        let outside = lab.namespace("outside")?;
        let end = |namespace, link, host| End {
            namespace,
            link,
            v4: Ipv4Addr::new(10, 81, 0, host),
            v6: Ipv6Addr::new(0xfd81, 0, 0, 0, 0, 0, 0, host.into()),
        };
        let (near, far) = (end(&namespace, UPLINK, 1), end(&outside, "eth0", 2));
        cable(&near, &far)?;
        namespace.ip(&[
            format!("link add {BRIDGE} type bridge"),
            format!("addr add 10.80.0.1/24 dev {BRIDGE}"),
            format!("addr add fd80::1/64 dev {BRIDGE} nodad"),
            format!("link set {BRIDGE} up"),
            "route add default via 10.81.0.2".to_owned(),
            "route add default via fd81::2".to_owned(),
        ])?;
        outside.ip(&[
            "route add default via 10.81.0.1",
            "route add default via fd81::1",
        ])?;
        let (addresses, beyond) = ((near.v4, near.v6), (far.v4, far.v6));
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
        let (v4, v6) = addresses;
        // In the order of the plugin: the port first, the addresses last.
        self.node.namespace.ip(&[
            format!(
                "link add port-{name} type veth peer name eth0 netns {}",
                inside.name()
            ),
            format!("link set port-{name} master {BRIDGE} up"),
        ])?;
        inside.ip(&[
            "link set eth0 up".to_owned(),
            format!("addr add {v4}/24 dev eth0"),
            format!("addr add {v6}/64 dev eth0 nodad"),
            "route add default via 10.80.0.1".to_owned(),
            "route add default via fd80::1".to_owned(),
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
