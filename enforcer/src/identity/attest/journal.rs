//! Security events of attestation and of the Workload API: counted exactly, logged and kept as far
//! as there is room.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Display,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tracing::{info, warn};

use crate::{identity::binding::Binding, observe::clock::rfc3339};

/// Version of the form of [`SecurityEvent`]; raised when a field changes its meaning.
pub const EVENT_VERSION: u32 = 1;
/// Events that are kept for `enforcer identity events`.
const KEPT: usize = 512;
/// Events that are logged and kept in one [`WINDOW`]; more are only counted.
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
}

impl Subject {
    /// As people read it.
    const fn name(self) -> &'static str {
        match self {
            Self::Attestation => "attestation",
            Self::WorkloadApi => "Workload API",
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
        }
    }
}

/// A security event. docs/identity.md has its form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityEvent {
    /// [`EVENT_VERSION`].
    pub version: u32,
    /// RFC 3339, UTC.
    pub time: String,
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
}

impl SecurityEvent {
    /// An event about nobody yet.
    pub fn new(event: EventKind, reason: &str, message: impl Display) -> Self {
        Self {
            version: EVENT_VERSION,
            time: rfc3339(OffsetDateTime::now_utc()),
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
pub struct Journal(Mutex<BTreeMap<Subject, Log>>);

/// Each door has its own, so that a flood at one hides nothing of the other.
#[derive(Debug, Default)]
struct Log {
    counts: BTreeMap<(EventKind, String), u64>,
    kept: VecDeque<SecurityEvent>,
    window: Option<(Instant, u32)>,
    suppressed: u64,
}

impl Journal {
    /// Takes an event.
    pub fn note(&self, event: SecurityEvent) {
        let mut logs = self.lock();
        let log = logs.entry(event.kind).or_default();
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
        log.kept.push_back(event);
        drop(logs);
        if kind == EventKind::Refuse {
            warn!(target: "enforcer::security", event = json, "{subject} refused: {message}");
        } else {
            info!(target: "enforcer::security", event = json, "{subject}: {message}");
        }
    }

    /// How often what happened at a door, by reason.
    pub fn counts(&self, subject: Subject) -> Vec<(EventKind, String, u64)> {
        let logs = self.lock();
        let counts = logs.get(&subject).into_iter().flat_map(|log| &log.counts);
        counts
            .map(|((kind, reason), count)| (*kind, reason.clone(), *count))
            .collect()
    }

    /// Events of a door that were counted but neither logged nor kept.
    pub fn suppressed(&self, subject: Subject) -> u64 {
        self.lock().get(&subject).map_or(0, |log| log.suppressed)
    }

    /// The latest events, oldest first.
    pub fn kept(&self) -> Vec<SecurityEvent> {
        let logs = self.lock();
        let kept = logs.values().flat_map(|log| &log.kept);
        let mut kept: Vec<_> = kept.cloned().collect();
        kept.sort_by(|one, other| one.time.cmp(&other.time));
        kept
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Subject, Log>> {
        // Every change is complete at each step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
