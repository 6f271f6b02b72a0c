//! TLS 1.3 with a client certificate that is verified as an X.509-SVID, and no way around it:
//! no other version, no tickets (a resumed session shows no certificate), no early data.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use rustls::{
    AlertDescription, CertificateError, DigitallySignedStruct, DistinguishedName, Error,
    OtherError, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs},
    server::{
        NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::SingleCertAndKey,
};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::identity::{material::OwnSvid, refusal::Refusal, svid::Usage, trust::Trust};

/// AES-GCM and ChaCha20-Poly1305 of TLS 1.3, with the post-quantum hybrid X25519MLKEM768 first.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider())))
}

/// Verifies the certificate of one connection, and remembers why it was refused.
pub struct ClientCheck {
    trust: Arc<Trust>,
    algorithms: WebPkiSupportedAlgorithms,
    refused: OnceLock<Refusal>,
}

impl ClientCheck {
    /// With what is believed now.
    pub fn new(trust: Arc<Trust>) -> Arc<Self> {
        Arc::new(Self {
            trust,
            algorithms: provider().signature_verification_algorithms,
            refused: OnceLock::new(),
        })
    }

    /// Why the certificate was refused, if it was.
    pub fn refusal(&self) -> Option<&Refusal> {
        self.refused.get()
    }
}

impl fmt::Debug for ClientCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCheck").finish_non_exhaustive()
    }
}

impl ClientCertVerifier for ClientCheck {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Names of authorities would tell strangers who is believed here.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let mut chain = vec![leaf.clone()];
        chain.extend(intermediates.iter().cloned());
        match self.trust.verify(&chain, Usage::Client, now) {
            Ok(_) => Ok(ClientCertVerified::assertion()),
            Err(refusal) => {
                let alert = certificate_error(&refusal);
                let _ = self.refused.set(refusal);
                Err(Error::InvalidCertificate(alert))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(
            rustls::PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        ))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// What the client is told: the alert that comes nearest.
pub fn certificate_error(refusal: &Refusal) -> CertificateError {
    match refusal {
        Refusal::Expired(_) | Refusal::IssuerExpired => CertificateError::Expired,
        Refusal::NotYetValid(_) => CertificateError::NotValidYet,
        Refusal::Revoked(_) => CertificateError::Revoked,
        Refusal::UnknownIssuer(_) | Refusal::UnknownDomain(_) | Refusal::NoRoot(_) => {
            CertificateError::UnknownIssuer
        }
        Refusal::Signature => CertificateError::BadSignature,
        Refusal::Malformed(_) => CertificateError::BadEncoding,
        other => CertificateError::Other(OtherError(Arc::new(other.clone()))),
    }
}

/// For one connection.
pub fn server_config(own: &OwnSvid, check: Arc<ClientCheck>) -> Result<ServerConfig, Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(check)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(own.key.clone())));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Why a handshake failed that no certificate was refused in, for metrics and events.
pub fn failure(error: &std::io::Error) -> &'static str {
    let Some(error) = error.get_ref().and_then(|e| e.downcast_ref::<Error>()) else {
        return "disconnected";
    };
    match error {
        Error::NoCertificatesPresented => "no-certificate",
        Error::PeerIncompatible(_) => "tls-version-or-suite",
        Error::InvalidCertificate(_) => "certificate",
        Error::AlertReceived(AlertDescription::CloseNotify) => "disconnected",
        _ => "tls-error",
    }
}
