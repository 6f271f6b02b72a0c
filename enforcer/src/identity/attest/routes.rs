//! What a workload can ask for over mTLS: `POST` and `DELETE /v1/attest`, `GET /v1/whoami`.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use rustls_pki_types::{CertificateDer, UnixTime};
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::timeout};

use super::{
    journal::{EventKind, Journal, SecurityEvent},
    leases::{Leases, to_hex, unix_milliseconds},
    origin::{Arrival, Locator, NoEndpoint, Origin, name_of, workload_of},
};
use crate::{
    api::problem::{Problem, ProblemCode},
    compile::image::Assurance,
    identity::{
        binding::Binding,
        material::MaterialWatch,
        refusal::Refusal,
        svid::{Svid, Usage, moment},
    },
    reconcile::in_force::InForce,
};

/// Largest body of a request, in bytes.
const LARGEST_BODY: usize = 4 << 10;
/// Shortest lease that can be asked for, in seconds.
const SHORTEST: u64 = 1;
/// How long an answer waits for the kernel to take the proof.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the answers are made from.
#[derive(Clone)]
pub struct Sources {
    /// What is in force.
    pub in_force: watch::Receiver<Arc<InForce>>,
    /// Whom to believe.
    pub material: MaterialWatch,
    /// Bindings.
    pub leases: Arc<Leases>,
    /// Where connections come from.
    pub locator: Arc<Locator>,
    /// Events.
    pub journal: Arc<Journal>,
    /// The longest lease.
    pub longest: Duration,
}

/// A connection whose client certificate was verified at its handshake.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The certificates that were shown, the leaf first.
    pub chain: Arc<[CertificateDer<'static>]>,
    /// What the kernel says of it.
    pub arrival: Arc<Arrival>,
}

/// Body of `POST /v1/attest`; none at all is the same as `{}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttestRequest {
    /// How long the proof is to hold; without it as long as it may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_seconds: Option<u64>,
}

/// Answer to `POST /v1/attest`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttestAnswer {
    /// Who.
    pub spiffe_id: String,
    /// The workload to whose endpoint it is bound, as `namespace/name`.
    pub workload: String,
    /// Its cgroup or interface.
    pub place: String,
    /// When it ends unless it is renewed: RFC 3339, UTC.
    pub until: String,
    /// Until then.
    pub lease_seconds: u64,
    /// Whether the kernel judges by it already.
    pub in_force: bool,
}

/// Answer to `GET /v1/whoami`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhoAmI {
    /// Who, by the certificate.
    pub spiffe_id: String,
    /// Serial number of the certificate.
    pub serial: String,
    /// Until when the certificate is valid: RFC 3339, UTC.
    pub not_after: String,
    /// From where the connection came.
    pub source: String,
    /// The workload that it came from, as `namespace/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// Its cgroup or interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// How well the workload is known now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assurance: Option<Assurance>,
    /// Why `POST /v1/attest` would be refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The certificate is not believed (any more).
    #[error(transparent)]
    Certificate(#[from] Refusal),
    /// The connection is no endpoint's.
    #[error(transparent)]
    Origin(#[from] NoEndpoint),
    /// Somebody else runs there.
    #[error(
        "policy says that {expected} runs in {workload}, and the certificate is that of {found}: \
         write `spiffeId` of the Workload at {origin} accordingly, or attest from the workload \
         whose certificate it is"
    )]
    WrongWorkload {
        /// Whom policy has there.
        expected: String,
        /// Whose certificate it is.
        found: String,
        /// The workload.
        workload: String,
        /// Where it is declared.
        origin: String,
    },
}

impl Refused {
    fn code(&self) -> &'static str {
        match self {
            Self::Certificate(refusal) => refusal.code(),
            Self::Origin(no_endpoint) => no_endpoint.code(),
            Self::WrongWorkload { .. } => "wrong-workload",
        }
    }
}

/// A refusal, and what was known of who asked.
struct Denial {
    svid: Option<Svid>,
    origin: Option<Origin>,
    refused: Refused,
}

impl Denial {
    fn of(svid: Option<Svid>, origin: Option<Origin>, refused: Refused) -> Box<Self> {
        Box::new(Self {
            svid,
            origin,
            refused,
        })
    }
}

/// The requests and who answers them.
pub fn router(sources: Sources) -> Router {
    Router::new()
        .route("/v1/attest", post(attest).delete(release))
        .route("/v1/whoami", get(whoami))
        .fallback(async || Problem::new(ProblemCode::NotFound, "there is no such request"))
        .method_not_allowed_fallback(async || {
            Problem::new(ProblemCode::NotFound, "not by this method")
        })
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(sources)
}

/// Who asks, from which endpoint, as of now.
fn admit(
    sources: &Sources,
    now: &InForce,
    connection: &Connection,
) -> Result<(Svid, Origin), Box<Denial>> {
    // The connection may be old: what was believed at its handshake may not be any more.
    let trust = sources.material.borrow().trust.clone();
    let svid = trust
        .verify(&connection.chain, Usage::Client, UnixTime::now())
        .map_err(|refusal| Denial::of(None, None, refusal.into()))?;
    let origin = match sources.locator.endpoint(now, &connection.arrival) {
        Ok(origin) => origin,
        Err(no_endpoint) => return Err(Denial::of(Some(svid), None, no_endpoint.into())),
    };
    let workload = workload_of(now, &origin.endpoint);
    let expected = workload.and_then(|workload| workload.spiffe_id.as_deref());
    if expected == Some(svid.id().to_string().as_str()) {
        return Ok((svid, origin));
    }
    let refused = Refused::WrongWorkload {
        expected: expected.unwrap_or("nobody with a SPIFFE ID").to_owned(),
        found: svid.id().to_string(),
        workload: name_of(&origin.endpoint),
        origin: workload.map_or_else(String::new, |w| w.origin.to_string()),
    };
    Err(Denial::of(Some(svid), Some(origin), refused))
}

fn refuse(sources: &Sources, connection: &Connection, denial: &Denial) -> Response {
    let Denial {
        svid,
        origin,
        refused,
    } = denial;
    let (svid, origin) = (svid.as_ref(), origin.as_ref());
    sources.journal.note(SecurityEvent {
        spiffe_id: svid.map(|svid| svid.id().to_string()),
        serial: svid.map(|svid| svid.serial().to_string()),
        workload: origin.map(|origin| name_of(&origin.endpoint)),
        place: origin.map(|origin| origin.endpoint.place.clone()),
        source: Some(connection.arrival.peer.to_string()),
        pid: origin.and_then(|origin| Some(origin.process.as_ref()?.pid)),
        ..SecurityEvent::new(EventKind::Refuse, refused.code(), refused)
    });
    let body = serde_json::json!({
        "code": ProblemCode::Forbidden,
        "reason": refused.code(),
        "message": refused.to_string(),
    });
    (StatusCode::FORBIDDEN, Json(body)).into_response()
}

async fn attest(
    State(sources): State<Sources>,
    Extension(connection): Extension<Connection>,
    body: Bytes,
) -> Response {
    let request: AttestRequest = if body.is_empty() {
        AttestRequest::default()
    } else {
        match serde_json::from_slice(&body) {
            Ok(request) => request,
            Err(error) => {
                let message = format!(
                    "the body is not understood ({error}): leave it empty, or write \
                     {{\"lease_seconds\": 600}}"
                );
                return Problem::new(ProblemCode::BadRequest, message).into_response();
            }
        }
    };
    let now = sources.in_force.borrow().clone();
    let looked = tokio::task::block_in_place(|| admit(&sources, &now, &connection));
    let (svid, origin) = match looked {
        Ok(found) => found,
        Err(denial) => return refuse(&sources, &connection, &denial),
    };
    let binding = make_binding(&sources, &connection, request, &svid, &origin);
    let at = binding.at.clone();
    let until = binding.until;
    let bound = sources.leases.bind(binding, || {
        let trust = sources.material.borrow().trust.clone();
        trust.check(&svid, Usage::Client, UnixTime::now())
    });
    if let Err(refusal) = bound {
        let denial = Denial::of(Some(svid), Some(origin), refusal.into());
        return refuse(&sources, &connection, &denial);
    }
    let mut in_force = sources.in_force.clone();
    let taken = in_force.wait_for(|now| {
        now.endpoints.iter().any(|endpoint| {
            endpoint.id == origin.endpoint.id
                && endpoint.place_number == at.number
                && endpoint.attested.is_some()
        })
    });
    let in_force = matches!(timeout(PATIENCE, taken).await, Ok(Ok(_)));
    Json(AttestAnswer {
        spiffe_id: svid.id().to_string(),
        workload: at.workload.to_string(),
        place: at.place,
        until: moment(i64::try_from(until / 1_000).unwrap_or(i64::MAX)),
        lease_seconds: until.saturating_sub(unix_milliseconds()).div_ceil(1_000),
        in_force,
    })
    .into_response()
}

fn make_binding(
    sources: &Sources,
    connection: &Connection,
    request: AttestRequest,
    svid: &Svid,
    origin: &Origin,
) -> Binding {
    let since = unix_milliseconds();
    let longest = sources.longest.as_secs().max(SHORTEST);
    let wanted = request.lease_seconds.unwrap_or(longest);
    let lease = wanted.clamp(SHORTEST, longest).saturating_mul(1_000);
    let certificate = u64::try_from(svid.not_after()).unwrap_or(0);
    Binding {
        at: origin.at.clone(),
        id: svid.id().clone(),
        serial: svid.serial().clone(),
        chain: svid.chain().iter().map(to_hex).collect(),
        since,
        until: certificate
            .saturating_mul(1_000)
            .min(since.saturating_add(lease)),
        source: connection.arrival.peer,
        process: origin.process.clone(),
    }
}

async fn release(
    State(sources): State<Sources>,
    Extension(connection): Extension<Connection>,
) -> Response {
    let now = sources.in_force.borrow().clone();
    match tokio::task::block_in_place(|| admit(&sources, &now, &connection)) {
        Ok((svid, origin)) => {
            let ended = sources.leases.release(&origin.at, &svid);
            Json(serde_json::json!({ "ended": ended })).into_response()
        }
        Err(denial) => refuse(&sources, &connection, &denial),
    }
}

async fn whoami(
    State(sources): State<Sources>,
    Extension(connection): Extension<Connection>,
) -> Response {
    let now = sources.in_force.borrow().clone();
    let admitted = tokio::task::block_in_place(|| admit(&sources, &now, &connection));
    let (svid, origin, refused) = match admitted {
        Ok((svid, origin)) => (svid, Some(origin), None),
        Err(denial) => match *denial {
            Denial {
                svid: Some(svid),
                origin,
                refused,
            } => (svid, origin, Some(refused.to_string())),
            denial @ Denial { svid: None, .. } => return refuse(&sources, &connection, &denial),
        },
    };
    let endpoint = origin.as_ref().map(|origin| &origin.endpoint);
    Json(WhoAmI {
        spiffe_id: svid.id().to_string(),
        serial: svid.serial().to_string(),
        not_after: moment(svid.not_after()),
        source: connection.arrival.peer.to_string(),
        workload: endpoint.map(name_of),
        place: endpoint.map(|endpoint| endpoint.place.clone()),
        assurance: endpoint.map(|endpoint| endpoint.assurance),
        refused,
    })
    .into_response()
}
