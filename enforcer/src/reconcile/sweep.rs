//! Ends open TCP connections that the policy in force denies, so that their owners see them die
//! at once and not at their next packet.
//!
//! Enforcement does not depend on it: the kernel judges every open flow again after a change.
//! So whatever is in doubt here (who opened it, who the peer is) is left to the kernel. The host
//! endpoint is left to it altogether, because only the packet shows whether a connection leaves
//! by an uplink; its connections end when the kernel reports that it broke one.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::unix::fs::MetadataExt,
    sync::Arc,
    time::Duration,
};

use enforcer_common::{
    Action, Direction, Judge,
    conntrack::infer_opener,
    event::{Event, event_flag},
    policy_key::ALLOW_ALL,
};
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::in_force::InForce;
use crate::{
    api::status::{EndpointStatus, PlaceKind},
    cause::chain,
    compile::Image,
    inventory::{
        Snapshot,
        namespaces::NamespaceFinder,
        sockets::{
            Destroyed, ListeningPorts, Protocol, Socket, SocketTable, State, listening_ports,
        },
    },
};

/// After a change, what was being opened meanwhile is looked for once more.
const SECOND_LOOK: Duration = Duration::from_millis(400);
/// Between two passes, so that a busy host is not spent on them.
const PAUSE: Duration = Duration::from_millis(100);

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

/// Sweeps after every change and after every broken flow, until `stop`.
pub async fn run(
    mut in_force: watch::Receiver<Arc<InForce>>,
    mut broken: mpsc::Receiver<BrokenFlow>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut swept = 0;
    let mut again = false;
    loop {
        let mut flows = HashSet::new();
        tokio::select! {
            // At the end, inputs end after `stop`.
            biased;
            () = stop.cancelled() => return Ok(()),
            changed = in_force.changed() => changed?,
            flow = broken.recv() => flows.extend(flow),
            () = sleep(SECOND_LOOK), if again => {}
        }
        while let Ok(flow) = broken.try_recv() {
            flows.insert(flow);
        }
        let now = in_force.borrow_and_update().clone();
        let changed = now.generation != swept;
        if !changed && !again && flows.is_empty() {
            continue;
        }
        let look = match (changed, again) {
            (true, _) => Look::First,
            (false, true) => Look::Second,
            (false, false) => Look::None,
        };
        again = changed;
        swept = now.generation;
        tokio::task::spawn_blocking(move || sweep(&now, look, &flows)).await?;
        sleep(PAUSE).await;
    }
}

/// Whether every open connection is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// Only what the kernel has broken is ended.
    None,
    /// Just after a change.
    First,
    /// A while later: a cgroup that the snapshot does not have by now is outside the cgroup
    /// root, not new.
    Second,
}

/// One pass: what the image denies, and what the kernel has broken.
fn sweep(now: &InForce, look: Look, broken: &HashSet<BrokenFlow>) {
    let judge_all = look != Look::None;
    let mut ended = 0;
    let places = CgroupEndpoints::new(now);
    if (judge_all && places.restrict(&now.image)) || !broken.is_empty() {
        match SocketTable::here() {
            Ok(table) => {
                ended += end(table, |sockets| {
                    let mut found = matching(sockets, broken);
                    if judge_all {
                        found.extend(condemned_cgroup_sockets(now, &places, look, sockets));
                    }
                    found
                });
            }
            Err(error) => warn!(
                error = chain(&error),
                "cannot look for connections that policy denies"
            ),
        }
    }
    let interfaces: Vec<_> = now
        .endpoints
        .iter()
        .filter(|e| e.kind == PlaceKind::Interface)
        .filter(|e| {
            judge_all && is_restricted(&now.image, e) || broken.iter().any(|b| b.endpoint == e.id)
        })
        .collect();
    if !interfaces.is_empty() {
        ended += sweep_interfaces(now, judge_all, &interfaces, broken);
    }
    if ended > 0 {
        info!(connections = ended, "ended connections that policy denies");
    }
}

fn sweep_interfaces(
    now: &InForce,
    judge_all: bool,
    endpoints: &[&EndpointStatus],
    broken: &HashSet<BrokenFlow>,
) -> usize {
    let mut finder = match NamespaceFinder::here() {
        Ok(finder) => finder,
        Err(error) => {
            warn!(
                error = chain(&error),
                "cannot look into the namespaces of workloads"
            );
            return 0;
        }
    };
    let own = std::fs::metadata("/proc/self/ns/net").map(|m| (m.dev(), m.ino()));
    let mut ended = 0;
    for endpoint in endpoints {
        let ifindex = u32::try_from(endpoint.place_number).unwrap_or(0);
        let namespace = match finder.of_peer(ifindex) {
            Ok(Some(namespace)) => std::fs::File::from(namespace),
            Ok(None) => continue,
            Err(error) => {
                debug!(
                    interface = endpoint.place,
                    error = chain(&error),
                    "cannot find the workload's namespace"
                );
                continue;
            }
        };
        // An interface whose other end is here shows nothing of whose sockets these are.
        let is_own = namespace
            .metadata()
            .ok()
            .zip(own.as_ref().ok())
            .is_none_or(|(m, own)| (m.dev(), m.ino()) == *own);
        if is_own {
            continue;
        }
        match SocketTable::of_namespace(&namespace) {
            Ok(table) => {
                ended += end(table, |sockets| {
                    let mut found = matching(sockets, broken);
                    if judge_all {
                        found.extend(condemned_interface_sockets(now, endpoint, sockets));
                    }
                    found
                });
            }
            Err(error) => {
                debug!(
                    interface = endpoint.place,
                    error = chain(&error),
                    "cannot list the workload's sockets"
                );
            }
        }
    }
    ended
}

/// Lists, chooses, destroys. Returns how many died.
fn end(mut table: SocketTable, choose: impl FnOnce(&[Socket]) -> Vec<Socket>) -> usize {
    let sockets = match table.list(Protocol::Tcp) {
        Ok(sockets) => sockets,
        Err(error) => {
            warn!(
                error = chain(&error),
                "cannot look for connections that policy denies"
            );
            return 0;
        }
    };
    let mut ended = 0;
    for socket in choose(&sockets) {
        match table.destroy(&socket) {
            Ok(Destroyed::Now) => {
                info!(local = %socket.local, remote = %socket.remote, "ended a connection that policy denies");
                ended += 1;
            }
            Ok(Destroyed::Before) => {}
            Err(error) => {
                warn!(
                    error = chain(&error),
                    "cannot end a connection that policy denies; its packets are dropped"
                );
            }
        }
    }
    ended
}

/// The sockets of flows that the kernel broke.
fn matching(sockets: &[Socket], broken: &HashSet<BrokenFlow>) -> Vec<Socket> {
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

/// What is only being opened gets no answer, as every new connection that is denied.
fn is_open(socket: &Socket) -> bool {
    socket.is_connected() && socket.state == State::Established
}

fn is_restricted(image: &Image, endpoint: &EndpointStatus) -> bool {
    !endpoint.audit
        && image
            .sets
            .get(&endpoint.identity)
            .is_some_and(|sets| sets.numbers != [ALLOW_ALL; 2])
}

/// Which endpoint a cgroup belongs to: its own, or the nearest one above it.
struct CgroupEndpoints<'a> {
    by_path: BTreeMap<&'a str, &'a EndpointStatus>,
    paths: HashMap<u64, &'a str>,
}

impl<'a> CgroupEndpoints<'a> {
    fn new(now: &'a InForce) -> Self {
        let snapshot: &Snapshot = &now.snapshot;
        Self {
            by_path: now
                .endpoints
                .iter()
                .filter(|e| e.kind == PlaceKind::Cgroup)
                .map(|e| (e.place.as_str(), e))
                .collect(),
            paths: snapshot
                .cgroups
                .iter()
                .map(|(path, id)| (*id, path.as_str()))
                .collect(),
        }
    }

    fn restrict(&self, image: &Image) -> bool {
        self.by_path.values().any(|e| is_restricted(image, e))
    }

    fn of(&self, cgroup: u64) -> Owner<'a> {
        let Some(mut path) = self.paths.get(&cgroup).copied() else {
            return Owner::Unknown;
        };
        loop {
            if let Some(endpoint) = self.by_path.get(path) {
                return Owner::Endpoint(endpoint);
            }
            match path.rsplit_once('/') {
                Some(("", _)) if path != "/" => path = "/",
                Some((parent, _)) if !parent.is_empty() => path = parent,
                _ => return Owner::Nobody,
            }
        }
    }
}

/// Whose a cgroup is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Owner<'a> {
    Endpoint(&'a EndpointStatus),
    Nobody,
    /// A cgroup that the snapshot does not have.
    Unknown,
}

fn condemned_cgroup_sockets(
    now: &InForce,
    places: &CgroupEndpoints<'_>,
    look: Look,
    sockets: &[Socket],
) -> Vec<Socket> {
    let listening = listening_ports(sockets);
    let host: HashSet<IpAddr> = now.snapshot.host_addresses.iter().copied().collect();
    let by_ends: HashMap<_, _> = sockets
        .iter()
        .filter(|s| s.is_connected())
        .map(|s| ((s.local, s.remote), s))
        .collect();
    let identity_of_peer = |socket: &Socket| {
        let remote = socket.remote.ip();
        if !remote.is_loopback() && !host.contains(&remote) {
            return Some(now.image.identity_of(remote));
        }
        // On this host: only the peer's own socket tells who it is.
        let peer = by_ends.get(&(socket.remote, socket.local))?;
        match places.of(peer.cgroup?) {
            Owner::Endpoint(endpoint) => Some(endpoint.identity),
            Owner::Nobody => Some(now.image.identity_of(remote)),
            Owner::Unknown if look == Look::Second => Some(now.image.identity_of(remote)),
            Owner::Unknown => None,
        }
    };
    sockets
        .iter()
        .filter(|socket| is_open(socket))
        .filter(|socket| {
            let Some(Owner::Endpoint(endpoint)) = socket.cgroup.map(|c| places.of(c)) else {
                return false;
            };
            is_restricted(&now.image, endpoint)
                && identity_of_peer(socket).is_some_and(|peer| {
                    Connection::of(socket, &listening).is_denied(
                        &now.image,
                        endpoint.identity,
                        peer,
                    )
                })
        })
        .cloned()
        .collect()
}

fn condemned_interface_sockets(
    now: &InForce,
    endpoint: &EndpointStatus,
    sockets: &[Socket],
) -> Vec<Socket> {
    if !is_restricted(&now.image, endpoint) {
        return Vec::new();
    }
    let listening = listening_ports(sockets);
    // The namespace's own addresses, as far as its sockets show them: what stays inside never
    // passes the interface.
    let own: HashSet<IpAddr> = sockets.iter().map(|s| s.local.ip()).collect();
    let declared = now
        .policy
        .workloads
        .iter()
        .find(|w| Some(&w.namespace) == endpoint.namespace.as_ref() && w.name == endpoint.name)
        .map_or(&[][..], |w| &w.addresses);
    sockets
        .iter()
        .filter(|socket| is_open(socket))
        .filter(|s| !s.remote.ip().is_loopback() && !own.contains(&s.remote.ip()))
        // Of a namespace with several interfaces, what goes by this one.
        .filter(|s| declared.is_empty() || declared.iter().any(|net| net.contains(&s.local.ip())))
        .filter(|socket| {
            let peer = now.image.identity_of(socket.remote.ip());
            Connection::of(socket, &listening).is_denied(&now.image, endpoint.identity, peer)
        })
        .cloned()
        .collect()
}

/// What decides about a connection, beside who has it.
#[derive(Clone, Copy, Debug)]
struct Connection {
    /// `None`: it does not show.
    opener: Option<Direction>,
    local_port: u16,
    remote_port: u16,
}

impl Connection {
    fn of(socket: &Socket, listening: &ListeningPorts) -> Self {
        let (local_port, remote_port) = (socket.local.port(), socket.remote.port());
        Self {
            opener: if listening.opened_by_peer(socket) {
                Some(Direction::Ingress)
            } else {
                infer_opener(local_port, remote_port)
            },
            local_port,
            remote_port,
        }
    }

    /// Whether the image denies it, whoever may have opened it.
    fn is_denied(self, image: &Image, identity: u32, peer: u32) -> bool {
        let Some(sets) = image.sets.get(&identity) else {
            return false;
        };
        let denies = |direction: Direction| {
            let judge = Judge {
                set: sets.numbers[direction as usize],
                peer,
                protocol: enforcer_common::Protocol::TCP,
                port: match direction {
                    Direction::Egress => self.remote_port,
                    Direction::Ingress => self.local_port,
                },
            };
            judge.decide(image).action() == Action::Deny
        };
        match self.opener {
            Some(direction) => denies(direction),
            None => denies(Direction::Egress) && denies(Direction::Ingress),
        }
    }
}

#[cfg(test)]
mod tests {
    use enforcer_common::identity;

    use super::*;
    use crate::{
        compile::{Inputs, Limits, Numbers, Subjects, compile, image::Assurance},
        policy::model::Mode,
    };

    const TREE: &str = "
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: { name: web, namespace: shop, labels: { app: web } }
spec: { cgroup: /shop/web }
---
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: { name: web, namespace: shop }
spec:
  selector: { matchLabels: { app: web } }
  ingress:
    - from: [{ entity: any }]
      ports: [80/tcp]
";

    /// The tree, with the workload at the cgroup `/shop/web`.
    fn in_force(mode: Mode) -> InForce {
        let policy = crate::policy::load_text("tree.yaml", TREE).unwrap();
        let inputs = Inputs {
            policy: &policy,
            mode,
            host_addresses: &[],
            subjects: Subjects::Placed,
            limits: &Limits::NONE,
            in_force: None,
        };
        let image = compile(&inputs, &mut Numbers::default()).unwrap();
        let identity = *image.workloads.values().next().unwrap();
        let paths = ["/", "/shop", "/shop/web", "/shop/web/worker", "/shop/webby"];
        let mut now = InForce::nothing();
        now.policy = Arc::new(policy);
        now.image = Arc::new(image);
        now.snapshot = Arc::new(Snapshot {
            cgroups: (1..).zip(paths).map(|(n, p)| (p.to_owned(), n)).collect(),
            ..Snapshot::default()
        });
        now.endpoints = Arc::new([EndpointStatus {
            id: 2,
            namespace: Some("shop".into()),
            name: "web".into(),
            identity,
            labels: [].into(),
            spiffe_id: None,
            assurance: Assurance::Kernel,
            kind: PlaceKind::Cgroup,
            place: "/shop/web".into(),
            place_number: 3,
            audit: mode == Mode::Audit,
            origin: None,
        }]);
        now
    }

    #[test]
    fn the_nearest_endpoint_above_owns_a_cgroup() {
        let now = in_force(Mode::Enforce);
        let places = CgroupEndpoints::new(&now);
        for (cgroup, owned) in [(1, false), (2, false), (3, true), (4, true), (5, false)] {
            assert_eq!(
                matches!(places.of(cgroup), Owner::Endpoint(_)),
                owned,
                "{cgroup}"
            );
        }
        assert_eq!(places.of(1), Owner::Nobody);
        assert_eq!(places.of(99), Owner::Unknown);
    }

    #[test]
    fn only_what_is_denied_for_sure_ends() {
        let now = in_force(Mode::Enforce);
        let identity = now.endpoints[0].identity;
        let denied = |opener, local_port, remote_port| {
            let connection = Connection {
                opener,
                local_port,
                remote_port,
            };
            connection.is_denied(&now.image, identity, identity::WORLD)
        };
        assert!(!denied(Some(Direction::Ingress), 80, 40_000));
        assert!(denied(Some(Direction::Ingress), 81, 40_000));
        // Egress is not restricted, so an opener that does not show keeps the connection.
        assert!(!denied(Some(Direction::Egress), 40_000, 81));
        assert!(!denied(None, 5_000, 6_000));
    }

    #[test]
    fn audit_ends_nothing() {
        for (mode, restricted) in [(Mode::Enforce, true), (Mode::Audit, false)] {
            let now = in_force(mode);
            assert_eq!(is_restricted(&now.image, &now.endpoints[0]), restricted);
            assert_eq!(CgroupEndpoints::new(&now).restrict(&now.image), restricted);
        }
    }

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
