//! Which endpoint a connection really came from, by what the kernel says.
//!
//! - A peer with an address of this host: its own socket is looked up, and the cgroup in which
//!   that was made tells the endpoint. A process that holds the socket must be in that cgroup
//!   now, so that nobody takes a socket along into another one.
//! - Any other peer: the interface by which the connection came in is the endpoint's, and the
//!   address is one that the workload declares, so that the source guard of that and of every
//!   other interface keeps it from others.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use super::gate::Source;
use crate::{
    api::status::{EndpointStatus, PlaceKind},
    identity::binding::{BoundPlace, ProvingProcess},
    inventory::sockets::{Socket, SocketError, SocketTable},
    policy::model::Workload,
    reconcile::in_force::InForce,
};

/// Why a connection belongs to no endpoint that a proof can be bound to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoEndpoint {
    /// Nobody's.
    #[error(
        "the connection from {0} comes from no workload of this host: enroll it with a Workload \
         document that has its cgroup, unit or interface"
    )]
    Nobody(SocketAddr),
    /// The socket cannot be found.
    #[error(
        "the socket behind {0} cannot be found on this host: connect without binding to a device"
    )]
    NoSocket(SocketAddr),
    /// No process of the cgroup holds the socket.
    #[error(
        "no process in cgroup {0} holds the connection: a socket that was taken along proves \
         nothing; connect anew"
    )]
    Moved(String),
    /// The source is not guarded.
    #[error(
        "{address} is not among the addresses of {workload}: declare it there, so that nobody \
         else can send with it"
    )]
    Unguarded {
        /// The address.
        address: IpAddr,
        /// The workload behind the interface.
        workload: String,
    },
    /// Ports of the bridge that nobody watches.
    #[error(
        "{0} comes through a bridge with ports that belong to no workload, which could send with \
         its address: enroll them too, or give the workload an interface of its own"
    )]
    OpenBridge(SocketAddr),
}

impl NoEndpoint {
    /// As in metrics and events.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Nobody(_) => "no-endpoint",
            Self::NoSocket(_) => "no-socket",
            Self::Moved(_) => "moved",
            Self::Unguarded { .. } => "unguarded-source",
            Self::OpenBridge(_) => "open-bridge",
        }
    }
}

/// What the kernel says of a connection.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The other end.
    pub peer: SocketAddr,
    /// The interface by which it came in, or 0.
    pub interface: u32,
    /// The peer's own socket, where it is on this host.
    pub socket: Option<Socket>,
}

/// An endpoint, and what shows that the connection is its.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The endpoint as it is in force.
    pub endpoint: EndpointStatus,
    /// For a binding.
    pub at: BoundPlace,
    /// Who holds the connection, where that is a cgroup's process.
    pub process: Option<ProvingProcess>,
}

/// Finds out about connections. For those of the network namespace in which it was made.
#[derive(Debug)]
pub struct Locator {
    sockets: Mutex<SocketTable>,
    cgroup_root: Option<PathBuf>,
}

impl Locator {
    /// For the calling thread's network namespace.
    pub fn here(cgroup_root: Option<PathBuf>) -> Result<Self, SocketError> {
        Ok(Self {
            sockets: Mutex::new(SocketTable::here()?),
            cgroup_root,
        })
    }

    /// Looks at a connection that was just accepted.
    pub fn look(
        &self,
        now: &InForce,
        local: SocketAddr,
        peer: SocketAddr,
        interface: u32,
    ) -> Arrival {
        let (local, peer) = (canonical(local), canonical(peer));
        let is_here = peer.ip().is_loopback() || now.snapshot.host_addresses.contains(&peer.ip());
        let socket = is_here.then(|| {
            let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
            // The peer's own end is our peer, and the other way round.
            sockets.find_tcp(peer, local).ok().flatten()
        });
        Arrival {
            peer,
            interface,
            socket: socket.flatten(),
        }
    }

    /// The endpoint that a connection came from.
    pub fn endpoint(&self, now: &InForce, arrival: &Arrival) -> Result<Origin, NoEndpoint> {
        let peer = arrival.peer;
        let is_here = peer.ip().is_loopback() || now.snapshot.host_addresses.contains(&peer.ip());
        if is_here {
            let socket = arrival.socket.as_ref();
            let socket = socket.ok_or(NoEndpoint::NoSocket(peer))?;
            self.cgroup_endpoint(now, peer, socket)
        } else {
            interface_endpoint(now, peer, arrival.interface)
        }
    }

    fn cgroup_endpoint(
        &self,
        now: &InForce,
        peer: SocketAddr,
        socket: &Socket,
    ) -> Result<Origin, NoEndpoint> {
        let nobody = || NoEndpoint::Nobody(peer);
        let cgroup = socket.cgroup.ok_or_else(nobody)?;
        let paths = &now.snapshot.cgroups;
        let path = paths.iter().find(|(_, id)| **id == cgroup);
        let path = path.ok_or_else(nobody)?.0;
        let endpoint = ancestors(path)
            .find_map(|path| {
                let mut endpoints = now.endpoints.iter();
                endpoints.find(|e| e.kind == PlaceKind::Cgroup && e.place == path)
            })
            .ok_or_else(nobody)?;
        let moved = || NoEndpoint::Moved(endpoint.place.clone());
        let root = self.cgroup_root.as_deref().ok_or_else(nobody)?;
        // Those below it, but for what belongs to a nearer endpoint.
        let below: Vec<&str> = paths
            .keys()
            .map(String::as_str)
            .filter(|path| is_below(path, &endpoint.place))
            .filter(|path| !is_nearer(now, path, &endpoint.place))
            .collect();
        let process = holder(root, &endpoint.place, &below, socket.inode).ok_or_else(moved)?;
        origin(now, endpoint, Some(process)).ok_or_else(nobody)
    }
}

fn interface_endpoint(
    now: &InForce,
    peer: SocketAddr,
    interface: u32,
) -> Result<Origin, NoEndpoint> {
    let address = peer.ip();
    let endpoints = || {
        let endpoints = now.endpoints.iter();
        endpoints.filter(|e| e.kind == PlaceKind::Interface)
    };
    let declares = |endpoint: &&EndpointStatus| {
        workload_of(now, endpoint)
            .is_some_and(|w| w.addresses.iter().any(|net| net.contains(&address)))
    };
    let nobody = || NoEndpoint::Nobody(peer);
    if interface == 0 {
        return Err(nobody());
    }
    let number = u64::from(interface);
    if let Some(endpoint) = endpoints().find(|e| e.place_number == number) {
        if !declares(&endpoint) {
            return Err(NoEndpoint::Unguarded {
                address,
                workload: name_of(endpoint),
            });
        }
        return origin(now, endpoint, None).ok_or_else(nobody);
    }
    // A bridge: the port is not known, but every port guards its sources.
    let ports: Vec<u64> = ports_of(now, interface).collect();
    let on_bridge = endpoints().filter(|e| ports.contains(&e.place_number));
    let mut claimants = on_bridge.filter(declares);
    let (Some(endpoint), None) = (claimants.next(), claimants.next()) else {
        return Err(nobody());
    };
    if is_open(now, interface) {
        return Err(NoEndpoint::OpenBridge(peer));
    }
    origin(now, endpoint, None).ok_or_else(nobody)
}

fn ports_of(now: &InForce, bridge: u32) -> impl Iterator<Item = u64> + '_ {
    let interfaces = now.snapshot.interfaces.iter();
    let ports = interfaces.filter(move |i| i.controller == Some(bridge));
    ports.map(|port| u64::from(port.ifindex))
}

/// Whether a port of a bridge belongs to no workload, so that nobody guards what it sends.
fn is_open(now: &InForce, bridge: u32) -> bool {
    let endpoints = now.endpoints.iter();
    let guarded: BTreeSet<u64> = endpoints
        .filter(|e| e.kind == PlaceKind::Interface)
        .map(|e| e.place_number)
        .collect();
    ports_of(now, bridge).any(|port| !guarded.contains(&port))
}

/// Whether an interface is a port of a bridge of which that is so.
pub(super) fn is_on_open_bridge(now: &InForce, interface: u64) -> bool {
    let mut interfaces = now.snapshot.interfaces.iter();
    let found = interfaces.find(|i| u64::from(i.ifindex) == interface);
    let bridge = found.and_then(|port| port.controller);
    bridge.is_some_and(|bridge| is_open(now, bridge))
}

/// An endpoint of a workload, with the process that shows it.
pub(in crate::identity) fn origin(
    now: &InForce,
    endpoint: &EndpointStatus,
    process: Option<ProvingProcess>,
) -> Option<Origin> {
    workload_of(now, endpoint)?;
    Some(Origin {
        at: BoundPlace {
            workload: crate::compile::image::WorkloadName {
                namespace: endpoint.namespace.clone()?,
                name: endpoint.name.clone(),
            },
            kind: endpoint.kind,
            place: endpoint.place.clone(),
            number: endpoint.place_number,
        },
        endpoint: endpoint.clone(),
        process,
    })
}

/// The workload of an endpoint, as policy declares it.
pub fn workload_of<'n>(now: &'n InForce, endpoint: &EndpointStatus) -> Option<&'n Workload> {
    let namespace = endpoint.namespace.as_deref()?;
    let workloads = &now.policy.workloads;
    let key = (namespace, endpoint.name.as_str());
    let found = workloads.binary_search_by(|w| (w.namespace.as_str(), w.name.as_str()).cmp(&key));
    found.ok().map(|index| &*workloads[index])
}

/// A workload's full name.
pub fn name_of(endpoint: &EndpointStatus) -> String {
    match &endpoint.namespace {
        Some(namespace) => format!("{namespace}/{}", endpoint.name),
        None => endpoint.name.clone(),
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// How connections of an arrival are counted.
pub fn source_of(arrival: &Arrival) -> Source {
    let socket = arrival.socket.as_ref();
    match socket.and_then(|socket| socket.cgroup) {
        Some(cgroup) => Source::Cgroup(cgroup),
        None => Source::of(arrival.peer.ip()),
    }
}

/// A cgroup and those above it.
pub(in crate::identity) fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| match path.rsplit_once('/') {
        Some(("", "")) | None => None,
        Some(("", _)) => Some("/"),
        Some((parent, _)) => Some(parent),
    })
}

fn is_below(path: &str, above: &str) -> bool {
    let above = above.trim_end_matches('/');
    path.strip_prefix(above)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The process in the endpoint's cgroup, or in one below it, that has the socket open.
fn holder(root: &Path, endpoint: &str, cgroups: &[&str], inode: u32) -> Option<ProvingProcess> {
    if inode == 0 {
        return None;
    }
    let wanted = format!("socket:[{inode}]");
    for path in cgroups {
        let file = root.join(path.trim_start_matches('/')).join("cgroup.procs");
        let pids = fs::read_to_string(file).unwrap_or_default();
        for pid in pids.lines().filter_map(|line| line.parse::<u32>().ok()) {
            if has_open(pid, &wanted).unwrap_or(false)
                && let Some((start, found)) = state_of(pid)
            {
                // What is written before the part that the endpoint does not tell apart.
                let inside = path.strip_prefix(endpoint.trim_end_matches('/'))?;
                let cgroup = found.strip_suffix(inside).unwrap_or(&found).to_owned();
                return Some(ProvingProcess { pid, start, cgroup });
            }
        }
    }
    None
}

fn has_open(pid: u32, wanted: &str) -> io::Result<bool> {
    for file in fs::read_dir(format!("/proc/{pid}/fd"))? {
        // A file that was closed meanwhile is none.
        let Ok(target) = file.and_then(|file| fs::read_link(file.path())) else {
            continue;
        };
        if target.to_str() == Some(wanted) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// When a process started, and its cgroup in the v2 tree. `None`: there is none of this id.
fn state_of(pid: u32) -> Option<(u64, String)> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // proc(5): the second field may hold anything; the third is the first behind it.
    let (_, fields) = line.rsplit_once(')')?;
    let start = fields.split_ascii_whitespace().nth(22 - 3)?.parse().ok()?;
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let cgroup = cgroups.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some((start, cgroup.to_owned()))
}

/// Whether another endpoint is nearer to a cgroup than one above it.
fn is_nearer(now: &InForce, path: &str, above: &str) -> bool {
    let mut endpoints = now.endpoints.iter();
    endpoints.any(|endpoint| {
        endpoint.kind == PlaceKind::Cgroup
            && endpoint.place != above
            && is_below(&endpoint.place, above)
            && is_below(path, &endpoint.place)
    })
}

/// Whether a process that gave a proof at an endpoint is another one's now. One that has ended
/// is not.
pub fn has_moved(now: &InForce, process: &ProvingProcess, endpoint: &str) -> bool {
    let Some((start, cgroup)) = state_of(process.pid) else {
        return false;
    };
    if start != process.start {
        return false;
    }
    if !is_below(&cgroup, &process.cgroup) {
        return true;
    }
    let inside = cgroup.strip_prefix(process.cgroup.trim_end_matches('/'));
    let path = format!(
        "{}{}",
        endpoint.trim_end_matches('/'),
        inside.unwrap_or_default()
    );
    is_nearer(now, &path, endpoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_above_a_cgroup() {
        let above = |path| ancestors(path).collect::<Vec<_>>();
        assert_eq!(above("/a/b"), ["/a/b", "/a", "/"]);
        assert_eq!(above("/"), ["/"]);
    }

    #[test]
    fn below_is_not_beside() {
        for (path, below) in [("/a", true), ("/a/b", true), ("/ab", false), ("/", false)] {
            assert_eq!(is_below(path, "/a"), below, "{path}");
        }
        assert!(is_below("/a", "/") && is_below("/", "/"));
    }

    #[test]
    fn a_process_that_stays_has_not_moved() {
        let pid = std::process::id();
        let (start, cgroup) = state_of(pid).expect("this process is there");
        let mut process = ProvingProcess { pid, start, cgroup };
        let now = InForce::nothing();
        assert!(!has_moved(&now, &process, "/web"));
        process.cgroup += "/elsewhere";
        assert!(has_moved(&now, &process, "/web"));
        process.start += 1;
        assert!(
            !has_moved(&now, &process, "/web"),
            "another process of this id"
        );
    }
}
