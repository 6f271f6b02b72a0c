//! The workload's side: shows its SVID to the daemon, and verifies the daemon's.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error as TlsError, SignatureScheme,
    client::{
        ResolvesClientCert, Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::WebPkiSupportedAlgorithms,
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde::de::DeserializeOwned;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use super::{
    routes::{AttestAnswer, AttestRequest, WhoAmI},
    tls,
};
use crate::identity::{
    material::OwnSvid, refusal::Refusal, spiffe_id::SpiffeId, svid::Usage, trust::Trust,
};

/// How long one request may take, the handshake included.
const PATIENCE: Duration = Duration::from_secs(15);
/// Largest answer that is read, in bytes.
const LARGEST_ANSWER: usize = 64 << 10;

/// Why the daemon did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum AttestClientError {
    /// Nobody answers.
    #[error(
        "nobody answers at {server}: does the daemon run with --attest, and does policy let this workload reach it?"
    )]
    Unreachable {
        /// Where.
        server: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Not in time.
    #[error("{0} did not answer in time")]
    Timeout(SocketAddr),
    /// The daemon's certificate is not believed.
    #[error("the certificate of the daemon at {server} is not believed: {refusal}")]
    Server {
        /// Where.
        server: SocketAddr,
        /// Why.
        refusal: Box<Refusal>,
    },
    /// Somebody else answers.
    #[error("{found} answers, where {expected} is expected: correct --server or --server-id")]
    OtherServer {
        /// Who answers.
        found: Box<SpiffeId>,
        /// Who should.
        expected: String,
    },
    /// TLS came to nothing: the daemon refused the certificate, most likely.
    #[error(
        "the handshake failed ({0}): the daemon refuses the certificate, `enforcer identity \
         verify` and the daemon's log say why"
    )]
    Handshake(String),
    /// The daemon refused.
    #[error("{0}")]
    Refuse(String),
    /// The answer is not understood.
    #[error("the answer is not understood ({0})")]
    Answer(String),
}

impl AttestClientError {
    /// Whether trying again may help without anything else being changed.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::Timeout(_) | Self::Answer(_)
        )
    }
}

/// A client of one daemon.
#[derive(Clone, Debug)]
pub struct AttestClient {
    /// Where it listens.
    pub server: SocketAddr,
    /// Who it must be; without it anybody of the own trust domain.
    pub server_id: Option<SpiffeId>,
    /// The own SVID.
    pub own: Arc<OwnSvid>,
    /// Whom to believe.
    pub trust: Arc<Trust>,
}

impl AttestClient {
    /// Binds the own identity to the endpoint that this process is in.
    pub async fn attest(&self, request: AttestRequest) -> Result<AttestAnswer, AttestClientError> {
        self.ask(Method::POST, "/v1/attest", Some(request)).await
    }

    /// Ends the binding.
    pub async fn release(&self) -> Result<serde_json::Value, AttestClientError> {
        self.ask(Method::DELETE, "/v1/attest", None).await
    }

    /// Asks who one is.
    pub async fn whoami(&self) -> Result<WhoAmI, AttestClientError> {
        self.ask(Method::GET, "/v1/whoami", None).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<AttestRequest>,
    ) -> Result<T, AttestClientError> {
        timeout(PATIENCE, self.exchange(method, path, body))
            .await
            .map_err(|_| AttestClientError::Timeout(self.server))?
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<AttestRequest>,
    ) -> Result<T, AttestClientError> {
        let check = Arc::new(ServerCheck {
            trust: self.trust.clone(),
            expected: self.server_id.clone(),
            domain: self.own.svid.id().domain().to_string(),
            algorithms: tls::provider().signature_verification_algorithms,
            found: std::sync::OnceLock::new(),
        });
        let handshake =
            |error: &dyn std::fmt::Display| AttestClientError::Handshake(error.to_string());
        let mut config = ClientConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| handshake(&e))?
            .dangerous()
            .with_custom_certificate_verifier(check.clone())
            .with_client_cert_resolver(Arc::new(Always(self.own.key.clone())));
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let unreachable = |source| AttestClientError::Unreachable {
            server: self.server,
            source,
        };
        let stream = TcpStream::connect(self.server).await.map_err(unreachable)?;
        let name = ServerName::IpAddress(self.server.ip().into());
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await;
        let stream = match (stream, check.found.get()) {
            (Ok(stream), _) => stream,
            (Err(_), Some(Err(refusal))) => {
                return Err(AttestClientError::Server {
                    server: self.server,
                    refusal: Box::new(refusal.clone()),
                });
            }
            (Err(_), Some(Ok((found, expected)))) if found.to_string() != *expected => {
                return Err(AttestClientError::OtherServer {
                    found: Box::new(found.clone()),
                    expected: expected.clone(),
                });
            }
            (Err(error), _) => return Err(handshake(&error)),
        };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| handshake(&e))?;
        tokio::spawn(async move {
            // What became of it shows in the answer.
            let _ = connection.await;
        });
        let bytes = match body {
            Some(body) => serde_json::to_vec(&body)
                .map_err(|error| AttestClientError::Answer(error.to_string()))?,
            None => Vec::new(),
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.server.to_string())
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(bytes)))
            .map_err(|error| AttestClientError::Answer(error.to_string()))?;
        // In TLS 1.3 the client learns only here that its certificate was refused.
        let answer = sender
            .send_request(request)
            .await
            .map_err(|e| handshake(&crate::cause::chain(&e)))?;
        let status = answer.status();
        let body = http_body_util::Limited::new(answer.into_body(), LARGEST_ANSWER);
        let body = body
            .collect()
            .await
            .map_err(|error| AttestClientError::Answer(error.to_string()))?
            .to_bytes();
        if status == StatusCode::OK {
            return serde_json::from_slice(&body)
                .map_err(|error| AttestClientError::Answer(error.to_string()));
        }
        let problem: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
        let message = problem
            .as_ref()
            .and_then(|problem| problem.get("message")?.as_str())
            .map_or_else(|| format!("the daemon answers {status}"), str::to_owned);
        Err(AttestClientError::Refuse(message))
    }
}

/// Shows one certificate, whatever the server asks for.
#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesClientCert for Always {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Verifies the daemon's SVID. Its name is its SPIFFE ID, not the address.
struct ServerCheck {
    trust: Arc<Trust>,
    expected: Option<SpiffeId>,
    domain: String,
    algorithms: WebPkiSupportedAlgorithms,
    /// Who answered and who should have, or why that is not believed.
    found: std::sync::OnceLock<Result<(SpiffeId, String), Refusal>>,
}

impl std::fmt::Debug for ServerCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerCheck").finish_non_exhaustive()
    }
}

impl ServerCertVerifier for ServerCheck {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let mut chain = vec![leaf.clone()];
        chain.extend(intermediates.iter().cloned());
        let svid = match self.trust.verify(&chain, Usage::Server, now) {
            Ok(svid) => svid,
            Err(refusal) => {
                let error = tls::certificate_error(&refusal);
                let _ = self.found.set(Err(refusal));
                return Err(TlsError::InvalidCertificate(error));
            }
        };
        let (is_right, expected) = match &self.expected {
            Some(id) => (svid.id() == id, id.to_string()),
            None => (
                svid.id().domain().as_str() == self.domain,
                format!("somebody of the trust domain {}", self.domain),
            ),
        };
        if is_right {
            return Ok(ServerCertVerified::assertion());
        }
        let _ = self.found.set(Ok((svid.id().clone(), expected)));
        Err(TlsError::InvalidCertificate(
            rustls::CertificateError::ApplicationVerificationFailure,
        ))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(TlsError::PeerIncompatible(
            rustls::PeerIncompatible::ServerDoesNotSupportTls12Or13,
        ))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
