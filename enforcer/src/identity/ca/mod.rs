//! The embedded certificate authority: a folder with a root of a trust domain, its key, and the
//! bundle that others believe.
//!
//! | file | |
//! |---|---|
//! | `root.pem`, `root.key` | the root that signs |
//! | `next.pem`, `next.key` | the one that will, between the two steps of a rotation |
//! | `bundle.pem` | every root whose certificates are believed |

pub mod key_file;
mod rotation;

use std::{
    fs::{self, DirBuilder},
    io,
    net::IpAddr,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;

pub use self::{key_file::Passphrase, rotation::Rotation};
use super::{
    refusal::Refusal,
    spiffe_id::{SpiffeId, TrustDomain},
    svid,
};
use crate::state::atomic_file;

/// Certificates are valid a little before they are made: clocks differ.
const BACKDATED: time::Duration = time::Duration::seconds(30);
/// How long a leaf is valid unless it is said.
pub const LEAF_LIFETIME: Duration = Duration::from_hours(1);
/// The shortest that the Workload API issues: time enough to renew it.
pub const SHORTEST_LEAF: Duration = Duration::from_secs(4);
/// Where an authority is unless it is said.
pub const DEFAULT_FOLDER: &str = "/etc/enforcer/ca";
/// How long it may be.
pub const LONGEST_LEAF: Duration = Duration::from_hours(24 * 7);
/// How long a root is valid unless it is said.
pub const ROOT_LIFETIME: Duration = Duration::from_hours(24 * 365);

const ROOT: &str = "root";
const NEXT: &str = "next";
const BUNDLE: &str = "bundle.pem";

/// Why the authority did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Input or output.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// At which path.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// There is one already.
    #[error("there is an authority in {} already: give another --dir, or `enforcer ca rotate` it", .0.display())]
    Exists(PathBuf),
    /// There is none.
    #[error("there is no authority in {}: make one with `enforcer ca init`", .0.display())]
    Missing(PathBuf),
    /// A file is not what it should be.
    #[error("{} is damaged ({reason}): restore it", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A key that others can read.
    #[error("others than its owner can read {} (mode {mode:o}): chmod 600 it, and replace the key if somebody did", path.display())]
    Exposed {
        /// The key's file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The key is encrypted.
    #[error("the key {} is encrypted: give --passphrase-file", .0.display())]
    Encrypted(PathBuf),
    /// It cannot be decrypted.
    #[error("the key {} cannot be decrypted: is it the right passphrase?", .0.display())]
    Passphrase(PathBuf),
    /// Nothing in it.
    #[error("the passphrase in {} is empty: write one into the first line", .0.display())]
    EmptyPassphrase(PathBuf),
    /// Somebody else's name.
    #[error(
        "{id} is not in the trust domain {domain} of this authority: issue it where it belongs"
    )]
    ForeignId {
        /// What was asked for.
        id: Box<SpiffeId>,
        /// What it may issue.
        domain: TrustDomain,
    },
    /// Too long.
    #[error("a lifetime of {asked} s, where at most {} s are issued: leaf certificates are short-lived so that a stolen one is soon worthless", LONGEST_LEAF.as_secs())]
    Lifetime {
        /// Seconds.
        asked: u64,
    },
    /// The root ends too early.
    #[error("the root is valid until {0} only: `enforcer ca rotate` it")]
    RootEnds(String),
    /// A name that cannot be.
    #[error("`{0}` is no DNS name")]
    DnsName(String),
    /// A step that comes before another one.
    #[error("{0}")]
    Order(&'static str),
    /// Cryptography.
    #[error("cannot make the certificate")]
    Certificate(#[from] rcgen::Error),
    /// Randomness.
    #[error("the system gives no random numbers")]
    Random,
}

impl CaError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

/// What a leaf is to have beside its SPIFFE ID.
#[derive(Clone, Debug)]
pub struct Order {
    /// How long it is valid.
    pub lifetime: Duration,
    /// Further names: what clients that know no SPIFFE look for.
    pub dns: Vec<String>,
    /// Addresses, for the same.
    pub addresses: Vec<IpAddr>,
}

impl Default for Order {
    fn default() -> Self {
        Self {
            lifetime: LEAF_LIFETIME,
            dns: Vec::new(),
            addresses: Vec::new(),
        }
    }
}

/// A leaf and its key, in PEM.
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// The key, not encrypted.
    pub key: String,
    /// Until when it is valid.
    pub until: OffsetDateTime,
}

/// An authority that can sign.
pub struct Authority {
    folder: PathBuf,
    certificate: CertificateDer<'static>,
    key: KeyPair,
    domain: TrustDomain,
    until: i64,
}

impl Authority {
    /// Makes a folder with a new root. With a passphrase its key is encrypted.
    pub fn init(
        folder: &Path,
        domain: &TrustDomain,
        lifetime: Duration,
        passphrase: Option<&Passphrase>,
    ) -> Result<Self, CaError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(folder)
            .map_err(CaError::io("make", folder))?;
        if folder.join("root.pem").exists() || folder.join("root.key").exists() {
            return Err(CaError::Exists(folder.to_owned()));
        }
        let pem = make_root(folder, ROOT, domain, lifetime, passphrase)?;
        write_public(&folder.join(BUNDLE), &pem)?;
        Self::open(folder, passphrase)
    }

    /// The authority in a folder.
    pub fn open(folder: &Path, passphrase: Option<&Passphrase>) -> Result<Self, CaError> {
        let path = folder.join("root.pem");
        if !path.exists() {
            return Err(CaError::Missing(folder.to_owned()));
        }
        let certificate = read_certificate(&path)?;
        let damaged = |reason: String| CaError::Damaged {
            path: path.clone(),
            reason,
        };
        let parsed = svid::parse(&certificate).map_err(|e| damaged(e.to_string()))?;
        let domain = domain_of(&parsed)
            .ok_or_else(|| damaged("no trust domain is among its names".into()))?;
        let until = parsed.validity().not_after.timestamp();
        let path = folder.join("root.key");
        let key = key_file::read(&path, passphrase)?;
        // Half of a rotation: what it signs nobody would believe.
        if key.public_key_raw() != &*parsed.public_key().subject_public_key.data {
            return Err(CaError::Damaged {
                path,
                reason: "it is not the key of root.pem".to_owned(),
            });
        }
        Ok(Self {
            folder: folder.to_owned(),
            certificate,
            key,
            domain,
            until,
        })
    }

    /// The trust domain.
    pub fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The root that signs.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Second of the Unix epoch until which the root is valid.
    pub fn until(&self) -> i64 {
        self.until
    }

    /// Issues a leaf.
    pub fn issue(&self, id: &SpiffeId, order: &Order) -> Result<Issued, CaError> {
        if id.domain() != &self.domain {
            return Err(CaError::ForeignId {
                id: Box::new(id.clone()),
                domain: self.domain.clone(),
            });
        }
        if order.lifetime > LONGEST_LEAF || order.lifetime.is_zero() {
            return Err(CaError::Lifetime {
                asked: order.lifetime.as_secs(),
            });
        }
        let now = OffsetDateTime::now_utc();
        let until = now + order.lifetime;
        if until.unix_timestamp() > self.until {
            return Err(CaError::RootEnds(svid::moment(self.until)));
        }
        let mut params = CertificateParams::default();
        // A subject of its own makes the names critical or not; SPIFFE leaves it empty.
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(ia5(&id.to_string())?)];
        for name in &order.dns {
            params.subject_alt_names.push(SanType::DnsName(ia5(name)?));
        }
        let addresses = order.addresses.iter().copied().map(SanType::IpAddress);
        params.subject_alt_names.extend(addresses);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.not_before = now - BACKDATED;
        params.not_after = until;
        params.serial_number = Some(serial()?);
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let issuer = Issuer::from_ca_cert_der(&self.certificate, &self.key)?;
        let certificate = params.signed_by(&key, &issuer)?;
        Ok(Issued {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            until,
        })
    }

    /// The bundle of a folder, in PEM: every root that is believed.
    pub fn bundle(folder: &Path) -> Result<String, CaError> {
        let path = folder.join(BUNDLE);
        if !path.exists() {
            return Err(CaError::Missing(folder.to_owned()));
        }
        fs::read_to_string(&path).map_err(CaError::io("read", &path))
    }

    /// The bundle, in PEM.
    pub fn own_bundle(&self) -> Result<String, CaError> {
        Self::bundle(&self.folder)
    }
}

/// Makes a root with its key in the folder; its certificate in PEM.
fn make_root(
    folder: &Path,
    name: &str,
    domain: &TrustDomain,
    lifetime: Duration,
    passphrase: Option<&Passphrase>,
) -> Result<String, CaError> {
    let key = KeyPair::generate()?;
    let now = OffsetDateTime::now_utc();
    let serial_number = serial()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let subject = &mut params.distinguished_name;
    subject.push(DnType::OrganizationName, "enforcer");
    // Each root has a name of its own, so that a chain leads to the one that signed it.
    let short: String = svid_serial(&serial_number).chars().take(8).collect();
    subject.push(DnType::CommonName, format!("{domain} root {short}"));
    let uri = format!("spiffe://{domain}");
    params.subject_alt_names = vec![SanType::URI(ia5(&uri)?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = now - BACKDATED;
    params.not_after = now + lifetime;
    params.serial_number = Some(serial_number);
    let certificate = params.self_signed(&key)?;
    key_file::write(&folder.join(format!("{name}.key")), &key, passphrase)?;
    write_public(&folder.join(format!("{name}.pem")), &certificate.pem())?;
    Ok(certificate.pem())
}

fn svid_serial(serial: &SerialNumber) -> String {
    super::serial::Serial::from_bytes(&serial.to_bytes()).to_string()
}

fn ia5(text: &str) -> Result<rcgen::string::Ia5String, CaError> {
    text.try_into()
        .map_err(|_| CaError::DnsName(text.to_owned()))
}

/// 127 random bits: nobody guesses it, and it is positive (RFC 5280, 4.1.2.2).
fn serial() -> Result<SerialNumber, CaError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| CaError::Random)?;
    bytes[0] &= 0x7f;
    Ok(SerialNumber::from_slice(&bytes))
}

fn read_certificate(path: &Path) -> Result<CertificateDer<'static>, CaError> {
    let bytes = fs::read(path).map_err(CaError::io("read", path))?;
    CertificateDer::from_pem_slice(&bytes).map_err(|error| CaError::Damaged {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

/// The trust domain among the names of a root.
fn domain_of(certificate: &x509_parser::certificate::X509Certificate<'_>) -> Option<TrustDomain> {
    let names = certificate.subject_alternative_name().ok()??;
    names
        .value
        .general_names
        .iter()
        .find_map(|name| match name {
            GeneralName::URI(uri) => uri.strip_prefix("spiffe://")?.parse().ok(),
            _ => None,
        })
}

/// Replaces a file that everybody may read.
pub fn write_public(path: &Path, text: &str) -> Result<(), CaError> {
    atomic_file::replace(path, text.as_bytes()).map_err(CaError::io("write", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
        .map_err(CaError::io("open to readers", path))
}

/// Writes what was issued, with the bundle, into a folder: `svid.key` (mode 0600), `svid.pem`
/// and `bundle.pem`.
pub fn write_issued(folder: &Path, issued: &Issued, bundle: &str) -> Result<(), CaError> {
    fs::create_dir_all(folder).map_err(CaError::io("make", folder))?;
    let key = folder.join("svid.key");
    // Whoever reads between the two writes finds a key that does not fit, and reads again.
    atomic_file::replace(&key, issued.key.as_bytes()).map_err(CaError::io("write", &key))?;
    write_public(&folder.join("svid.pem"), &issued.certificate)?;
    write_public(&folder.join(BUNDLE), bundle)
}

impl From<Refusal> for CaError {
    fn from(refusal: Refusal) -> Self {
        Self::Damaged {
            path: PathBuf::from(BUNDLE),
            reason: refusal.to_string(),
        }
    }
}

#[cfg(test)]
mod tests;
