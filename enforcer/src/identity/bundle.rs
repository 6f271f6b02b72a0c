//! What makes a trust domain believable: its roots, and what it has withdrawn.

use std::{collections::BTreeSet, sync::Arc};

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor, pem::PemObject};
use webpki::{CertRevocationList, OwnedCertRevocationList, anchor_from_trusted_cert};

use super::{serial::Serial, svid};

/// Roots of a bundle: enough for a rotation in every corner of a company.
const MOST_ROOTS: usize = 64;

/// What is wrong with a bundle or a list of revoked certificates.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// Not PEM.
    #[error("it is not PEM ({0}): write certificates as -----BEGIN CERTIFICATE-----")]
    Pem(String),
    /// Nothing in it.
    #[error("there is no certificate in it: write the roots as -----BEGIN CERTIFICATE-----")]
    Empty,
    /// Too much in it.
    #[error("{0} certificates, where at most {MOST_ROOTS} are possible: leave out old roots")]
    TooMany(usize),
    /// Not a root.
    #[error(
        "its certificate {number} cannot be a root ({reason}): write certificates of authorities"
    )]
    Root {
        /// Counted from 1.
        number: usize,
        /// What is wrong.
        reason: String,
    },
    /// Not a list of revoked certificates.
    #[error(
        "it is no list of revoked certificates ({0}): write a CRL in PEM, or serial numbers in hexadecimal, one a line"
    )]
    Revoked(String),
}

/// A root, and when it is valid.
#[derive(Clone, Debug)]
struct Root {
    anchor: TrustAnchor<'static>,
    not_before: i64,
    not_after: i64,
}

/// Roots of a trust domain.
#[derive(Clone, Debug, Default)]
pub struct Bundle {
    roots: Vec<Root>,
    certificates: Vec<CertificateDer<'static>>,
}

impl PartialEq for Bundle {
    fn eq(&self, other: &Self) -> bool {
        self.certificates == other.certificates
    }
}

impl Bundle {
    /// Reads a bundle of certificates in PEM.
    pub fn from_pem(text: &[u8]) -> Result<Self, BundleError> {
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
        let certificates = certificates.map_err(|e| BundleError::Pem(e.to_string()))?;
        Self::from_der(certificates)
    }

    /// Of these certificates.
    pub fn from_der(certificates: Vec<CertificateDer<'static>>) -> Result<Self, BundleError> {
        match certificates.len() {
            0 => return Err(BundleError::Empty),
            found if found > MOST_ROOTS => return Err(BundleError::TooMany(found)),
            _ => {}
        }
        let mut roots = Vec::with_capacity(certificates.len());
        for (number, certificate) in (1..).zip(&certificates) {
            let wrong = |reason: String| BundleError::Root { number, reason };
            let parsed = svid::parse(certificate).map_err(|e| wrong(e.to_string()))?;
            let constraints = parsed.basic_constraints();
            let constraints = constraints.map_err(|e| wrong(e.to_string()))?;
            if !constraints.is_some_and(|constraints| constraints.value.ca) {
                return Err(wrong("it is not that of an authority".to_owned()));
            }
            let anchor = anchor_from_trusted_cert(certificate).map_err(|e| wrong(e.to_string()))?;
            roots.push(Root {
                anchor: anchor.to_owned(),
                not_before: parsed.validity().not_before.timestamp(),
                not_after: parsed.validity().not_after.timestamp(),
            });
        }
        Ok(Self {
            roots,
            certificates,
        })
    }

    /// The roots that are valid at this second of the Unix epoch.
    pub fn anchors(&self, now: i64) -> Vec<TrustAnchor<'static>> {
        let valid = |root: &&Root| (root.not_before..=root.not_after).contains(&now);
        let valid = self.roots.iter().filter(valid);
        valid.map(|root| root.anchor.clone()).collect()
    }

    /// All of its certificates.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }
}

/// What a trust domain has withdrawn.
#[derive(Debug, Default)]
pub struct Revoked {
    serials: BTreeSet<Serial>,
    /// What a file says, which is read apart.
    pub file: Arc<RevocationFile>,
    /// What the identity provider says.
    pub provided: Arc<RevocationFile>,
}

/// What a file of revoked certificates says.
#[derive(Debug, Default)]
pub struct RevocationFile {
    serials: BTreeSet<Serial>,
    lists: Vec<CertRevocationList<'static>>,
}

impl Revoked {
    /// These serial numbers.
    pub fn of(serials: impl IntoIterator<Item = Serial>) -> Self {
        Self {
            serials: serials.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Reads a file: CRLs in PEM or one in DER, or serial numbers, one a line, with comments
    /// behind `#`.
    pub fn read(bytes: &[u8]) -> Result<RevocationFile, BundleError> {
        const BEGIN: &[u8] = b"-----BEGIN X509 CRL-----";
        let wrong = |e: &dyn std::fmt::Display| BundleError::Revoked(e.to_string());
        let mut file = RevocationFile::default();
        if bytes.windows(BEGIN.len()).any(|window| window == BEGIN) {
            for list in CertificateRevocationListDer::pem_slice_iter(bytes) {
                let list = list.map_err(|e| wrong(&e))?;
                let list = OwnedCertRevocationList::from_der(&list).map_err(|e| wrong(&e))?;
                file.lists.push(list.into());
            }
            return Ok(file);
        }
        // DER begins with a SEQUENCE of some length; text does not.
        if bytes.first() == Some(&0x30) && std::str::from_utf8(bytes).is_err() {
            let list = OwnedCertRevocationList::from_der(bytes).map_err(|e| wrong(&e))?;
            file.lists.push(list.into());
            return Ok(file);
        }
        let text = std::str::from_utf8(bytes).map_err(|e| wrong(&e))?;
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if !line.is_empty() {
                file.serials.insert(line.parse().map_err(|e| wrong(&e))?);
            }
        }
        Ok(file)
    }

    /// Of CRLs in DER.
    pub fn lists_of(lists: &[Vec<u8>]) -> Result<RevocationFile, BundleError> {
        let read = |list: &Vec<u8>| {
            let list = OwnedCertRevocationList::from_der(list);
            list.map(Into::into)
                .map_err(|e| BundleError::Revoked(e.to_string()))
        };
        Ok(RevocationFile {
            serials: BTreeSet::new(),
            lists: lists.iter().map(read).collect::<Result<_, _>>()?,
        })
    }

    /// Whether a serial number is listed by itself.
    pub fn has(&self, serial: &Serial) -> bool {
        let lists = [&self.serials, &self.file.serials, &self.provided.serials];
        lists.iter().any(|serials| serials.contains(serial))
    }

    /// The CRLs.
    pub fn lists(&self) -> Vec<&CertRevocationList<'static>> {
        self.file.lists.iter().chain(&self.provided.lists).collect()
    }
}
