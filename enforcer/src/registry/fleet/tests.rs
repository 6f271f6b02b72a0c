use std::time::Duration;

use super::{
    super::{
        node_identity::tests::Authority,
        record::{
            Listen, NodeRecord,
            tests::{record, workload},
        },
        signed::sign,
    },
    *,
};
use crate::policy::model::Assurance;

struct Scene {
    authority: Authority,
    fleet: Fleet,
    now: SystemTime,
}

impl Scene {
    fn new() -> Self {
        let authority = Authority::new();
        let fleet = Fleet::new(
            "here",
            "example.org",
            authority.node("here"),
            Arc::default(),
        );
        Self {
            authority,
            fleet,
            now: SystemTime::now(),
        }
    }

    fn signed(&self, record: &NodeRecord) -> Vec<u8> {
        let svid = self.authority.node(&record.node).svid().unwrap();
        sign(record, &svid).unwrap()
    }

    fn publish(&mut self, name: &str, record: Vec<u8>) -> bool {
        let node = name.to_owned();
        let changes = Changes {
            changes: vec![Change::Publish { node, record }],
            revision: 1,
        };
        self.fleet.change(changes, self.now)
    }

    fn put(&mut self, record: &NodeRecord) -> bool {
        let signed = self.signed(record);
        self.publish(&record.node, signed)
    }

    fn remove(&mut self, node: &str) -> bool {
        let node = node.to_owned();
        let changes = Changes {
            changes: vec![Change::Remove { node }],
            revision: 1,
        };
        self.fleet.change(changes, self.now)
    }

    fn addresses(&self) -> Vec<String> {
        let nodes = self.fleet.elsewhere().nodes.iter();
        let workloads = nodes.flat_map(|node| &node.workloads);
        workloads
            .flat_map(|w| {
                w.addresses
                    .iter()
                    .map(|a| format!("{} {}", w.name, a.addr()))
            })
            .collect()
    }
}

#[test]
fn a_record_makes_peers_and_its_end_ends_them() {
    let mut scene = Scene::new();
    assert!(scene.put(&record("a", 1)));
    assert_eq!(scene.addresses(), ["web 10.0.1.1"]);
    let node = scene.fleet.elsewhere().nodes[0].clone();
    assert_eq!(node.workloads[0].assurance, Assurance::Orchestrator);
    assert_eq!(node.host.addresses, ["10.0.0.1/32".parse().unwrap()]);
    // Only signed again: nothing to do for anybody.
    assert!(!scene.put(&record("a", 2)));
    // One workload more: the others are the same in memory.
    let mut more = record("a", 3);
    more.workloads.push(workload("db", "10.0.1.2"));
    assert!(scene.put(&more));
    let again = &scene.fleet.elsewhere().nodes[0];
    assert!(Arc::ptr_eq(&node.workloads[0], &again.workloads[0]));
    assert!(Arc::ptr_eq(&node.host, &again.host));
    assert!(scene.remove("a"));
    assert!(scene.addresses().is_empty());
    assert!(scene.put(&record("b", 1)));
    assert_eq!(scene.addresses(), ["web 10.0.1.1"]);
}

#[test]
fn what_is_refused_changes_nothing_and_is_counted() {
    let mut scene = Scene::new();
    scene.put(&record("a", 5));
    let old = scene.signed(&record("a", 4));
    assert!(!scene.publish("a", old.clone()));
    let stolen = scene.signed(&record("b", 6));
    assert!(!scene.publish("a", stolen));
    assert!(!scene.publish("x\u{1b}", vec![1, 2, 3]));
    assert_eq!(scene.addresses(), ["web 10.0.1.1"]);
    let counts = scene.fleet.refusals();
    assert_eq!(
        (
            counts["replayed"],
            counts["other-node"],
            counts["malformed"]
        ),
        (1, 1, 1)
    );
    let events = scene.fleet.journal.kept();
    let told = events
        .iter()
        .map(|e| (&*e.reason, e.published_as.as_deref()));
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            ("replayed", Some("a")),
            ("other-node", Some("a")),
            ("malformed", Some("x\u{fffd}"))
        ]
    );
    let status = scene.fleet.status();
    assert!(status[0].refused.as_ref().unwrap().contains('b'));
    assert_eq!(status[1].name, "x\u{fffd}");
    // Nor after its lease has ended: the number is remembered.
    scene.remove("a");
    scene.publish("a", old);
    assert!(scene.addresses().is_empty());
    // As long as it would be believed.
    scene.now += Duration::from_mins(2);
    scene.fleet.expire(scene.now);
    assert!(scene.fleet.floors.is_empty());
}

#[test]
fn an_address_that_two_claim_is_neither_s() {
    let mut scene = Scene::new();
    scene.put(&record("a", 1));
    let mut thief = record("b", 1);
    thief.addresses = vec!["10.0.0.2".parse().unwrap()];
    thief.workloads[0].name = "thief".to_owned();
    scene.put(&thief);
    assert!(scene.addresses().is_empty());
    let status = scene.fleet.status();
    assert!(
        status.iter().all(|node| node.contested.len() == 1),
        "{status:?}"
    );
    // What stays as it is stays the same in memory meanwhile.
    let before = scene.fleet.elsewhere().nodes[0].workloads[0].clone();
    let mut more = record("a", 2);
    more.workloads.push(workload("db", "10.0.1.2"));
    scene.put(&more);
    let after = &scene.fleet.elsewhere().nodes[0].workloads[0];
    assert!(Arc::ptr_eq(&before, after) && before.addresses.is_empty());
    scene.put(&record("a", 3));
    // It lets go: the other has it again.
    thief.sequence = 2;
    thief.workloads.clear();
    scene.put(&thief);
    assert_eq!(scene.addresses(), ["web 10.0.1.1"]);
    let events = scene.fleet.journal.kept();
    let told = events.iter().map(|e| (e.event, e.nodes.join(" ")));
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            (EventKind::Contest, "a b".to_owned()),
            (EventKind::Settle, "a b".to_owned())
        ]
    );
    let contested: IpAddr = "10.0.1.1".parse().unwrap();
    assert!(events.iter().all(|e| e.addresses == [contested]));
    // Nor can anybody claim an address of this node.
    let mut own = record("here", 1);
    own.workloads.clear();
    scene.put(&own);
    scene.put(&record("c", 1));
    assert!(
        scene
            .fleet
            .elsewhere()
            .nodes
            .iter()
            .all(|node| node.host.addresses.len() < 2)
    );
    let c = scene
        .fleet
        .elsewhere()
        .nodes
        .iter()
        .find(|node| node.name == "c");
    assert!(c.unwrap().host.addresses.is_empty());
}

#[test]
fn ports_of_shared_addresses_tell_who_is_behind() {
    let mut scene = Scene::new();
    let mut host = record("a", 1);
    host.addresses.push("fd00::1".parse().unwrap());
    let listen = |port, addresses: &[&str]| Listen {
        protocol: 6,
        port,
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
    };
    let mut web = workload("web", "10.0.1.1");
    web.addresses.clear();
    web.listens = vec![
        listen(80, &[]),
        listen(9, &["fd00::1"]),
        listen(7, &["10.9.9.9"]),
    ];
    let mut other = web.clone();
    other.name = "other".to_owned();
    other.listens = vec![listen(9, &[]), listen(81, &[])];
    host.workloads = vec![web, other];
    scene.put(&host);
    let node = &scene.fleet.elsewhere().nodes[0];
    let services = node.services.iter();
    let services: Vec<_> = services
        .map(|s| format!("{} {} {}", s.at.address, s.at.port, s.workload.name))
        .collect();
    // Not at an address that is not the node's, and not where two listen.
    assert_eq!(
        services,
        [
            "10.0.0.1 9 other",
            "10.0.0.1 80 web",
            "10.0.0.1 81 other",
            "fd00::1 80 web",
            "fd00::1 81 other",
        ]
    );
}

#[test]
fn a_listing_replaces_what_was_known() {
    let mut scene = Scene::new();
    scene.put(&record("a", 1));
    let mut b = record("b", 1);
    b.addresses.clear();
    b.workloads = vec![workload("db", "10.0.1.2")];
    let records = vec![("b".to_owned(), scene.signed(&b))];
    let listing = Listing {
        records,
        revision: 9,
    };
    assert!(scene.fleet.list(&listing, scene.now));
    assert_eq!(scene.addresses(), ["db 10.0.1.2"]);
    assert!(!scene.fleet.list(&listing, scene.now));
    assert!(scene.fleet.forget());
    assert!(scene.addresses().is_empty());
}
