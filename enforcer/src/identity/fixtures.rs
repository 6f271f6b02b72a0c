//! Certificates for tests, good and bad.

use std::{collections::BTreeMap, sync::Arc};

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};

use super::{
    bundle::{Bundle, Revoked},
    trust::{Trust, Trusted},
};

/// An authority.
pub struct Ca {
    pub key: KeyPair,
    pub params: CertificateParams,
    pub certificate: CertificateDer<'static>,
}

/// Parameters of an authority.
pub fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = OffsetDateTime::now_utc() - Duration::hours(1);
    params.not_after = OffsetDateTime::now_utc() + Duration::hours(24);
    params
}

/// Parameters of a good leaf.
pub fn leaf_params(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names = uris
        .iter()
        .map(|uri| SanType::URI((*uri).try_into().unwrap()))
        .collect();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ClientAuth,
        ExtendedKeyUsagePurpose::ServerAuth,
    ];
    params.not_before = OffsetDateTime::now_utc() - Duration::minutes(5);
    params.not_after = OffsetDateTime::now_utc() + Duration::hours(1);
    params.serial_number = Some(SerialNumber::from_slice(&[0x0a, 0xbc]));
    params
}

impl Ca {
    pub fn root(params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self {
            key,
            params,
            certificate,
        }
    }

    pub fn below(&self, params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(&key, &issuer).unwrap().der().clone();
        Self {
            key,
            params,
            certificate,
        }
    }

    /// A leaf and its key.
    pub fn issue(&self, params: &CertificateParams) -> (CertificateDer<'static>, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        (params.signed_by(&key, &issuer).unwrap().der().clone(), key)
    }
}

/// A critical name constraint that permits this URI host only; rcgen has none of that kind.
pub fn uri_constraint(host: &str) -> CustomExtension {
    let wrap = |tag: u8, inner: Vec<u8>| {
        let mut outer = vec![tag, u8::try_from(inner.len()).unwrap()];
        outer.extend(inner);
        outer
    };
    let name = wrap(0x86, host.as_bytes().to_vec());
    let subtrees = wrap(0xa0, wrap(0x30, name));
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], wrap(0x30, subtrees));
    extension.set_criticality(true);
    extension
}

/// Trust in these roots for one domain.
pub fn trust(domain: &str, roots: &[&Ca], revoked: Revoked) -> Trust {
    let roots = roots.iter().map(|ca| ca.certificate.clone()).collect();
    let trusted = Trusted {
        bundle: Bundle::from_der(roots).unwrap(),
        revoked,
        unknown_revoked: None,
    };
    Trust::new(BTreeMap::from([(
        domain.parse().unwrap(),
        Arc::new(trusted),
    )]))
}
