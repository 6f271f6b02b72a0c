//! What proofs are made and judged with: the own SVID, and whom to believe. It comes from a
//! *source* and changes while it is used (rotation, revocation). Whoever uses it holds the
//! receiving end of a watch channel and asks it anew for each use; who holds the sending end is
//! [`super::files`], which has what files and documents say, and what a provider says beside them
//! ([`super::workload_api::client`]).

use std::sync::Arc;

use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;

use super::{
    refusal::Refusal,
    svid::{Svid, Usage},
    trust::Trust,
};

/// The own SVID with its key.
#[derive(Clone, Debug)]
pub struct OwnSvid {
    /// Who we are.
    pub svid: Svid,
    /// For TLS.
    pub key: Arc<CertifiedKey>,
}

/// Why an own SVID cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OwnSvidError {
    /// Not an X.509-SVID.
    #[error("the certificate is no X.509-SVID for this use")]
    Refuse(#[from] Refusal),
    /// Key and certificate are no pair, or the key is of no use.
    #[error("the key does not fit the certificate ({0}): write both anew")]
    Key(String),
}

impl OwnSvid {
    /// Of a chain, the leaf first, and its key.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        usage: Usage,
    ) -> Result<Self, OwnSvidError> {
        let svid = Svid::parse(&chain, usage)?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let key = CertifiedKey::from_der(chain, key, &provider)
            .map_err(|error| OwnSvidError::Key(error.to_string()))?;
        Ok(Self {
            svid,
            key: Arc::new(key),
        })
    }
}

/// What a source has at the moment.
#[derive(Clone, Debug, Default)]
pub struct Material {
    /// `None`: there is none, or it cannot be used.
    pub own: Option<Arc<OwnSvid>>,
    /// Whom to believe.
    pub trust: Arc<Trust>,
    /// What is wrong, in sentences.
    pub notes: Vec<String>,
}

/// The receiving end.
pub type MaterialWatch = watch::Receiver<Arc<Material>>;
