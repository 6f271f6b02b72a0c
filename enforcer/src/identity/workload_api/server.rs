//! The socket: connections, as many as there may be, and the methods of gRPC.

use std::{
    convert::Infallible,
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{Stream, StreamExt as _, future::BoxFuture, stream};
use http_body_util::{BodyExt as _, Limited};
use hyper::{
    Request as HttpRequest, Response as HttpResponse, body::Incoming, server::conn::http2,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use nix::sys::stat::{Mode, umask};
use tokio::{
    net::{UnixListener, UnixStream},
    task::JoinSet,
    time::{interval, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, body::Body, server::ServerStreamingService};
use tonic_prost::ProstCodec;
use tracing::{debug, info, warn};

use super::{
    WorkloadApiSettings, WorkloadApiView,
    authority::NamedHost,
    caller::{Caller, NoCaller, Whereabouts},
    feed::{Connection, Content, Feed, Refused, Sources},
    issuer::{Issuer, IssuerError},
    secrets::StreamSecrets,
    secrets_wire::{DiscoveryRequest, DiscoveryResponse, STREAM_SECRETS},
    wire::{
        FETCH_X509_BUNDLES, FETCH_X509_SVID, SECURITY_HEADER, X509BundlesRequest,
        X509BundlesResponse, X509SvidRequest, X509SvidResponse,
    },
};
use crate::{
    identity::{
        attest::{
            gate::{Full, Gate, GateLimits, Pass, Source},
            journal::{EventKind, Journal, SecurityEvent, Subject},
        },
        material::MaterialWatch,
    },
    reconcile::{in_force::InForce, reconciler::blocking},
};

/// Connections that there may be.
const LIMITS: GateLimits = GateLimits {
    per_source: 64,
    total: 1_024,
};
/// Requests of one connection at a time.
const MOST_STREAMS: u32 = 16;
/// How long a connection may be without one that is answered.
const IDLE: Duration = Duration::from_secs(30);
/// Between two looks at that.
const IDLE_LOOK: Duration = Duration::from_secs(5);
/// Bytes of a request's head, and of its message, which says nothing.
const HEAD_BYTES: u32 = 16 << 10;
const MESSAGE_BYTES: usize = 4 << 10;
/// Bytes of a request of Envoy's, which tells of every extension that it has.
const DISCOVERY_BYTES: usize = 512 << 10;
/// How long open connections may take at the end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Why there is no Workload API.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadApiError {
    /// Nothing to issue with.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    /// Somebody listens there.
    #[error("somebody else serves the Workload API at {}: choose another path with --workload-api", .0.display())]
    InUse(PathBuf),
    /// Something else than a socket is there.
    #[error("{} is there and no socket: it is left alone; remove it, or choose another path with --workload-api", .0.display())]
    NotASocket(PathBuf),
    /// Processes cannot be told apart.
    #[error("cannot find out where processes are")]
    Whereabouts(#[source] io::Error),
    /// An operation failed.
    #[error("cannot {action} the Workload API's socket {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The socket.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// A socket at which nobody is served yet.
pub struct WorkloadApiServer {
    listener: UnixListener,
    path: PathBuf,
    issuer: Arc<Issuer>,
    whereabouts: Arc<Whereabouts>,
    journal: Arc<Journal>,
    streams: Arc<AtomicUsize>,
}

impl WorkloadApiServer {
    /// Opens the authority and makes the socket, at which everybody may ask: the kernel says who
    /// does. Must be called in the network namespace of the host. Blocks.
    pub fn bind(
        settings: &WorkloadApiSettings,
        cgroup_root: &Path,
        journal: Arc<Journal>,
    ) -> Result<Self, WorkloadApiError> {
        let issuer = Issuer::open(settings.clone())?;
        let whereabouts = Whereabouts::here(cgroup_root).map_err(WorkloadApiError::Whereabouts)?;
        Ok(Self {
            listener: listen(&settings.socket)?,
            path: settings.socket.clone(),
            issuer,
            whereabouts: Arc::new(whereabouts),
            journal,
            streams: Arc::default(),
        })
    }

    /// What is shown of it.
    pub fn view(&self) -> WorkloadApiView {
        WorkloadApiView {
            socket: self.path.clone(),
            roots: self.issuer.watch(),
            streams: self.streams.clone(),
            journal: self.journal.clone(),
        }
    }

    /// Who issues.
    pub fn issuer(&self) -> Arc<Issuer> {
        self.issuer.clone()
    }

    /// Serves until `stop`.
    pub async fn serve(
        self,
        in_force: tokio::sync::watch::Receiver<Arc<InForce>>,
        material: MaterialWatch,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        info!(socket = %self.path.display(), "the Workload API is served");
        let sources = Sources {
            in_force,
            material,
            issuer: self.issuer,
            whereabouts: self.whereabouts,
            journal: self.journal,
            streams: self.streams,
        };
        let gate = Gate::new(LIMITS);
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(_) = connections.join_next() => continue,
                accepted = self.listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                // Out of file descriptors or memory: it may pass.
                Err(error) => {
                    warn!(%error, "cannot accept a connection at the Workload API");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            match admit(&sources, &gate, &stream) {
                Ok((caller, pass)) => {
                    let serving = serve_one(stream, caller, pass, sources.clone(), stop.clone());
                    connections.spawn(serving);
                }
                Err(event) => sources.journal.note(*event),
            }
        }
        // Gone before the last answers are: who comes now is told that nobody is there.
        let _ = fs::remove_file(&self.path);
        drop(self.listener);
        let _ = timeout(LAST_WORDS, async {
            while connections.join_next().await.is_some() {}
        })
        .await;
        Ok(())
    }
}

/// Makes the socket.
fn listen(path: &Path) -> Result<UnixListener, WorkloadApiError> {
    let io = |action| {
        move |source| WorkloadApiError::Io {
            action,
            path: path.to_owned(),
            source,
        }
    };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(io("make the directory of"))?;
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Ok(metadata) if metadata.file_type().is_socket() => {
            // Somebody who listens accepts; a socket that was left refuses.
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(WorkloadApiError::InUse(path.to_owned()));
            }
            fs::remove_file(path).map_err(io("remove the old one of"))?;
        }
        _ => return Err(WorkloadApiError::NotASocket(path.to_owned())),
    }
    let before = umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    umask(before);
    let listener = listener.map_err(io("make"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).map_err(io("open"))?;
    Ok(listener)
}

/// Lets a connection in; else what is to be told of it.
fn admit(
    sources: &Sources,
    gate: &Arc<Gate>,
    stream: &UnixStream,
) -> Result<(Caller, Pass), Box<SecurityEvent>> {
    let refused = |pid, reason: &str, message: String| {
        Box::new(SecurityEvent {
            kind: Subject::WorkloadApi,
            pid,
            ..SecurityEvent::new(EventKind::Refuse, reason, message)
        })
    };
    let nobody = |pid, no_caller: &NoCaller| refused(pid, no_caller.code(), no_caller.to_string());
    let caller = Caller::of(stream).map_err(|no_caller| nobody(None, &no_caller))?;
    let pid = Some(caller.pid);
    let now = sources.in_force.borrow().clone();
    let cgroup = blocking(|| sources.whereabouts.cgroup(&caller));
    let cgroup = cgroup.map_err(|no_caller| nobody(pid, &no_caller))?;
    let endpoint = blocking(|| sources.whereabouts.endpoint(&now, &caller)).ok();
    // A workload's cgroups share what it may have.
    let number = match (endpoint, cgroup) {
        (Some(origin), _) => origin.at.number,
        (None, Some(cgroup)) => cgroup.id,
        (None, None) => 0,
    };
    match gate.enter(Source::Cgroup(number)) {
        Ok(pass) => Ok((caller, pass)),
        Err(full) => Err(match full {
            Full::Source => refused(
                pid,
                "too-many-from-source",
                "the workload has as many connections as it may".to_owned(),
            ),
            Full::Total => refused(
                pid,
                "too-many",
                "as many connections are served as may be".to_owned(),
            ),
        }),
    }
}

/// Serves a connection to its end, whichever comes first.
async fn serve_one(
    stream: UnixStream,
    caller: Caller,
    pass: Pass,
    sources: Sources,
    stop: CancellationToken,
) {
    let cut = pass.cut();
    let caller = Arc::new(caller);
    let connection = Arc::new(Connection {
        sources,
        caller: caller.clone(),
        pass,
        open: AtomicUsize::new(0),
    });
    let service = hyper::service::service_fn({
        let connection = connection.clone();
        move |request| {
            let connection = connection.clone();
            async move { Ok::<_, Infallible>(answer(connection, request).await) }
        }
    });
    let serving = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MOST_STREAMS)
        .max_header_list_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(NamedHost::new(stream)), service);
    let event = |reason: &str, message: &str| SecurityEvent {
        kind: Subject::WorkloadApi,
        pid: Some(caller.pid),
        ..SecurityEvent::new(EventKind::Refuse, reason, message)
    };
    tokio::select! {
        served = serving => if let Err(error) = served {
            debug!(%error, pid = caller.pid, "a connection at the Workload API ended");
        },
        () = cut.cancelled() => connection.sources.journal.note(event(
            "cut",
            "the connection waited longest when room was needed",
        )),
        () = idle(&connection) => debug!(pid = caller.pid, "a connection asked for nothing"),
        // Who has the socket now is not who connected.
        () = caller.ended() => {}
        () = stop.cancelled() => {}
    }
}

/// Waits until nothing was asked for a while.
async fn idle(connection: &Connection) {
    let mut tick = interval(IDLE_LOOK);
    let mut waited = Duration::ZERO;
    loop {
        tick.tick().await;
        if connection.open.load(Ordering::Acquire) > 0 {
            waited = Duration::ZERO;
            continue;
        }
        if waited >= IDLE {
            return;
        }
        waited += IDLE_LOOK;
    }
}

async fn answer(connection: Arc<Connection>, request: HttpRequest<Incoming>) -> HttpResponse<Body> {
    match request.uri().path() {
        FETCH_X509_SVID => {
            let codec = ProstCodec::<X509SvidResponse, X509SvidRequest>::default();
            tonic::server::Grpc::new(codec)
                .max_decoding_message_size(MESSAGE_BYTES)
                .server_streaming(Method(connection), request)
                .await
        }
        FETCH_X509_BUNDLES => {
            let codec = ProstCodec::<X509BundlesResponse, X509BundlesRequest>::default();
            tonic::server::Grpc::new(codec)
                .max_decoding_message_size(MESSAGE_BYTES)
                .server_streaming(Method(connection), request)
                .await
        }
        STREAM_SECRETS => {
            let codec = ProstCodec::<DiscoveryResponse, DiscoveryRequest>::default();
            tonic::server::Grpc::new(codec)
                .max_decoding_message_size(DISCOVERY_BYTES)
                .streaming(StreamSecrets(connection), request)
                .await
        }
        _ => {
            // Who is answered before the question was sent whole is reset behind the answer, and
            // some clients lose the answer over that.
            let question = Limited::new(request.into_body(), MESSAGE_BYTES);
            let _ = question.collect().await;
            Status::unimplemented("only X.509-SVIDs and their bundles are served here").into_http()
        }
    }
}

/// A method that streams.
struct Method(Arc<Connection>);

impl Method {
    async fn start<M, T: Content>(
        connection: Arc<Connection>,
        request: Request<M>,
    ) -> Result<Response<Messages<T>>, Status> {
        let header = request.metadata().get(SECURITY_HEADER);
        if header.is_none_or(|value| value.as_encoded_bytes() != b"true") {
            return Err(connection.refuse(&Refused::NoHeader, None));
        }
        let mut feed = Feed::<T>::new(connection);
        let first = feed.next().await?;
        let later = stream::unfold(Some(feed), |feed| async {
            let mut feed = feed?;
            match feed.next().await {
                Ok(content) => Some((Ok(content), Some(feed))),
                Err(status) => Some((Err(status), None)),
            }
        });
        let messages = stream::once(async { Ok(first) }).chain(later);
        Ok(Response::new(Box::pin(messages)))
    }
}

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl ServerStreamingService<X509SvidRequest> for Method {
    type Response = X509SvidResponse;
    type ResponseStream = Messages<X509SvidResponse>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<X509SvidRequest>) -> Self::Future {
        Box::pin(Self::start(self.0.clone(), request))
    }
}

impl ServerStreamingService<X509BundlesRequest> for Method {
    type Response = X509BundlesResponse;
    type ResponseStream = Messages<X509BundlesResponse>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<X509BundlesRequest>) -> Self::Future {
        Box::pin(Self::start(self.0.clone(), request))
    }
}
