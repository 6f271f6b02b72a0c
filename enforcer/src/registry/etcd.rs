//! The registry in etcd, over mutual TLS.
//!
//! One key a node, `PREFIX/nodes/NAME`, on a lease of that node. One connection at a time: where
//! it fails, the next call makes one to the next endpoint, with the files as they are then, so
//! that renewed certificates are taken up.

use std::{fs, path::Path, sync::Arc, time::Duration};

use etcd_client::{
    Certificate, Client, ConnectOptions, Error, EventType, GetOptions, Identity, PutOptions,
    TlsOptions, WatchOptions, WatchStream,
};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use tokio::{sync::Mutex, time::timeout};
use tonic::Code;
use zeroize::Zeroizing;

use super::{Change, Changes, Listing, Registry, RegistryError, Watch, settings::EtcdSettings};

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(5);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(3);
/// An idle connection is asked whether it lives, this often and for this long.
const ALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));
/// Records listed at a time: far below the 4 MiB that a message may have.
const PAGE: i64 = 64;
/// Largest message of a watch: what changed while nobody looked comes in one.
const LARGEST_MESSAGE: usize = 256 << 20;

/// See the module.
#[derive(Debug)]
pub struct EtcdRegistry {
    settings: EtcdSettings,
    /// Where this node's record is.
    own_key: String,
    lease_seconds: i64,
    connection: Mutex<Connection>,
    /// This node's lease. Held while it is granted, so that there is one.
    lease: Mutex<Option<i64>>,
}

#[derive(Default)]
struct Connection {
    client: Option<Client>,
    /// Counts connections that failed.
    turn: usize,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let connected = self.client.is_some();
        f.debug_struct("Connection")
            .field("connected", &connected)
            .field("turn", &self.turn)
            .finish_non_exhaustive()
    }
}

impl EtcdRegistry {
    /// A registry that is not connected yet. `node`: this node's name.
    pub fn new(settings: EtcdSettings, node: &str, lease: Duration) -> Arc<Self> {
        Arc::new(Self {
            own_key: format!("{}{node}", folder(&settings.prefix)),
            settings,
            lease_seconds: i64::try_from(lease.as_secs().max(1)).unwrap_or(i64::MAX),
            connection: Mutex::default(),
            lease: Mutex::new(None),
        })
    }

    async fn client(&self) -> Result<Client, RegistryError> {
        let mut connection = self.connection.lock().await;
        if let Some(client) = &connection.client {
            return Ok(client.clone());
        }
        let endpoints = &self.settings.endpoints;
        let endpoint = &endpoints[connection.turn % endpoints.len()];
        let options = ConnectOptions::new()
            .with_connect_timeout(CONNECT)
            .with_keep_alive(ALIVE.0, ALIVE.1)
            .with_keep_alive_while_idle(true)
            // A member that is cut off from the others knows nothing new.
            .with_require_leader(true)
            .with_tls(self.tls()?);
        let client = Client::connect([endpoint], Some(options)).await;
        match client {
            Ok(client) => {
                connection.client = Some(client.clone());
                Ok(client)
            }
            Err(error) => {
                connection.turn += 1;
                Err(self.unreachable(&error))
            }
        }
    }

    fn tls(&self) -> Result<TlsOptions, RegistryError> {
        let authority = read(&self.settings.authority)?;
        let certificate = read(&self.settings.certificate)?;
        let key = Zeroizing::new(read(&self.settings.key)?);
        Ok(TlsOptions::new()
            .ca_certificate(Certificate::from_pem(authority))
            .identity(Identity::from_pem(certificate, key.as_slice())))
    }

    /// Asks, for as long as an answer may take. What is not an answer ends the connection.
    async fn ask<T>(
        &self,
        question: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, RegistryError> {
        let error = match timeout(ANSWER, question).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => self.meaning(&error),
            Err(_) => RegistryError::Unreachable {
                place: self.place(),
                reason: format!("no answer within {} s", ANSWER.as_secs()),
            },
        };
        if matches!(error, RegistryError::Unreachable { .. }) {
            self.hang_up().await;
        }
        Err(error)
    }

    async fn hang_up(&self) {
        let mut connection = self.connection.lock().await;
        if connection.client.take().is_some() {
            connection.turn += 1;
        }
    }

    fn unreachable(&self, error: &Error) -> RegistryError {
        RegistryError::Unreachable {
            place: self.place(),
            reason: words(error),
        }
    }

    fn meaning(&self, error: &Error) -> RegistryError {
        match error {
            Error::GRpcStatus(status) => match status.code() {
                Code::NotFound if status.message().contains("lease") => RegistryError::LeaseEnded,
                Code::PermissionDenied
                | Code::Unauthenticated
                | Code::InvalidArgument
                | Code::ResourceExhausted
                | Code::FailedPrecondition => RegistryError::Refused {
                    place: self.place(),
                    reason: status.message().to_owned(),
                },
                _ => self.unreachable(error),
            },
            Error::LeaseKeepAliveError(text) if text.contains("not found") => {
                RegistryError::LeaseEnded
            }
            _ => self.unreachable(error),
        }
    }

    async fn lease(&self, client: &mut Client) -> Result<i64, RegistryError> {
        let mut lease = self.lease.lock().await;
        if let Some(lease) = *lease {
            return Ok(lease);
        }
        let granted = self
            .ask(client.lease_grant(self.lease_seconds, None))
            .await?;
        *lease = Some(granted.id());
        Ok(granted.id())
    }

    async fn put(&self, record: Vec<u8>) -> Result<(), RegistryError> {
        let mut client = self.client().await?;
        for last in [false, true] {
            let lease = self.lease(&mut client).await?;
            let options = PutOptions::new().with_lease(lease);
            let put = client.put(self.own_key.as_str(), record.clone(), Some(options));
            match self.ask(put).await {
                Err(RegistryError::LeaseEnded) if !last => *self.lease.lock().await = None,
                other => return other.map(drop),
            }
        }
        Err(RegistryError::LeaseEnded)
    }

    async fn keep(&self) -> Result<(), RegistryError> {
        let Some(lease) = *self.lease.lock().await else {
            return Err(RegistryError::LeaseEnded);
        };
        let mut client = self.client().await?;
        let kept = self.ask(client.lease_keep_alive(lease)).await.map(drop);
        if kept == Err(RegistryError::LeaseEnded) {
            *self.lease.lock().await = None;
        }
        kept
    }

    async fn all(&self) -> Result<Listing, RegistryError> {
        let mut client = self.client().await?;
        let folder = folder(&self.settings.prefix);
        let mut listing = Listing::default();
        let mut from = folder.clone().into_bytes();
        loop {
            let options = GetOptions::new()
                .with_range(end_of(&folder))
                .with_revision(listing.revision)
                .with_limit(PAGE);
            let mut page = self.ask(client.get(from.clone(), Some(options))).await?;
            if listing.revision == 0 {
                listing.revision = page
                    .header()
                    .map_or(0, etcd_client::ResponseHeader::revision);
            }
            let more = page.more();
            let Some(last) = page.kvs().last() else {
                return Ok(listing);
            };
            // The key after it.
            from = [last.key(), &[0]].concat();
            for entry in page.take_kvs() {
                let (key, record) = entry.into_key_value();
                listing.records.push((name_of(&folder, &key), record));
            }
            if !more {
                return Ok(listing);
            }
        }
    }

    async fn changes(&self, after: i64) -> Result<Watch, RegistryError> {
        let client = self.client().await?;
        let folder = folder(&self.settings.prefix);
        let options = WatchOptions::new()
            .with_range(end_of(&folder))
            .with_start_revision(after + 1)
            .with_progress_notify();
        let mut watching = client
            .watch_client()
            .max_decoding_message_size(LARGEST_MESSAGE);
        let stream = self
            .ask(watching.watch(folder.as_str(), Some(options)))
            .await?;
        let watch = Watching {
            stream,
            folder,
            after,
            place: self.place(),
        };
        Ok(stream::try_unfold(watch, Watching::next).boxed())
    }
}

/// A watch that goes on.
struct Watching {
    stream: WatchStream,
    folder: String,
    /// The last change that was seen.
    after: i64,
    place: String,
}

impl Watching {
    async fn next(mut self) -> Result<Option<(Changes, Self)>, RegistryError> {
        let lost = |reason: String, place: &str| RegistryError::Unreachable {
            place: place.to_owned(),
            reason,
        };
        loop {
            let message = self.stream.message().await;
            let response = match message {
                Ok(Some(response)) => response,
                Ok(None) => return Err(lost("the watch ended".to_owned(), &self.place)),
                Err(error) => return Err(lost(words(&error), &self.place)),
            };
            if response.compact_revision() > 0 {
                return Err(RegistryError::Compacted { after: self.after });
            }
            if response.canceled() {
                let reason = response.cancel_reason();
                return Err(if reason.contains("permission") {
                    RegistryError::Refused {
                        place: self.place.clone(),
                        reason: reason.to_owned(),
                    }
                } else {
                    lost(reason.to_owned(), &self.place)
                });
            }
            // What it says first is where the registry is, not how far this watch came.
            if response.created() && response.events().is_empty() {
                continue;
            }
            let mut changes = Vec::new();
            for event in response.events() {
                let Some(entry) = event.kv() else { continue };
                let node = name_of(&self.folder, entry.key());
                self.after = self.after.max(entry.mod_revision());
                changes.push(match event.event_type() {
                    EventType::Put => Change::Publish {
                        node,
                        record: entry.value().to_vec(),
                    },
                    EventType::Delete => Change::Remove { node },
                });
            }
            if changes.is_empty() {
                let revision = response
                    .header()
                    .map_or(0, etcd_client::ResponseHeader::revision);
                self.after = self.after.max(revision);
            }
            let changes = Changes {
                changes,
                revision: self.after,
            };
            return Ok(Some((changes, self)));
        }
    }
}

impl Registry for EtcdRegistry {
    fn publish(&self, record: Vec<u8>) -> BoxFuture<'_, Result<(), RegistryError>> {
        self.put(record).boxed()
    }

    fn renew(&self) -> BoxFuture<'_, Result<(), RegistryError>> {
        self.keep().boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Listing, RegistryError>> {
        self.all().boxed()
    }

    fn watch(&self, after: i64) -> BoxFuture<'_, Result<Watch, RegistryError>> {
        self.changes(after).boxed()
    }

    fn place(&self) -> String {
        self.settings.endpoints.join(", ")
    }
}

/// Where records are, with a slash at the end.
fn folder(prefix: &str) -> String {
    format!("{}/nodes/", prefix.trim_end_matches('/'))
}

/// The first key that is not in a folder: `/` is followed by `0`.
fn end_of(folder: &str) -> String {
    format!("{}0", folder.trim_end_matches('/'))
}

fn name_of(folder: &str, key: &[u8]) -> String {
    let name = key.strip_prefix(folder.as_bytes()).unwrap_or(key);
    String::from_utf8_lossy(name).into_owned()
}

/// An error and its causes: what the transport says alone is "transport error".
fn words(error: &Error) -> String {
    match error {
        Error::TransportError(error) => crate::cause::chain(error),
        Error::GRpcStatus(status) => {
            let mut text = status.message().to_owned();
            let mut cause = std::error::Error::source(status);
            while let Some(error) = cause {
                text = format!("{text}: {error}");
                cause = error.source();
            }
            text
        }
        other => other.to_string(),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, RegistryError> {
    fs::read(path).map_err(|error| RegistryError::Credential {
        what: format!("cannot read {}", path.display()),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_in_one_folder_and_nothing_else_is() {
        let folder = folder("/enforcer/");
        assert_eq!(folder, "/enforcer/nodes/");
        assert_eq!(name_of(&folder, b"/enforcer/nodes/a"), "a");
        let end = end_of(&folder);
        assert!(*"/enforcer/nodes/zz" < *end && *"/enforcer/nodesx" > *end);
    }
}
