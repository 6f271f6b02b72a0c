//! Two hosts of a fleet together say of a flow between their workloads what the documents say of
//! it, although each host sees only half: the sender's who sends, the receiver's an address that
//! many share. A third host sends as well: what one address may is not what another may.
//!
//! `ENFORCER_CASES` sets the number of policies tried.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use enforcer::{
    compile::{
        self, Image, Inputs, Limits, Numbers, Subjects,
        elsewhere::{Announced, Elsewhere, NodePeers, Reached, Service, ServiceAddress},
        image::{IdentitySubject, WorkloadName},
    },
    policy::model::{Assurance, Origin, Peer, Place, RemoteHost, ResolvedPolicy, Workload},
};
use enforcer_common::{Action, Decision, Direction, Judge, identity};
use ipnet::IpNet;
use proptest::{collection::vec, prelude::*};
use tests::{
    generate::{self, Scenario},
    model::{ModelAction, ModelCause, ModelVerdict, RawEndpoint, RawFlow, RawPeer, World},
};

/// One of the three hosts.
struct Host {
    address: IpAddr,
    /// Of all workloads, those that run here, in cgroups.
    workloads: Vec<usize>,
    /// At which ports each of them is known to listen.
    listens: Vec<(usize, u8, u16)>,
}

/// A tree for three hosts.
struct Fleet {
    scenario: Scenario,
    hosts: [Host; 3],
    images: [Image; 3],
}

/// The host that receives.
const RECEIVER: usize = 1;
/// Those that send.
const SENDERS: [usize; 2] = [0, 2];

fn origin() -> Origin {
    Origin {
        file: "node".into(),
        line: 1,
        column: 1,
    }
}

impl Fleet {
    /// Every third workload is on the same host. `None` where there are too few of them.
    fn new(mut scenario: Scenario, addresses: [IpAddr; 3], plain: bool) -> Option<Self> {
        let different = BTreeSet::from(addresses).len();
        if scenario.policy.workloads.len() < 3 || different < addresses.len() {
            return None;
        }
        scenario.policy.hosts.clear();
        if plain {
            for policy in &mut scenario.policy.policies {
                let rules = Arc::make_mut(policy).rules.iter_mut().flatten().flatten();
                rules
                    .flat_map(|rule| &mut rule.peers)
                    .for_each(without_minimum);
            }
        }
        for (index, workload) in Arc::make_mut(&mut scenario.policy.workloads)
            .iter_mut()
            .enumerate()
        {
            let workload = Arc::make_mut(workload);
            workload.addresses.clear();
            workload.assurance = Assurance::Orchestrator;
            workload.place = Some(Place::Cgroup(format!("/workload/{index}")));
        }
        let ports: BTreeSet<(u8, u16)> = (scenario.flows.iter())
            .map(|flow| (flow.protocol, flow.port))
            .collect();
        let hosts = [0, 1, 2].map(|host| {
            let all = 0..scenario.policy.workloads.len();
            let workloads: Vec<usize> = all.filter(|index| index % 3 == host).collect();
            let some = ports.iter().enumerate().filter(|(n, _)| n % 3 > 0);
            let listens = some
                .map(|(n, (protocol, port))| (workloads[n % workloads.len()], *protocol, *port));
            Host {
                address: addresses[host],
                listens: listens.collect(),
                workloads,
            }
        });
        let images = [0, 1, 2].map(|host| {
            let others = (0..3).filter(|other| *other != host);
            let there: Vec<&Host> = others.map(|other| &hosts[other]).collect();
            image(&scenario, &hosts[host], &there)
        });
        Some(Self {
            scenario,
            hosts,
            images,
        })
    }

    fn subject(&self, workload: usize) -> IdentitySubject {
        IdentitySubject::of(&self.scenario.policy.workloads[workload])
    }

    /// Whether some rule demands a minimum of assurance.
    fn asks_for_assurance(&self) -> bool {
        let policies = self.scenario.policy.policies.iter();
        let rules = policies.flat_map(|policy| policy.rules.iter().flatten().flatten());
        let mut asks = false;
        for peer in rules.flat_map(|rule| &rule.peers) {
            peer.each_assurance(&mut |_| asks = true);
        }
        asks
    }

    /// What the documents say where one party is seen at an address.
    fn model(&self, flow: &RawFlow, seen: RawEndpoint, at: IpAddr) -> ModelVerdict {
        let mut policy = self.scenario.policy.clone();
        match seen {
            RawEndpoint::Host => policy.hosts.push(Arc::new(RemoteHost {
                name: "seen".to_owned(),
                origin: origin(),
                labels: policy.node.labels.clone(),
                addresses: vec![IpNet::from(at)],
            })),
            RawEndpoint::Workload(index) => {
                let workloads = Arc::make_mut(&mut policy.workloads);
                let workload = Arc::make_mut(&mut workloads[index]);
                workload.addresses = vec![IpNet::from(at)];
            }
        }
        let world = World {
            policy: &policy,
            mode: self.scenario.mode,
            now: self.scenario.now,
            host_addresses: &[],
        };
        world.judge(flow)
    }

    /// What the documents say of a flow from a host to the one that receives: egress and ingress.
    fn expected(
        &self,
        host: usize,
        from: RawEndpoint,
        to: RawEndpoint,
        port: (u8, u16),
    ) -> [ModelVerdict; 2] {
        let flow = |endpoint, direction, peer: IpAddr| RawFlow {
            endpoint,
            direction,
            peer: RawPeer::Address(peer),
            protocol: port.0,
            port: port.1,
        };
        let [first, second] = [host, RECEIVER].map(|host| self.hosts[host].address);
        [
            self.model(&flow(from, Direction::Egress, second), to, second),
            self.model(&flow(to, Direction::Ingress, first), from, first),
        ]
    }

    fn number(&self, host: usize, endpoint: RawEndpoint) -> u32 {
        match endpoint {
            RawEndpoint::Host => identity::HOST,
            RawEndpoint::Workload(index) => {
                let name = name(&self.scenario.policy.workloads[index]);
                self.images[host].workloads[&name]
            }
        }
    }

    /// What the receiving host says of a flow from another one.
    fn received(&self, host: usize, to: RawEndpoint, (protocol, port): (u8, u16)) -> Decision {
        let image = &self.images[RECEIVER];
        let judge = Judge {
            set: image.sets[&self.number(RECEIVER, to)].numbers[Direction::Ingress as usize],
            peer: image.identity_of(self.hosts[host].address),
            protocol,
            port,
        };
        judge.decide(image)
    }

    /// What a host says of a flow to the one that receives.
    fn sent(&self, host: usize, from: RawEndpoint, (protocol, port): (u8, u16)) -> Decision {
        let image = &self.images[host];
        let judge = Judge {
            set: image.sets[&self.number(host, from)].numbers[Direction::Egress as usize],
            peer: image.identity_behind(ServiceAddress {
                address: self.hosts[RECEIVER].address,
                protocol,
                port,
            }),
            protocol,
            port,
        };
        judge.decide(image)
    }

    /// Everybody on a host.
    fn senders(&self, host: usize) -> Vec<RawEndpoint> {
        // The model knows hosts by documents only, which is a lower assurance.
        let itself = (!self.asks_for_assurance()).then_some(RawEndpoint::Host);
        let workloads = self.hosts[host].workloads.iter();
        workloads
            .map(|index| RawEndpoint::Workload(*index))
            .chain(itself)
            .collect()
    }

    /// Compares flows from a host to a port at which others know the receiver.
    fn agree(&self, host: usize, to: RawEndpoint, port: (u8, u16)) -> Result<(), TestCaseError> {
        let received = strictness_of(self.received(host, to, port));
        let mut best = 2;
        for from in self.senders(host) {
            let [egress, ingress] = self.expected(host, from, to, port);
            let context = format!("{from:?} to {to:?} {port:?}: {egress:?} {ingress:?}");
            best = best.min(strictness(ingress.action));
            let sent = self.sent(host, from, port);
            let together = strictness_of(sent).max(received);
            let expected = strictness(egress.action).max(strictness(ingress.action));
            prop_assert_eq!(together, expected, "{} {:?}", context, sent);
            let denied = sent.action() == Action::Deny;
            if egress.action == ModelAction::Deny {
                prop_assert!(denied, "{}", context);
            }
            if denied {
                let by = if egress.action == ModelAction::Deny {
                    &egress
                } else {
                    &ingress
                };
                self.is_by(host, sent, by, &context)?;
            }
        }
        // Who shares the address gets what one of them gets, and no more.
        if !self.asks_for_assurance() {
            prop_assert_eq!(received, best, "from {} to {:?} {:?}", host, to, port);
        }
        Ok(())
    }

    fn is_by(
        &self,
        host: usize,
        sent: Decision,
        by: &ModelVerdict,
        context: &str,
    ) -> Result<(), TestCaseError> {
        let rule = self.images[host].rules.get(&sent.rule);
        let rule = rule.map(|rule| (rule.policy.as_str(), rule.rule.as_str()));
        let expected = match &by.cause {
            ModelCause::Rule(rule) | ModelCause::Isolation(rule) => {
                Some((rule.policy.as_str(), rule.rule.as_str()))
            }
            ModelCause::NodeDefault | ModelCause::Unrestricted => return Ok(()),
        };
        prop_assert_eq!(rule, expected, "{}", context);
        Ok(())
    }
}

/// Takes minimums of assurance out of a peer: the model knows hosts by documents only, which is
/// less than what is known of a host of a fleet.
fn without_minimum(peer: &mut Peer) {
    match peer {
        Peer::Assured { peer: inner, .. } => {
            let mut plain = (**inner).clone();
            without_minimum(&mut plain);
            *peer = plain;
        }
        Peer::Group(group) => Arc::make_mut(group)
            .peers
            .iter_mut()
            .for_each(without_minimum),
        _ => {}
    }
}

fn strictness(action: ModelAction) -> u8 {
    match action {
        ModelAction::Allow => 0,
        ModelAction::Audit => 1,
        ModelAction::Deny => 2,
    }
}

fn strictness_of(decision: Decision) -> u8 {
    match decision.action() {
        Action::Allow => 0,
        Action::Audit => 1,
        Action::Deny => 2,
    }
}

fn name(workload: &Workload) -> WorkloadName {
    WorkloadName {
        namespace: workload.namespace.clone(),
        name: workload.name.clone(),
    }
}

/// The image of a host that knows the other ones from the registry.
fn image(scenario: &Scenario, here: &Host, there: &[&Host]) -> Image {
    let workloads = &scenario.policy.workloads;
    let ports = |index: usize| {
        let own = here.listens.iter().filter(|(who, ..)| *who == index);
        own.map(|(_, protocol, port)| (*protocol, *port)).collect()
    };
    let announced = here.workloads.iter();
    let announced =
        announced.map(|index| (name(&workloads[*index]), Reached::ByPort(ports(*index))));
    let published = |index: usize| {
        Arc::new(Workload {
            place: None,
            ..(*workloads[index]).clone()
        })
    };
    let node = |(there, name): (&&Host, &str)| {
        let services = there.listens.iter().map(|(index, protocol, port)| Service {
            at: ServiceAddress {
                address: there.address,
                protocol: *protocol,
                port: *port,
            },
            workload: published(*index),
        });
        let sharing = there.workloads.iter();
        let sharing = sharing.map(|index| IdentitySubject::of(&workloads[*index]).without_ports());
        Arc::new(NodePeers {
            name: name.to_owned(),
            host: Arc::new(RemoteHost {
                name: name.to_owned(),
                origin: origin(),
                labels: scenario.policy.node.labels.clone(),
                addresses: vec![IpNet::from(there.address)],
            }),
            workloads: there
                .workloads
                .iter()
                .map(|index| published(*index))
                .collect(),
            services: services.collect(),
            sharing: Arc::new(sharing.collect()),
        })
    };
    let elsewhere = Elsewhere {
        nodes: there.iter().zip(["one", "other"]).map(node).collect(),
        own: Some(Arc::new(Announced(announced.collect()))),
    };
    let policy = ResolvedPolicy {
        workloads: Arc::new(
            here.workloads
                .iter()
                .map(|index| workloads[*index].clone())
                .collect(),
        ),
        ..scenario.policy.clone()
    };
    let inputs = Inputs {
        policy: &policy,
        mode: scenario.mode,
        now: scenario.now,
        host_addresses: &[here.address],
        elsewhere: &elsewhere,
        attested: enforcer::compile::NOBODY,
        subjects: Subjects::Placed,
        limits: &Limits::NONE,
        in_force: None,
    };
    compile::compile(&inputs, &mut Numbers::default()).expect("nothing is too large")
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: generate::cases(10_000) / 5 + 1,
        max_shrink_iters: 4000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn both_ends_together_say_what_the_documents_say(
        scenario in generate::scenario(12),
        addresses in vec(generate::address(), 3),
        plain in any::<bool>(),
    ) {
        let Some(fleet) = Fleet::new(scenario, [addresses[0], addresses[1], addresses[2]], plain) else {
            return Ok(());
        };
        let listens = &fleet.hosts[RECEIVER].listens;
        let known: BTreeSet<(u8, u16)> = listens.iter().map(|(_, proto, port)| (*proto, *port)).collect();
        for (index, protocol, port) in listens {
            // One identity on both hosts has one number, and is judged by what is known of
            // either: as proven by the kernel here.
            let is_here = |here: &usize| fleet.subject(*here) == fleet.subject(*index);
            for host in SENDERS {
                if !(fleet.asks_for_assurance() && fleet.hosts[host].workloads.iter().any(is_here)) {
                    fleet.agree(host, RawEndpoint::Workload(*index), (*protocol, *port))?;
                }
            }
        }
        let flows = fleet.scenario.flows.iter().map(|flow| (flow.protocol, flow.port));
        let unknown: BTreeSet<(u8, u16)> = flows.filter(|port| !known.contains(port)).collect();
        for port in unknown {
            // Nobody has enforced anything on the way to a port of which nobody knows: only what
            // the host itself may do is let in.
            if fleet.asks_for_assurance() {
                continue;
            }
            for (index, host) in (fleet.hosts[RECEIVER].workloads.iter()).flat_map(|index| SENDERS.map(|host| (index, host))) {
                let to = RawEndpoint::Workload(*index);
                let [_, ingress] = fleet.expected(host, RawEndpoint::Host, to, port);
                prop_assert_eq!(
                    strictness_of(fleet.received(host, to, port)),
                    strictness(ingress.action),
                    "{} {:?} {:?} {:?}", host, to, port, ingress
                );
            }
            let failsafe = fleet.scenario.policy.node.failsafe_in_force().iter();
            let mut failsafe = failsafe.filter(|f| f.direction == Direction::Ingress);
            if !failsafe.any(|f| (f.protocol, f.port) == port) {
                for host in SENDERS {
                    fleet.agree(host, RawEndpoint::Host, port)?;
                }
            }
        }
    }
}
