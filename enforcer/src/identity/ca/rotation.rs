//! A new root without a moment at which somebody is not believed: first everybody learns of it,
//! then it signs, then the old one is forgotten.

use std::{fs, path::Path, time::Duration};

use rustls_pki_types::{CertificateDer, pem::PemObject};
use time::OffsetDateTime;

use super::{
    Authority, BUNDLE, CaError, NEXT, Passphrase, ROOT, make_root, read_certificate, svid,
    write_public,
};

/// The steps of a rotation, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// A new root is made and believed; the old one signs. Then bring the bundle to everybody.
    Prepare,
    /// The new root signs; the old one is believed until its leaves have ended.
    Activate,
    /// Only the root that signs is believed.
    Retire,
}

impl Authority {
    /// Takes a step of a rotation.
    pub fn rotate(
        folder: &Path,
        step: Rotation,
        lifetime: Duration,
        passphrase: Option<&Passphrase>,
    ) -> Result<(), CaError> {
        let file = |name: &str, kind: &str| folder.join(format!("{name}.{kind}"));
        let next_is_there = file(NEXT, "pem").exists();
        match step {
            Rotation::Prepare => {
                if next_is_there {
                    return Err(CaError::Order(
                        "the next root is there already: bring the bundle to everybody who \
                         verifies, then `enforcer ca rotate --activate`",
                    ));
                }
                // Who cannot open the old key is not the one to make a new one.
                let authority = Self::open(folder, passphrase)?;
                make_root(folder, NEXT, authority.domain(), lifetime, passphrase)?;
            }
            Rotation::Activate => {
                if !next_is_there {
                    return Err(CaError::Order(
                        "no next root is there: `enforcer ca rotate` makes it",
                    ));
                }
                super::key_file::read(&file(NEXT, "key"), passphrase)?;
                let bundle = bundle_with(folder, &[])?;
                write_public(&folder.join(BUNDLE), &bundle)?;
                // A key without its certificate is noticed; the other way round would sign
                // what nobody believes.
                for kind in ["key", "pem"] {
                    let (from, to) = (file(NEXT, kind), file(ROOT, kind));
                    fs::rename(&from, &to).map_err(CaError::io("rename", &from))?;
                }
                return Ok(());
            }
            Rotation::Retire => {
                if next_is_there {
                    return Err(CaError::Order(
                        "the next root does not sign yet: `enforcer ca rotate --activate` first",
                    ));
                }
                let root = file(ROOT, "pem");
                let pem = fs::read_to_string(&root).map_err(CaError::io("read", &root))?;
                return write_public(&folder.join(BUNDLE), &pem);
            }
        }
        let bundle = bundle_with(folder, &[NEXT])?;
        write_public(&folder.join(BUNDLE), &bundle)
    }
}

/// The roots of the bundle that are still valid, and these files' certificates, each once.
fn bundle_with(folder: &Path, names: &[&str]) -> Result<String, CaError> {
    let path = folder.join(BUNDLE);
    let bytes = fs::read(&path).map_err(CaError::io("read", &path))?;
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        let certificate = certificate.map_err(|error| CaError::Damaged {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        certificates.push(certificate);
    }
    for name in [ROOT].iter().chain(names) {
        let certificate = read_certificate(&folder.join(format!("{name}.pem")))?;
        if !certificates.contains(&certificate) {
            certificates.push(certificate);
        }
    }
    let now = OffsetDateTime::now_utc().unix_timestamp();
    let mut pem = String::new();
    for certificate in &certificates {
        let parsed = svid::parse(certificate)?;
        if parsed.validity().not_after.timestamp() >= now {
            pem += &pem_of(certificate, &path)?;
        }
    }
    Ok(pem)
}

/// A certificate in PEM.
fn pem_of(certificate: &CertificateDer<'_>, path: &Path) -> Result<String, CaError> {
    use pkcs8::der::pem;
    pem::encode_string("CERTIFICATE", pem::LineEnding::LF, certificate).map_err(|error| {
        CaError::Damaged {
            path: path.to_owned(),
            reason: error.to_string(),
        }
    })
}
