//! From policy, image and host to what the kernel is to hold. Pure, but for the numbers given
//! to new endpoints.

use std::collections::BTreeSet;

use enforcer_common::{
    config::{FAILSAFE_PORTS, FailsafePort},
    identity,
};

use crate::{
    api::status::{AttestedStatus, EndpointStatus, PlaceKind},
    compile::image::{Assurance, WorkloadName},
    datapath::{
        clock::WallClock,
        desired::{Desired, DesiredEndpoint, EndpointPlace, HOST_ENDPOINT, NodeConfig, Uplink},
    },
    identity::{
        binding::{self, Binding, Bindings},
        svid::moment,
    },
    inventory::{Snapshot, place::Placement},
    policy::model::{Denied, Fallback, Mode, NodeSettings, Workload},
    reconcile::in_force::InForce,
    settings::UplinkChoice,
    state::endpoint_numbers::{EndpointKey, EndpointNumbers},
};

/// What is to become true, and how it is shown.
#[derive(Clone, Debug)]
pub struct Plan {
    /// For the kernel.
    pub desired: Desired,
    /// For people: the same endpoints, with names.
    pub endpoints: Vec<EndpointStatus>,
    /// Where enforcement is not what policy or flags say, in sentences.
    pub shortfalls: Vec<String>,
}

/// Settings of the node that are not policy.
#[derive(Clone, Copy, Debug)]
pub struct NodeFacts<'a> {
    /// Name of the node.
    pub name: &'a str,
    /// Uplinks.
    pub uplinks: &'a UplinkChoice,
    /// Report allowed flows.
    pub report_allowed: bool,
    /// First reports a second and CPU.
    pub report_limit: u32,
    /// Answers to denied packets a second and CPU.
    pub reject_limit: u32,
    /// Second of the Unix epoch.
    pub now: u64,
    /// How the wall clock stands.
    pub clock: WallClock,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Too many failsafe ports.
    #[error(
        "{found} failsafe ports, but the kernel has room for {FAILSAFE_PORTS}: name fewer in the Node document"
    )]
    FailsafePorts {
        /// How many there are.
        found: usize,
    },
}

/// Makes the plan for what `wanted` says (policy, image, mode) on the host as of `snapshot`, where
/// the policy's workloads are as `placement` says.
pub fn plan(
    wanted: &InForce,
    snapshot: &Snapshot,
    placement: Placement,
    bindings: &Bindings,
    facts: &NodeFacts<'_>,
    numbers: &mut EndpointNumbers,
) -> Result<Plan, PlanError> {
    let policy = &*wanted.policy;
    let audit = wanted.mode.effective == Mode::Audit;
    let problems = placement.problems.iter();
    let mut shortfalls: Vec<_> = problems.map(ToString::to_string).collect();
    let uplinks = uplinks(facts.uplinks, snapshot, &mut shortfalls);

    let mut endpoints = Vec::new();
    let mut shown: Vec<_> = uplinks
        .iter()
        .map(|uplink| host_status(uplink, facts.name, &policy.node, audit))
        .collect();
    let mut present = BTreeSet::new();
    for placed in placement.endpoints {
        let workload = &policy.workloads[placed.workload];
        let name = WorkloadName {
            namespace: workload.namespace.clone(),
            name: workload.name.clone(),
        };
        let bound = binding::holding(bindings, workload, &placed.place);
        let known = match bound {
            Some(_) => wanted.image.attested.get(&name),
            None => wanted.image.workloads.get(&name),
        };
        let Some(identity) = known.copied() else {
            // Every placed workload has an identity; one without would be judged by nobody.
            shortfalls.push(format!("{name} has no identity in the compiled policy"));
            continue;
        };
        let key = EndpointKey {
            namespace: placed.key.namespace,
            name: placed.key.workload,
            place: placed.key.place,
        };
        let id = numbers.number(&key);
        present.insert(key);
        let is_interface = matches!(placed.place, EndpointPlace::Interface { .. });
        let addresses = if is_interface {
            workload.addresses.clone()
        } else {
            Vec::new()
        };
        shown.push(workload_status(
            id,
            identity,
            workload,
            bound.map(AsRef::as_ref),
            &placed.place,
            audit,
        ));
        endpoints.push(DesiredEndpoint {
            id,
            identity,
            place: placed.place,
            audit,
            // Who declares its addresses has no other ones.
            strict_source: !addresses.is_empty(),
            addresses,
        });
    }
    numbers.retain(&present, facts.now);
    if policy.node.unknown_workload == Fallback::Deny {
        // They are nobody's endpoint: number 0 is given to none.
        endpoints.extend(placement.unknown.into_iter().map(|place| DesiredEndpoint {
            id: 0,
            identity: identity::HOST,
            place,
            audit,
            strict_source: false,
            addresses: Vec::new(),
        }));
    }
    let desired = Desired {
        image: wanted.image.clone(),
        endpoints,
        uplinks,
        node: node_config(&policy.node, audit, snapshot, facts)?,
        clock: facts.clock,
    };
    Ok(Plan {
        desired,
        endpoints: shown,
        shortfalls,
    })
}

fn uplinks(
    choice: &UplinkChoice,
    snapshot: &Snapshot,
    shortfalls: &mut Vec<String>,
) -> Vec<Uplink> {
    let names = match choice {
        UplinkChoice::Auto => &snapshot.default_route_interfaces,
        UplinkChoice::Names(names) => names,
    };
    let mut uplinks = Vec::new();
    for name in names {
        match snapshot.interface(name) {
            Some(interface) => uplinks.push(Uplink {
                ifindex: interface.ifindex,
                name: name.clone(),
                ports: ports_of(interface.ifindex, snapshot),
            }),
            None => shortfalls.push(format!(
                "the uplink {name} is not there: the host itself is not judged at it"
            )),
        }
    }
    uplinks
}

/// The ports of an interface, and theirs.
fn ports_of(controller: u32, snapshot: &Snapshot) -> Vec<u32> {
    let mut ports = vec![controller];
    let mut next = 0;
    while let Some(controller) = ports.get(next).copied() {
        next += 1;
        for interface in &snapshot.interfaces {
            let port = interface.ifindex;
            if interface.controller == Some(controller) && !ports.contains(&port) {
                ports.push(port);
            }
        }
    }
    ports.remove(0);
    ports
}

fn node_config(
    node: &NodeSettings,
    audit: bool,
    snapshot: &Snapshot,
    facts: &NodeFacts<'_>,
) -> Result<NodeConfig, PlanError> {
    let failsafe = node.failsafe_in_force();
    if failsafe.len() > FAILSAFE_PORTS {
        return Err(PlanError::FailsafePorts {
            found: failsafe.len(),
        });
    }
    Ok(NodeConfig {
        audit,
        report_allowed: facts.report_allowed,
        full_denies: node.flow_table_full == Fallback::Deny,
        unknown_denies: node.unknown_workload == Fallback::Deny,
        failsafe: failsafe
            .iter()
            .map(|port| FailsafePort {
                port: port.port,
                protocol: port.protocol,
                direction: port.direction as u8,
            })
            .collect(),
        reject: node.denied == Denied::Reject,
        report_limit: facts.report_limit,
        reject_limit: facts.reject_limit,
        local_addresses: snapshot.host_addresses.clone(),
    })
}

fn host_status(uplink: &Uplink, name: &str, node: &NodeSettings, audit: bool) -> EndpointStatus {
    EndpointStatus {
        id: HOST_ENDPOINT,
        namespace: None,
        name: name.to_owned(),
        identity: identity::HOST,
        labels: node.labels.clone(),
        spiffe_id: None,
        assurance: Assurance::Kernel,
        attested: None,
        kind: PlaceKind::Uplink,
        place: uplink.name.clone(),
        place_number: uplink.ifindex.into(),
        audit,
        origin: node.origin.clone(),
    }
}

fn workload_status(
    id: u32,
    identity: u32,
    workload: &Workload,
    bound: Option<&Binding>,
    place: &EndpointPlace,
    audit: bool,
) -> EndpointStatus {
    let (kind, place, place_number) = match place {
        EndpointPlace::Interface { ifindex, name } => {
            (PlaceKind::Interface, name.clone(), u64::from(*ifindex))
        }
        EndpointPlace::Cgroup { id, path } => (PlaceKind::Cgroup, path.clone(), *id),
        EndpointPlace::NoWorkload { id } | EndpointPlace::Pending { id } => {
            (PlaceKind::Cgroup, String::new(), *id)
        }
    };
    EndpointStatus {
        id,
        namespace: Some(workload.namespace.clone()),
        name: workload.name.clone(),
        identity,
        labels: workload.labels.clone(),
        spiffe_id: workload.spiffe_id.clone(),
        assurance: match bound {
            Some(_) => Assurance::Attested,
            None => Assurance::Kernel,
        },
        attested: bound.map(attested_status),
        kind,
        place,
        place_number,
        audit,
        origin: Some(workload.origin.clone()),
    }
}

/// Of whom is shown what was proven.
fn attested_status(binding: &Binding) -> AttestedStatus {
    let shown = |milliseconds: u64| moment(i64::try_from(milliseconds / 1_000).unwrap_or(i64::MAX));
    AttestedStatus {
        serial: binding.serial.to_string(),
        since: shown(binding.since),
        until: shown(binding.until),
        source: binding.source.to_string(),
        pid: binding.process.as_ref().map(|process| process.pid),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use enforcer_common::{Direction, Protocol};

    use super::*;
    use crate::{
        compile::{Inputs, Limits, Numbers, Subjects, compile},
        inventory::{Interface, place},
    };

    const TREE: &str = "
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: { name: web, namespace: shop, labels: { app: web } }
spec: { cgroup: /shop/web }
---
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: { name: db, namespace: shop, labels: { app: db } }
spec: { interface: veth-db, addresses: [10.0.0.7] }
";

    fn interface(ifindex: u32, name: &str) -> Interface {
        Interface {
            ifindex,
            name: name.into(),
            up: true,
            loopback: false,
            kind: None,
            peer: None,
            peer_netns: None,
            controller: None,
        }
    }

    fn snapshot() -> Snapshot {
        Snapshot {
            cgroups: [("/".to_owned(), 1), ("/shop/web".to_owned(), 77)].into(),
            interfaces: vec![interface(2, "eth0"), interface(9, "veth-db")],
            host_addresses: vec!["192.0.2.1".parse().unwrap()],
            default_route_interfaces: vec!["eth0".into()],
            direct_routes: [].into(),
            port_addresses: [].into(),
            notes: Vec::new(),
        }
    }

    fn wanted(mode: Mode, tree: &str) -> InForce {
        let policy = crate::policy::load_text("tree.yaml", tree).unwrap();
        let snapshot = snapshot();
        let inputs = Inputs {
            policy: &policy,
            mode,
            now: crate::policy::model::Moment::default(),
            host_addresses: &snapshot.host_addresses,
            elsewhere: &crate::compile::elsewhere::NOBODY,
            attested: crate::compile::NOBODY,
            subjects: Subjects::Placed,
            limits: &Limits::NONE,
            in_force: None,
        };
        let image = compile(&inputs, &mut Numbers::default()).unwrap();
        let mut wanted = InForce::nothing();
        wanted.policy = Arc::new(policy);
        wanted.image = Arc::new(image);
        wanted.mode.effective = mode;
        wanted
    }

    fn plan_for(wanted: &InForce, choice: &UplinkChoice) -> Plan {
        let facts = NodeFacts {
            name: "node1",
            uplinks: choice,
            report_allowed: false,
            report_limit: 10,
            reject_limit: 10,
            now: 0,
            clock: WallClock::default(),
        };
        let numbers = &mut EndpointNumbers::default();
        let host = snapshot();
        let placement = place::place(&wanted.policy.workloads, &host);
        plan(wanted, &host, placement, &Bindings::new(), &facts, numbers).unwrap()
    }

    #[test]
    fn endpoints_are_where_the_workloads_are() {
        let plan = plan_for(&wanted(Mode::Enforce, TREE), &UplinkChoice::Auto);
        assert_eq!(plan.shortfalls, Vec::<String>::new());
        let [db, web] = plan.desired.endpoints.as_slice() else {
            panic!("{:?}", plan.desired.endpoints);
        };
        assert!(matches!(
            &db.place,
            EndpointPlace::Interface { ifindex: 9, .. }
        ));
        assert!(db.strict_source && !db.audit);
        assert_eq!(db.addresses, ["10.0.0.7/32".parse().unwrap()]);
        assert!(matches!(&web.place, EndpointPlace::Cgroup { id: 77, .. }));
        assert!(!web.strict_source);
        assert_ne!(web.identity, db.identity);
        assert!(web.id > HOST_ENDPOINT && db.id > HOST_ENDPOINT && web.id != db.id);
        assert_eq!(plan.desired.uplinks.len(), 1);
        let shown: Vec<_> = plan.endpoints.iter().map(|e| e.id).collect();
        assert_eq!(shown, [HOST_ENDPOINT, db.id, web.id]);
    }

    #[test]
    fn audit_is_everywhere_or_nowhere() {
        let audit = plan_for(&wanted(Mode::Audit, TREE), &UplinkChoice::Auto);
        assert!(audit.desired.node.audit);
        assert!(audit.desired.endpoints.iter().all(|e| e.audit));
        let enforce = plan_for(&wanted(Mode::Enforce, TREE), &UplinkChoice::Auto);
        assert!(!enforce.desired.node.audit);
    }

    #[test]
    fn ssh_stays_open_and_a_missing_uplink_is_said() {
        let names = UplinkChoice::Names(vec!["eth0".into(), "eth7".into()]);
        let plan = plan_for(&wanted(Mode::Enforce, TREE), &names);
        assert!(plan.desired.node.failsafe.contains(&FailsafePort {
            port: 22,
            protocol: Protocol::TCP,
            direction: Direction::Ingress as u8,
        }));
        assert_eq!(plan.desired.uplinks.len(), 1);
        assert!(plan.shortfalls[0].contains("eth7"), "{:?}", plan.shortfalls);
        let none = plan_for(
            &wanted(Mode::Enforce, TREE),
            &UplinkChoice::Names(Vec::new()),
        );
        assert!(none.desired.uplinks.is_empty());
    }
}
