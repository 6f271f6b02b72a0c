//! Who a node is: an X.509-SVID with the SPIFFE ID `spiffe://TRUST-DOMAIN/enforcer/node/NAME`.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use rustls::{SignatureScheme, crypto::aws_lc_rs::sign, sign::Signer};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, aws_lc_rs};
use x509_parser::{extensions::GeneralName, prelude::FromDer};
use zeroize::Zeroizing;

use super::settings::NodeIdentitySettings;

/// The path of a node's SPIFFE ID, before its name.
pub const NODE_PATH: &str = "/enforcer/node/";

/// Longest chain that is looked at.
const LONGEST_CHAIN: usize = 5;

/// Signs for this node, and knows whom other nodes' certificates prove.
pub trait NodeIdentity: Send + Sync {
    /// What this node shows and signs with, as of now: it is renewed from time to time.
    fn svid(&self) -> Result<Svid, IdentityError>;

    /// Whom a chain (the leaf first) proves at a moment.
    fn verify(&self, chain: &[CertificateDer<'_>], at: SystemTime)
    -> Result<Proven, IdentityError>;
}

/// This node's X.509-SVID.
pub struct Svid {
    /// The leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Signs with the leaf's key.
    pub signer: Box<dyn Signer>,
    /// What the leaf says.
    pub leaf: Proven,
}

/// What a certificate says that was found to be good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// The whole SPIFFE ID.
    pub spiffe_id: String,
    /// Until when the leaf is valid.
    pub until: SystemTime,
}

impl Proven {
    /// The trust domain.
    pub fn trust_domain(&self) -> &str {
        let rest = self.spiffe_id.strip_prefix("spiffe://").unwrap_or_default();
        rest.split_once('/').map_or(rest, |(domain, _)| domain)
    }
}

/// The SPIFFE ID of a node.
pub fn node_id(trust_domain: &str, node: &str) -> String {
    format!("spiffe://{trust_domain}{NODE_PATH}{node}")
}

/// Why a node is not who it says, or cannot say who it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct IdentityError(pub String);

/// The identity in files, read anew each time.
#[derive(Clone, Debug)]
pub struct FileIdentity(pub NodeIdentitySettings);

impl NodeIdentity for FileIdentity {
    fn svid(&self) -> Result<Svid, IdentityError> {
        let chain = certificates(&self.0.certificate)?;
        let text = Zeroizing::new(read(&self.0.key)?);
        let key = PrivateKeyDer::from_pem_slice(&text)
            .map_err(|e| wrong(&self.0.key, &format!("no private key in PEM ({e})")))?;
        let key = sign::any_supported_type(&key)
            .map_err(|e| wrong(&self.0.key, &format!("a key that cannot be used ({e})")))?;
        let signer = key
            .choose_scheme(&[
                SignatureScheme::ECDSA_NISTP256_SHA256,
                SignatureScheme::ECDSA_NISTP384_SHA384,
                SignatureScheme::ED25519,
            ])
            .ok_or_else(|| {
                let help = "a key of another kind than ECDSA P-256, P-384 or Ed25519";
                wrong(&self.0.key, help)
            })?;
        let leaf = chain
            .first()
            .ok_or_else(|| wrong(&self.0.certificate, "no certificate"))?;
        let leaf = read_leaf(leaf)?;
        Ok(Svid {
            chain,
            signer,
            leaf,
        })
    }

    fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        at: SystemTime,
    ) -> Result<Proven, IdentityError> {
        let roots = certificates(&self.0.bundle)?;
        verify(&roots, chain, at)
    }
}

fn verify(
    roots: &[CertificateDer<'_>],
    chain: &[CertificateDer<'_>],
    at: SystemTime,
) -> Result<Proven, IdentityError> {
    let Some((leaf, between)) = chain.split_first() else {
        return Err(IdentityError("it shows no certificate".to_owned()));
    };
    if chain.len() > LONGEST_CHAIN {
        let found = chain.len();
        return Err(IdentityError(format!(
            "it shows {found} certificates, more than {LONGEST_CHAIN}"
        )));
    }
    let anchors: Vec<_> = roots
        .iter()
        .filter_map(|root| anchor_from_trusted_cert(root).ok())
        .collect();
    let refused = |error| IdentityError(format!("its certificate is not accepted ({error})"));
    let end = EndEntityCert::try_from(leaf).map_err(refused)?;
    let since = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    end.verify_for_usage(
        &[
            aws_lc_rs::ECDSA_P256_SHA256,
            aws_lc_rs::ECDSA_P384_SHA384,
            aws_lc_rs::ED25519,
        ],
        &anchors,
        between,
        UnixTime::since_unix_epoch(since),
        KeyUsage::client_auth(),
        None,
        None,
    )
    .map_err(refused)?;
    read_leaf(leaf)
}

/// The one URI among a leaf's names, and its end.
fn read_leaf(leaf: &CertificateDer<'_>) -> Result<Proven, IdentityError> {
    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(leaf)
        .map_err(|e| IdentityError(format!("its certificate cannot be read ({e})")))?;
    let names = parsed
        .subject_alternative_name()
        .map_err(|e| IdentityError(format!("its certificate cannot be read ({e})")))?;
    let mut uris = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
    let (Some(uri), None) = (uris.next(), uris.next()) else {
        let text = "its certificate has not exactly one URI among its names";
        return Err(IdentityError(text.to_owned()));
    };
    if !uri.starts_with("spiffe://") || parsed.is_ca() {
        let text = "its certificate is no X.509-SVID of a workload";
        return Err(IdentityError(text.to_owned()));
    }
    let until = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
    Ok(Proven {
        spiffe_id: uri.to_owned(),
        until: SystemTime::UNIX_EPOCH + Duration::from_secs(until),
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let text = read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(wrong(path, "no certificate in PEM")),
        Err(error) => Err(wrong(path, &format!("no certificates in PEM ({error})"))),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    fs::read(path).map_err(|e| IdentityError(format!("cannot read {} ({e})", path.display())))
}

fn wrong(path: &Path, what: &str) -> IdentityError {
    IdentityError(format!("{} holds {what}", path.display()))
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use rcgen::{
        BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
        KeyUsagePurpose, SanType,
    };
    use tempfile::TempDir;

    use super::*;

    /// An authority that issues to nodes, and its folder of files.
    pub struct Authority {
        issuer: Issuer<'static, KeyPair>,
        folder: TempDir,
    }

    impl Authority {
        pub fn new() -> Self {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            let key = KeyPair::generate().unwrap();
            let folder = tempfile::tempdir().unwrap();
            let root = params.self_signed(&key).unwrap();
            fs::write(folder.path().join("bundle.pem"), root.pem()).unwrap();
            Self {
                issuer: Issuer::new(params, key),
                folder,
            }
        }

        pub fn issue(&self, id: &str) -> Arc<FileIdentity> {
            let mut params = CertificateParams::default();
            params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            let key = KeyPair::generate().unwrap();
            let leaf = params.signed_by(&key, &self.issuer).unwrap();
            let name = id.replace('/', "-");
            let path = |end: &str| self.folder.path().join(format!("{name}.{end}"));
            fs::write(path("pem"), leaf.pem()).unwrap();
            fs::write(path("key"), key.serialize_pem()).unwrap();
            Arc::new(FileIdentity(NodeIdentitySettings {
                certificate: path("pem"),
                key: path("key"),
                bundle: self.folder.path().join("bundle.pem"),
            }))
        }

        pub fn node(&self, name: &str) -> Arc<FileIdentity> {
            self.issue(&node_id("example.org", name))
        }
    }

    #[test]
    fn a_chain_to_the_bundle_proves_its_name_and_no_other_chain_does() {
        let authority = Authority::new();
        let a = authority.node("a");
        let svid = a.svid().unwrap();
        let proven = a.verify(&svid.chain, SystemTime::now()).unwrap();
        assert_eq!(proven.spiffe_id, "spiffe://example.org/enforcer/node/a");
        assert_eq!(proven.trust_domain(), "example.org");
        let others = Authority::new();
        let other = others.node("a");
        assert!(other.verify(&svid.chain, SystemTime::now()).is_err());
        let long_after = SystemTime::now() + Duration::from_hours(24 * 365 * 5000);
        assert!(a.verify(&svid.chain, long_after).is_err());
        assert!(a.verify(&[], SystemTime::now()).is_err());
    }
}
