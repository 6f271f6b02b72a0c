//! Web hooks: whoever knows the secret may ask for a fetch, and for nothing else. What is asked
//! for is not taken from the request, so that a request that is sent again does no harm.

use std::{
    convert::Infallible,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use aws_lc_rs::{constant_time, hmac};
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Body, Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, Semaphore},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::settings::WebhookSettings;
use crate::metrics::git::GitStats;

/// Where web hooks are awaited unless a flag says otherwise.
pub const DEFAULT_ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9467);
/// The one path.
pub const PATH: &str = "/webhook";
/// Largest body: what GitHub sends at most. It is hashed as it comes, and not kept.
const LARGEST_BODY: u64 = 25 << 20;
/// For a whole exchange.
const PATIENCE: Duration = Duration::from_secs(20);
/// Connections at a time; more wait in the listen queue.
const CONNECTIONS: usize = 8;
/// Requests that may come at once, and then in a second.
const BURST: f64 = 20.0;
const RATE: f64 = 5.0;
/// Fewest characters of a secret.
const SHORTEST_SECRET: usize = 16;
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HookOutcome {
    /// A fetch was asked for.
    Accept,
    /// It has neither signature nor token.
    Unsigned,
    /// Signature or token is not by the secret.
    WrongSecret,
    /// The body is too large or does not come.
    BadBody,
    /// Too many came.
    TooMany,
    /// Another path or method.
    NotFound,
}

impl HookOutcome {
    /// Every outcome.
    pub const ALL: [Self; 6] = [
        Self::Accept,
        Self::Unsigned,
        Self::WrongSecret,
        Self::BadBody,
        Self::TooMany,
        Self::NotFound,
    ];

    /// In metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accept => "accepted",
            Self::Unsigned => "unsigned",
            Self::WrongSecret => "wrong-secret",
            Self::BadBody => "bad-body",
            Self::TooMany => "too-many",
            Self::NotFound => "not-found",
        }
    }

    const fn answer(self) -> (StatusCode, &'static str) {
        match self {
            Self::Accept => (StatusCode::ACCEPTED, "a fetch follows\n"),
            Self::Unsigned => (
                StatusCode::UNAUTHORIZED,
                "X-Hub-Signature-256 or X-Gitlab-Token is missing: set the secret\n",
            ),
            Self::WrongSecret => (StatusCode::FORBIDDEN, "the secret is another one\n"),
            Self::BadBody => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "the body is too large or late\n",
            ),
            Self::TooMany => (StatusCode::TOO_MANY_REQUESTS, "too many requests\n"),
            Self::NotFound => (StatusCode::NOT_FOUND, "only POST /webhook is here\n"),
        }
    }
}

/// Why there is no web hook.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The address cannot be taken.
    #[error("cannot await web hooks at {address}: choose another address with --webhook-listen")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The secret cannot be read.
    #[error("cannot read the secret of web hooks from {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The secret can be guessed.
    #[error("the secret of web hooks in {} has fewer than {SHORTEST_SECRET} characters: make one with `openssl rand -hex 32`", .0.display())]
    Short(PathBuf),
}

/// What the sender knows, too.
pub struct Secret {
    key: hmac::Key,
    /// Tokens are compared by a code of theirs, which does not tell their length.
    token: hmac::Tag,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// The first line of a file.
    pub fn read(path: &Path) -> Result<Self, WebhookError> {
        let bytes = fs::read(path).map_err(|source| WebhookError::Read {
            path: path.to_owned(),
            source,
        })?;
        let line = bytes.split(|byte| *byte == b'\n').next();
        let secret = line.unwrap_or_default().trim_ascii();
        if secret.len() < SHORTEST_SECRET {
            return Err(WebhookError::Short(path.to_owned()));
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        Ok(Self {
            token: hmac::sign(&key, secret),
            key,
        })
    }

    fn is_token(&self, token: &[u8]) -> bool {
        let code = hmac::sign(&self.key, token);
        constant_time::verify_slices_are_equal(code.as_ref(), self.token.as_ref()).is_ok()
    }
}

/// The proof that a request brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// HMAC-SHA256 over the body (GitHub, Gitea, Forgejo, Bitbucket).
    Signature([u8; 32]),
    /// The secret itself (GitLab).
    Token(Vec<u8>),
    /// Something that is neither.
    Malformed,
}

impl Proof {
    /// What the headers bring; `None` if nothing.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        for name in ["x-hub-signature-256", "x-hub-signature"] {
            if let Some(value) = headers.get(name) {
                // The older header may have the weaker code, which does not count.
                match signature(value.as_bytes()) {
                    Some(code) => return Some(Self::Signature(code)),
                    None if name == "x-hub-signature-256" => return Some(Self::Malformed),
                    None => {}
                }
            }
        }
        let token = headers.get("x-gitlab-token")?;
        Some(Self::Token(token.as_bytes().to_owned()))
    }
}

/// Reads `sha256=` and 64 hexadecimal digits.
pub fn signature(value: &[u8]) -> Option<[u8; 32]> {
    let digits = value.strip_prefix(b"sha256=")?;
    let digits = std::str::from_utf8(digits).ok()?;
    if digits.len() != 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut code = [0; 32];
    for (place, byte) in code.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * place..2 * place + 2)?, 16).ok()?;
    }
    Some(code)
}

/// A bound address.
#[derive(Debug)]
pub struct Webhook {
    listener: TcpListener,
    address: SocketAddr,
    door: Arc<Door>,
}

#[derive(Debug)]
struct Door {
    secret: Secret,
    bell: Arc<Notify>,
    stats: Arc<GitStats>,
    allowance: Mutex<Allowance>,
}

/// Requests that may still come.
#[derive(Debug)]
struct Allowance {
    left: f64,
    at: Instant,
}

impl Allowance {
    fn take(&mut self, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * RATE;
        self.left = (self.left + earned).min(BURST);
        self.at = now;
        if self.left < 1.0 {
            return false;
        }
        self.left -= 1.0;
        true
    }
}

impl Webhook {
    /// Takes the address. `bell` rings for every request that is accepted.
    pub async fn bind(
        settings: &WebhookSettings,
        bell: Arc<Notify>,
        stats: Arc<GitStats>,
    ) -> Result<Self, WebhookError> {
        let secret = Secret::read(&settings.secret)?;
        let fail = |source| WebhookError::Bind {
            address: settings.address,
            source,
        };
        let listener = TcpListener::bind(settings.address).await.map_err(fail)?;
        Ok(Self {
            address: listener.local_addr().map_err(fail)?,
            listener,
            door: Arc::new(Door {
                secret,
                bell,
                stats,
                allowance: Mutex::new(Allowance {
                    left: BURST,
                    at: Instant::now(),
                }),
            }),
        })
    }

    /// The address, with the port that was really taken.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        info!(address = %self.address, "web hooks are awaited");
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let accept = async {
                // Never closed, so there is always a permit to wait for.
                let place = Arc::clone(&places).acquire_owned().await.ok();
                (place, self.listener.accept().await)
            };
            let (place, accepted) = tokio::select! {
                () = stop.cancelled() => return,
                accepted = accept => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (door, stop) = (Arc::clone(&self.door), stop.clone());
                    tokio::spawn(async move {
                        tokio::select! {
                            () = stop.cancelled() => {}
                            () = converse(stream, door) => {}
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection for web hooks");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn converse(stream: TcpStream, door: Arc<Door>) {
    let service = service_fn(move |request| {
        let door = Arc::clone(&door);
        async move { Ok::<_, Infallible>(door.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(PATIENCE, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "a connection for a web hook broke"),
        Err(_) => debug!("a connection for a web hook took too long"),
    }
}

impl Door {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let outcome = self.judge(request).await;
        self.stats.hook(outcome);
        if outcome == HookOutcome::Accept {
            debug!("a web hook asks for a fetch");
            self.bell.notify_one();
        } else {
            debug!(outcome = outcome.name(), "a web hook was refused");
        }
        let (status, text) = outcome.answer();
        let mut answer = Response::new(Full::from(text));
        *answer.status_mut() = status;
        answer
    }

    async fn judge<B>(&self, request: Request<B>) -> HookOutcome
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let allowed = {
            let allowance = self.allowance.lock();
            allowance
                .unwrap_or_else(PoisonError::into_inner)
                .take(Instant::now())
        };
        if !allowed {
            return HookOutcome::TooMany;
        }
        if request.uri().path() != PATH || *request.method() != Method::POST {
            return HookOutcome::NotFound;
        }
        let Some(proof) = Proof::of(request.headers()) else {
            return HookOutcome::Unsigned;
        };
        let mut body = request.into_body();
        let mut context = hmac::Context::with_key(&self.secret.key);
        let mut size = 0_u64;
        loop {
            // Connections end after a while, so this does too.
            match body.frame().await {
                None => break,
                Some(Err(_)) => return HookOutcome::BadBody,
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        size += data.len() as u64;
                        context.update(data);
                    }
                }
            }
            if size > LARGEST_BODY {
                return HookOutcome::BadBody;
            }
        }
        let is_proven = match proof {
            Proof::Signature(code) => {
                let ours = context.sign();
                constant_time::verify_slices_are_equal(ours.as_ref(), &code).is_ok()
            }
            Proof::Token(token) => self.secret.is_token(&token),
            Proof::Malformed => false,
        };
        if is_proven {
            HookOutcome::Accept
        } else {
            HookOutcome::WrongSecret
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECRET: &str = "It's a Secret to Everybody";

    fn door() -> (Door, tempfile::TempDir) {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("secret");
        fs::write(&path, format!("{SECRET}\n")).unwrap();
        let door = Door {
            secret: Secret::read(&path).unwrap(),
            bell: Arc::default(),
            stats: Arc::default(),
            allowance: Mutex::new(Allowance {
                left: BURST,
                at: Instant::now(),
            }),
        };
        (door, root)
    }

    async fn outcome(door: &Door, method: &str, path: &str, header: (&str, &str)) -> HookOutcome {
        let mut request = Request::builder().method(method).uri(path);
        if !header.0.is_empty() {
            request = request.header(header.0, header.1);
        }
        let body = Full::new(Bytes::from_static(b"Hello, World!"));
        door.judge(request.body(body).unwrap()).await
    }

    #[tokio::test]
    async fn who_knows_the_secret_is_let_in_and_nobody_else() {
        let (door, _root) = door();
        // The example of GitHub's documentation.
        let good = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        let hub = "x-hub-signature-256";
        let other = good.replace("757", "758");
        for (method, path, header, expected) in [
            ("POST", PATH, (hub, good), HookOutcome::Accept),
            ("POST", PATH, (hub, &*other), HookOutcome::WrongSecret),
            ("POST", PATH, (hub, "sha256=75"), HookOutcome::WrongSecret),
            (
                "POST",
                PATH,
                ("x-gitlab-token", SECRET),
                HookOutcome::Accept,
            ),
            (
                "POST",
                PATH,
                ("x-gitlab-token", "another"),
                HookOutcome::WrongSecret,
            ),
            (
                "POST",
                PATH,
                ("x-gitlab-token", ""),
                HookOutcome::WrongSecret,
            ),
            ("POST", PATH, ("", ""), HookOutcome::Unsigned),
            (
                "POST",
                PATH,
                ("x-hub-signature", "sha1=00"),
                HookOutcome::Unsigned,
            ),
            ("GET", PATH, (hub, good), HookOutcome::NotFound),
            ("POST", "/", (hub, good), HookOutcome::NotFound),
        ] {
            assert_eq!(
                outcome(&door, method, path, header).await,
                expected,
                "{header:?}"
            );
        }
    }

    #[tokio::test]
    async fn bodies_and_requests_are_bounded() {
        let (door, _root) = door();
        let size = usize::try_from(LARGEST_BODY + 1).unwrap();
        let large = Full::new(Bytes::from(vec![0; size]));
        let request = Request::post(PATH).header("x-gitlab-token", SECRET);
        let refused = door.judge(request.body(large).unwrap()).await;
        assert_eq!(refused, HookOutcome::BadBody);
        let mut outcomes = Vec::new();
        for _ in 0..30 {
            outcomes.push(outcome(&door, "POST", PATH, ("x-gitlab-token", SECRET)).await);
        }
        assert_eq!(outcomes[0], HookOutcome::Accept);
        assert!(outcomes.contains(&HookOutcome::TooMany));
    }

    #[test]
    fn the_allowance_grows_again() {
        let start = Instant::now();
        let mut allowance = Allowance {
            left: 1.0,
            at: start,
        };
        assert!(allowance.take(start));
        assert!(!allowance.take(start));
        assert!(allowance.take(start + Duration::from_millis(250)));
        let later = start + Duration::from_hours(1);
        let taken = (0..100).filter(|_| allowance.take(later)).count();
        assert_eq!(taken, 20);
    }

    #[test]
    fn a_secret_that_can_be_guessed_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("secret");
        fs::write(&path, "short\nlong enough for anybody\n").unwrap();
        assert!(matches!(Secret::read(&path), Err(WebhookError::Short(_))));
        let missing = Secret::read(&root.path().join("x"));
        assert!(matches!(missing, Err(WebhookError::Read { .. })));
    }

    proptest! {
        #[test]
        fn any_header_is_read_or_refused(value in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = signature(&value);
        }
    }
}
