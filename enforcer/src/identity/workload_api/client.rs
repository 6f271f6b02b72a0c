//! The other side of the Workload API: the own SVID (of the daemon, or of a workload that attests)
//! and whom to believe, from SPIRE or any other provider, for as long as the process runs.
//!
//! A provider that is lost is looked for again, with pauses that grow. What it said last holds
//! until it ends by itself.

use std::{
    collections::BTreeMap,
    fmt,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Status, Streaming,
    codegen::http::uri::PathAndQuery,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;
use tracing::{info, warn};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use super::{
    memory::Memory,
    wire::{FETCH_X509_SVID, SECURITY_HEADER, X509SvidRequest, X509SvidResponse},
};
use crate::{
    cause::chain,
    identity::{
        bundle::{Bundle, BundleError, Revoked},
        material::{OwnSvid, OwnSvidError},
        spiffe_id::{SpiffeId, TrustDomain},
        svid::{Usage, moment},
        trust::Trusted,
    },
    observe::clock::rfc3339,
    reconcile::reconciler::blocking,
    registry::pause::Pause,
};

/// The environment variable that names the provider (SPIFFE Workload Endpoint, 4).
pub const ENDPOINT_VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the first message may take.
const FIRST_MESSAGE: Duration = Duration::from_secs(30);
/// Largest message, in bytes: 64 roots of many domains.
const LARGEST_MESSAGE: usize = 4 << 20;
/// Most certificates of a bundle or a chain that are looked at.
const MOST_CERTIFICATES: usize = 256;

/// Where a provider listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderAddress(String);

impl FromStr for ProviderAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let path = text
            .strip_prefix("unix://")
            .or_else(|| text.strip_prefix("unix:"));
        match path {
            Some(path) if path.starts_with('/') => Ok(Self(format!("unix://{path}"))),
            _ => Err(format!(
                "`{text}` is no socket of a Workload API: write unix:// and an absolute path, as \
                 in unix:///run/spire/agent.sock"
            )),
        }
    }
}

impl fmt::Display for ProviderAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a provider has said.
#[derive(Clone, Debug, Default)]
pub struct Provided {
    /// The own SVID; `None`: there never was one, or it has ended.
    pub own: Option<Arc<OwnSvid>>,
    /// Who this is, also when the SVID has ended.
    pub id: Option<SpiffeId>,
    /// Whom to believe.
    pub domains: BTreeMap<TrustDomain, Arc<Trusted>>,
    /// What is wrong, in a sentence.
    pub note: Option<String>,
}

/// The receiving end.
pub type ProvidedWatch = watch::Receiver<Arc<Provided>>;

/// How it goes, for metrics.
#[derive(Debug, Default)]
pub struct ProviderStats {
    /// A stream is open.
    pub connected: AtomicBool,
    /// Messages that were taken.
    pub updates: AtomicU64,
    /// Connections and streams that came to nothing or ended.
    pub failures: AtomicU64,
}

/// Why there is nothing (more) from a provider.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// Nobody listens.
    #[error("nobody answers")]
    Connect(#[from] tonic::transport::Error),
    /// It refuses, or its stream broke.
    #[error("it says: {} ({:?})", .0.message(), .0.code())]
    Status(#[from] Box<Status>),
    /// It says nothing.
    #[error("it did not answer in time")]
    Timeout,
    /// It ended the stream.
    #[error("it ended the stream")]
    End,
    /// Its SVID should have been renewed by now.
    #[error("it has not renewed the SVID in time")]
    Stale,
    /// No SVID in its answer.
    #[error("there is no SVID in its answer: register one for this process")]
    NoSvid,
    /// Certificates that are none.
    #[error("what it sent as {0} is not certificates in DER")]
    Certificates(&'static str),
    /// A key that is none, or does not fit.
    #[error("its SVID cannot be used")]
    Own(#[from] OwnSvidError),
    /// A bundle that is none.
    #[error("its bundle of {domain} cannot be used")]
    Bundle {
        /// Whose.
        domain: String,
        /// What is wrong.
        source: BundleError,
    },
    /// A list of what is revoked that is none.
    #[error("a list of what is revoked cannot be used")]
    Revoked(#[source] BundleError),
}

/// A provider.
#[derive(Debug)]
pub struct Provider {
    /// Where it listens.
    pub address: ProviderAddress,
    /// The path of the SPIFFE ID that is taken where it has several; else the first is.
    pub path: Option<String>,
    /// At which side of TLS the SVID is used.
    pub usage: Usage,
    /// How it goes.
    pub stats: Arc<ProviderStats>,
    /// Where it is kept who this is and whom to believe; `None`: nowhere.
    pub memory: Option<Memory>,
}

/// A channel for what a provider says, beginning with what it said to a former run.
pub fn channel(memory: &Memory) -> (watch::Sender<Arc<Provided>>, ProvidedWatch) {
    watch::channel(Arc::new(memory.recall()))
}

impl Provider {
    /// Listens to it until `stop`, and tells what it says.
    pub async fn follow(
        self,
        published: watch::Sender<Arc<Provided>>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let mut pause = Pause::default();
        let mut lost_since = None;
        loop {
            let updates = self.stats.updates.load(Ordering::Relaxed);
            let error = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                error = self.listen(&published) => error,
            };
            self.stats.connected.store(false, Ordering::Relaxed);
            self.stats.failures.fetch_add(1, Ordering::Relaxed);
            if self.stats.updates.load(Ordering::Relaxed) > updates {
                pause.reset();
                lost_since = None;
            }
            let since = lost_since.get_or_insert_with(|| rfc3339(OffsetDateTime::now_utc()));
            self.lost(&published, since, &error);
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = sleep(pause.take()) => {}
            }
        }
    }

    /// Says that it is lost, and lets go of an SVID that has ended.
    fn lost(&self, published: &watch::Sender<Arc<Provided>>, since: &str, error: &ProviderError) {
        let mut provided = Provided::clone(&published.borrow());
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let rest = match &provided.own {
            Some(own) if own.svid.not_after() > now => {
                let until = moment(own.svid.not_after());
                format!("its last SVID is valid until {until}")
            }
            _ => {
                provided.own = None;
                "there is no SVID".to_owned()
            }
        };
        let address = &self.address;
        let note = format!(
            "nothing comes from the identity provider {address} since {since}: {}; {rest}",
            chain(error)
        );
        if provided.note.as_ref() != Some(&note) {
            warn!("{note}");
            provided.note = Some(note);
            published.send_replace(Arc::new(provided));
        }
    }

    /// Tells what comes, until nothing does any more.
    async fn listen(&self, published: &watch::Sender<Arc<Provided>>) -> ProviderError {
        let mut stream = match self.open().await {
            Ok(stream) => stream,
            Err(error) => return error,
        };
        let mut patience = FIRST_MESSAGE;
        let mut late = ProviderError::Timeout;
        loop {
            let message = match timeout(patience, stream.message()).await {
                Err(_) => return late,
                Ok(Err(status)) => return Box::new(status).into(),
                Ok(Ok(None)) => return ProviderError::End,
                Ok(Ok(Some(message))) => message,
            };
            let provided = match self.read(&message) {
                Ok(provided) => provided,
                Err(error) => return error,
            };
            if let Some(own) = &provided.own {
                info!(
                    id = %own.svid.id(),
                    serial = %own.svid.serial(),
                    until = moment(own.svid.not_after()),
                    domains = provided.domains.len(),
                    "an SVID came from the identity provider"
                );
                patience = patience_for(own.svid.not_after());
            }
            late = ProviderError::Stale;
            self.stats.connected.store(true, Ordering::Relaxed);
            self.stats.updates.fetch_add(1, Ordering::Relaxed);
            let before = published.send_replace(Arc::new(provided.clone()));
            if let Some(memory) = &self.memory
                && !Memory::is_same(&before, &provided)
            {
                // A small file, and rarely.
                blocking(|| memory.keep(&provided));
            }
        }
    }

    async fn open(&self) -> Result<Streaming<X509SvidResponse>, ProviderError> {
        let endpoint = Endpoint::from_shared(self.address.0.clone())?.connect_timeout(CONNECT);
        let connecting = timeout(CONNECT, endpoint.connect());
        let channel: Channel = connecting.await.map_err(|_| ProviderError::Timeout)??;
        let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(LARGEST_MESSAGE);
        grpc.ready().await?;
        let mut request = Request::new(X509SvidRequest {});
        let value = MetadataValue::from_static("true");
        request.metadata_mut().insert(SECURITY_HEADER, value);
        let path = PathAndQuery::from_static(FETCH_X509_SVID);
        let answer = grpc.server_streaming(request, path, ProstCodec::default());
        let answer = timeout(FIRST_MESSAGE, answer).await;
        let answer = answer.map_err(|_| ProviderError::Timeout)?;
        Ok(answer.map_err(Box::new)?.into_inner())
    }

    fn read(&self, message: &X509SvidResponse) -> Result<Provided, ProviderError> {
        let wanted = self.path.as_deref();
        let has_path = |id: &str| {
            let id: Option<SpiffeId> = id.parse().ok();
            id.is_some_and(|id| Some(id.path()) == wanted)
        };
        let svids = &message.svids;
        let named = svids.iter().find(|svid| has_path(&svid.spiffe_id));
        let own = named.or(svids.first()).ok_or(ProviderError::NoSvid)?;
        let certificates = split(&own.x509_svid).ok_or(ProviderError::Certificates("SVID"))?;
        let key = PrivatePkcs8KeyDer::from(own.x509_svid_key.clone());
        let key = PrivateKeyDer::Pkcs8(key);
        let svid = OwnSvid::new(certificates, key, self.usage)?;

        let lists = Arc::new(Revoked::lists_of(&message.crl).map_err(ProviderError::Revoked)?);
        let mut domains = BTreeMap::new();
        let mut bundles: Vec<(&str, &[u8])> = message
            .federated_bundles
            .iter()
            .map(|(domain, bundle)| (domain.as_str(), bundle.as_slice()))
            .collect();
        // The own domain's comes last, and stands.
        bundles.extend(svids.iter().map(|s| (s.spiffe_id.as_str(), &*s.bundle)));
        bundles.push((&own.spiffe_id, &own.bundle));
        for (name, bundle) in bundles {
            let Some(domain) = domain_of(name) else {
                continue;
            };
            let certificates = split(bundle).ok_or(ProviderError::Certificates("bundle"))?;
            let bundle =
                Bundle::from_der(certificates).map_err(|source| ProviderError::Bundle {
                    domain: domain.to_string(),
                    source,
                })?;
            let mut revoked = Revoked::default();
            revoked.file = lists.clone();
            let trusted = Trusted {
                bundle,
                revoked,
                unknown_revoked: None,
            };
            domains.insert(domain, Arc::new(trusted));
        }
        Ok(Provided {
            id: Some(svid.svid.id().clone()),
            own: Some(Arc::new(svid)),
            domains,
            note: None,
        })
    }
}

/// The trust domain of a SPIFFE ID or of `spiffe://TRUST-DOMAIN`.
fn domain_of(id: &str) -> Option<TrustDomain> {
    let rest = id.strip_prefix("spiffe://")?;
    rest.split('/').next()?.parse().ok()
}

/// Providers renew after half of what is left; one that has not after seven eighths is asked
/// anew.
fn patience_for(not_after: i64) -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_secs());
    let left = u64::try_from(not_after).unwrap_or(0).saturating_sub(now);
    (Duration::from_secs(left) * 7 / 8).max(Duration::from_secs(1))
}

/// Certificates that stand one behind the other.
fn split(mut bytes: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let mut certificates = Vec::new();
    while !bytes.is_empty() && certificates.len() < MOST_CERTIFICATES {
        let (rest, _) = X509Certificate::from_der(bytes).ok()?;
        let certificate = &bytes[..bytes.len() - rest.len()];
        certificates.push(certificate.to_vec().into());
        bytes = rest;
    }
    (bytes.is_empty() && !certificates.is_empty()).then_some(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{
        fixtures::{Ca, ca_params, leaf_params},
        workload_api::wire::X509Svid,
    };

    fn provider(path: Option<&str>) -> Provider {
        Provider {
            address: "unix:/nowhere".parse().unwrap(),
            path: path.map(str::to_owned),
            usage: Usage::Server,
            stats: Arc::default(),
            memory: None,
        }
    }

    fn message(root: &Ca, id: &str) -> X509Svid {
        let (leaf, key) = root.issue(&leaf_params(&[id]));
        let mut svid = X509Svid::default();
        svid.spiffe_id = id.to_owned();
        svid.x509_svid = [leaf.as_ref(), root.certificate.as_ref()].concat();
        svid.x509_svid_key = key.serialized_der().to_vec();
        svid.bundle = root.certificate.repeat(1);
        svid
    }

    #[test]
    fn addresses_are_absolute_paths_of_unix_sockets() {
        for good in ["unix:///run/a.sock", "unix:/run/a.sock"] {
            let address: ProviderAddress = good.parse().unwrap();
            assert_eq!(address.to_string(), "unix:///run/a.sock");
        }
        for bad in [
            "",
            "/run/a.sock",
            "unix:a",
            "unix://a/b",
            "tcp://127.0.0.1:1",
        ] {
            assert!(bad.parse::<ProviderAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_a_provider_says_is_read() {
        let (root, foreign) = (Ca::root(ca_params("root")), Ca::root(ca_params("foreign")));
        let mut answer = X509SvidResponse {
            svids: vec![
                message(&root, "spiffe://example.org/one"),
                message(&root, "spiffe://example.org/enforcer/node/a"),
            ],
            ..X509SvidResponse::default()
        };
        let other = foreign.certificate.to_vec();
        let name = "spiffe://example.com".to_owned();
        answer.federated_bundles.insert(name, other);
        let read = |path| provider(path).read(&answer);
        let first = read(None).unwrap();
        let id = |provided: &Provided| provided.own.as_ref().unwrap().svid.id().to_string();
        assert_eq!(id(&first), "spiffe://example.org/one");
        assert_eq!(first.own.unwrap().svid.chain().len(), 2);
        let domains: Vec<_> = first.domains.keys().map(ToString::to_string).collect();
        assert_eq!(domains, ["example.com", "example.org"]);
        let node = read(Some("/enforcer/node/a")).unwrap();
        assert_eq!(id(&node), "spiffe://example.org/enforcer/node/a");
        assert_eq!(
            id(&read(Some("/nobody")).unwrap()),
            "spiffe://example.org/one"
        );
    }

    #[test]
    fn what_is_damaged_is_not_taken() {
        let root = Ca::root(ca_params("root"));
        let read = |change: fn(&mut X509Svid)| {
            let mut svid = message(&root, "spiffe://example.org/one");
            change(&mut svid);
            let answer = X509SvidResponse {
                svids: vec![svid],
                ..X509SvidResponse::default()
            };
            provider(None).read(&answer)
        };
        assert!(read(|_| {}).is_ok());
        for change in [
            |svid: &mut X509Svid| svid.x509_svid.clear(),
            |svid: &mut X509Svid| svid.x509_svid.push(0),
            |svid: &mut X509Svid| svid.x509_svid_key.truncate(20),
            |svid: &mut X509Svid| svid.bundle.clear(),
            |svid: &mut X509Svid| svid.bundle = svid.x509_svid.clone(),
        ] {
            assert!(read(change).is_err());
        }
        let nothing = provider(None).read(&X509SvidResponse::default());
        assert!(matches!(nothing, Err(ProviderError::NoSvid)));
    }
}
