//! Who a node is: an X.509-SVID with the SPIFFE ID `spiffe://TRUST-DOMAIN/enforcer/node/NAME`.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{SignatureScheme, sign::Signer};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::settings::NodeIdentitySettings;
use crate::identity::{
    self,
    bundle::Bundle,
    files::{self, SvidFiles},
    material::OwnSvid,
    spiffe_id::{SpiffeId, SpiffeIdError},
    svid::Usage,
    trust::{Trust, Trusted},
    workload_api::client::ProvidedWatch,
};

/// The path of a node's SPIFFE ID, before its name.
pub const NODE_PATH: &str = "/enforcer/node/";

/// Signs for this node, and knows whom other nodes' certificates prove.
pub trait NodeIdentity: Send + Sync {
    /// Who this node is, also while it has no SVID that it could show.
    fn id(&self) -> Result<SpiffeId, IdentityError> {
        let id = self.svid()?.leaf.spiffe_id;
        id.parse()
            .map_err(|error: SpiffeIdError| IdentityError(error.to_string()))
    }

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

impl FileIdentity {
    fn own(&self) -> Result<OwnSvid, IdentityError> {
        let files = SvidFiles {
            certificate: self.0.certificate.clone(),
            key: self.0.key.clone(),
        };
        files::read_own(&files, Usage::Client).map_err(IdentityError)
    }
}

impl NodeIdentity for FileIdentity {
    fn svid(&self) -> Result<Svid, IdentityError> {
        svid_of(&self.own()?)
    }

    fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        at: SystemTime,
    ) -> Result<Proven, IdentityError> {
        let bundle = &self.0.bundle;
        let roots = files::read_certificates(bundle).map_err(IdentityError)?;
        let trusted = Trusted {
            bundle: Bundle::from_der(roots).map_err(|error| {
                IdentityError(format!("{} cannot be used: {error}", bundle.display()))
            })?,
            ..Trusted::default()
        };
        // Whose roots these are is not written in them: they are those of this node's domain.
        let domain = self.own()?.svid.id().domain().clone();
        verify(&Trust::new([(domain, Arc::new(trusted))].into()), chain, at)
    }
}

/// The identity that a provider gives this daemon, as it is now.
#[derive(Clone, Debug)]
pub struct ProviderIdentity(pub ProvidedWatch);

impl NodeIdentity for ProviderIdentity {
    fn id(&self) -> Result<SpiffeId, IdentityError> {
        let id = self.0.borrow().id.clone();
        id.ok_or_else(no_svid)
    }

    fn svid(&self) -> Result<Svid, IdentityError> {
        let own = self.0.borrow().own.clone();
        svid_of(&*own.ok_or_else(no_svid)?)
    }

    fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        at: SystemTime,
    ) -> Result<Proven, IdentityError> {
        let domains = self.0.borrow().domains.clone();
        verify(&Trust::new(domains), chain, at)
    }
}

fn no_svid() -> IdentityError {
    let text = "the identity provider has given no SVID; `enforcer status` says why";
    IdentityError(text.to_owned())
}

fn svid_of(own: &OwnSvid) -> Result<Svid, IdentityError> {
    let signer = own.key.key.choose_scheme(&[
        SignatureScheme::ECDSA_NISTP256_SHA256,
        SignatureScheme::ECDSA_NISTP384_SHA384,
        SignatureScheme::ED25519,
    ]);
    let signer = signer.ok_or_else(|| {
        let text = "its key is of another kind than ECDSA P-256, P-384 or Ed25519";
        IdentityError(text.to_owned())
    })?;
    Ok(Svid {
        chain: own.svid.chain().to_vec(),
        signer,
        leaf: proven(&own.svid),
    })
}

fn verify(
    trust: &Trust,
    chain: &[CertificateDer<'_>],
    at: SystemTime,
) -> Result<Proven, IdentityError> {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    let now = UnixTime::since_unix_epoch(since.unwrap_or_default());
    match trust.verify(chain, Usage::Client, now) {
        Ok(svid) => Ok(proven(&svid)),
        Err(refusal) => Err(IdentityError(refusal.to_string())),
    }
}

fn proven(svid: &identity::svid::Svid) -> Proven {
    let until = u64::try_from(svid.not_after()).unwrap_or(0);
    Proven {
        spiffe_id: svid.id().to_string(),
        until: SystemTime::UNIX_EPOCH + Duration::from_secs(until),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;

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
            params.not_after = time::OffsetDateTime::now_utc() + time::Duration::days(1);
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
        let long_after = SystemTime::now() + Duration::from_hours(24 * 365);
        assert!(a.verify(&svid.chain, long_after).is_err());
        assert!(a.verify(&[], SystemTime::now()).is_err());
    }

    #[test]
    fn what_a_provider_gives_is_as_good_and_remembered_without_a_key() {
        use crate::identity::workload_api::client::Provided;
        let authority = Authority::new();
        let a = authority.node("a");
        let nothing = tokio::sync::watch::channel(Arc::<Provided>::default());
        let identity = ProviderIdentity(nothing.1);
        assert!(identity.id().is_err() && identity.svid().is_err());
        let own = a.own().unwrap();
        let roots = files::read_certificates(&a.0.bundle).unwrap();
        let trusted = Trusted {
            bundle: Bundle::from_der(roots).unwrap(),
            ..Trusted::default()
        };
        let mut provided = Provided {
            id: Some(own.svid.id().clone()),
            own: Some(Arc::new(own)),
            domains: [("example.org".parse().unwrap(), Arc::new(trusted))].into(),
            note: None,
        };
        nothing.0.send_replace(Arc::new(provided.clone()));
        let shown = identity.svid().unwrap();
        let proven = a.verify(&shown.chain, SystemTime::now()).unwrap();
        assert_eq!(proven.spiffe_id, identity.id().unwrap().to_string());
        identity.verify(&shown.chain, SystemTime::now()).unwrap();
        let stranger = Authority::new().node("a").svid().unwrap();
        assert!(identity.verify(&stranger.chain, SystemTime::now()).is_err());
        provided.own = None;
        nothing.0.send_replace(Arc::new(provided));
        assert!(identity.id().is_ok() && identity.svid().is_err());
        identity.verify(&shown.chain, SystemTime::now()).unwrap();
    }
}
