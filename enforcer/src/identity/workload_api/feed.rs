//! What a workload is told for as long as it listens: at once, and again whenever it changes.
//! Before each message it is asked anew who listens.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use rustls_pki_types::CertificateDer;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tonic::Status;

use super::{
    caller::{Caller, NoCaller, Whereabouts},
    issuer::{Issuer, IssuerError, Roots},
    wire::{X509BundlesResponse, X509Svid, X509SvidResponse},
};
use crate::{
    cause::chain,
    identity::{
        attest::{
            gate::Pass,
            journal::{EventKind, Journal, SecurityEvent, Subject},
            origin::{Origin, name_of, workload_of},
        },
        material::{Material, MaterialWatch},
        spiffe_id::{SpiffeId, TrustDomain},
    },
    reconcile::{in_force::InForce, reconciler::blocking},
    registry::node_identity::NODE_PATH,
};

/// How long a request waits for a policy to be in force.
const READY: Duration = Duration::from_secs(5);
/// How long it waits until the inventory has heard of a new cgroup.
const PLACED: Duration = Duration::from_secs(2);
/// Between two looks at who listens, when nothing else happens.
const LOOK: Duration = Duration::from_secs(5);

/// What all answers are made from.
#[derive(Clone)]
pub struct Sources {
    /// What is in force.
    pub in_force: watch::Receiver<Arc<InForce>>,
    /// Whom the daemon believes.
    pub material: MaterialWatch,
    /// Who issues.
    pub issuer: Arc<Issuer>,
    /// Where processes are.
    pub whereabouts: Arc<Whereabouts>,
    /// Events.
    pub journal: Arc<Journal>,
    /// Streams that are open.
    pub streams: Arc<AtomicUsize>,
}

/// A connection.
pub(super) struct Connection {
    pub(super) sources: Sources,
    pub(super) caller: Arc<Caller>,
    pub(super) pass: Pass,
    /// Its open streams.
    pub(super) open: AtomicUsize,
}

/// Why a request is refused, or its stream ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error(
        "metadata `workload.spiffe.io: true` is missing: whoever asks must say that this is no \
         request that somebody else made it send"
    )]
    NoHeader,
    #[error("no policy is in force yet: try again")]
    NotReady,
    #[error(transparent)]
    NoCaller(#[from] NoCaller),
    #[error(
        "process {pid} is in workload {workload} now, and was in another one when it asked: \
         connect anew"
    )]
    Moved { pid: u32, workload: String },
    #[error(
        "policy says of no SPIFFE ID that it runs in {workload}: write `spiffeId` of the Workload at {origin}"
    )]
    NoId { workload: String, origin: String },
    #[error(
        "{id}, which policy has in {workload}, is not in the trust domain {domain} of the \
         authority here"
    )]
    ForeignId {
        id: SpiffeId,
        workload: String,
        domain: TrustDomain,
    },
    #[error(
        "{id}, which policy has in {workload}, is the name of a node: give the workload another \
         one"
    )]
    ReservedId { id: SpiffeId, workload: String },
    #[error("no SVID can be issued")]
    Issue(#[from] IssuerError),
    #[error(
        "{name} is no secret of {id}: there are `default`, `ROOTCA`, `ALL`, the SPIFFE ID, and \
         `spiffe://TRUST-DOMAIN` for each domain that is believed"
    )]
    NoSecret { name: String, id: String },
}

impl Refused {
    const fn code(&self) -> &'static str {
        match self {
            Self::NoHeader => "no-header",
            Self::NotReady => "not-ready",
            Self::NoCaller(no_caller) => no_caller.code(),
            Self::Moved { .. } => "moved",
            Self::NoId { .. } => "no-spiffe-id",
            Self::ForeignId { .. } => "foreign-id",
            Self::ReservedId { .. } => "reserved-id",
            Self::Issue(_) => "not-issued",
            Self::NoSecret { .. } => "no-secret",
        }
    }

    fn status(&self) -> Status {
        let message = match self {
            // What is wrong with the authority is told to the operator.
            Self::Issue(_) => "no SVID can be issued at the moment".to_owned(),
            other => other.to_string(),
        };
        match self {
            Self::NoHeader | Self::NoSecret { .. } => Status::invalid_argument(message),
            Self::NotReady | Self::Issue(_) => Status::unavailable(message),
            Self::NoCaller(_)
            | Self::Moved { .. }
            | Self::NoId { .. }
            | Self::ForeignId { .. }
            | Self::ReservedId { .. } => Status::permission_denied(message),
        }
    }
}

impl Connection {
    /// Notes a refusal, and says what the client is told.
    pub(super) fn refuse(&self, refused: &Refused, origin: Option<&Origin>) -> Status {
        self.sources.journal.note(SecurityEvent {
            kind: Subject::WorkloadApi,
            workload: origin.map(|origin| name_of(&origin.endpoint)),
            place: origin.map(|origin| origin.endpoint.place.clone()),
            pid: Some(self.caller.pid),
            ..SecurityEvent::new(EventKind::Refuse, refused.code(), chain(refused))
        });
        refused.status()
    }
}

/// A refusal, and what was known of who asked.
struct Denial {
    refused: Refused,
    origin: Option<Origin>,
}

impl Denial {
    fn of(refused: Refused, origin: Option<Origin>) -> Box<Self> {
        Box::new(Self { refused, origin })
    }

    /// The inventory may still hear of it.
    const fn is_early(&self) -> bool {
        matches!(self.refused, Refused::NoCaller(NoCaller::Unknown { .. }))
    }
}

/// What streams are made of.
pub(super) trait Content: Clone + PartialEq + Send + Sync + Sized + 'static {
    /// For whoever is in an endpoint, and when it is to be made anew in any case.
    fn make(
        sources: &Sources,
        now: &InForce,
        origin: &Origin,
        pid: u32,
    ) -> Result<(Self, Option<SystemTime>), Refused>;
}

impl Content for X509SvidResponse {
    fn make(
        sources: &Sources,
        now: &InForce,
        origin: &Origin,
        pid: u32,
    ) -> Result<(Self, Option<SystemTime>), Refused> {
        let workload = workload_of(now, &origin.endpoint);
        let id = workload.and_then(|workload| workload.spiffe_id.as_deref());
        let no_id = || Refused::NoId {
            workload: name_of(&origin.endpoint),
            origin: workload.map_or_else(String::new, |w| w.origin.to_string()),
        };
        let id: SpiffeId = id.ok_or_else(no_id)?.parse().map_err(|_| no_id())?;
        let workload = name_of(&origin.endpoint);
        let domain = sources.issuer.watch().borrow().domain.clone();
        if id.domain() != &domain {
            return Err(Refused::ForeignId {
                id,
                workload,
                domain,
            });
        }
        // Who has a node's name speaks for that node in the fleet.
        if id.path().starts_with(NODE_PATH) {
            return Err(Refused::ReservedId { id, workload });
        }
        let (svid, occasion) = sources.issuer.svid(&origin.at, &id)?;
        if let Some(occasion) = occasion {
            let message = format!("{id} is issued to {}", origin.at.workload);
            sources.journal.note(SecurityEvent {
                kind: Subject::WorkloadApi,
                spiffe_id: Some(id.to_string()),
                serial: Some(svid.serial.to_string()),
                workload: Some(origin.at.workload.to_string()),
                place: Some(origin.at.place.clone()),
                pid: Some(pid),
                ..SecurityEvent::new(EventKind::Issue, occasion.code(), message)
            });
        }
        // Read after it was issued: the root that signed it is among them.
        let roots = sources.issuer.watch().borrow().clone();
        let material = sources.material.borrow().clone();
        let mut message = X509Svid::default();
        message.spiffe_id = svid.id.to_string();
        message.x509_svid = svid.certificate.to_vec();
        message.x509_svid_key = svid.key.to_vec();
        message.bundle = own_bundle(&roots, &material);
        let response = Self {
            svids: vec![message],
            crl: Vec::new(),
            federated_bundles: federated(&roots, &material),
        };
        Ok((response, Some(svid.renew_at)))
    }
}

impl Content for X509BundlesResponse {
    fn make(
        sources: &Sources,
        _now: &InForce,
        _origin: &Origin,
        _pid: u32,
    ) -> Result<(Self, Option<SystemTime>), Refused> {
        let roots = sources.issuer.watch().borrow().clone();
        let material = sources.material.borrow().clone();
        let mut bundles = federated(&roots, &material);
        bundles.insert(key_of(&roots.domain), own_bundle(&roots, &material));
        let crl = Vec::new();
        Ok((Self { crl, bundles }, None))
    }
}

/// The roots of the authority, and those that policy has beside them for its trust domain.
fn own_bundle(roots: &Roots, material: &Material) -> Vec<u8> {
    let mut certificates: Vec<&CertificateDer<'_>> = roots.bundle.certificates().iter().collect();
    let declared = material.trust.domains().get(&roots.domain);
    for certificate in declared.iter().flat_map(|d| d.bundle.certificates()) {
        if !certificates.contains(&certificate) {
            certificates.push(certificate);
        }
    }
    certificates
        .iter()
        .flat_map(|c| c.iter().copied())
        .collect()
}

/// The bundles of all other domains that are believed.
fn federated(roots: &Roots, material: &Material) -> HashMap<String, Vec<u8>> {
    let domains = material.trust.domains().iter();
    domains
        .filter(|(name, trusted)| **name != roots.domain && trusted.unknown_revoked.is_none())
        .map(|(name, trusted)| {
            let certificates = trusted.bundle.certificates().iter();
            let bytes = certificates.flat_map(|c| c.iter().copied()).collect();
            (key_of(name), bytes)
        })
        .collect()
}

fn key_of(domain: &TrustDomain) -> String {
    format!("spiffe://{domain}")
}

/// A stream of one connection. While there is one the connection does not wait.
pub(super) struct Feed<T> {
    connection: Arc<Connection>,
    in_force: watch::Receiver<Arc<InForce>>,
    material: MaterialWatch,
    roots: watch::Receiver<Arc<Roots>>,
    sent: Option<T>,
    workload: Option<String>,
    unknown_since: Option<Instant>,
    counted: bool,
}

impl<T: Content> Feed<T> {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        let sources = &connection.sources;
        Self {
            in_force: sources.in_force.clone(),
            material: sources.material.clone(),
            roots: sources.issuer.watch(),
            sent: None,
            workload: None,
            unknown_since: None,
            counted: false,
            connection,
        }
    }

    /// The first or next message; else why there is none. Safe to cancel.
    pub(super) async fn next(&mut self) -> Result<T, Status> {
        let ready = timeout(READY, self.in_force.wait_for(|now| now.ready));
        if !matches!(ready.await, Ok(Ok(_))) {
            return Err(self.connection.refuse(&Refused::NotReady, None));
        }
        loop {
            let now = self.in_force.borrow_and_update().clone();
            self.material.borrow_and_update();
            self.roots.borrow_and_update();
            let due = match blocking(|| self.make(&now)) {
                Ok((content, due)) => {
                    self.unknown_since = None;
                    self.count();
                    if self.sent.as_ref() != Some(&content) {
                        self.sent = Some(content.clone());
                        return Ok(content);
                    }
                    due
                }
                Err(denial) if denial.is_early() && self.may_become_known() => None,
                Err(denial) => {
                    let Denial { refused, origin } = *denial;
                    return Err(self.connection.refuse(&refused, origin.as_ref()));
                }
            };
            self.wait(due).await;
        }
    }

    fn make(&mut self, now: &InForce) -> Result<(T, Option<SystemTime>), Box<Denial>> {
        let Connection {
            sources, caller, ..
        } = &*self.connection;
        let found = sources.whereabouts.endpoint(now, caller);
        let origin = found.map_err(|no_caller| Denial::of(no_caller.into(), None))?;
        let workload = name_of(&origin.endpoint);
        if *self.workload.get_or_insert_with(|| workload.clone()) != workload {
            let pid = caller.pid;
            return Err(Denial::of(Refused::Moved { pid, workload }, Some(origin)));
        }
        match T::make(sources, now, &origin, caller.pid) {
            Ok(made) => Ok(made),
            Err(refused) => Err(Denial::of(refused, Some(origin))),
        }
    }

    fn may_become_known(&mut self) -> bool {
        let since = *self.unknown_since.get_or_insert_with(Instant::now);
        since.elapsed() < PLACED
    }

    /// Waits until there may be something new.
    async fn wait(&mut self, due: Option<SystemTime>) {
        let look = if self.unknown_since.is_some() {
            Duration::from_millis(100)
        } else {
            LOOK
        };
        let due = due.map(|due| due.duration_since(SystemTime::now()).unwrap_or_default());
        // The clock may be set meanwhile, and what is due now was tried just now.
        let pause = due.map_or(look, |due| due.clamp(Duration::from_millis(50), look));
        tokio::select! {
            Ok(()) = self.in_force.changed() => {}
            Ok(()) = self.material.changed() => {}
            Ok(()) = self.roots.changed() => {}
            () = sleep(pause) => {}
        }
    }

    fn count(&mut self) {
        if !std::mem::replace(&mut self.counted, true) {
            let connection = &self.connection;
            connection.sources.streams.fetch_add(1, Ordering::Relaxed);
            if connection.open.fetch_add(1, Ordering::AcqRel) == 0 {
                connection.pass.busy();
            }
        }
    }
}

impl<T> Drop for Feed<T> {
    fn drop(&mut self) {
        if self.counted {
            let connection = &self.connection;
            connection.sources.streams.fetch_sub(1, Ordering::Relaxed);
            if connection.open.fetch_sub(1, Ordering::AcqRel) == 1 {
                connection.pass.idle();
            }
        }
    }
}
