//! Security events of attestation, of the Workload API and of the fleet: counted exactly; logged,
//! kept and handed to the sinks of flow records as far as there is room.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Display,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tracing::{info, warn};

use crate::{identity::binding::Binding, observe::clock::rfc3339, sink::SinkInlet};

/// Version of the form of [`SecurityEvent`]; raised when a field changes its meaning.
pub const EVENT_VERSION: u32 = 1;
/// Events that are kept for `enforcer identity events`.
const KEPT: usize = 512;
/// Events of a door that are told (logged, kept, handed to sinks) in one [`WINDOW`]; more are only
/// counted.
const MOST: u32 = 100;
const WINDOW: Duration = Duration::from_secs(1);

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// A proof was bound to an endpoint.
    Bind,
    /// The same identity proved itself again.
    Renew,
    /// A binding ended.
    End,
    /// A connection, proof or request was refused.
    Refuse,
    /// An SVID was issued to a workload.
    Issue,
    /// This node's own record of the fleet was changed or removed by somebody else, and is put
    /// back.
    Restore,
    /// Several nodes claim an address of the fleet, or several workloads of a node a port, which
    /// is therefore nobody's.
    Contest,
    /// Not more than one claims it any more.
    Settle,
}

/// At which door it happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// Attestation by mTLS.
    #[default]
    Attestation,
    /// The Workload API.
    WorkloadApi,
    /// Records of the nodes of a fleet.
    Fleet,
}

impl Subject {
    /// As people read it.
    const fn name(self) -> &'static str {
        match self {
            Self::Attestation => "attestation",
            Self::WorkloadApi => "Workload API",
            Self::Fleet => "fleet",
        }
    }
}

impl EventKind {
    /// As in metrics and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Renew => "renew",
            Self::End => "end",
            Self::Refuse => "refuse",
            Self::Issue => "issue",
            Self::Restore => "restore",
            Self::Contest => "contest",
            Self::Settle => "settle",
        }
    }
}

/// A security event. docs/identity.md has its form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityEvent {
    /// [`EVENT_VERSION`].
    pub version: u32,
    /// RFC 3339 with microseconds, UTC.
    pub time: String,
    /// When the daemon started, as in [`crate::observe::record::FlowRecord::run`].
    #[serde(default)]
    pub run: String,
    /// Number of the event in this run, from 1. What was only counted has a number too, so a gap
    /// says how many events a reader does not know.
    #[serde(default)]
    pub sequence: u64,
    /// Name of the node that tells of it.
    #[serde(default)]
    pub node: String,
    /// At which door it happened.
    pub kind: Subject,
    /// What happened.
    pub event: EventKind,
    /// Why, as a code.
    pub reason: String,
    /// Why, in words.
    pub message: String,
    /// Who, as the certificate says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spiffe_id: Option<String>,
    /// Serial number of the certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// The workload from which the connection came, as `namespace/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// Its cgroup or interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// Address and port from which the connection came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The process that held the connection or asked, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The node under whose name the record of the fleet was published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published_as: Option<String>,
    /// The nodes that claim the addresses, or did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// Addresses that several nodes claim, or did: the first of them. The message says how many
    /// there are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
}

impl SecurityEvent {
    /// An event about nobody yet.
    pub fn new(event: EventKind, reason: &str, message: impl Display) -> Self {
        Self {
            version: EVENT_VERSION,
            time: rfc3339(OffsetDateTime::now_utc()),
            run: String::new(),
            sequence: 0,
            node: String::new(),
            kind: Subject::Attestation,
            event,
            reason: reason.to_owned(),
            message: message.to_string(),
            spiffe_id: None,
            serial: None,
            workload: None,
            place: None,
            source: None,
            pid: None,
            published_as: None,
            nodes: Vec::new(),
            addresses: Vec::new(),
        }
    }

    /// An event about a binding.
    pub fn about(event: EventKind, reason: &str, message: impl Display, binding: &Binding) -> Self {
        Self {
            spiffe_id: Some(binding.id.to_string()),
            serial: Some(binding.serial.to_string()),
            workload: Some(binding.at.workload.to_string()),
            place: Some(binding.at.place.clone()),
            source: Some(binding.source.to_string()),
            pid: binding.process.as_ref().map(|process| process.pid),
            ..Self::new(event, reason, message)
        }
    }
}

/// All events of a daemon.
#[derive(Debug, Default)]
pub struct Journal {
    node: String,
    run: String,
    sinks: Vec<SinkInlet>,
    logs: Mutex<Logs>,
}

#[derive(Debug, Default)]
struct Logs {
    /// Of the last event.
    sequence: u64,
    doors: BTreeMap<Subject, Log>,
}

/// Each door has its own, so that a flood at one hides nothing of the other.
#[derive(Debug, Default)]
struct Log {
    counts: BTreeMap<(EventKind, String), u64>,
    kept: VecDeque<SecurityEvent>,
    window: Option<(Instant, u32)>,
    suppressed: u64,
}

impl Journal {
    /// The journal of a node and a run, which tells these sinks.
    pub fn new(node: &str, run: &str, sinks: Vec<SinkInlet>) -> Self {
        Self {
            node: node.to_owned(),
            run: run.to_owned(),
            sinks,
            logs: Mutex::default(),
        }
    }

    /// Takes an event. Waits for nobody.
    pub fn note(&self, event: SecurityEvent) {
        let mut logs = self.lock();
        let Logs { sequence, doors } = &mut *logs;
        *sequence += 1;
        let event = SecurityEvent {
            run: self.run.clone(),
            sequence: *sequence,
            node: self.node.clone(),
            ..event
        };
        let log = doors.entry(event.kind).or_default();
        let key = (event.event, event.reason.clone());
        *log.counts.entry(key).or_default() += 1;
        let now = Instant::now();
        let (began, taken) = match log.window {
            Some((began, taken)) if now.duration_since(began) < WINDOW => (began, taken + 1),
            _ => (now, 1),
        };
        log.window = Some((began, taken));
        if taken > MOST {
            log.suppressed += 1;
            return;
        }
        if log.kept.len() == KEPT {
            log.kept.pop_front();
        }
        // Plain data with string keys always has a JSON form.
        let json = serde_json::to_string(&event).unwrap_or_default();
        let (subject, kind, message) = (event.kind.name(), event.event, event.message.clone());
        let shared = Arc::new(event.clone());
        // Under the lock, so that a reader finds them in their order.
        for sink in &self.sinks {
            sink.offer(Arc::clone(&shared));
        }
        log.kept.push_back(event);
        drop(logs);
        match kind {
            EventKind::Refuse => {
                warn!(target: "enforcer::security", event = json, "{subject} refused: {message}");
            }
            EventKind::Contest => {
                warn!(target: "enforcer::security", event = json, "{subject}: {message}");
            }
            _ => info!(target: "enforcer::security", event = json, "{subject}: {message}"),
        }
    }

    /// How often what happened at a door, by reason.
    pub fn counts(&self, subject: Subject) -> Vec<(EventKind, String, u64)> {
        let logs = self.lock();
        let counts = logs
            .doors
            .get(&subject)
            .into_iter()
            .flat_map(|log| &log.counts);
        counts
            .map(|((kind, reason), count)| (*kind, reason.clone(), *count))
            .collect()
    }

    /// Events of a door that were counted and nothing else.
    pub fn suppressed(&self, subject: Subject) -> u64 {
        let logs = self.lock();
        logs.doors.get(&subject).map_or(0, |log| log.suppressed)
    }

    /// The latest events, oldest first.
    pub fn kept(&self) -> Vec<SecurityEvent> {
        let logs = self.lock();
        let kept = logs.doors.values().flat_map(|log| &log.kept);
        let mut kept: Vec<_> = kept.cloned().collect();
        kept.sort_by_key(|event| event.sequence);
        kept
    }

    fn lock(&self) -> MutexGuard<'_, Logs> {
        // Every change is complete at each step.
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::sink::{
        SinkQueue,
        file::{FileSink, Rotation},
    };

    const DOCUMENT: &str = include_str!("../../../../docs/identity.md");

    /// An event in which nothing is absent.
    fn full() -> SecurityEvent {
        let text = || Some("x".to_owned());
        SecurityEvent {
            spiffe_id: text(),
            serial: text(),
            workload: text(),
            place: text(),
            source: text(),
            pid: Some(1),
            published_as: text(),
            nodes: vec!["x".to_owned()],
            addresses: vec![[10, 0, 0, 1].into()],
            ..SecurityEvent::new(EventKind::Refuse, "expired", "x")
        }
    }

    #[test]
    fn every_field_is_documented() {
        let (_, events) = DOCUMENT.split_once("## Security events").unwrap();
        let serde_json::Value::Object(event) = serde_json::to_value(full()).unwrap() else {
            panic!("no object")
        };
        let documented = |name: &str| assert!(events.contains(&format!("`{name}`")), "{name}");
        event.keys().for_each(|name| documented(name));
        for kind in [Subject::Attestation, Subject::WorkloadApi, Subject::Fleet] {
            documented(serde_json::to_value(kind).unwrap().as_str().unwrap());
        }
        for kind in [
            EventKind::Bind,
            EventKind::Renew,
            EventKind::End,
            EventKind::Refuse,
            EventKind::Issue,
            EventKind::Restore,
            EventKind::Contest,
            EventKind::Settle,
        ] {
            documented(kind.name());
        }
    }

    #[test]
    fn a_sink_gets_what_is_told_and_a_gap_for_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flows.jsonl");
        let sink = FileSink::open(&path, Rotation::default()).unwrap();
        let sink = SinkQueue::start("test", sink, 1_000).unwrap();
        let stats = Arc::clone(sink.stats());
        let journal = Journal::new("node-1", "a run", vec![sink.inlet()]);
        (0..1_000).for_each(|_| journal.note(full()));
        let suppressed = journal.suppressed(Subject::Attestation);
        assert!(suppressed > 0);
        journal.note(SecurityEvent {
            kind: Subject::Fleet,
            ..full()
        });
        sink.close(Duration::from_mins(1));
        let text = std::fs::read_to_string(&path).unwrap();
        let told: Vec<SecurityEvent> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(told.len() as u64 + suppressed, 1_001);
        assert_eq!(stats.written(), told.len() as u64);
        assert!(told.iter().all(|e| e.node == "node-1" && e.run == "a run"));
        let numbers: Vec<u64> = told.iter().map(|e| e.sequence).collect();
        assert!(numbers.is_sorted());
        assert_eq!(numbers.iter().collect::<BTreeSet<_>>().len(), told.len());
        assert_eq!((numbers[0], told.last().unwrap().sequence), (1, 1_001));
    }

    #[test]
    fn a_flood_is_counted_whole_and_kept_in_part() {
        let journal = Journal::default();
        let event = SecurityEvent::new(EventKind::Refuse, "expired", "x");
        for _ in 0..1_000 {
            journal.note(event.clone());
        }
        let expired = [(EventKind::Refuse, "expired".to_owned(), 1_000)];
        assert_eq!(journal.counts(Subject::Attestation), expired);
        let kept = u64::try_from(journal.kept().len()).unwrap();
        let suppressed = journal.suppressed(Subject::Attestation);
        assert!(kept <= 512 && kept + suppressed >= 1_000, "{kept}");
        // Another door has room of its own.
        journal.note(SecurityEvent {
            kind: Subject::WorkloadApi,
            ..event
        });
        let last = journal
            .kept()
            .into_iter()
            .filter(|e| e.kind == Subject::WorkloadApi);
        assert_eq!(last.count(), 1);
        assert_eq!(journal.suppressed(Subject::WorkloadApi), 0);
        assert_eq!(journal.counts(Subject::WorkloadApi).len(), 1);
    }
}
