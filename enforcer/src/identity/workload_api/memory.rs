//! What a provider said of who this is and whom to believe, kept in the state directory: a daemon
//! that starts again takes up the fleet's records before the provider has said it anew. The own
//! SVID and its key are never kept.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::client::Provided;
use crate::{
    cause::chain,
    identity::{
        attest::leases::{from_hex, to_hex},
        bundle::Bundle,
        spiffe_id::{SpiffeId, TrustDomain},
        trust::Trusted,
    },
    state::atomic_file,
};

/// Name of the file in the state directory.
const FILE: &str = "provider.json";

/// See the module.
#[derive(Clone, Debug)]
pub struct Memory {
    file: PathBuf,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spiffe_id: Option<SpiffeId>,
    /// Roots in hexadecimal DER, by trust domain.
    bundles: BTreeMap<String, Vec<String>>,
}

impl Memory {
    /// In this state directory.
    pub fn new(state: &Path) -> Self {
        Self {
            file: state.join(FILE),
        }
    }

    /// What was kept; nothing, if that cannot be read.
    pub fn recall(&self) -> Provided {
        let Ok(bytes) = fs::read(&self.file) else {
            return Provided::default();
        };
        let kept: Kept = match serde_json::from_slice(&bytes) {
            Ok(kept) => kept,
            Err(error) => {
                let file = self.file.display();
                warn!(%error, %file, "what the identity provider said last cannot be read");
                return Provided::default();
            }
        };
        let domains = kept.bundles.iter().filter_map(|(name, roots)| {
            let domain: TrustDomain = name.parse().ok()?;
            let roots: Option<Vec<CertificateDer<'static>>> =
                roots.iter().map(|root| from_hex(root)).collect();
            let trusted = Trusted {
                bundle: Bundle::from_der(roots?).ok()?,
                ..Trusted::default()
            };
            Some((domain, Arc::new(trusted)))
        });
        Provided {
            domains: domains.collect(),
            id: kept.spiffe_id,
            ..Provided::default()
        }
    }

    /// Keeps it.
    pub(super) fn keep(&self, provided: &Provided) {
        let bundles = provided.domains.iter().map(|(domain, trusted)| {
            let roots = trusted.bundle.certificates().iter();
            (domain.to_string(), roots.map(to_hex).collect())
        });
        let kept = Kept {
            spiffe_id: provided.id.clone(),
            bundles: bundles.collect(),
        };
        // Plain data with string keys always has a JSON form.
        let bytes = serde_json::to_vec(&kept).unwrap_or_default();
        if let Err(error) = atomic_file::replace(&self.file, &bytes) {
            warn!(
                error = chain(&error),
                file = %self.file.display(),
                "what the identity provider says cannot be kept: after a restart it must say it anew"
            );
        }
    }

    /// Whether two are the same, as far as they are kept.
    pub(super) fn is_same(one: &Provided, other: &Provided) -> bool {
        let bundles = |provided: &Provided| {
            let domains = provided.domains.iter();
            let bundles: BTreeMap<_, _> = domains
                .map(|(name, trusted)| (name.clone(), trusted.bundle.clone()))
                .collect();
            bundles
        };
        one.id == other.id && bundles(one) == bundles(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::fixtures::{Ca, ca_params};

    #[test]
    fn who_and_whom_to_believe_outlive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory::new(folder.path());
        assert!(memory.recall().domains.is_empty());
        let root = Ca::root(ca_params("root"));
        let trusted = Trusted {
            bundle: Bundle::from_der(vec![root.certificate.clone()]).unwrap(),
            ..Trusted::default()
        };
        let said = Provided {
            id: Some("spiffe://example.org/enforcer/node/a".parse().unwrap()),
            domains: [("example.org".parse().unwrap(), Arc::new(trusted))].into(),
            ..Provided::default()
        };
        memory.keep(&said);
        let recalled = memory.recall();
        assert!(Memory::is_same(&recalled, &said));
        assert!(!Memory::is_same(&recalled, &Provided::default()));
        fs::write(folder.path().join(FILE), "{").unwrap();
        assert!(memory.recall().id.is_none());
    }
}
