//! The daemon's side of the control socket: connections. What is answered is in [`super::routes`].

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use nix::sys::stat::{Mode, umask};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixListener,
    sync::Semaphore,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::access::{Access, AccessRules};
use crate::settings::SocketSettings;

/// How long a caller may take for a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections of the group at a time; those of root are not limited by it, so that nobody can
/// keep root out.
const GROUP_CONNECTIONS: usize = 64;
/// Connections of root at a time.
const ROOT_CONNECTIONS: usize = 64;
/// How long open connections may take at the end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Somebody listens there.
    #[error("another daemon listens at {}: stop it, or give this one its own --socket", .0.display())]
    InUse(PathBuf),
    /// Something else than a socket is there.
    #[error("{} is there and no socket: it is left alone; remove it, or choose another --socket", .0.display())]
    NotASocket(PathBuf),
    /// An operation failed.
    #[error("cannot {action} the control socket {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The socket.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// A control socket that nobody serves yet.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    rules: AccessRules,
}

impl ControlSocket {
    /// Makes the socket. It belongs to root, or to root and the group that was named; nobody
    /// else can connect, at no moment.
    pub fn bind(settings: &SocketSettings) -> Result<Self, ServerError> {
        let path = settings.path.clone();
        let io = |action| {
            let path = path.clone();
            move |source| ServerError::Io {
                action,
                path,
                source,
            }
        };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(io("make the directory of"))?;
        }
        remove_stale(&path)?;
        // The mode that the socket is born with comes from the mask alone.
        let before = umask(Mode::from_bits_truncate(0o177));
        let listener = UnixListener::bind(&path);
        umask(before);
        let listener = listener.map_err(io("make"))?;
        if let Some((group, _)) = settings.group {
            chown(&path, None, Some(group)).map_err(io("give to its group"))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o660))
                .map_err(io("open to its group"))?;
        }
        Ok(Self {
            listener,
            path,
            rules: AccessRules {
                owner: nix::unistd::geteuid().as_raw(),
                group: settings.group.map(|(_, access)| access),
            },
        })
    }

    /// Serves until `stop`. Requests find the caller's [`Access`] as an extension.
    pub async fn serve(self, router: Router, stop: CancellationToken) -> io::Result<()> {
        info!(socket = %self.path.display(), "listening");
        let root = Arc::new(Semaphore::new(ROOT_CONNECTIONS));
        let group = Arc::new(Semaphore::new(GROUP_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                Some(_) = connections.join_next() => continue,
                accepted = self.listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                // Out of file descriptors or memory: it may pass.
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let access = match stream.peer_cred() {
                Ok(peer) => self.rules.of(peer.uid()),
                Err(_) => None,
            };
            let seats = if access == Some(Access::Full) {
                &root
            } else {
                &group
            };
            let Ok(seat) = seats.clone().try_acquire_owned() else {
                warn!("too many connections at the control socket: one was refused");
                continue;
            };
            let router = router.clone();
            let stop = stop.clone();
            connections.spawn(async move {
                connection(stream, access, router, stop).await;
                drop(seat);
            });
        }
        // Gone before the last answers are: who comes now is told that nobody is there.
        let _ = fs::remove_file(&self.path);
        drop(self.listener);
        let _ = tokio::time::timeout(LAST_WORDS, async {
            while connections.join_next().await.is_some() {}
        })
        .await;
        Ok(())
    }
}

/// Answers the one request of a connection, whose caller may do what `access` says.
pub async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    access: Option<Access>,
    router: Router,
    stop: CancellationToken,
) {
    let service = TowerToHyperService::new(router.layer(Extension(Caller(access))));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        debug!(%error, "a connection at the control socket broke");
    }
}

/// What the caller may do; an extension of every request.
#[derive(Clone, Copy, Debug)]
pub struct Caller(pub Option<Access>);

/// Removes the socket that a former daemon left.
fn remove_stale(path: &Path) -> Result<(), ServerError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(metadata) if metadata.file_type().is_socket() => {}
        _ => return Err(ServerError::NotASocket(path.to_owned())),
    }
    // Somebody who listens accepts; a socket that was left refuses.
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(ServerError::InUse(path.to_owned()));
    }
    fs::remove_file(path).map_err(|source| ServerError::Io {
        action: "remove the old one of",
        path: path.to_owned(),
        source,
    })
}
