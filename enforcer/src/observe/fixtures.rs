//! A small shop for the tests of this room and its readers.

use std::sync::Arc;

use bytemuck::Zeroable;
use enforcer_common::{
    Action, Direction, Protocol, Reason,
    event::{Event, Hook, event_flag},
    flow_key::mapped,
    identity,
};
use time::macros::datetime;

use crate::{
    compile::image::{Identity, IdentitySubject, Image, RuleDirection, RuleInfo},
    observe::{
        clock::Clock,
        commits::Commits,
        context::{CgroupName, EndpointName, NameBook, NameContext, WorkloadName},
        enrich::Enricher,
        names_here::NamesHere,
        process::Processes,
        record::FlowRecord,
    },
    policy::model::{
        Accountability, Assurance, Labels, Mode, Origin, PolicyKind, RuleAction, Tier,
    },
};

/// `web` (endpoint 3, a unit) and `db` (endpoint 2, an interface) in namespace `shop`.
pub fn context() -> NameContext {
    let workload = |name: &str, labels: &[(&str, &str)], address: &str| WorkloadName {
        namespace: "shop".into(),
        name: name.into(),
        labels: (labels.iter().copied())
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
        spiffe_id: (name == "db").then(|| "spiffe://shop.example/db".to_owned()),
        service_account: None,
        unit: None,
        ports: [].into(),
        addresses: vec![address.parse().unwrap()],
    };
    let web = Arc::new(workload(
        "web",
        &[("app", "web"), ("tier", "front")],
        "10.77.21.2/32",
    ));
    let db = Arc::new(workload("db", &[("app", "db")], "10.77.22.2/32"));
    let identity = |workload: &WorkloadName| {
        Arc::new(Identity {
            subject: IdentitySubject::Workload {
                namespace: workload.namespace.clone(),
                labels: workload.labels.clone(),
                spiffe_id: workload.spiffe_id.clone(),
                service_account: None,
                unit: None,
                ports: [].into(),
            },
            prefixes: [].into(),
            assurance: Assurance::Address,
        })
    };
    let isolation = RuleInfo {
        kind: PolicyKind::default(),
        namespace: Some("shop".into()),
        policy: "db".into(),
        rule: "isolation".into(),
        tier: Some(Tier::Application),
        direction: Some(RuleDirection::Ingress),
        action: RuleAction::Deny,
        mode: Mode::Enforce,
        accountability: Accountability {
            owner: Some("payments".into()),
            ticket: Some("SEC-17".into()),
            controls: ["pci-1.3".into()].into(),
        },
        origin: Some(Origin {
            file: "policies/db.yaml".into(),
            line: 3,
            column: 1,
        }),
    };
    NameContext {
        elsewhere: Arc::default(),
        node: "node-1".into(),
        generation: 5,
        commits: {
            let mut commits = Commits::default();
            commits.note(Some(&"0123abcd".into()), 4, 0);
            commits
        },
        image: Arc::new(Image {
            addresses: [(web.addresses[0], 300), (db.addresses[0], 301)].into(),
            identities: [(300, identity(&web)), (301, identity(&db))]
                .into_iter()
                .collect(),
            rules: [(7, Arc::new(isolation))].into_iter().collect(),
            ..Image::default()
        }),
        endpoints: [
            (
                1,
                EndpointName {
                    identity: identity::HOST,
                    workload: None,
                    assurance: Assurance::Kernel,
                },
            ),
            (
                2,
                EndpointName {
                    identity: 301,
                    workload: Some(Arc::clone(&db)),
                    assurance: Assurance::Kernel,
                },
            ),
            (
                3,
                EndpointName {
                    identity: 300,
                    workload: Some(Arc::clone(&web)),
                    assurance: Assurance::Kernel,
                },
            ),
        ]
        .into(),
        workloads: Arc::new(NamesHere::from(vec![db, web])),
        interfaces: [(4, "veth-db".into())].into(),
        cgroups: [(77, Arc::new(CgroupName::new("/system.slice/web.service")))].into(),
        host_addresses: ["10.77.20.1".parse().unwrap()].into(),
        host_labels: Labels::new(),
    }
}

/// A SYN from `web` to `db`'s port 5432, denied at `db`'s interface by isolation.
pub fn event() -> Event {
    Event {
        time: 123_456_000,
        local: mapped([10, 77, 22, 2]),
        remote: mapped([10, 77, 21, 2]),
        endpoint: 2,
        peer: 300,
        rule: 7,
        generation: 4,
        ifindex: 4,
        length: 60,
        local_port: 5432,
        remote_port: 40_000,
        protocol: Protocol::TCP,
        tcp_flags: 2,
        direction: Direction::Ingress as u8,
        action: Action::Deny as u8,
        reason: Reason::Isolation as u8,
        hook: Hook::Tc as u8,
        flags: event_flag::COUNTED,
        family: 4,
        ..Event::zeroed()
    }
}

/// `connect(2)` of this process in `web`'s cgroup to `db`, which would have been denied.
pub fn refused_call() -> Event {
    let mut program = [0; 16];
    program[..4].copy_from_slice(b"curl");
    Event {
        time: crate::observe::clock::monotonic(),
        cgroup: 77,
        local: [0; 16],
        remote: mapped([10, 77, 22, 2]),
        endpoint: 3,
        peer: 301,
        ifindex: 0,
        pid: std::process::id(),
        uid: 33,
        length: 0,
        local_port: 0,
        remote_port: 5432,
        tcp_flags: 0,
        direction: Direction::Egress as u8,
        action: Action::Audit as u8,
        hook: Hook::Connect as u8,
        program,
        ..event()
    }
}

/// At noon, second 0 of the monotonic clock.
pub fn enricher() -> Enricher {
    Enricher::with(
        Arc::new(NameBook::new(context())),
        Processes::default(),
        Clock::fixed(datetime!(2026-01-02 12:03:04 UTC)),
    )
}

/// The record of [`event`].
pub fn record() -> FlowRecord {
    let mut record = enricher().event(&event()).unwrap();
    record.run = "2026-01-02T12:00:00.000000Z".into();
    record
}
