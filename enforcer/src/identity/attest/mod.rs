//! Attestation: a workload shows an X.509-SVID over mTLS, and the proof is bound to the endpoint
//! from which the connection really came.
//!
//! `gate` says who may connect, `tls` what a handshake demands, `origin` where a connection came
//! from, `routes` what can be asked for; `leases` keeps bindings and ends them, and `journal`
//! has what happened.

pub mod arrival;
pub mod client;
pub mod gate;
pub mod journal;
pub mod leases;
mod open_bridges;
pub mod origin;
pub mod routes;
pub mod tls;

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum::{Extension, Router, extract::Request, middleware::Next, response::Response};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustls_pki_types::CertificateDer;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::{
    gate::{Full, Gate, GateLimits, Pass},
    journal::{EventKind, Journal, SecurityEvent},
    origin::{Arrival, Locator, source_of},
    routes::{Connection, Sources},
    tls::ClientCheck,
};
use super::{binding::Bindings, material::MaterialWatch};
use crate::api::problem::{Problem, ProblemCode};

/// Connections that there may be.
const LIMITS: GateLimits = GateLimits {
    per_source: 64,
    total: 4_096,
};
/// How long who comes first waits for the daemon's own SVID to be read: where no policy comes into
/// force, nobody reads it.
const FIRST_MATERIAL: Duration = Duration::from_secs(5);
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a connection may wait for the head of a request.
const HEAD: Duration = Duration::from_secs(10);
/// How long a request may take, its body included.
const REQUEST: Duration = Duration::from_secs(10);
/// How long a connection may last.
const LONGEST: Duration = Duration::from_mins(10);
/// Bytes and fields of a request's head.
const HEAD_BYTES: usize = 16 << 10;
const HEAD_FIELDS: usize = 32;
/// How long open connections may take at the end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Settings of attestation.
#[derive(Clone, Debug)]
pub struct AttestSettings {
    /// Where the daemon listens.
    pub listen: SocketAddr,
    /// The longest lease.
    pub lease: Duration,
}

/// Why there is no attestation.
#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    /// It cannot listen.
    #[error("cannot listen for attestation at {address}: choose another address with --attest")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// It cannot look at sockets.
    #[error("cannot find out whose connections are")]
    Sockets(#[from] crate::inventory::sockets::SocketError),
}

/// What is shown of attestation: in metrics, and at the control socket.
#[derive(Clone, Debug)]
pub struct AttestView {
    /// The own SVID, and whom to believe.
    pub material: MaterialWatch,
    /// Bindings.
    pub bindings: watch::Receiver<Arc<Bindings>>,
    /// Events.
    pub journal: Arc<Journal>,
}

/// A listener that serves nobody yet.
#[derive(Debug)]
pub struct AttestServer {
    listener: TcpListener,
    address: SocketAddr,
    locator: Arc<Locator>,
}

impl AttestServer {
    /// Listens. Must be called in the network namespace of the host.
    pub async fn bind(
        address: SocketAddr,
        cgroup_root: Option<PathBuf>,
    ) -> Result<Self, AttestError> {
        let error = |source| AttestError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(error)?;
        arrival::note(&listener, address.is_ipv6()).map_err(error)?;
        Ok(Self {
            address: listener.local_addr().map_err(error)?,
            listener,
            locator: Arc::new(Locator::here(cgroup_root)?),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Who finds out where connections come from.
    pub fn locator(&self) -> Arc<Locator> {
        Arc::clone(&self.locator)
    }

    /// Serves until `stop`.
    pub async fn serve(self, sources: Sources, stop: CancellationToken) -> anyhow::Result<()> {
        info!(address = %self.address, "attestation is served");
        // Who comes before the daemon has read what it proves itself with waits.
        let mut material = sources.material.clone();
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            _ = timeout(FIRST_MATERIAL, material.changed()) => {}
        }
        let gate = Gate::new(LIMITS);
        let router = routes::router(sources.clone()).layer(axum::middleware::from_fn(occupied));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(_) = connections.join_next() => continue,
                accepted = self.listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                // Out of file descriptors or memory: it may pass.
                Err(error) => {
                    warn!(%error, "cannot accept a connection for attestation");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let arrival = match self.look(&sources, &stream, peer) {
                Ok(arrival) => Arc::new(arrival),
                Err(error) => {
                    debug!(%error, %peer, "a connection was gone before it was looked at");
                    continue;
                }
            };
            match gate.enter(source_of(&arrival)) {
                Ok(pass) => {
                    let serving = serve_one(
                        stream,
                        Arc::new(pass),
                        arrival,
                        sources.clone(),
                        router.clone(),
                        stop.clone(),
                    );
                    connections.spawn(serving);
                }
                Err(full) => sources.journal.note(refused(&arrival, full)),
            }
        }
        let last = timeout(LAST_WORDS, async {
            while connections.join_next().await.is_some() {}
        });
        if last.await.is_err() {
            debug!("connections for attestation were cut at the end");
        }
        Ok(())
    }

    fn look(&self, sources: &Sources, stream: &TcpStream, peer: SocketAddr) -> io::Result<Arrival> {
        let local = stream.local_addr()?;
        let interface = arrival::interface(stream, self.address.is_ipv6())?;
        let now = sources.in_force.borrow().clone();
        Ok(self.locator.look(&now, local, peer, interface))
    }
}

fn refused(arrival: &Arrival, full: Full) -> SecurityEvent {
    let (reason, message) = match full {
        Full::Source => (
            "too-many-from-source",
            "the source has as many connections as it may",
        ),
        Full::Total => ("too-many", "as many connections are served as may be"),
    };
    SecurityEvent {
        source: Some(arrival.peer.to_string()),
        ..SecurityEvent::new(EventKind::Refuse, reason, message)
    }
}

/// Serves a connection to its end, whichever comes first.
async fn serve_one(
    stream: TcpStream,
    pass: Arc<Pass>,
    arrival: Arc<Arrival>,
    sources: Sources,
    router: Router,
    stop: CancellationToken,
) {
    let cut = pass.cut();
    let serving = async {
        let journal = sources.journal.clone();
        match timeout(HANDSHAKE, handshake(stream, &sources)).await {
            Ok(Ok((stream, chain))) => {
                let connection = Connection {
                    chain,
                    arrival: arrival.clone(),
                };
                let router = router.layer(Extension(connection)).layer(Extension(pass));
                serve_http(stream, router).await;
            }
            Ok(Err((reason, message))) => journal.note(SecurityEvent {
                source: Some(arrival.peer.to_string()),
                ..SecurityEvent::new(EventKind::Refuse, reason, message)
            }),
            Err(_) => journal.note(SecurityEvent {
                source: Some(arrival.peer.to_string()),
                ..SecurityEvent::new(
                    EventKind::Refuse,
                    "handshake-timeout",
                    "the handshake took too long",
                )
            }),
        }
    };
    tokio::select! {
        () = serving => {}
        () = cut.cancelled() => sources.journal.note(SecurityEvent {
            source: Some(arrival.peer.to_string()),
            ..SecurityEvent::new(
                EventKind::Refuse,
                "cut",
                "the connection waited longest when room was needed",
            )
        }),
        () = tokio::time::sleep(LONGEST) => {}
        () = stop.cancelled() => {}
    }
}

type Chain = Arc<[CertificateDer<'static>]>;

/// A handshake by what is believed now; else why there is none, as a code and in words.
async fn handshake(
    stream: TcpStream,
    sources: &Sources,
) -> Result<(TlsStream<TcpStream>, Chain), (&'static str, String)> {
    let material = sources.material.borrow().clone();
    let Some(own) = &material.own else {
        let message = "the daemon has no SVID of its own to answer with: see `enforcer status`";
        return Err(("no-own-svid", message.to_owned()));
    };
    let check = ClientCheck::new(material.trust.clone());
    let config =
        tls::server_config(own, check.clone()).map_err(|error| ("tls-error", error.to_string()))?;
    // Small answers: waiting for more to send helps nobody.
    let _ = stream.set_nodelay(true);
    match TlsAcceptor::from(Arc::new(config)).accept(stream).await {
        Ok(stream) => {
            let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let chain: Chain = chain.iter().map(|c| c.clone().into_owned()).collect();
            Ok((stream, chain))
        }
        Err(error) => Err(match check.refusal() {
            Some(refusal) => (refusal.code(), refusal.to_string()),
            None => (tls::failure(&error), error.to_string()),
        }),
    }
}

async fn serve_http(stream: TlsStream<TcpStream>, router: Router) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEAD_FIELDS)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
    if let Err(error) = served {
        debug!(%error, "a connection for attestation ended");
    }
}

/// While a request is answered its connection does not wait; and none takes for ever.
async fn occupied(Extension(pass): Extension<Arc<Pass>>, request: Request, next: Next) -> Response {
    use axum::response::IntoResponse;
    pass.busy();
    let answer = timeout(REQUEST, next.run(request)).await;
    pass.idle();
    answer.unwrap_or_else(|_| {
        Problem::new(ProblemCode::Timeout, "the request took too long").into_response()
    })
}
