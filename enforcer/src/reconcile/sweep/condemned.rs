//! Which open connections the image denies for sure.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
};

use enforcer_common::{Action, Direction, Judge, conntrack::infer_opener, policy_key::ALLOW_ALL};

use super::{Look, Openers};
use crate::{
    api::status::{EndpointStatus, PlaceKind},
    compile::{Image, elsewhere::ServiceAddress},
    inventory::{
        Snapshot,
        sockets::{ListeningPorts, Socket, State, listening_ports},
    },
    reconcile::in_force::InForce,
};

/// What is only being opened gets no answer, as every new connection that is denied.
pub(super) fn is_open(socket: &Socket) -> bool {
    socket.is_connected() && socket.state == State::Established
}

/// Whether policy denies anything at an endpoint.
pub(super) fn is_restricted(image: &Image, endpoint: &EndpointStatus) -> bool {
    !endpoint.audit
        && image
            .sets
            .get(&endpoint.identity)
            .is_some_and(|sets| sets.numbers != [ALLOW_ALL; 2])
}

/// Which endpoint a cgroup belongs to: its own, or the nearest one above it.
pub(crate) struct CgroupEndpoints<'a> {
    by_path: BTreeMap<&'a str, &'a EndpointStatus>,
    paths: HashMap<u64, &'a str>,
}

impl<'a> CgroupEndpoints<'a> {
    pub fn new(now: &'a InForce) -> Self {
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

    /// Whether policy restricts any of them.
    pub fn restrict(&self, image: &Image) -> bool {
        self.by_path.values().any(|e| is_restricted(image, e))
    }

    /// The endpoint of a cgroup, if it has one.
    pub fn endpoint(&self, cgroup: u64) -> Option<&'a EndpointStatus> {
        match self.of(cgroup) {
            Owner::Endpoint(endpoint) => Some(endpoint),
            Owner::Nobody | Owner::Unknown => None,
        }
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

/// The open connections of cgroup endpoints that the image denies.
pub(super) fn condemned_cgroup_sockets(
    now: &InForce,
    openers: &dyn Openers,
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
            return Some(identity_by_address(&now.image, socket, &listening));
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
                    let known = || openers.opener(endpoint, socket);
                    Connection::of(socket, &listening, known).is_denied(
                        &now.image,
                        endpoint.identity,
                        peer,
                    )
                })
        })
        .cloned()
        .collect()
}

/// A peer on another host: behind the port of a shared address if it was asked for, and else
/// whoever has the address.
fn identity_by_address(image: &Image, socket: &Socket, listening: &ListeningPorts) -> u32 {
    if listening.opened_by_peer(socket) {
        return image.identity_of(socket.remote.ip());
    }
    image.identity_behind(ServiceAddress {
        address: socket.remote.ip(),
        protocol: socket.protocol.number(),
        port: socket.remote.port(),
    })
}

/// The open connections of an interface endpoint that the image denies.
pub(super) fn condemned_interface_sockets(
    now: &InForce,
    openers: &dyn Openers,
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
            let peer = identity_by_address(&now.image, socket, &listening);
            let known = || openers.opener(endpoint, socket);
            Connection::of(socket, &listening, known).is_denied(&now.image, endpoint.identity, peer)
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
    /// A listener tells who opened it; without one the kernel programs do, if they have seen it
    /// (`known`), and else the ports.
    fn of(
        socket: &Socket,
        listening: &ListeningPorts,
        known: impl FnOnce() -> Option<Direction>,
    ) -> Self {
        let (local_port, remote_port) = (socket.local.port(), socket.remote.port());
        Self {
            opener: if listening.opened_by_peer(socket) {
                Some(Direction::Ingress)
            } else {
                known().or_else(|| infer_opener(local_port, remote_port))
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
    use std::sync::Arc;

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
            now: crate::policy::model::Moment::default(),
            host_addresses: &[],
            elsewhere: &crate::compile::elsewhere::NOBODY,
            attested: crate::compile::NOBODY,
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
            attested: None,
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
}
