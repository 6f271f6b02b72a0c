//! Who is believed: for each trust domain its bundle and what it has withdrawn. An SVID is
//! verified against the bundle of the domain that is in its SPIFFE ID, and no other.

use std::{collections::BTreeMap, sync::Arc};

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{
    EndEntityCert, Error, ExpirationPolicy, KeyUsage, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};

use super::{
    bundle::{Bundle, Revoked},
    refusal::Refusal,
    serial::Serial,
    spiffe_id::TrustDomain,
    svid::{Svid, Usage},
};

/// A trust domain.
#[derive(Debug, Default)]
pub struct Trusted {
    /// Roots.
    pub bundle: Bundle,
    /// What they signed and do not stand for any more.
    pub revoked: Revoked,
    /// Why the list of what is revoked is not there: then nobody of the domain is believed.
    pub unknown_revoked: Option<String>,
}

/// Every trust domain that is believed.
#[derive(Debug, Default)]
pub struct Trust {
    domains: BTreeMap<TrustDomain, Arc<Trusted>>,
}

impl Trust {
    /// These domains.
    pub fn new(domains: BTreeMap<TrustDomain, Arc<Trusted>>) -> Self {
        Self { domains }
    }

    /// The domains.
    pub fn domains(&self) -> &BTreeMap<TrustDomain, Arc<Trusted>> {
        &self.domains
    }

    /// Verifies a chain, the leaf first, as of `now`.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<Svid, Refusal> {
        let svid = Svid::parse(chain, usage)?;
        self.check(&svid, usage, now)?;
        Ok(svid)
    }

    /// Verifies once more what was read before: bundles and time go on.
    pub fn check(&self, svid: &Svid, usage: Usage, now: UnixTime) -> Result<(), Refusal> {
        let domain = svid.id().domain();
        let trusted = self.domains.get(domain);
        let trusted = trusted.ok_or_else(|| Refusal::UnknownDomain(domain.clone()))?;
        let second = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        svid.check_time(second)?;
        let anchors = trusted.bundle.anchors(second);
        if anchors.is_empty() {
            return Err(Refusal::NoRoot(domain.clone()));
        }
        if let Some(reason) = &trusted.unknown_revoked {
            return Err(Refusal::RevocationList {
                domain: domain.clone(),
                reason: reason.clone(),
            });
        }
        let [leaf, issuers @ ..] = svid.chain() else {
            return Err(Refusal::NoCertificate);
        };
        let leaf = EndEntityCert::try_from(leaf).map_err(|e| refusal(&e, svid))?;
        let lists = trusted.revoked.lists();
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            options
                .with_depth(RevocationCheckDepth::Chain)
                // A list says what is withdrawn; whom it does not speak of, it does not withdraw.
                .with_status_policy(UnknownStatusPolicy::Allow)
                .with_expiration_policy(ExpirationPolicy::Enforce)
                .build()
        });
        let path = leaf
            .verify_for_usage(
                rustls::crypto::aws_lc_rs::default_provider()
                    .signature_verification_algorithms
                    .all,
                &anchors,
                issuers,
                now,
                match usage {
                    Usage::Client => KeyUsage::client_auth(),
                    Usage::Server => KeyUsage::server_auth(),
                },
                revocation,
                None,
            )
            .map_err(|error| refusal(&error, svid))?;
        let mut serials = vec![svid.serial().clone()];
        let issuers = path.intermediate_certificates();
        serials.extend(issuers.map(|issuer| Serial::from_bytes(issuer.serial())));
        match serials
            .into_iter()
            .find(|serial| trusted.revoked.has(serial))
        {
            Some(serial) => Err(Refusal::Revoked(serial)),
            None => Ok(()),
        }
    }
}

/// What an answer of webpki means. That the leaf itself is valid now is known already.
fn refusal(error: &Error, svid: &Svid) -> Refusal {
    let domain = svid.id().domain().clone();
    match error {
        Error::UnknownIssuer => Refusal::UnknownIssuer(domain),
        Error::CertExpired { .. } | Error::CertNotValidYet { .. } => Refusal::IssuerExpired,
        Error::NameConstraintViolation | Error::MalformedNameConstraint => Refusal::NameConstraints,
        Error::EndEntityUsedAsCa | Error::PathLenConstraintViolated => Refusal::NotAnAuthority,
        Error::CertRevoked => Refusal::Revoked(svid.serial().clone()),
        Error::CrlExpired { .. }
        | Error::InvalidCrlSignatureForPublicKey
        | Error::IssuerNotCrlSigner
        | Error::UnsupportedCrlSignatureAlgorithmContext(_)
        | Error::UnsupportedCrlSignatureAlgorithmForPublicKeyContext(_) => {
            Refusal::RevocationList {
                domain,
                reason: error.to_string(),
            }
        }
        Error::InvalidSignatureForPublicKey
        | Error::SignatureAlgorithmMismatch
        | Error::UnsupportedSignatureAlgorithmContext(_)
        | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => Refusal::Signature,
        Error::CaUsedAsEndEntity => Refusal::Authority,
        other => Refusal::Path(other.to_string()),
    }
}

#[cfg(test)]
mod tests;
