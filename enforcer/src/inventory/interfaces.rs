//! Links, addresses and default routes of the network namespace that the daemon runs in, and the
//! addresses behind its bridges, kept up to date with rtnetlink.
//!
//! A notification is only a hint: everything is listed anew, so a lost one (the kernel says
//! ENOBUFS when the queue overflows) costs nothing but a listing. Listings use a socket of their
//! own, so that an overflow cannot swallow an answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use futures::{
    Stream, StreamExt as _, TryStreamExt as _, channel::mpsc::UnboundedReceiver, future,
};
use ipnet::IpNet;
use rtnetlink::{
    Handle, MulticastGroup,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressMessage},
        link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
    },
    sys::{AsyncSocket as _, SocketAddr},
};
use tokio::{sync::watch, task::JoinSet};

use super::ports::{self, PortAddresses};

/// The longest time between two listings, should a notification ever not come.
const LIST_EVERY: Duration = Duration::from_secs(30);

/// `RT_TABLE_LOCAL` of linux/rtnetlink.h.
const TABLE_LOCAL: u8 = 255;

/// The shortest pause after a notification, so that a storm of them becomes one listing.
const PAUSE: Duration = Duration::from_millis(2);

/// What an operator should know where the kernel does not tell of other namespaces.
const NO_BROADCASTS: &str = "an address that changes behind a port of a bridge is seen after up to \
     30 s: give the daemon CAP_NET_BROADCAST";

/// Why the interfaces cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    /// No socket.
    #[error("cannot open an rtnetlink socket")]
    Socket(#[source] io::Error),
    /// A listing failed.
    #[error("cannot list {what} by rtnetlink")]
    List {
        /// What was asked for.
        what: &'static str,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
    /// The library's task ended.
    #[error("the rtnetlink connection was closed")]
    Closed,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interface {
    /// Index in this network namespace, never 0.
    pub ifindex: u32,
    /// Name, at most 15 bytes.
    pub name: String,
    /// `IFF_UP`: an administrator wants it up.
    pub up: bool,
    /// `IFF_LOOPBACK`.
    pub loopback: bool,
    /// Kind as `ip link` shows it (`veth`, `bridge`, …), `None` for hardware.
    pub kind: Option<String>,
    /// `IFLA_LINK`: a veth's other end or a VLAN's parent, as an index in [`Self::peer_netns`].
    pub peer: Option<u32>,
    /// `IFLA_LINK_NETNSID`: this namespace's number for the one that the peer is in; `None`: the
    /// peer is in this namespace.
    pub peer_netns: Option<i32>,
    /// Index of the bridge, bond or VRF that it is a port of.
    pub controller: Option<u32>,
}

/// What there is in one network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// In the order of ifindex.
    pub interfaces: Vec<Interface>,
    /// Every address of this host, loopback included, sorted.
    pub host_addresses: Vec<IpAddr>,
    /// Names of the interfaces that a default route of any table leaves by, sorted.
    pub default_route_interfaces: Vec<String>,
    /// Unicast routes without a gateway, of any table, to what is behind interfaces whose other
    /// end is in another network namespace, and bridges, by ifindex: the ways to pods. Those of
    /// interfaces that are no bridge and that a default route leaves by are not among them.
    pub direct_routes: BTreeMap<IpNet, u32>,
    /// Addresses at the other ends of bridges' ports, where these are in another network
    /// namespace, with the ports' ifindices.
    pub port_addresses: PortAddresses,
    /// What keeps this from being up to date.
    pub note: Option<String>,
}

/// Watches the network namespace of the thread that called [`LinkWatch::open`].
pub(super) struct LinkWatch {
    handle: Handle,
    /// Of a socket with strict checks.
    strict: Handle,
    note: Option<String>,
    notifications: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    /// The library's tasks; they end with this value.
    _connections: JoinSet<()>,
}

impl LinkWatch {
    /// Opens the sockets and reads everything once. Must be called in a tokio runtime.
    pub(super) fn open() -> Result<Self, InterfaceError> {
        let (mut monitor, _, notifications) = rtnetlink::new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ])
        .map_err(InterfaceError::Socket)?;
        // Addresses behind the ports of bridges change in other namespaces.
        let socket = monitor.socket_mut().socket_mut();
        let note = socket.set_listen_all_namespaces(true).err();
        let (lists, handle, _) = rtnetlink::new_connection().map_err(InterfaceError::Socket)?;
        let strict = rtnetlink::new_connection_with_strict_check();
        let (strict_lists, strict, _) = strict.map_err(InterfaceError::Socket)?;
        let mut connections = JoinSet::new();
        connections.spawn(monitor);
        connections.spawn(lists);
        connections.spawn(strict_lists);
        Ok(Self {
            handle,
            strict,
            note: note.map(|_| NO_BROADCASTS.to_owned()),
            notifications,
            _connections: connections,
        })
    }

    /// What there is now.
    pub(super) async fn list(&self) -> Result<Links, InterfaceError> {
        let list = |what| move |source| InterfaceError::List { what, source };
        let mut interfaces: Vec<Interface> = self
            .handle
            .link()
            .get()
            .execute()
            .try_filter_map(|message| future::ready(Ok(interface(message))))
            .try_collect()
            .await
            .map_err(list("links"))?;
        if interfaces.is_empty() {
            // Every namespace has at least its loopback: the connection is gone.
            return Err(InterfaceError::Closed);
        }
        interfaces.sort();
        let addresses: BTreeSet<IpAddr> = self
            .handle
            .address()
            .get()
            .execute()
            .try_filter_map(|message| future::ready(Ok(host_address(&message))))
            .try_collect()
            .await
            .map_err(list("addresses"))?;
        let mut uplinks = BTreeSet::new();
        let mut direct = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            self.handle
                .route()
                .get(request)
                .execute()
                .try_for_each(|route| {
                    uplinks.extend(default_route_links(&route));
                    direct.extend(direct_route(&route));
                    future::ready(Ok(()))
                })
                .await
                .map_err(list("routes"))?;
        }
        let mut default_route_interfaces: Vec<String> = interfaces
            .iter()
            .filter(|i| uplinks.contains(&i.ifindex) && !i.loopback)
            .map(|i| i.name.clone())
            .collect();
        default_route_interfaces.sort();
        let leads_away = |i: &Interface| i.peer_netns.is_some() && !uplinks.contains(&i.ifindex);
        direct.retain(|(_, ifindex)| {
            let found = interfaces.iter().find(|i| i.ifindex == *ifindex);
            found.is_some_and(|found| ports::is_bridge(found) || leads_away(found))
        });
        let port_addresses = ports::addresses(&self.strict, &interfaces)
            .await
            .map_err(list("the addresses behind bridges"))?;
        Ok(Links {
            direct_routes: direct.into_iter().collect(),
            port_addresses,
            note: self.note.clone(),
            interfaces,
            host_addresses: addresses.into_iter().collect(),
            default_route_interfaces,
        })
    }

    /// Lists again whenever something changes, until it fails or nobody listens.
    pub(super) async fn run(mut self, links: watch::Sender<Links>) -> Result<(), InterfaceError> {
        let mut listing = Duration::ZERO;
        loop {
            tokio::select! {
                () = links.closed() => return Ok(()),
                relevant = next_relevant(&mut self.notifications) => relevant?,
                () = tokio::time::sleep(LIST_EVERY) => {}
            }
            // Half the time at most, whatever other namespaces have to tell.
            tokio::time::sleep(PAUSE.max(listing)).await;
            while let Ok(pending) = self.notifications.try_recv() {
                drop(pending);
            }
            let begun = Instant::now();
            let now = self.list().await?;
            listing = begun.elapsed();
            links.send_if_modified(|known| {
                let changed = *known != now;
                if changed {
                    *known = now;
                }
                changed
            });
        }
    }
}

/// Waits for a notification that could change [`Links`]. Safe to cancel.
async fn next_relevant(
    notifications: &mut (impl Stream<Item = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr)> + Unpin),
) -> Result<(), InterfaceError> {
    while let Some((message, _)) = notifications.next().await {
        match message.payload {
            // A host that carries many routes (BGP) changes them all the time.
            NetlinkPayload::InnerMessage(
                RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route),
            ) if route.header.destination_prefix_length != 0 && direct_route(&route).is_none() => {}
            _ => return Ok(()),
        }
    }
    Err(InterfaceError::Closed)
}

fn interface(message: LinkMessage) -> Option<Interface> {
    let flags = message.header.flags;
    let mut interface = Interface {
        ifindex: message.header.index,
        name: String::new(),
        up: flags.contains(LinkFlags::Up),
        loopback: flags.contains(LinkFlags::Loopback),
        kind: None,
        peer: None,
        peer_netns: None,
        controller: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name = name,
            LinkAttribute::Link(peer) if peer != 0 => interface.peer = Some(peer),
            // -1: the kernel has not given the peer's namespace a number here.
            LinkAttribute::LinkNetNsId(id) => interface.peer_netns = Some(id),
            LinkAttribute::Controller(index) if index != 0 => interface.controller = Some(index),
            LinkAttribute::LinkInfo(infos) => {
                interface.kind = infos.into_iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind_name(&kind)),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    (!interface.name.is_empty()).then_some(interface)
}

fn kind_name(kind: &InfoKind) -> String {
    kind.to_string()
}

/// The host's own address: `IFA_LOCAL` where there is one (on a point-to-point link
/// `IFA_ADDRESS` is the other end), else `IFA_ADDRESS`.
pub(super) fn host_address(message: &AddressMessage) -> Option<IpAddr> {
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(local) => return Some(*local),
            AddressAttribute::Address(other) => address = Some(*other),
            _ => {}
        }
    }
    address
}

/// Where a unicast route without a gateway leads, and the interface that it leaves by.
fn direct_route(route: &RouteMessage) -> Option<(IpNet, u32)> {
    let header = &route.header;
    if header.destination_prefix_length == 0
        || header.kind != RouteType::Unicast
        || header.table == TABLE_LOCAL
    {
        return None;
    }
    let (mut destination, mut interface) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(v4)) => {
                destination = Some(IpAddr::from(*v4));
            }
            RouteAttribute::Destination(RouteAddress::Inet6(v6)) => {
                destination = Some(IpAddr::from(*v6));
            }
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => return None,
            _ => {}
        }
    }
    let network = IpNet::new(destination?, header.destination_prefix_length).ok()?;
    Some((network.trunc(), interface?))
}

fn default_route_links(route: &RouteMessage) -> Vec<u32> {
    let header = &route.header;
    if header.destination_prefix_length != 0
        || header.kind != RouteType::Unicast
        || header.table == TABLE_LOCAL
    {
        return Vec::new();
    }
    let mut links = Vec::new();
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => links.push(*index),
            RouteAttribute::MultiPath(hops) => {
                links.extend(hops.iter().map(|hop| hop.interface_index));
            }
            _ => {}
        }
    }
    links
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(prefix: u8, attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut route = RouteMessage::default();
        route.header.destination_prefix_length = prefix;
        route.header.kind = RouteType::Unicast;
        route.header.table = 254;
        route.attributes = attributes;
        route
    }

    #[test]
    fn only_unicast_defaults_name_uplinks() {
        let default = route(0, vec![RouteAttribute::Oif(7)]);
        assert_eq!(default_route_links(&default), [7]);
        assert!(default_route_links(&route(24, vec![RouteAttribute::Oif(7)])).is_empty());
        let mut unreachable = default.clone();
        unreachable.header.kind = RouteType::Unreachable;
        assert!(default_route_links(&unreachable).is_empty());
    }

    #[test]
    fn direct_routes_have_no_gateway() {
        let to = RouteAttribute::Destination(RouteAddress::Inet([10, 244, 0, 7].into()));
        let pod = route(32, vec![to.clone(), RouteAttribute::Oif(7)]);
        assert_eq!(
            direct_route(&pod),
            Some(("10.244.0.7/32".parse().unwrap(), 7))
        );
        let gateway = RouteAttribute::Gateway(RouteAddress::Inet([10, 0, 0, 1].into()));
        let elsewhere = route(32, vec![to.clone(), gateway, RouteAttribute::Oif(7)]);
        assert_eq!(direct_route(&elsewhere), None);
        let mut own = pod.clone();
        own.header.table = TABLE_LOCAL;
        assert_eq!(direct_route(&own), None);
        assert_eq!(direct_route(&route(0, vec![RouteAttribute::Oif(7)])), None);
    }

    #[tokio::test]
    async fn a_new_way_to_a_pod_is_relevant() {
        let to = RouteAttribute::Destination(RouteAddress::Inet([10, 244, 0, 7].into()));
        let inner = RouteNetlinkMessage::NewRoute(route(32, vec![to, RouteAttribute::Oif(7)]));
        let mut one = futures::stream::iter([(NetlinkMessage::from(inner), SocketAddr::new(0, 0))]);
        assert!(next_relevant(&mut one).await.is_ok());
    }

    #[test]
    fn a_point_to_point_address_is_the_local_one() {
        let mut message = AddressMessage::default();
        let (own, other) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        message.attributes = vec![
            AddressAttribute::Address(other),
            AddressAttribute::Local(own),
        ];
        assert_eq!(host_address(&message), Some(own));
        message.attributes.pop();
        assert_eq!(host_address(&message), Some(other));
    }

    #[tokio::test]
    async fn changes_of_other_routes_are_not_relevant() {
        let address = SocketAddr::new(0, 0);
        let message = |prefix| {
            let inner = RouteNetlinkMessage::NewRoute(route(prefix, Vec::new()));
            (NetlinkMessage::from(inner), address)
        };
        let mut many = futures::stream::iter([message(24), message(64), message(32)]);
        assert!(next_relevant(&mut many).await.is_err());
        let mut one = futures::stream::iter([message(24), message(0), message(32)]);
        assert!(next_relevant(&mut one).await.is_ok());
        assert!(one.next().await.is_some(), "it stops at the default route");
    }
}
