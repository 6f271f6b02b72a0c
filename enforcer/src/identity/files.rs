//! Own SVID, bundles and lists of what is revoked, from files that are watched.
//!
//! Files are looked at a few times a second and not by inotify: they are few, and most are
//! reached by links that a rotation turns round (Kubernetes, cert-manager, spiffe-helper), of
//! which inotify tells nothing.
//!
//! Where the own SVID comes from a provider, so do the bundles of the trust domains that have no
//! document of their own, or one that names no bundle.
//!
//! A file that cannot be understood leaves what was read before in force, with a note; so does
//! a missing list of what is revoked. A missing bundle is a bundle that was removed: nobody of
//! its domain is believed any more.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    bundle::{Bundle, Revoked},
    material::{Material, MaterialWatch, OwnSvid},
    spiffe_id::TrustDomain,
    svid::Usage,
    trust::{Trust, Trusted},
    workload_api::client::{ProvidedWatch, ProviderAddress},
};
use crate::{
    cause::chain,
    policy::model::{BundleSource, TrustDomainSettings},
};

/// Between two looks at the files.
const LOOK: Duration = Duration::from_millis(200);
/// Largest file: a thousand certificates, or a million serial numbers in a CRL.
const LARGEST: u64 = 32 << 20;

/// Where an own SVID is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SvidFiles {
    /// The chain in PEM, the leaf first.
    pub certificate: PathBuf,
    /// The key in PEM.
    pub key: PathBuf,
}

/// Where the daemon's own SVID comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentitySource {
    /// Files.
    Files(SvidFiles),
    /// A server of the SPIFFE Workload API.
    Provider(ProviderAddress),
}

/// Reads files, and remembers what was good.
#[derive(Debug)]
pub struct FileSource {
    own: Option<SvidFiles>,
    provider: Option<ProvidedWatch>,
    usage: Usage,
    known: BTreeMap<TrustDomain, Arc<Trusted>>,
    last: Material,
}

impl FileSource {
    /// For an own SVID that is used at this side of TLS, if any.
    pub fn new(own: Option<SvidFiles>, usage: Usage) -> Self {
        Self {
            own,
            provider: None,
            usage,
            known: BTreeMap::new(),
            last: Material::default(),
        }
    }

    /// With the own SVID of a provider, and its bundles.
    pub fn of_provider(provider: ProvidedWatch, usage: Usage) -> Self {
        Self {
            provider: Some(provider),
            ..Self::new(None, usage)
        }
    }

    /// Reads everything. Blocks.
    pub fn read(&mut self, domains: &[Arc<TrustDomainSettings>]) -> Material {
        let mut notes = Vec::new();
        let mut known = BTreeMap::new();
        let watch = self.provider.as_mut();
        let provided = watch.map(|watch| watch.borrow_and_update().clone());
        for domain in domains {
            let before = self.known.get(&domain.name);
            let theirs = provided
                .as_ref()
                .and_then(|it| it.domains.get(&domain.name));
            let theirs = theirs.map(AsRef::as_ref);
            let (trusted, wrong) = read_domain(domain, theirs, before.map(AsRef::as_ref));
            notes.extend(
                wrong.into_iter().map(|what| {
                    format!("trust domain {} ({}): {what}", domain.name, domain.origin)
                }),
            );
            if let Some(trusted) = trusted {
                known.insert(domain.name.clone(), Arc::new(trusted));
            }
        }
        self.known.clone_from(&known);
        if let Some(provided) = provided {
            // Of a domain that has a document, the operator has said on which ground it is
            // believed: also that it is not, by taking a bundle away.
            let declared = |name: &TrustDomain| domains.iter().any(|domain| domain.name == *name);
            let theirs = provided.domains.iter().filter(|(name, _)| !declared(name));
            known.extend(theirs.map(|(name, trusted)| (name.clone(), trusted.clone())));
            notes.extend(provided.note.clone());
            self.last.own.clone_from(&provided.own);
        }
        let own = match self.own.as_ref().map(|files| read_own(files, self.usage)) {
            Some(Ok(own)) => Some(Arc::new(own)),
            Some(Err(what)) => {
                notes.push(what);
                self.last.own.clone()
            }
            None => self.last.own.clone(),
        };
        self.last = Material {
            own,
            trust: Arc::new(Trust::new(known)),
            notes,
        };
        self.last.clone()
    }

    /// Reads, and reads again when a file or the list of domains changed, until `stop`.
    pub async fn watch(
        mut self,
        mut domains: watch::Receiver<Arc<[Arc<TrustDomainSettings>]>>,
        published: watch::Sender<Arc<Material>>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        // Before a policy is in force nobody knows which domains there are.
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            first = domains.changed() => first?,
        }
        domains.mark_changed();
        let mut provider = self.provider.clone();
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = None;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                Ok(()) = domains.changed() => {}
                () = told(&mut provider) => seen = None,
                _ = tick.tick() => {}
            }
            let wanted = domains.borrow_and_update().clone();
            let (source, sight, material) = tokio::task::spawn_blocking(move || {
                let sight = (Sight::of(&self.paths(&wanted)), wanted);
                let material = (seen.as_ref() != Some(&sight)).then(|| self.read(&sight.1));
                (self, sight, material)
            })
            .await?;
            (self, seen) = (source, Some(sight));
            let Some(material) = material else { continue };
            for note in &material.notes {
                warn!("{note}");
            }
            info!(
                domains = material.trust.domains().len(),
                own = material.own.as_ref().map(|own| own.svid.id().to_string()),
                "identity material was read"
            );
            published.send_replace(Arc::new(material));
        }
    }

    fn paths(&self, domains: &[Arc<TrustDomainSettings>]) -> Vec<PathBuf> {
        let own = self.own.iter();
        let mut paths: Vec<_> = own
            .flat_map(|files| [files.certificate.clone(), files.key.clone()])
            .collect();
        for domain in domains {
            if let BundleSource::File(path) = &domain.bundle {
                paths.push(path.clone());
            }
            paths.extend(domain.revoked_file.clone());
        }
        paths
    }
}

/// Waits until the provider has said something; for ever where there is none.
async fn told(provider: &mut Option<ProvidedWatch>) {
    if let Some(provider) = provider
        && provider.changed().await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}

/// A channel for what a source reads.
pub fn channel() -> (watch::Sender<Arc<Material>>, MaterialWatch) {
    watch::channel(Arc::default())
}

/// What shows that files are not what they were.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sight(Vec<Option<FileSight>>);

/// Device, inode, modification in seconds and nanoseconds, length.
type FileSight = (u64, u64, i64, i64, u64);

impl Sight {
    pub(crate) fn of(paths: &[impl AsRef<Path>]) -> Self {
        let look = |path: &_| {
            let file = fs::metadata(AsRef::<Path>::as_ref(path)).ok()?;
            Some((
                file.dev(),
                file.ino(),
                file.mtime(),
                file.mtime_nsec(),
                file.len(),
            ))
        };
        Self(paths.iter().map(look).collect())
    }
}

/// What is believed of a domain, if anything, and what is wrong. `provided`: what an identity
/// provider says of it.
fn read_domain(
    domain: &TrustDomainSettings,
    provided: Option<&Trusted>,
    before: Option<&Trusted>,
) -> (Option<Trusted>, Vec<String>) {
    let mut wrong = Vec::new();
    let mut revoked = Revoked::of(domain.revoked.iter().cloned());
    let mut unknown_revoked = None;
    let bundle = match &domain.bundle {
        BundleSource::Provider => {
            let Some(theirs) = provided else {
                let what = "it names no bundle, and there is none from an identity provider";
                wrong.push(format!("{what}: nobody of it is believed"));
                return (None, wrong);
            };
            revoked.provided = theirs.revoked.file.clone();
            unknown_revoked.clone_from(&theirs.unknown_revoked);
            Ok(theirs.bundle.clone())
        }
        BundleSource::Inline(text) => Bundle::from_pem(text.as_bytes()).map_err(|e| e.to_string()),
        BundleSource::File(path) => match read_file(path) {
            Ok(bytes) => Bundle::from_pem(&bytes)
                .map_err(|e| format!("the bundle {} cannot be used: {e}", path.display())),
            Err(error) => {
                let what = "nobody of it is believed until it is there";
                let path = path.display();
                wrong.push(format!(
                    "the bundle {path} cannot be read ({error}): {what}"
                ));
                return (None, wrong);
            }
        },
    };
    let bundle = match (bundle, before) {
        (Ok(bundle), _) => bundle,
        (Err(what), Some(before)) => {
            wrong.push(format!("{what}; the one from before is used"));
            before.bundle.clone()
        }
        (Err(what), None) => {
            wrong.push(what);
            return (None, wrong);
        }
    };
    if let Some(path) = &domain.revoked_file {
        let read = read_file(path)
            .map_err(|e| e.to_string())
            .and_then(|bytes| Revoked::read(&bytes).map_err(|e| e.to_string()));
        match (read, before) {
            (Ok(list), _) => revoked.file = Arc::new(list),
            (Err(what), Some(before)) if before.unknown_revoked.is_none() => {
                let path = path.display();
                wrong.push(format!("{path}: {what}; the list from before is used"));
                revoked.file = before.revoked.file.clone();
            }
            (Err(what), _) => {
                let what = format!("{}: {what}", path.display());
                wrong.push(format!(
                    "{what}; nobody of it is believed until it is there"
                ));
                unknown_revoked = Some(what);
            }
        }
    }
    let trusted = Trusted {
        bundle,
        revoked,
        unknown_revoked,
    };
    (Some(trusted), wrong)
}

/// Reads an own SVID.
pub fn read_own(files: &SvidFiles, usage: Usage) -> Result<OwnSvid, String> {
    let certificate = files.certificate.display();
    let bytes = read_file(&files.certificate)
        .map_err(|error| format!("the certificate {certificate} cannot be read: {error}"))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let chain = chain.map_err(|error| format!("{certificate} is not PEM: {error}"))?;
    let key = files.key.display();
    let bytes =
        read_file(&files.key).map_err(|error| format!("the key {key} cannot be read: {error}"))?;
    let key = PrivateKeyDer::from_pem_slice(&bytes)
        .map_err(|error| format!("{key} has no private key in PEM ({error})"))?;
    OwnSvid::new(chain, key, usage).map_err(|error| {
        format!(
            "the SVID {certificate} cannot be used: {}",
            chain_of(&error)
        )
    })
}

fn chain_of(error: &(dyn std::error::Error + 'static)) -> String {
    chain(error)
}

/// Reads certificates in PEM or one in DER.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = read_file(path).map_err(|error| format!("{}: {error}", path.display()))?;
    if bytes.first() == Some(&0x30) && std::str::from_utf8(&bytes).is_err() {
        return Ok(vec![bytes.into()]);
    }
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    chain.map_err(|error| format!("{} is not PEM: {error}", path.display()))
}

fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    let size = fs::metadata(path)?.len();
    if size > LARGEST {
        return Err(std::io::Error::other(format!(
            "{size} bytes, where at most {LARGEST} are read"
        )));
    }
    fs::read(path)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        identity::{
            fixtures::{Ca, ca_params, leaf_params},
            serial::Serial,
            svid::Svid,
        },
        policy::model::Origin,
    };

    fn settings(folder: &Path) -> Vec<Arc<TrustDomainSettings>> {
        vec![Arc::new(TrustDomainSettings {
            name: "example.org".parse().unwrap(),
            origin: Origin {
                file: "t.yaml".into(),
                line: 1,
                column: 1,
            },
            bundle: BundleSource::File(folder.join("bundle.pem")),
            revoked: ["01".parse().unwrap()].into(),
            revoked_file: Some(folder.join("revoked")),
        })]
    }

    fn pem(certificate: &CertificateDer<'_>) -> String {
        use pkcs8::der::pem;
        pem::encode_string("CERTIFICATE", pem::LineEnding::LF, certificate).unwrap()
    }

    #[test]
    fn what_goes_missing_and_what_goes_bad() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let root = Ca::root(ca_params("root"));
        let (leaf, _) = root.issue(&leaf_params(&["spiffe://example.org/web"]));
        let chain = [leaf];
        let domains = settings(path);
        let mut source = FileSource::new(None, Usage::Server);
        let mut code = || {
            let now = rustls_pki_types::UnixTime::now();
            let material = source.read(&domains);
            let result = material.trust.verify(&chain, Usage::Client, now);
            (
                result.map_or_else(|e| e.code(), |_| "good"),
                material.notes.len(),
            )
        };
        assert_eq!(code(), ("unknown-domain", 1));
        fs::write(path.join("bundle.pem"), pem(&root.certificate)).unwrap();
        // Who says that there is a list waits for it.
        assert_eq!(code(), ("revocation-list", 1));
        fs::write(path.join("revoked"), "02\n").unwrap();
        assert_eq!(code(), ("good", 0));
        fs::write(path.join("bundle.pem"), "-----BEGIN CERT").unwrap();
        assert_eq!(code(), ("good", 1));
        fs::write(path.join("bundle.pem"), pem(&root.certificate)).unwrap();
        fs::write(path.join("revoked"), "0abc\n").unwrap();
        assert_eq!(code(), ("revoked", 0));
        // Taking the list away does not forgive.
        fs::remove_file(path.join("revoked")).unwrap();
        assert_eq!(code(), ("revoked", 1));
        fs::write(path.join("revoked"), "").unwrap();
        assert_eq!(code(), ("good", 0));
        fs::remove_file(path.join("bundle.pem")).unwrap();
        assert_eq!(code(), ("unknown-domain", 1));
    }

    #[test]
    fn a_document_stands_before_what_a_provider_says() {
        use crate::identity::workload_api::{
            client::{self, Provided},
            memory::Memory,
        };
        let folder = tempfile::tempdir().unwrap();
        let (declared, provided) = (Ca::root(ca_params("one")), Ca::root(ca_params("two")));
        fs::write(folder.path().join("bundle.pem"), pem(&declared.certificate)).unwrap();
        fs::write(folder.path().join("revoked"), "").unwrap();
        let trusted = |root: &Ca| {
            Arc::new(Trusted {
                bundle: Bundle::from_der(vec![root.certificate.clone()]).unwrap(),
                ..Trusted::default()
            })
        };
        let (sender, receiver) = client::channel(&Memory::new(folder.path()));
        let mut source = FileSource::of_provider(receiver, Usage::Server);
        let domains = settings(folder.path());
        assert!(source.read(&domains).own.is_none());
        let (leaf, key) = provided.issue(&leaf_params(&["spiffe://example.net/node"]));
        let key = PrivateKeyDer::Pkcs8(key.serialized_der().to_vec().into());
        let own = OwnSvid::new(vec![leaf], key, Usage::Server).unwrap();
        let domain = |name: &str| name.parse::<TrustDomain>().unwrap();
        sender.send_replace(Arc::new(Provided {
            own: Some(Arc::new(own)),
            domains: [
                (domain("example.org"), trusted(&provided)),
                (domain("example.net"), trusted(&provided)),
            ]
            .into(),
            note: Some("late".into()),
            ..Provided::default()
        }));
        let material = source.read(&domains);
        assert!(material.own.is_some());
        assert_eq!(material.notes, ["late"]);
        let known = material.trust.domains();
        assert_eq!(known.len(), 2);
        assert_eq!(
            known[&domain("example.org")].bundle,
            trusted(&declared).bundle
        );
        // A bundle that was taken away is not that of the provider.
        fs::remove_file(folder.path().join("bundle.pem")).unwrap();
        let known = source.read(&domains).trust;
        assert!(!known.domains().contains_key(&domain("example.org")));
        sender.send_replace(Arc::default());
        let material = source.read(&domains);
        assert!(material.own.is_none() && material.trust.domains().is_empty());
    }

    #[test]
    fn what_a_document_revokes_of_a_provided_domain() {
        use crate::identity::workload_api::{
            client::{self, Provided},
            memory::Memory,
        };
        let folder = tempfile::tempdir().unwrap();
        let root = Ca::root(ca_params("root"));
        let (leaf, _) = root.issue(&leaf_params(&["spiffe://example.org/web"]));
        let chain = [leaf];
        let serial = Svid::parse(&chain, Usage::Client).unwrap().serial().clone();
        let document = |revoked: BTreeSet<Serial>, revoked_file| {
            let mut domains = settings(folder.path());
            let domain = Arc::get_mut(&mut domains[0]).unwrap();
            domain.bundle = BundleSource::Provider;
            (domain.revoked, domain.revoked_file) = (revoked, revoked_file);
            domains
        };
        let code = |source: &mut FileSource, domains: &[Arc<TrustDomainSettings>]| {
            let material = source.read(domains);
            let now = rustls_pki_types::UnixTime::now();
            let result = material.trust.verify(&chain, Usage::Client, now);
            (
                result.map_or_else(|e| e.code(), |_| "good"),
                material.notes.len(),
            )
        };
        let listed = document([serial.clone()].into(), None);
        let none = document(BTreeSet::new(), None);
        let mut alone = FileSource::new(None, Usage::Server);
        assert_eq!(code(&mut alone, &none), ("unknown-domain", 1));

        let (sender, receiver) = client::channel(&Memory::new(folder.path()));
        let mut source = FileSource::of_provider(receiver, Usage::Server);
        assert_eq!(code(&mut source, &none), ("unknown-domain", 1));
        let provide = |revoked: &str, unknown_revoked: Option<&str>| {
            let mut theirs = Revoked::default();
            theirs.file = Arc::new(Revoked::read(revoked.as_bytes()).unwrap());
            let trusted = Trusted {
                bundle: Bundle::from_der(vec![root.certificate.clone()]).unwrap(),
                revoked: theirs,
                unknown_revoked: unknown_revoked.map(str::to_owned),
            };
            sender.send_replace(Arc::new(Provided {
                domains: [("example.org".parse().unwrap(), Arc::new(trusted))].into(),
                ..Provided::default()
            }));
        };
        provide("", None);
        assert_eq!(code(&mut source, &none), ("good", 0));
        assert_eq!(code(&mut source, &listed), ("revoked", 0));
        let file = folder.path().join("revoked");
        fs::write(&file, format!("{serial}\n")).unwrap();
        let in_file = document(BTreeSet::new(), Some(file));
        assert_eq!(code(&mut source, &in_file), ("revoked", 0));
        // What the provider revokes stays revoked beside it.
        provide(&format!("{serial}\n"), None);
        assert_eq!(code(&mut source, &none), ("revoked", 0));
        provide("", Some("it has run out"));
        assert_eq!(code(&mut source, &none), ("revocation-list", 0));
    }

    #[test]
    fn a_key_that_does_not_fit_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let files = SvidFiles {
            certificate: folder.path().join("svid.pem"),
            key: folder.path().join("svid.key"),
        };
        let root = Ca::root(ca_params("root"));
        let issue = || root.issue(&leaf_params(&["spiffe://example.org/node/a"]));
        let ((one, one_key), (other, other_key)) = (issue(), issue());
        let write = |certificate: &CertificateDer<'_>, key: &rcgen::KeyPair| {
            fs::write(&files.certificate, pem(certificate)).unwrap();
            fs::write(&files.key, key.serialize_pem()).unwrap();
        };
        let mut source = FileSource::new(Some(files.clone()), Usage::Server);
        write(&one, &other_key);
        let none = source.read(&[]);
        assert!(none.own.is_none() && none.notes.len() == 1, "{none:?}");
        write(&one, &one_key);
        assert!(source.read(&[]).own.is_some());
        // Half of a rotation: the pair from before serves on.
        write(&other, &one_key);
        let half = source.read(&[]);
        assert!(half.own.is_some() && half.notes.len() == 1);
        write(&other, &other_key);
        assert!(source.read(&[]).notes.is_empty());
    }
}
