//! The loaded kernel programs say of every packet what the documents say, and what the verdict
//! over the image says: three answers, compared for random policies and packets.
//!
//! `ENFORCER_CASES` sets the number of policies tried. Without it an emulated machine tries fewer.

use std::{collections::HashMap, net::IpAddr};

use anyhow::Result;
use enforcer::{
    compile::{self, Image, Inputs, Limits, Numbers, Subjects, image::WorkloadName},
    datapath::{
        clock::WallClock,
        desired::{DesiredEndpoint, EndpointPlace, HOST_ENDPOINT},
    },
    policy::model::Moment,
};
use enforcer_common::{
    Action, Decision,
    Direction::{self, Egress, Ingress},
    Judge, Protocol, Reason,
    config::{FailsafePort, MOMENTS},
    conntrack::tcp_flag::{ACK, SYN},
    denied_entry::DeniedKey,
    flow_key::{icmp_port, mapped},
    identity,
};
use ipnet::IpNet;
use proptest::{prelude::*, test_runner::TestRunner};
use tests::{
    generate::{self, Scenario},
    model::{ModelAction, ModelCause, RawEndpoint, RawFlow, RawPeer},
    packet,
    test_run::{Bed, Budget, Hook, Loaded, is_emulated},
};

/// Flows under each policy.
const FLOWS: usize = 40;
/// The port of whoever opens a flow: an ephemeral one.
const OPENER: u16 = 40_000;
/// Always open at the host endpoint.
const FAILSAFE: [FailsafePort; 3] = [
    failsafe(22, Protocol::TCP, Ingress),
    failsafe(443, Protocol::TCP, Egress),
    failsafe(80, Protocol::UDP, Ingress),
];
/// Policies after which the flow tables are emptied.
const ROUND: u32 = 400;

const fn failsafe(port: u16, protocol: u8, direction: Direction) -> FailsafePort {
    FailsafePort {
        port,
        protocol,
        direction: direction as u8,
    }
}

/// One packet at one endpoint.
#[derive(Clone, Debug)]
struct Shot {
    endpoint: RawEndpoint,
    /// The way of the packet.
    way: Direction,
    local: (IpAddr, u16),
    remote: (IpAddr, u16),
    protocol: u8,
    tcp_flags: u8,
    /// Type and code, of ICMP.
    icmp: u16,
}

impl Shot {
    /// The packet that opens a flow.
    fn opening(flow: &RawFlow, peer: IpAddr, local: IpAddr) -> Self {
        let is_icmp = is_icmp(flow.protocol);
        let (opener, other) = if Protocol::has_ports(flow.protocol) {
            (OPENER, flow.port)
        } else {
            (0, 0)
        };
        let (local_port, remote_port) = match flow.direction {
            Egress => (opener, other),
            Ingress => (other, opener),
        };
        Self {
            endpoint: flow.endpoint,
            way: flow.direction,
            local: (local, local_port),
            remote: (peer, remote_port),
            protocol: flow.protocol,
            tcp_flags: SYN,
            icmp: if is_icmp { flow.port } else { 0 },
        }
    }

    /// The answer to it, if it is something that is answered within its flow.
    fn answer(&self) -> Option<Self> {
        let icmp = match (self.protocol, self.icmp >> 8) {
            (Protocol::ICMP, 8) => icmp_port(0, 0),
            (Protocol::ICMPV6, 128) => icmp_port(129, 0),
            (Protocol::ICMP | Protocol::ICMPV6, _) => return None,
            _ => 0,
        };
        Some(Self {
            way: self.way.reverse(),
            tcp_flags: SYN | ACK,
            icmp,
            ..self.clone()
        })
    }

    /// What opens the like of a flow, and what seems to belong to one: the same once more, and
    /// others of the same way from other ports.
    fn others(&self) -> Vec<Self> {
        let others = [(OPENER, SYN), (OPENER + 1, SYN), (1000, SYN)];
        let later = [(OPENER + 2, ACK), (1001, ACK)];
        let has_ports = Protocol::has_ports(self.protocol);
        let mut shots = Vec::new();
        for (port, tcp_flags) in others.into_iter().chain(later) {
            let mut shot = Self {
                tcp_flags,
                ..self.clone()
            };
            match self.way {
                _ if !has_ports => {}
                Egress => shot.local.1 = port,
                Ingress => shot.remote.1 = port,
            }
            shots.push(shot);
        }
        shots.truncate(if has_ports { shots.len() } else { 1 });
        shots
    }

    fn hook(&self) -> (Hook, usize) {
        match self.endpoint {
            RawEndpoint::Host => (Hook::Uplink(self.way), 0),
            RawEndpoint::Workload(index) => (Hook::Workload(self.way), index),
        }
    }

    fn frame(&self) -> Vec<u8> {
        let (from, to) = match self.way {
            Egress => (self.local, self.remote),
            Ingress => (self.remote, self.local),
        };
        let payload = match self.protocol {
            Protocol::TCP => packet::tcp(from.1, to.1, self.tcp_flags),
            Protocol::UDP | Protocol::UDPLITE => packet::udp(from.1, to.1, b"payload"),
            Protocol::SCTP => packet::sctp(from.1, to.1),
            Protocol::ICMP | Protocol::ICMPV6 => packet::icmp(self.icmp, 7, &[]),
            _ => b"whatever this protocol has to say".to_vec(),
        };
        packet::ip(from.0, to.0, self.protocol, 64, &payload)
    }

    /// The flow that the packet belongs to if it was opened the way `opener`.
    fn flow(&self, opener: Direction) -> RawFlow {
        let port = if is_icmp(self.protocol) {
            match (self.protocol, self.icmp >> 8) {
                _ if opener == self.way => self.icmp,
                (Protocol::ICMP, 0) => icmp_port(8, 0),
                (Protocol::ICMPV6, 129) => icmp_port(128, 0),
                _ => self.icmp,
            }
        } else if opener == Egress {
            self.remote.1
        } else {
            self.local.1
        };
        RawFlow {
            endpoint: self.endpoint,
            direction: opener,
            peer: RawPeer::Address(self.remote.0),
            protocol: self.protocol,
            port,
        }
    }

    /// Who opened the flow of this packet, when nothing is known of it. `None`: either way's
    /// permission suffices.
    fn opener(&self, adopting: bool) -> Option<Direction> {
        let by_ports = match (self.local.1 >= 32_768, self.remote.1 >= 32_768) {
            (true, false) => Some(Egress),
            (false, true) => Some(Ingress),
            _ => None,
        };
        match (self.protocol, self.icmp >> 8) {
            (Protocol::TCP, _) if self.tcp_flags == SYN => Some(self.way),
            (Protocol::TCP, _) if self.tcp_flags == SYN | ACK => Some(self.way.reverse()),
            (Protocol::TCP, _) => by_ports,
            _ if !adopting => Some(self.way),
            // Errors are no flows, and requests show who asks.
            (Protocol::ICMP, 3 | 4 | 5 | 11 | 12 | 8) | (Protocol::ICMPV6, 1..=4 | 128) => {
                Some(self.way)
            }
            (Protocol::ICMP, 0) | (Protocol::ICMPV6, 129) => None,
            // The type stands in for the sender's port.
            (Protocol::ICMP | Protocol::ICMPV6, _) => (self.icmp >= 32_768).then_some(self.way),
            _ => by_ports,
        }
    }
}

fn is_icmp(protocol: u8) -> bool {
    [Protocol::ICMP, Protocol::ICMPV6].contains(&protocol)
}

/// A policy in force.
struct Case<'a> {
    scenario: &'a Scenario,
    image: &'a Image,
    adopting: bool,
}

/// What is to become of a packet, and what is to be counted.
#[derive(Clone, Copy, Debug)]
struct Expected {
    decision: Decision,
    way: Direction,
    port: u16,
}

impl Expected {
    fn denied(reason: Reason, rule: u32, flow: &RawFlow) -> Self {
        Self {
            decision: Decision::new(Action::Deny, reason, rule),
            way: flow.direction,
            port: flow.port,
        }
    }

    fn key(self, shot: &Shot) -> Option<DeniedKey> {
        (self.decision.action() != Action::Allow).then(|| DeniedKey {
            local: octets(shot.local.0),
            remote: octets(shot.remote.0),
            endpoint: endpoint_number(shot.endpoint),
            rule: self.decision.rule,
            port: self.port,
            protocol: shot.protocol,
            direction: self.way as u8,
            reason: self.decision.reason,
            action: self.decision.action,
            pad: [0; 2],
        })
    }
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => mapped(address.octets()),
        IpAddr::V6(address) => address.octets(),
    }
}

impl Case<'_> {
    fn identity(&self, endpoint: RawEndpoint) -> u32 {
        let RawEndpoint::Workload(index) = endpoint else {
            return identity::HOST;
        };
        self.image.workloads[&workload_name(self.scenario, index)]
    }

    /// Model and image on a flow, which must agree.
    fn verdict(&self, flow: &RawFlow) -> Result<Decision, TestCaseError> {
        let RawPeer::Address(address) = flow.peer else {
            unreachable!("packets have addresses");
        };
        let endpoint = self.identity(flow.endpoint);
        let decision = Judge {
            set: self.image.sets[&endpoint].numbers_at(self.scenario.now)[flow.direction as usize],
            peer: self.image.identity_of(address),
            protocol: flow.protocol,
            port: flow.port,
        }
        .decide(self.image);
        let model = self.scenario.world().judge(flow);
        let (action, reason) = (
            match model.action {
                ModelAction::Allow => Action::Allow,
                ModelAction::Deny => Action::Deny,
                ModelAction::Audit => Action::Audit,
            },
            match &model.cause {
                ModelCause::Rule(_) => Reason::Rule,
                ModelCause::Isolation(_) => Reason::Isolation,
                ModelCause::NodeDefault => Reason::NodeDefault,
                ModelCause::Unrestricted => Reason::Unrestricted,
            },
        );
        prop_assert_eq!(decision.action(), action, "model and image: {:?}", flow);
        prop_assert_eq!(decision.reason, reason as u8, "model and image: {:?}", flow);
        if let ModelCause::Rule(named) | ModelCause::Isolation(named) = &model.cause {
            let rule = &self.image.rules[&decision.rule];
            prop_assert_eq!(&rule.rule, &named.rule);
            prop_assert_eq!(rule.origin.as_ref(), Some(&named.origin));
        }
        Ok(decision)
    }

    /// What is to become of a packet of which no flow is known.
    fn expected(&self, shot: &Shot) -> Result<Expected, TestCaseError> {
        let own = shot.flow(shot.way);
        match (shot.endpoint, shot.way) {
            (RawEndpoint::Host, Ingress) => {
                if let Some(expected) = self.blocked(shot, &own) {
                    return Ok(expected);
                }
            }
            (RawEndpoint::Workload(_), Egress) if !self.is_own_source(shot) => {
                return Ok(Expected::denied(Reason::SourceGuard, 0, &own));
            }
            _ => {}
        }
        let opener = shot.opener(self.adopting);
        let mut flow = shot.flow(opener.unwrap_or(shot.way));
        let mut decision = self.verdict(&flow)?;
        if opener.is_none() && decision.action() != Action::Allow {
            let other = shot.flow(shot.way.reverse());
            let second = self.verdict(&other)?;
            if second.action() == Action::Allow {
                (flow, decision) = (other, second);
            }
        }
        let is_failsafe = shot.endpoint == RawEndpoint::Host
            && FAILSAFE.contains(&failsafe(flow.port, flow.protocol, flow.direction));
        if decision.action() == Action::Deny && is_failsafe {
            decision = Decision::new(Action::Allow, Reason::Failsafe, 0);
        }
        Ok(Expected {
            decision,
            way: flow.direction,
            port: flow.port,
        })
    }

    fn blocked(&self, shot: &Shot, own: &RawFlow) -> Option<Expected> {
        let holds = |net: &&IpNet| net.contains(&shot.remote.0);
        let net = self
            .image
            .blocked
            .keys()
            .filter(holds)
            .max_by_key(|net| net.prefix_len())?;
        let (rule, audit) = self.image.blocked[net];
        let way = failsafe(shot.local.1, shot.protocol, Ingress);
        let own_address = self.image.host_addresses.contains_key(&shot.local.0);
        if audit || own_address && shot.protocol == Protocol::TCP && FAILSAFE.contains(&way) {
            // Only reported, or not blocked: judged like any other. What is reported for an
            // audited block is not compared.
            return None;
        }
        let mut expected = Expected::denied(Reason::Blocked, rule, own);
        expected.port = shot.local.1;
        Some(expected)
    }

    /// Without addresses of its own, a workload may use what is no other workload's.
    fn is_own_source(&self, shot: &Shot) -> bool {
        let number = self.image.identity_of(shot.local.0);
        let is_workload = self.image.identities.get(&number).is_some_and(|identity| {
            matches!(
                identity.subject,
                compile::image::IdentitySubject::Workload { .. }
                    | compile::image::IdentitySubject::RemoteHost { .. }
            )
        });
        !is_workload || number == self.identity(shot.endpoint)
    }
}

fn endpoint_number(endpoint: RawEndpoint) -> u32 {
    match endpoint {
        RawEndpoint::Host => HOST_ENDPOINT,
        RawEndpoint::Workload(index) => 2 + u32::try_from(index).expect("a few"),
    }
}

fn workload_name(scenario: &Scenario, index: usize) -> WorkloadName {
    let workload = &scenario.policy.workloads[index];
    WorkloadName {
        namespace: workload.namespace.clone(),
        name: workload.name.clone(),
    }
}

/// A scenario compiled for its moment, and for those ahead.
fn compile(scenario: &Scenario) -> Image {
    let limits = Limits {
        moments: MOMENTS,
        ..Limits::NONE
    };
    compile::compile(
        &Inputs {
            policy: &scenario.policy,
            mode: scenario.mode,
            now: scenario.now,
            host_addresses: &scenario.host_addresses,
            elsewhere: &enforcer::compile::elsewhere::NOBODY,
            attested: enforcer::compile::NOBODY,
            subjects: Subjects::All,
            limits: &limits,
            in_force: None,
        },
        &mut Numbers::default(),
    )
    .expect("nothing is too large")
}

/// The same image where time stands still at `now`: what has come by then is over long since,
/// and all else is far away.
fn standing_at(image: &Image, now: Moment) -> Image {
    let today = Moment::now().0;
    let displaced = |(order, moment): (i64, Moment)| {
        let away = if moment <= now { -1_000_000 } else { 1_000_000 };
        Moment(today + away + order)
    };
    let mut standing = image.clone();
    for moment in standing.moments.iter_mut().enumerate() {
        *moment.1 = displaced((i64::try_from(moment.0).expect("a few"), *moment.1));
    }
    for (identity, sets) in image.sets.iter() {
        let mut sets = sets.clone();
        for (moment, _) in &mut sets.later {
            let order = image.moments.iter().position(|other| other == moment);
            let order = i64::try_from(order.expect("it is one of them")).expect("a few");
            *moment = displaced((order, *moment));
        }
        standing.sets.insert(*identity, sets);
    }
    standing
}

/// Puts the image of a scenario in force.
fn put(loaded: &mut Loaded<'_>, links: &[u32], scenario: &Scenario, image: &Image) {
    let endpoints = (0..scenario.policy.workloads.len())
        .map(|index| DesiredEndpoint {
            id: 2 + u32::try_from(index).expect("a few"),
            identity: image.workloads[&workload_name(scenario, index)],
            place: EndpointPlace::Interface {
                ifindex: links[index],
                name: format!("w{index}"),
            },
            audit: false,
            strict_source: false,
            addresses: Vec::new(),
        })
        .collect();
    loaded
        .apply(
            image.clone(),
            endpoints,
            FAILSAFE.to_vec(),
            WallClock::now(),
        )
        .expect("the image is applied");
}

/// The address of the other side: what the flow says, or one of whom it names.
fn peer_address(scenario: &Scenario, peer: RawPeer) -> IpAddr {
    let known = match peer {
        RawPeer::Address(address) => Some(address),
        RawPeer::Host => scenario.host_addresses.first().copied(),
        RawPeer::Workload(index) => scenario.policy.workloads[index]
            .addresses
            .first()
            .map(IpNet::addr),
    };
    known.unwrap_or(IpAddr::from([192, 0, 2, 1]))
}

/// An address that nothing speaks of, another one each time: no packet meets a flow of an
/// earlier one.
fn local_address(like: IpAddr, serial: u32) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::from((0x6440_0000 + serial % 0x40_0000).to_be_bytes()),
        IpAddr::V6(_) => {
            let mut octets = [0; 16];
            octets[..2].copy_from_slice(&[0x20, 0x99]);
            octets[12..].copy_from_slice(&serial.to_be_bytes());
            IpAddr::from(octets)
        }
    }
}

/// Everything that the run counts up.
#[derive(Default)]
struct Tally {
    serial: u32,
    policies: u32,
    /// Policies in force some of whose moments had come since they were compiled.
    switched: u32,
    passed: u64,
    dropped: u64,
    audited: u64,
}

fn run(
    loaded: &mut Loaded<'_>,
    links: &[u32],
    scenario: &Scenario,
    adopting: bool,
    tally: &mut Tally,
) -> Result<(), TestCaseError> {
    tally.policies += 1;
    if tally.policies.is_multiple_of(ROUND) {
        loaded.forget_flows().expect("flows are forgotten");
    }
    let image = compile(scenario);
    // The kernel finds itself after some of the moments that it knows of.
    let times: Vec<Moment> = std::iter::once(scenario.now)
        .chain(image.moments.iter().copied())
        .collect();
    let at = times[tally.policies as usize % times.len()];
    tally.switched += u32::from(at > scenario.now);
    let scenario = &Scenario {
        now: at,
        ..scenario.clone()
    };
    put(loaded, links, scenario, &standing_at(&image, at));
    loaded.set_adopting(adopting).expect("entries are written");
    // What the case before has left.
    loaded.forget_denied().expect("denied flows are forgotten");
    let case = Case {
        scenario,
        image: &image,
        adopting,
    };
    let mut counted: HashMap<DeniedKey, u64> = HashMap::new();
    let audited_blocks = image.blocked.values().any(|(_, audit)| *audit);
    for flow in &scenario.flows {
        tally.serial += 1;
        let peer = peer_address(scenario, flow.peer);
        let mut shot = Shot::opening(flow, peer, local_address(peer, tally.serial));
        // Of TCP, also packets of connections whose beginning nobody saw.
        if flow.protocol == Protocol::TCP && tally.serial.is_multiple_of(4) {
            shot.tcp_flags = ACK;
        }
        let mut fire = |shot: &Shot, expected: Expected| -> Result<bool, TestCaseError> {
            let (hook, link) = shot.hook();
            let passes = loaded
                .passes(hook, link, &shot.frame())
                .expect("a test run");
            prop_assert_eq!(
                passes,
                expected.decision.passes(),
                "{:?} {:?}",
                shot,
                expected
            );
            if let Some(key) = expected.key(shot) {
                *counted.entry(key).or_default() += 1;
            }
            Ok(passes)
        };
        let expected = case.expected(&shot)?;
        let passed = fire(&shot, expected)?;
        match expected.decision.action() {
            Action::Allow => tally.passed += 1,
            Action::Deny => tally.dropped += 1,
            Action::Audit => tally.audited += 1,
        }
        // A denied flow leaves nothing that a later one could lean on, only its count.
        if expected.decision.action() == Action::Deny {
            for other in shot.others() {
                fire(&other, case.expected(&other)?)?;
            }
        }
        let Some(answer) = shot.answer() else {
            continue;
        };
        if passed {
            // The answer, and the next packet, are part of the flow: nothing is counted.
            let mut within = expected;
            within.decision = Decision::new(Action::Allow, Reason::Related, 0);
            let blocked = answer.endpoint == RawEndpoint::Host
                && answer.way == Ingress
                && case.blocked(&answer, &answer.flow(Ingress)).is_some();
            if blocked {
                fire(&answer, case.expected(&answer)?)?;
            } else {
                fire(&answer, within)?;
            }
            let mut next = shot.clone();
            next.tcp_flags = ACK;
            fire(&next, within)?;
        } else {
            fire(&answer, case.expected(&answer)?)?;
        }
    }
    let mut found: HashMap<DeniedKey, u64> = HashMap::new();
    for (key, entry) in loaded.datapath.drain_denied().expect("denied flows") {
        let is_block = key.reason == Reason::Blocked as u8 && key.action == Action::Audit as u8;
        if !(audited_blocks && is_block) {
            *found.entry(key).or_default() += entry.packets;
        }
    }
    for (key, packets) in &counted {
        prop_assert_eq!(found.get(key), Some(packets), "{:?}", key);
    }
    found.retain(|key, _| !counted.contains_key(key));
    prop_assert!(found.is_empty(), "more was counted than denied: {found:?}");
    Ok(())
}

#[test]
fn the_kernel_says_what_the_documents_say() -> Result<()> {
    let bed = Bed::new()?;
    let links = bed.links.clone();
    bed.enter(|loaded| {
        let mut tally = Tally::default();
        let mut runner = TestRunner::new(ProptestConfig {
            cases: generate::cases(10_000),
            max_shrink_iters: 1000,
            failure_persistence: None,
            ..ProptestConfig::default()
        });
        let state = std::cell::RefCell::new((loaded, &mut tally));
        let budget = Budget::new(std::env::var_os("ENFORCER_CASES").is_some() || !is_emulated());
        let strategy = (generate::scenario(FLOWS), any::<bool>());
        let result = runner.run(&strategy, |(scenario, adopting)| {
            let (loaded, tally) = &mut *state.borrow_mut();
            if tally.policies >= 10 && budget.is_spent() {
                return Ok(());
            }
            run(loaded, &links, &scenario, adopting, tally)
        });
        if let Err(error) = result {
            panic!("{error}");
        }
        // Every kind of verdict was met often: the comparison says something.
        for count in [tally.passed, tally.dropped, tally.audited] {
            assert!(count > u64::from(tally.policies), "{count}");
        }
        assert!(tally.switched > tally.policies / 20, "{}", tally.switched);
    })
}
