//! The embedded authority at work: it issues each endpoint's SVID once, renews it after half of
//! its life, and follows `enforcer ca rotate`.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use zeroize::Zeroizing;

use super::WorkloadApiSettings;
use crate::{
    cause::chain,
    identity::{
        binding::BoundPlace,
        bundle::{Bundle, BundleError},
        ca::{Authority, CaError, Order, Passphrase},
        files::Sight,
        serial::Serial,
        spiffe_id::{SpiffeId, TrustDomain},
        svid,
    },
};

/// Between two looks at the authority's files.
const LOOK: Duration = Duration::from_millis(500);

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// The authority.
    #[error("the Workload API cannot issue")]
    Authority(#[from] CaError),
    /// Its bundle.
    #[error("the bundle of the authority cannot be used")]
    Bundle(#[from] BundleError),
    /// What was issued.
    #[error("what the authority issued cannot be read ({0})")]
    Issued(String),
}

/// The roots of the authority.
#[derive(Clone, Debug, PartialEq)]
pub struct Roots {
    /// Its trust domain.
    pub domain: TrustDomain,
    /// Everybody that is believed in it.
    pub bundle: Bundle,
    /// The root that signs.
    pub signer: CertificateDer<'static>,
    /// Second of the Unix epoch until which that is valid.
    pub until: i64,
    /// Why what is in the folder now is not used.
    pub problem: Option<String>,
}

/// An SVID of a workload, with its key.
pub struct WorkloadSvid {
    /// Whose it is.
    pub id: SpiffeId,
    /// Serial number.
    pub serial: Serial,
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    /// Its key: PKCS#8 in DER.
    pub key: Zeroizing<Vec<u8>>,
    /// When the next one is issued.
    pub renew_at: SystemTime,
    /// Until when it is valid.
    until: SystemTime,
    signer: CertificateDer<'static>,
}

/// Why an SVID was issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// The endpoint had none.
    First,
    /// Half of the life of the last one is over.
    Renewal,
    /// Another root signs.
    NewRoot,
}

impl Occasion {
    /// As in metrics and events.
    pub const fn code(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Renewal => "renewal",
            Self::NewRoot => "new-root",
        }
    }
}

/// Issues.
pub struct Issuer {
    settings: WorkloadApiSettings,
    published: watch::Sender<Arc<Roots>>,
    inner: Mutex<Inner>,
}

struct Inner {
    authority: Authority,
    sight: Sight,
    svids: BTreeMap<(BoundPlace, SpiffeId), Arc<WorkloadSvid>>,
}

impl Issuer {
    /// With the authority in its folder. Blocks.
    pub fn open(settings: WorkloadApiSettings) -> Result<Arc<Self>, IssuerError> {
        let sight = Sight::of(&files(&settings));
        let (authority, roots) = read(&settings)?;
        Ok(Arc::new(Self {
            settings,
            published: watch::Sender::new(Arc::new(roots)),
            inner: Mutex::new(Inner {
                authority,
                sight,
                svids: BTreeMap::new(),
            }),
        }))
    }

    /// For whoever follows the roots.
    pub fn watch(&self) -> watch::Receiver<Arc<Roots>> {
        self.published.subscribe()
    }

    /// The SVID of an endpoint, and whether it was issued just now. While a new one cannot be
    /// issued, the old one is used to its end.
    pub fn svid(
        &self,
        at: &BoundPlace,
        id: &SpiffeId,
    ) -> Result<(Arc<WorkloadSvid>, Option<Occasion>), IssuerError> {
        let mut inner = self.lock();
        let now = SystemTime::now();
        inner.svids.retain(|_, svid| svid.until > now);
        let key = (at.clone(), id.clone());
        let signer = self.published.borrow().signer.clone();
        let known = inner.svids.get(&key).cloned();
        let occasion = match &known {
            Some(svid) if svid.signer != signer => Occasion::NewRoot,
            Some(svid) if svid.renew_at <= now => Occasion::Renewal,
            Some(svid) => return Ok((svid.clone(), None)),
            None => Occasion::First,
        };
        match (
            issue(&inner.authority, id, self.settings.lifetime, signer),
            known,
        ) {
            (Ok(svid), _) => {
                let svid = Arc::new(svid);
                inner.svids.insert(key, svid.clone());
                Ok((svid, Some(occasion)))
            }
            (Err(error), Some(known)) => {
                warn!(error = chain(&error), %id, "an SVID cannot be renewed");
                Ok((known, None))
            }
            (Err(error), None) => Err(error),
        }
    }

    /// Follows the folder until `stop`.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                _ = tick.tick() => {}
            }
            let issuer = self.clone();
            tokio::task::spawn_blocking(move || issuer.look()).await?;
        }
    }

    /// Reads the folder if it changed.
    fn look(&self) {
        let sight = Sight::of(&files(&self.settings));
        if self.lock().sight == sight {
            return;
        }
        let read = read(&self.settings);
        let mut inner = self.lock();
        // A file that changes while it is read is another one at the next look.
        inner.sight = sight;
        let before = self.published.borrow().clone();
        let roots = match read {
            Ok((authority, roots)) => {
                inner.authority = authority;
                roots
            }
            Err(error) => Roots {
                problem: Some(format!(
                    "the authority in {} cannot be used, the one from before issues on: {}",
                    self.settings.authority.display(),
                    chain(&error)
                )),
                ..Roots::clone(&before)
            },
        };
        if roots == *before {
            return;
        }
        if let Some(problem) = &roots.problem {
            warn!("{problem}");
        } else {
            info!(
                domain = %roots.domain,
                roots = roots.bundle.certificates().len(),
                "the authority has changed"
            );
        }
        self.published.send_replace(Arc::new(roots));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is complete at each step.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn files(settings: &WorkloadApiSettings) -> Vec<PathBuf> {
    let names = ["root.pem", "root.key", "bundle.pem"];
    names.map(|name| settings.authority.join(name)).to_vec()
}

fn read(settings: &WorkloadApiSettings) -> Result<(Authority, Roots), IssuerError> {
    let passphrase = settings.passphrase_file.as_deref().map(Passphrase::read);
    let authority = Authority::open(&settings.authority, passphrase.transpose()?.as_ref())?;
    let roots = Roots {
        domain: authority.domain().clone(),
        bundle: Bundle::from_pem(authority.own_bundle()?.as_bytes())?,
        signer: authority.certificate().clone(),
        until: authority.until(),
        problem: None,
    };
    Ok((authority, roots))
}

fn issue(
    authority: &Authority,
    id: &SpiffeId,
    lifetime: Duration,
    signer: CertificateDer<'static>,
) -> Result<WorkloadSvid, IssuerError> {
    let now = SystemTime::now();
    let order = Order {
        lifetime,
        ..Order::default()
    };
    let issued = authority.issue(id, &order)?;
    let wrong = |error: &dyn std::fmt::Display| IssuerError::Issued(error.to_string());
    let certificate = CertificateDer::from_pem_slice(issued.certificate.as_bytes());
    let certificate = certificate.map_err(|e| wrong(&e))?;
    let pem = Zeroizing::new(issued.key);
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| wrong(&e))?;
    let serial = {
        let parsed = svid::parse(&certificate).map_err(|e| wrong(&e))?;
        Serial::from_bytes(parsed.raw_serial())
    };
    Ok(WorkloadSvid {
        id: id.clone(),
        serial,
        certificate,
        key: Zeroizing::new(key.secret_der().to_vec()),
        renew_at: now + lifetime / 2,
        until: now + lifetime,
        signer,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::status::PlaceKind,
        compile::image::WorkloadName,
        identity::ca::{ROOT_LIFETIME, Rotation},
    };

    fn place(number: u64) -> BoundPlace {
        BoundPlace {
            workload: WorkloadName {
                namespace: "shop".into(),
                name: "web".into(),
            },
            kind: PlaceKind::Cgroup,
            place: "/web".into(),
            number,
        }
    }

    fn issuer(folder: &std::path::Path, lifetime: Duration) -> Arc<Issuer> {
        let domain = "example.org".parse().unwrap();
        if !folder.join("root.pem").exists() {
            Authority::init(folder, &domain, ROOT_LIFETIME, None).unwrap();
        }
        let settings = WorkloadApiSettings {
            socket: "/nowhere".into(),
            authority: folder.to_owned(),
            passphrase_file: None,
            lifetime,
        };
        Issuer::open(settings).unwrap()
    }

    #[test]
    fn an_endpoint_has_one_svid_until_half_of_its_life() {
        let folder = tempfile::tempdir().unwrap();
        let id = "spiffe://example.org/web".parse().unwrap();
        let issuer = issuer(folder.path(), Duration::from_secs(2));
        let (first, occasion) = issuer.svid(&place(1), &id).unwrap();
        assert_eq!(occasion, Some(Occasion::First));
        let (same, occasion) = issuer.svid(&place(1), &id).unwrap();
        assert_eq!((&same.serial, occasion), (&first.serial, None));
        // The same name at another place is another endpoint.
        let (other, _) = issuer.svid(&place(2), &id).unwrap();
        assert_ne!(other.serial, first.serial);
        std::thread::sleep(Duration::from_millis(1_100));
        let (renewed, occasion) = issuer.svid(&place(1), &id).unwrap();
        // On a machine that stood still for a second longer it has ended.
        assert!(occasion == Some(Occasion::Renewal) || occasion == Some(Occasion::First));
        assert_ne!(renewed.serial, first.serial);
    }

    #[test]
    fn another_root_signs_anew_and_a_broken_one_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let id = "spiffe://example.org/web".parse().unwrap();
        let issuer = issuer(path, Duration::from_hours(1));
        let roots = issuer.watch();
        let (first, _) = issuer.svid(&place(1), &id).unwrap();
        let rotate = |step| Authority::rotate(path, step, ROOT_LIFETIME, None).unwrap();
        rotate(Rotation::Prepare);
        issuer.look();
        assert_eq!(roots.borrow().bundle.certificates().len(), 2);
        assert!(issuer.svid(&place(1), &id).unwrap().1.is_none());

        // Half of the next step: the key is there, its certificate is not.
        let old_key = std::fs::read(path.join("root.key")).unwrap();
        std::fs::copy(path.join("next.key"), path.join("root.key")).unwrap();
        issuer.look();
        assert!(roots.borrow().problem.is_some());
        assert!(issuer.svid(&place(1), &id).unwrap().1.is_none());
        std::fs::write(path.join("root.key"), old_key).unwrap();
        issuer.look();
        assert!(roots.borrow().problem.is_none());

        rotate(Rotation::Activate);
        issuer.look();
        let (second, occasion) = issuer.svid(&place(1), &id).unwrap();
        assert_eq!(occasion, Some(Occasion::NewRoot));
        assert_ne!(second.serial, first.serial);
        rotate(Rotation::Retire);
        issuer.look();
        assert_eq!(roots.borrow().bundle.certificates().len(), 1);
        assert!(issuer.svid(&place(1), &id).unwrap().1.is_none());
    }

    #[test]
    fn nobody_gets_another_domains_name() {
        let folder = tempfile::tempdir().unwrap();
        let issuer = issuer(folder.path(), Duration::from_hours(1));
        let id = "spiffe://example.com/web".parse().unwrap();
        assert!(issuer.svid(&place(1), &id).is_err());
    }
}
