//! A company's authority: certificates of servers, clients and workloads, in files.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// An authority that signs certificates into files of one folder.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: PathBuf,
}

/// Files of a certificate and its key.
#[derive(Clone, Debug)]
pub struct Files {
    /// The certificate.
    pub certificate: PathBuf,
    /// The key.
    pub key: PathBuf,
}

impl Authority {
    /// A new authority, its root in `authority.pem`.
    pub fn new(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        fs::write(
            folder.join("authority.pem"),
            params.self_signed(&key)?.pem(),
        )?;
        Ok(Self {
            issuer: Issuer::new(params, key),
            folder: folder.to_owned(),
        })
    }

    /// The root's certificate.
    pub fn root(&self) -> PathBuf {
        self.folder.join("authority.pem")
    }

    /// A certificate of a server at some addresses.
    pub fn server(&self, name: &str, addresses: &[IpAddr]) -> Result<Files> {
        let addresses = addresses.iter().map(|ip| SanType::IpAddress(*ip));
        self.issue(name, addresses.collect())
    }

    /// A certificate of a client, by its common name.
    pub fn client(&self, name: &str) -> Result<Files> {
        self.issue(name, Vec::new())
    }

    /// An X.509-SVID.
    pub fn svid(&self, name: &str, id: &str) -> Result<Files> {
        self.issue(name, vec![SanType::URI(id.try_into()?)])
    }

    fn issue(&self, name: &str, names: Vec<SanType>) -> Result<Files> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        let key = KeyPair::generate()?;
        let files = Files {
            certificate: self.folder.join(format!("{name}.pem")),
            key: self.folder.join(format!("{name}.key")),
        };
        fs::write(
            &files.certificate,
            params.signed_by(&key, &self.issuer)?.pem(),
        )?;
        fs::write(&files.key, key.serialize_pem())?;
        Ok(files)
    }
}
