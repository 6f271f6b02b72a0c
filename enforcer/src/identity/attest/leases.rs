//! Bindings and their ends. A binding ends with its lease or its certificate; when its
//! certificate is not believed any more; when its endpoint is gone or policy says that somebody
//! else runs there; when the process that proved it has moved to another cgroup; and when a bridge
//! gets a port behind which anybody can send with its address.
//!
//! Bindings are kept in the state directory, so that a daemon that starts again knows them. What
//! ended meanwhile ends then.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use rustls_pki_types::{CertificateDer, UnixTime};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    journal::{EventKind, Journal, SecurityEvent},
    open_bridges::OpenBridges,
    origin::has_moved,
};
use crate::{
    api::status::PlaceKind,
    cause::chain,
    identity::{
        binding::{Binding, Bindings, BoundPlace},
        material::MaterialWatch,
        svid::{Svid, Usage},
        trust::Trust,
    },
    reconcile::in_force::InForce,
    state::{StateError, atomic_file},
};

/// Name of the file in the state directory.
const FILE: &str = "bindings.json";
/// Between two looks at the clock and at processes.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    bindings: Vec<Arc<Binding>>,
}

/// The bindings of this host, and the only one who changes them.
#[derive(Debug)]
pub struct Leases {
    file: PathBuf,
    published: watch::Sender<Arc<Bindings>>,
    change: Mutex<()>,
    journal: Arc<Journal>,
}

/// Why a binding ended.
#[derive(Clone, Debug, PartialEq, Eq)]
struct End {
    reason: &'static str,
    message: String,
}

impl Leases {
    /// What a former run kept in the state directory and has not ended since.
    pub fn open(state: &Path, journal: Arc<Journal>) -> Result<Arc<Self>, StateError> {
        let file = state.join(FILE);
        let kept: Kept = match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| StateError::Damaged {
                path: file.clone(),
                reason: error.to_string(),
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Kept::default(),
            Err(error) => return Err(StateError::io("read", &file, error)),
        };
        let now = unix_milliseconds();
        let mut bindings = Bindings::new();
        for binding in kept.bindings {
            if binding.until > now {
                bindings.insert(binding.at.clone(), binding);
            } else {
                journal.note(ended(&binding, &expired(&binding)));
            }
        }
        Ok(Arc::new(Self {
            file,
            published: watch::Sender::new(Arc::new(bindings)),
            change: Mutex::default(),
            journal,
        }))
    }

    /// For whoever follows.
    pub fn watch(&self) -> watch::Receiver<Arc<Bindings>> {
        self.published.subscribe()
    }

    /// Binds; what was bound to the endpoint before is replaced. `check` has the last word, with
    /// every change that came before.
    pub fn bind<E>(
        &self,
        binding: Binding,
        check: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let _guard = self.lock();
        check()?;
        let mut bindings = Bindings::clone(&self.published.borrow());
        let mut binding = binding;
        let before = bindings.get(&binding.at).filter(|b| b.id == binding.id);
        let (kind, reason) = match before {
            Some(before) => {
                binding.since = before.since;
                (EventKind::Renew, "renewed")
            }
            None => (EventKind::Bind, "proven"),
        };
        let message = format!("{} is proven at {}", binding.id, binding.at.workload);
        self.journal
            .note(SecurityEvent::about(kind, reason, message, &binding));
        bindings.insert(binding.at.clone(), Arc::new(binding));
        self.published.send_replace(Arc::new(bindings));
        Ok(())
    }

    /// Ends a binding because its owner asks for it. Whether there was one.
    pub fn release(&self, at: &BoundPlace, svid: &Svid) -> bool {
        let _guard = self.lock();
        let mut bindings = Bindings::clone(&self.published.borrow());
        let Some(binding) = bindings.get(at).filter(|b| &b.id == svid.id()).cloned() else {
            return false;
        };
        bindings.remove(at);
        let end = End {
            reason: "released",
            message: format!("{} ended its proof itself", binding.id),
        };
        self.journal.note(ended(&binding, &end));
        self.published.send_replace(Arc::new(bindings));
        true
    }

    /// Ends those of which `why` knows why.
    fn sweep(&self, why: impl Fn(&Binding) -> Option<End>) {
        let _guard = self.lock();
        let before = self.published.borrow().clone();
        let over: Vec<(Arc<Binding>, End)> = before
            .values()
            .filter_map(|binding| why(binding).map(|end| (binding.clone(), end)))
            .collect();
        if over.is_empty() {
            return;
        }
        let mut bindings = Bindings::clone(&before);
        for (binding, end) in over {
            bindings.remove(&binding.at);
            self.journal.note(ended(&binding, &end));
        }
        self.published.send_replace(Arc::new(bindings));
    }

    /// Ends what is to end, and keeps the rest on disk, until `stop`.
    pub async fn keep(
        self: Arc<Self>,
        mut in_force: watch::Receiver<Arc<InForce>>,
        mut material: MaterialWatch,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        // Before a policy is in force nobody knows whom to believe: what a former run left
        // holds until then, as its policy does.
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            ready = in_force.wait_for(|now| now.ready) => drop(ready?),
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            read = material.changed() => read?,
        }
        material.mark_changed();
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut on_disk = self.watch();
        on_disk.mark_changed();
        let mut open_bridges = OpenBridges::default();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                changed = in_force.changed() => changed?,
                changed = material.changed() => {
                    changed?;
                    material.mark_changed();
                }
                _ = tick.tick() => {}
            }
            let now = in_force.borrow_and_update().clone();
            let judge = material.has_changed().unwrap_or(false);
            let trust = material.borrow_and_update().trust.clone();
            let bindings = self.published.borrow().clone();
            let open = open_bridges.look(&bindings, &now, Instant::now());
            let leases = self.clone();
            tokio::task::spawn_blocking(move || {
                leases.sweep(|binding| {
                    end_of(binding, &now)
                        .or_else(|| behind_open_bridge(binding, &open))
                        .or_else(|| judge.then(|| disbelieved(binding, &trust)).flatten())
                });
            })
            .await?;
            if on_disk.has_changed().unwrap_or(false) {
                let bindings = on_disk.borrow_and_update().clone();
                let leases = self.clone();
                tokio::task::spawn_blocking(move || leases.write(&bindings)).await?;
            }
        }
        let bindings = on_disk.borrow_and_update().clone();
        self.write(&bindings);
        Ok(())
    }

    fn write(&self, bindings: &Bindings) {
        let kept = Kept {
            bindings: bindings.values().cloned().collect(),
        };
        // Plain data with string keys always has a JSON form.
        let bytes = serde_json::to_vec(&kept).unwrap_or_default();
        if let Err(error) = atomic_file::replace(&self.file, &bytes) {
            warn!(
                error = chain(&error),
                file = %self.file.display(),
                "bindings cannot be kept: after a restart workloads must prove themselves again"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.change.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ended(binding: &Binding, end: &End) -> SecurityEvent {
    SecurityEvent::about(EventKind::End, end.reason, &end.message, binding)
}

fn expired(binding: &Binding) -> End {
    End {
        reason: "expired",
        message: format!("the proof of {} was not renewed", binding.id),
    }
}

/// Why a binding is over, apart from what is believed.
fn end_of(binding: &Binding, now: &InForce) -> Option<End> {
    if binding.until <= unix_milliseconds() {
        return Some(expired(binding));
    }
    let at = &binding.at;
    let key = (at.workload.namespace.as_str(), at.workload.name.as_str());
    let workloads = &now.policy.workloads;
    let found = workloads.binary_search_by(|w| (w.namespace.as_str(), w.name.as_str()).cmp(&key));
    if !found.is_ok_and(|index| binding.is_of(&workloads[index])) {
        return Some(End {
            reason: "policy",
            message: format!(
                "policy does not say any more that {} runs in {}",
                binding.id, at.workload
            ),
        });
    }
    let is_there = now.endpoints.iter().any(|endpoint| {
        endpoint.kind == at.kind
            && endpoint.place_number == at.number
            && endpoint.place == at.place
            && endpoint.name == at.workload.name
            && endpoint.namespace.as_deref() == Some(at.workload.namespace.as_str())
    });
    if !is_there {
        return Some(End {
            reason: "endpoint-gone",
            message: format!("{} of {} is not there any more", at.place, at.workload),
        });
    }
    let process = binding.process.as_ref()?;
    has_moved(now, process, &at.place).then(|| End {
        reason: "moved",
        message: format!(
            "process {}, which proved {}, is in another cgroup now",
            process.pid, binding.id
        ),
    })
}

/// Whether others can send with the addresses of a binding's interface, one of `open`.
fn behind_open_bridge(binding: &Binding, open: &BTreeSet<u64>) -> Option<End> {
    let at = &binding.at;
    let is_open = at.kind == PlaceKind::Interface && open.contains(&at.number);
    is_open.then(|| End {
        reason: "open-bridge",
        message: format!(
            "{} is behind a bridge with a port that belongs to no workload, which could send with \
             the address of {}: enroll that port too",
            at.place, at.workload
        ),
    })
}

/// Why the certificate of a binding is not believed any more.
fn disbelieved(binding: &Binding, trust: &Trust) -> Option<End> {
    let chain: Option<Vec<_>> = binding.chain.iter().map(|hex| from_hex(hex)).collect();
    let refusal = match chain {
        Some(chain) => trust
            .verify(&chain, Usage::Client, UnixTime::now())
            .err()
            .map(|refusal| (refusal.code(), refusal.to_string())),
        None => Some(("malformed", "the kept certificate is damaged".to_owned())),
    };
    refusal.map(|(reason, message)| End { reason, message })
}

/// Milliseconds of the Unix epoch.
pub fn unix_milliseconds() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}

/// As a binding keeps a certificate.
pub fn to_hex(certificate: &CertificateDer<'_>) -> String {
    use std::fmt::Write as _;
    certificate.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The same, read.
pub(in crate::identity) fn from_hex(text: &str) -> Option<CertificateDer<'static>> {
    let bytes: Option<Vec<u8>> = text
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    bytes.map(Into::into)
}

#[cfg(test)]
mod tests;
