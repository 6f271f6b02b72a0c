//! From what the kernel says to what leaves the enforcer: numbers become names.

use std::{net::IpAddr, sync::Arc};

use enforcer_common::{
    denied_entry::{DeniedEntry, DeniedKey},
    event::Event,
    identity,
};

use crate::{
    compile::image::{Assurance, Identity, IdentitySubject, RuleDirection, RuleInfo},
    datapath::desired::HOST_ENDPOINT,
    observe::{
        accounts::{Accounts, Amount},
        clock::{Clock, rfc3339},
        context::{EndpointName, NameBook, Names, WorkloadName},
        decode::{self, Caller, DecodeError, Flow},
        process::Processes,
        record::{FlowRecord, Process, RECORD_VERSION, RecordRule, Side, SideKind, Verdict},
    },
    protocol_name,
};

/// Makes records. There is one in a daemon, because records are numbered and add up.
#[derive(Debug)]
pub struct Enricher {
    names: Arc<NameBook>,
    accounts: Accounts,
    processes: Processes,
    clock: Clock,
    run: String,
    /// Number of the last record.
    sequence: u64,
}

/// What only one packet, and not a count, says.
struct Packet {
    hook: &'static str,
    source_port: Option<u16>,
    tcp_flags: Option<u8>,
    process: Option<Process>,
    generation: u32,
    broken: bool,
}

impl Enricher {
    /// With the clock as it is now.
    pub fn new(names: Arc<NameBook>) -> Self {
        Self::with(names, Processes::default(), Clock::read())
    }

    /// With other sources of facts.
    pub fn with(names: Arc<NameBook>, processes: Processes, clock: Clock) -> Self {
        let run = rfc3339(clock.wall(crate::observe::clock::monotonic()));
        Self {
            names,
            accounts: Accounts::default(),
            processes,
            clock,
            run,
            sequence: 0,
        }
    }

    /// [`FlowRecord::run`] of every record.
    pub fn run(&self) -> &str {
        &self.run
    }

    /// Reads the clock anew. To be called before a batch.
    pub fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }

    /// The record of an event.
    pub fn event(&mut self, event: &Event) -> Result<FlowRecord, DecodeError> {
        let sighting = decode::sighting(event)?;
        let whole = Amount {
            packets: 1,
            bytes: sighting.length.into(),
        };
        let amount = match &sighting.counted {
            Some(key) => self.accounts.event(key, sighting.time, whole.bytes),
            None => whole,
        };
        let packet = Packet {
            hook: sighting.hook.name(),
            source_port: sighting.source_port,
            tcp_flags: sighting.tcp_flags,
            process: sighting.caller.map(|c| self.process(c, sighting.time)),
            generation: sighting.generation,
            broken: sighting.broken,
        };
        Ok(self.record(&sighting.flow, sighting.time, amount, Some(packet)))
    }

    /// A snapshot of the table of denied flows was taken from the moment `began` on
    /// ([`crate::observe::clock::monotonic`], read before the snapshot). Its entries follow.
    pub fn begin_snapshot(&mut self, began: u64) {
        self.accounts.begin_snapshot(began);
    }

    /// The record of what an entry of the snapshot has grown by, unless events have reported
    /// all of it.
    pub fn count(
        &mut self,
        key: &DeniedKey,
        delta: &DeniedEntry,
    ) -> Result<Option<FlowRecord>, DecodeError> {
        let count = decode::denied(key, delta)?;
        let amount = self.accounts.count(key, delta);
        Ok(amount.map(|amount| self.record(&count.flow, count.last, amount, None)))
    }

    fn process(&self, caller: Caller, time: u64) -> Process {
        let since_boot = self.clock.since_boot(time);
        Process {
            pid: caller.pid,
            uid: caller.uid,
            executable: self.processes.executable(caller.pid, since_boot),
            program: caller.program,
        }
    }

    fn record(
        &mut self,
        flow: &Flow,
        time: u64,
        amount: Amount,
        packet: Option<Packet>,
    ) -> FlowRecord {
        let names = self.names.load();
        let direction = RuleDirection::from(flow.direction);
        let (mut workload, mut peer) = (workload_side(&names, flow), peer_side(&names, flow));
        let source_port = packet.as_ref().and_then(|p| p.source_port);
        (workload.port, peer.port) = match direction {
            RuleDirection::Egress => (source_port, flow.port),
            RuleDirection::Ingress => (flow.port, source_port),
        };
        let cgroup = flow.cgroup.and_then(|id| names.cgroup(id));
        let interface = flow.ifindex.and_then(|index| names.interface(index));
        // A packet says what judged it; a count, only when its last packet was.
        let commits = &names.context().commits;
        let commit = match &packet {
            Some(packet) => commits.at_generation(packet.generation),
            None => commits.at(time),
        };
        self.sequence += 1;
        FlowRecord {
            version: RECORD_VERSION,
            time: rfc3339(self.clock.wall(time)),
            run: self.run.clone(),
            sequence: self.sequence,
            node: names.context().node.clone(),
            direction,
            verdict: Verdict::from(flow.action),
            reason: flow.reason.name().to_owned(),
            rule: flow
                .rule
                .and_then(|number| names.rule(number))
                .map(|rule| record_rule(rule, direction, commit)),
            workload,
            peer,
            protocol: flow
                .protocol
                .map_or_else(|| UNKNOWN_PROTOCOL.to_owned(), protocol_name::text),
            tcp_flags: packet
                .as_ref()
                .and_then(|p| p.tcp_flags)
                .map(tcp_flags_text),
            icmp_type: flow.icmp.map(|(kind, _)| kind),
            icmp_code: flow.icmp.map(|(_, code)| code),
            hook: packet.as_ref().map(|p| p.hook.to_owned()),
            interface: interface.map(ToString::to_string),
            cgroup: cgroup.map(|c| c.path.clone()),
            unit: cgroup.and_then(|c| c.unit.clone()),
            generation: packet
                .as_ref()
                .map_or(names.context().generation, |p| p.generation),
            broken: packet.as_ref().is_some_and(|p| p.broken),
            process: packet.and_then(|p| p.process),
            packets: amount.packets,
            bytes: amount.bytes,
        }
    }
}

/// The side whose endpoint judged: known by where it is. Frames that belong to no endpoint
/// (blocked sources, what cannot be read) are addressed to whoever has the address.
fn workload_side(names: &Names, flow: &Flow) -> Side {
    let Some(number) = flow.endpoint else {
        let identity = flow.local.map_or(identity::ANY, |a| names.identity_at(a));
        return side_by_identity(names, identity, flow.local);
    };
    match names.endpoint(number) {
        Some(EndpointName {
            identity,
            workload: Some(workload),
            assurance,
        }) => Side {
            kind: SideKind::Workload,
            assurance: Some(*assurance),
            ..named(workload, *identity, flow.local)
        },
        Some(EndpointName { identity, .. }) => host_side(names, *identity, flow.local),
        None if number == HOST_ENDPOINT => host_side(names, identity::HOST, flow.local),
        None => unknown_side(identity::ANY, flow.local),
    }
}

/// The other side: known by the identity that the kernel found.
fn peer_side(names: &Names, flow: &Flow) -> Side {
    let identity = match (flow.peer, flow.remote) {
        // Judged before the peer was looked up.
        (identity::ANY, Some(address)) => names.identity_at(address),
        (number, _) => number,
    };
    side_by_identity(names, identity, flow.remote)
}

fn side_by_identity(names: &Names, number: u32, address: Option<IpAddr>) -> Side {
    let known = names.identity(number).map(AsRef::as_ref);
    let subject = match (number, known) {
        (identity::HOST, _) => &IdentitySubject::Host,
        (identity::WORLD, _) => &IdentitySubject::World,
        (_, Some(known)) => &known.subject,
        (_, None) => return unknown_side(number, address),
    };
    match subject {
        IdentitySubject::Host => host_side(names, number, address),
        IdentitySubject::RemoteHost { labels, .. } => Side {
            kind: SideKind::RemoteHost,
            labels: labels.clone(),
            assurance: Some(known.map_or(Assurance::Address, |known| known.assurance)),
            ..unknown_side(number, address)
        },
        IdentitySubject::World => Side {
            kind: SideKind::World,
            ..unknown_side(number, address)
        },
        IdentitySubject::Workload {
            namespace,
            labels,
            spiffe_id,
            ..
        } => Side {
            kind: SideKind::Workload,
            name: known
                .and_then(|known| names.workload(known, address))
                .map(str::to_owned),
            namespace: Some(namespace.clone()),
            labels: labels.clone(),
            spiffe_id: spiffe_id.clone(),
            assurance: Some(assurance(names, number, known, address)),
            ..unknown_side(number, address)
        },
    }
}

/// How the kernel knew a workload that is not the judging one. Where its address says the
/// same, no more than that is claimed; where it does not, it was the socket.
fn assurance(
    names: &Names,
    number: u32,
    known: Option<&Identity>,
    address: Option<IpAddr>,
) -> Assurance {
    let by_address = address.is_none_or(|address| {
        let found = names.identity_at(address);
        found == number
            || names
                .identity(found)
                .is_some_and(|found| Some(&found.subject) == known.map(|k| &k.subject))
    });
    if known.is_some_and(|known| known.assurance == Assurance::Attested) {
        Assurance::Attested
    } else if by_address {
        Assurance::Address
    } else if address.is_some_and(|address| !names.is_of_this_host(address)) {
        // By a port of an address of another host.
        Assurance::Orchestrator
    } else {
        Assurance::Kernel
    }
}

fn host_side(names: &Names, identity: u32, address: Option<IpAddr>) -> Side {
    Side {
        kind: SideKind::Host,
        labels: names.context().host_labels.clone(),
        assurance: Some(Assurance::Kernel),
        ..unknown_side(identity, address)
    }
}

fn named(workload: &WorkloadName, identity: u32, address: Option<IpAddr>) -> Side {
    Side {
        name: Some(workload.name.clone()),
        namespace: Some(workload.namespace.clone()),
        labels: workload.labels.clone(),
        spiffe_id: workload.spiffe_id.clone(),
        ..unknown_side(identity, address)
    }
}

fn unknown_side(identity: u32, address: Option<IpAddr>) -> Side {
    Side {
        address,
        port: None,
        kind: SideKind::Unknown,
        name: None,
        namespace: None,
        labels: [].into(),
        spiffe_id: None,
        identity,
        assurance: None,
    }
}

fn record_rule(rule: &RuleInfo, direction: RuleDirection, commit: Option<&Arc<str>>) -> RecordRule {
    let origin = rule.origin.as_ref();
    RecordRule {
        kind: rule.tier.map(|_| rule.kind),
        namespace: rule.namespace.clone(),
        policy: rule.policy.clone(),
        name: rule.rule.clone(),
        tier: rule.tier,
        direction: rule.direction.filter(|of| *of != direction),
        mode: rule.mode,
        owner: rule.accountability.owner.clone(),
        ticket: rule.accountability.ticket.clone(),
        controls: rule.accountability.controls.iter().cloned().collect(),
        file: origin.map(|o| o.file.to_string()),
        line: origin.map(|o| o.line),
        commit: origin.and(commit).map(ToString::to_string),
    }
}

/// How records call the protocol of what is no IP packet.
pub const UNKNOWN_PROTOCOL: &str = "unknown";

/// The flags' names (RFC 9293, 3.1), those that tell most first.
fn tcp_flags_text(flags: u8) -> String {
    const NAMES: [(u8, &str); 8] = [
        (0x02, "SYN"),
        (0x10, "ACK"),
        (0x01, "FIN"),
        (0x04, "RST"),
        (0x08, "PSH"),
        (0x20, "URG"),
        (0x40, "ECE"),
        (0x80, "CWR"),
    ];
    let set: Vec<&str> = NAMES
        .iter()
        .filter(|(bit, _)| flags & bit != 0)
        .map(|(_, name)| *name)
        .collect();
    if set.is_empty() {
        "none".to_owned()
    } else {
        set.join("|")
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable;
    use enforcer_common::{Action, Reason, event::Hook};
    use time::macros::datetime;

    use super::*;
    use crate::observe::fixtures;

    #[test]
    fn a_denied_packet_becomes_a_record() {
        let mut enricher = fixtures::enricher();
        let mut record = enricher.event(&fixtures::event()).unwrap();
        record.run = String::new();
        insta::assert_json_snapshot!(record);
    }

    #[test]
    fn a_refused_call_names_its_process() {
        let mut enricher = fixtures::enricher();
        let mut record = enricher.event(&fixtures::refused_call()).unwrap();
        record.run = String::new();
        let process = record.process.as_mut().unwrap();
        let own = std::env::current_exe().unwrap();
        assert_eq!(process.executable.as_deref(), own.to_str());
        process.executable = Some("/usr/bin/curl".into());
        process.pid = 1234;
        record.time = rfc3339(Clock::fixed(datetime!(2026-01-02 12:03:04 UTC)).wall(0));
        insta::assert_json_snapshot!(record);
    }

    #[test]
    fn a_record_names_the_commit_that_was_in_force_then() {
        let mut context = fixtures::context();
        context.commits.note(Some(&"fedc".into()), 5, 200_000_000);
        let clock = Clock::fixed(datetime!(2026-01-02 12:03:04 UTC));
        let names = Arc::new(NameBook::new(context));
        let mut enricher = Enricher::with(names, Processes::default(), clock);
        let commit = |record: FlowRecord| record.rule.unwrap().commit;
        for (generation, expected) in [(3, None), (4, Some("0123abcd")), (5, Some("fedc"))] {
            let event = Event {
                generation,
                ..fixtures::event()
            };
            let record = enricher.event(&event).unwrap();
            assert_eq!(commit(record).as_deref(), expected, "{generation}");
        }
        let key = decode::sighting(&fixtures::event()).unwrap().counted;
        enricher.begin_snapshot(1_000_000_000);
        for (last, expected) in [(199_000_000, "0123abcd"), (200_000_000, "fedc")] {
            let count = DeniedEntry {
                packets: 1_000,
                bytes: 1_000,
                first: last,
                last,
                peer: 300,
                ifindex: 4,
                cgroup: 0,
                generation: 0,
                pad: 0,
            };
            let record = enricher.count(&key.unwrap(), &count).unwrap().unwrap();
            assert_eq!(commit(record).as_deref(), Some(expected), "{last}");
        }
    }

    #[test]
    fn a_count_is_reduced_by_what_the_event_said() {
        let mut enricher = fixtures::enricher();
        let event = fixtures::event();
        let first = enricher.event(&event).unwrap();
        let key = decode::sighting(&event).unwrap().counted.unwrap();
        let entry = DeniedEntry {
            packets: 12,
            bytes: 720,
            first: event.time,
            last: event.time + 1_000,
            peer: event.peer,
            ifindex: event.ifindex,
            cgroup: 0,
            generation: 0,
            pad: 0,
        };
        enricher.begin_snapshot(event.time + 1_000_000_000);
        let rest = enricher.count(&key, &entry).unwrap().unwrap();
        assert_eq!((first.packets, rest.packets), (1, 11));
        assert_eq!((first.bytes, rest.bytes), (60, 660));
        assert_eq!((first.sequence, rest.sequence), (1, 2));
        assert_eq!(first.run, rest.run);
        assert_eq!(rest.rule, first.rule);
        assert_eq!(rest.workload, first.workload);
        // A count stands for every source port and hook.
        assert_eq!(
            rest.peer,
            Side {
                port: None,
                ..first.peer
            }
        );
        assert_eq!((rest.hook, rest.tcp_flags), (None, None));
        let nothing = DeniedEntry {
            packets: 0,
            bytes: 0,
            ..entry
        };
        assert_eq!(enricher.count(&key, &nothing), Ok(None));
    }

    #[test]
    fn what_belongs_to_no_endpoint_is_named_by_its_addresses() {
        let mut enricher = fixtures::enricher();
        let event = Event {
            endpoint: 0,
            peer: 0,
            reason: Reason::Blocked as u8,
            hook: Hook::Xdp as u8,
            ..fixtures::event()
        };
        let record = enricher.event(&event).unwrap();
        assert_eq!(record.workload.name.as_deref(), Some("db"));
        assert_eq!(record.workload.assurance, Some(Assurance::Address));
        assert_eq!(record.peer.name.as_deref(), Some("web"));
        let unreadable = Event {
            action: Action::Deny as u8,
            reason: Reason::Truncated as u8,
            hook: Hook::Tc as u8,
            ..Event::zeroed()
        };
        let record = enricher.event(&unreadable).unwrap();
        assert_eq!(record.workload.kind, SideKind::Unknown);
        assert_eq!(record.peer.address, None);
        assert_eq!(record.protocol, "unknown");
    }

    #[test]
    fn a_peer_that_its_address_does_not_prove_was_proven_by_its_socket() {
        let mut enricher = fixtures::enricher();
        let mut event = fixtures::event();
        event.remote = enforcer_common::flow_key::mapped([127, 0, 0, 1]);
        let record = enricher.event(&event).unwrap();
        assert_eq!(record.peer.assurance, Some(Assurance::Kernel));
        assert_eq!(record.peer.name.as_deref(), Some("web"));
    }

    #[test]
    fn flags_are_named() {
        assert_eq!(tcp_flags_text(0x12), "SYN|ACK");
        assert_eq!(tcp_flags_text(0), "none");
        assert_eq!(tcp_flags_text(0xff), "SYN|ACK|FIN|RST|PSH|URG|ECE|CWR");
    }
}
