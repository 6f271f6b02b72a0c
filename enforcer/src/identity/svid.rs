//! An X.509-SVID, as far as it says so itself (X509-SVID, 2 to 4). Whether it is true is the
//! question of [`super::trust`].

use rustls_pki_types::CertificateDer;
use x509_parser::{
    certificate::X509Certificate,
    extensions::GeneralName,
    prelude::{FromDer as _, ParsedExtension},
};

use super::{refusal::Refusal, serial::Serial, spiffe_id::SpiffeId};
use crate::observe::clock::rfc3339;

/// Certificates that are looked at, the leaf included: two levels of authorities below the root
/// more than most have, and few enough to be cheap.
pub const LONGEST_CHAIN: usize = 5;

/// Which side of TLS shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// The one that connects.
    Client,
    /// The one that listens.
    Server,
}

/// A leaf certificate in the form of an X.509-SVID, with the chain that was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Svid {
    id: SpiffeId,
    serial: Serial,
    not_before: i64,
    not_after: i64,
    chain: Vec<CertificateDer<'static>>,
}

impl Svid {
    /// Reads a chain, the leaf first, for use at a side of TLS.
    pub fn parse(chain: &[CertificateDer<'_>], usage: Usage) -> Result<Self, Refusal> {
        let leaf = chain.first().ok_or(Refusal::NoCertificate)?;
        if chain.len() > LONGEST_CHAIN {
            return Err(Refusal::ChainTooLong {
                found: chain.len(),
                most: LONGEST_CHAIN,
            });
        }
        let certificate = parse(leaf)?;
        let id = spiffe_id(&certificate)?;
        check_leaf(&certificate)?;
        check_extended_usage(&certificate, usage)?;
        for issuer in &chain[1..] {
            check_issuer(&parse(issuer)?)?;
        }
        let validity = certificate.validity();
        Ok(Self {
            id,
            serial: Serial::from_bytes(certificate.raw_serial()),
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
            chain: chain.iter().map(|c| c.clone().into_owned()).collect(),
        })
    }

    /// Who.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The leaf's serial number.
    pub fn serial(&self) -> &Serial {
        &self.serial
    }

    /// Second of the Unix epoch from which it is valid.
    pub fn not_before(&self) -> i64 {
        self.not_before
    }

    /// Second of the Unix epoch until which it is valid.
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// The certificates as they were shown, the leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// Whether the leaf is valid at this second of the Unix epoch.
    pub fn check_time(&self, now: i64) -> Result<(), Refusal> {
        if now < self.not_before {
            return Err(Refusal::NotYetValid(moment(self.not_before)));
        }
        if now > self.not_after {
            return Err(Refusal::Expired(moment(self.not_after)));
        }
        Ok(())
    }
}

/// A second of the Unix epoch, as RFC 3339 in UTC.
pub fn moment(second: i64) -> String {
    let moment = time::OffsetDateTime::from_unix_timestamp(second);
    moment.map_or_else(|_| format!("second {second}"), rfc3339)
}

pub(super) fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Refusal> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(Refusal::Malformed("bytes follow it".to_owned())),
        Err(error) => Err(malformed(error)),
    }
}

fn malformed(error: impl std::fmt::Display) -> Refusal {
    Refusal::Malformed(error.to_string().chars().take(120).collect())
}

/// Exactly one URI, and that a SPIFFE ID with a path (X509-SVID, 2).
fn spiffe_id(certificate: &X509Certificate<'_>) -> Result<SpiffeId, Refusal> {
    let names = certificate
        .subject_alternative_name()
        .map_err(malformed)?
        .ok_or(Refusal::NoUri)?;
    let uris: Vec<&str> = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    if names
        .value
        .general_names
        .iter()
        .any(|name| matches!(name, GeneralName::Invalid(..)))
    {
        return Err(Refusal::Malformed(
            "one of its names is not readable".into(),
        ));
    }
    match uris[..] {
        [] => Err(Refusal::NoUri),
        [uri] => uri.parse().map_err(Refusal::BadId),
        _ => Err(Refusal::ManyUris(uris.len())),
    }
}

/// A leaf (X509-SVID, 4.1 and 4.3).
fn check_leaf(certificate: &X509Certificate<'_>) -> Result<(), Refusal> {
    let constraints = certificate.basic_constraints().map_err(malformed)?;
    if constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(Refusal::Authority);
    }
    let usage = certificate.key_usage().map_err(malformed)?;
    let usage = usage.ok_or(Refusal::KeyUsage("is missing"))?;
    if usage.value.key_cert_sign() {
        return Err(Refusal::KeyUsage("has keyCertSign"));
    }
    if usage.value.crl_sign() {
        return Err(Refusal::KeyUsage("has cRLSign"));
    }
    if !usage.value.digital_signature() {
        return Err(Refusal::KeyUsage("has no digitalSignature"));
    }
    Ok(())
}

/// Where it is said what a leaf is for, this must be among it (X509-SVID, 4.4).
fn check_extended_usage(certificate: &X509Certificate<'_>, usage: Usage) -> Result<(), Refusal> {
    let Some(extended) = certificate.extended_key_usage().map_err(malformed)? else {
        return Ok(());
    };
    let extended = extended.value;
    let (has, name) = match usage {
        Usage::Client => (extended.client_auth, "clientAuth"),
        Usage::Server => (extended.server_auth, "serverAuth"),
    };
    if has || extended.any {
        Ok(())
    } else {
        Err(Refusal::ExtendedKeyUsage(name))
    }
}

/// An authority: what webpki leaves out is the usage of its key (X509-SVID, 4.3).
fn check_issuer(certificate: &X509Certificate<'_>) -> Result<(), Refusal> {
    let usage = certificate.key_usage().map_err(malformed)?;
    if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err(Refusal::NotAnAuthority);
    }
    let readable = |extension: &x509_parser::extensions::X509Extension<'_>| {
        !matches!(
            extension.parsed_extension(),
            ParsedExtension::ParseError { .. }
        )
    };
    if certificate.extensions().iter().all(readable) {
        Ok(())
    } else {
        Err(Refusal::Malformed(
            "an extension of an issuer is not readable".into(),
        ))
    }
}
