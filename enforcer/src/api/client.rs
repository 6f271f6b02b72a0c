//! The caller's side of the control socket.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, time::timeout};

use crate::api::problem::{Problem, ProblemCode};

/// How long an answer may take, unless the request says otherwise.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);
/// The largest answer that is read in one piece.
const LARGEST_ANSWER: usize = 64 << 20;

/// A daemon's control socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody is there, or the caller is not let in.
    #[error("cannot reach the daemon at {} (is it running, and may you use its socket?)", socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the daemon at {} did not answer: {reason}", socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// Why.
        reason: String,
    },
    /// No answer in time.
    #[error("no answer from {} within {} s", socket.display(), after.as_secs())]
    Timeout {
        /// The socket.
        socket: PathBuf,
        /// How long it was waited for.
        after: Duration,
    },
    /// The daemon says no.
    #[error(transparent)]
    Problem(Problem),
}

impl Client {
    /// For the socket at a path. Nothing is connected before the first request.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
        }
    }

    /// Path of the socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `GET`, with the answer as JSON. `path` includes a query.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.json(Method::GET, path, Bytes::new(), ANSWER_TIMEOUT)
            .await
    }

    /// As [`Client::get`], with another time limit.
    pub async fn get_within<T: DeserializeOwned>(
        &self,
        path: &str,
        limit: Duration,
    ) -> Result<T, ClientError> {
        self.json(Method::GET, path, Bytes::new(), limit).await
    }

    /// `POST`, with body and answer as JSON.
    pub async fn post<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        self.post_within(path, body, ANSWER_TIMEOUT).await
    }

    /// As [`Client::post`], with another time limit.
    pub async fn post_within<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
        limit: Duration,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|e| self.broken(&e))?;
        self.json(Method::POST, path, body.into(), limit).await
    }

    /// `GET`, with the answer as lines that come as they happen.
    pub async fn lines(&self, path: &str) -> Result<Lines, ClientError> {
        let response = self.send(Method::GET, path, Bytes::new()).await?;
        if !response.status().is_success() {
            return Err(self.problem(response).await);
        }
        Ok(Lines {
            body: response.into_body(),
            buffer: Vec::new(),
            socket: self.socket.clone(),
        })
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<T, ClientError> {
        let exchange = async {
            let response = self.send(method, path, body).await?;
            if !response.status().is_success() {
                return Err(self.problem(response).await);
            }
            let bytes = self.collect(response).await?;
            serde_json::from_slice(&bytes).map_err(|e| self.broken(&e))
        };
        timeout(limit, exchange)
            .await
            .map_err(|_| ClientError::Timeout {
                socket: self.socket.clone(),
                after: limit,
            })?
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream =
            UnixStream::connect(&self.socket)
                .await
                .map_err(|source| ClientError::Unreachable {
                    socket: self.socket.clone(),
                    source,
                })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| self.broken(&e))?;
        // Ends with the connection; what goes wrong there is seen by the request.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "enforcer")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|e| self.broken(&e))?;
        sender
            .send_request(request)
            .await
            .map_err(|e| self.broken(&e))
    }

    async fn collect(&self, response: Response<Incoming>) -> Result<Bytes, ClientError> {
        let body = http_body_util::Limited::new(response.into_body(), LARGEST_ANSWER);
        Ok(body
            .collect()
            .await
            .map_err(|e| self.broken(&e))?
            .to_bytes())
    }

    async fn problem(&self, response: Response<Incoming>) -> ClientError {
        let status = response.status();
        match self.collect(response).await {
            Ok(bytes) => {
                ClientError::Problem(serde_json::from_slice(&bytes).unwrap_or_else(|_| {
                    Problem::new(
                        ProblemCode::Internal,
                        format!("{status}: {}", String::from_utf8_lossy(&bytes)),
                    )
                }))
            }
            Err(error) => error,
        }
    }

    fn broken(&self, reason: &dyn std::fmt::Display) -> ClientError {
        ClientError::Broken {
            socket: self.socket.clone(),
            reason: reason.to_string(),
        }
    }
}

/// An answer that comes line by line.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
    socket: PathBuf,
}

impl Lines {
    /// The next line without its end; `None` when the daemon has no more. Safe to drop and call
    /// again: nothing is lost.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let mut line: Vec<u8> = self.buffer.drain(..=end).collect();
                line.pop();
                return Ok(Some(line));
            }
            if self.buffer.len() > LARGEST_ANSWER {
                return Err(self.broken("a line without end".to_owned()));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(self.broken(error.to_string())),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Ok(Some(std::mem::take(&mut self.buffer))),
            }
        }
    }

    fn broken(&self, reason: String) -> ClientError {
        ClientError::Broken {
            socket: self.socket.clone(),
            reason,
        }
    }
}
