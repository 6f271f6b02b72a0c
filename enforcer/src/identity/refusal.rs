//! Why a certificate does not prove who somebody is.

use super::{
    serial::Serial,
    spiffe_id::{SpiffeIdError, TrustDomain},
};

/// A refusal. What it displays says what is wrong and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing was shown.
    #[error("no certificate was shown: give the client a certificate and its key")]
    NoCertificate,
    /// Not a certificate.
    #[error("this is no X.509 certificate ({0}): give the client one in PEM or DER")]
    Malformed(String),
    /// Too many certificates.
    #[error(
        "a chain of {found} certificates, where at most {most} are looked at: issue from an \
         authority that is nearer to the root"
    )]
    ChainTooLong {
        /// How many were shown.
        found: usize,
        /// How many may be.
        most: usize,
    },
    /// No URI among the names.
    #[error("the certificate has no URI among its names: an X.509-SVID has its SPIFFE ID there")]
    NoUri,
    /// More than one.
    #[error("the certificate has {0} URIs among its names: an X.509-SVID has exactly one")]
    ManyUris(usize),
    /// The URI is no SPIFFE ID of a workload.
    #[error("the URI among the certificate's names: {0}")]
    BadId(#[source] SpiffeIdError),
    /// An authority.
    #[error(
        "the certificate is that of an authority: workloads show a leaf certificate, which signs \
         no others"
    )]
    Authority,
    /// The usage of the key is not that of a leaf.
    #[error(
        "the certificate's key usage {0}: an X.509-SVID has digitalSignature, and neither keyCertSign nor cRLSign"
    )]
    KeyUsage(&'static str),
    /// Not for this side of TLS.
    #[error("the certificate's extended key usage leaves out {0}: issue it for both sides of TLS")]
    ExtendedKeyUsage(&'static str),
    /// A domain that nobody trusts here.
    #[error(
        "nothing is known of the trust domain {0}: write a TrustDomain document with its bundle, \
         or issue the certificate in a domain that has one"
    )]
    UnknownDomain(TrustDomain),
    /// A domain without roots.
    #[error("the trust domain {0} has no root that is valid now: renew its bundle")]
    NoRoot(TrustDomain),
    /// The bundle of its domain does not lead to it.
    #[error(
        "no root of the trust domain {0} signed the certificate, directly or by the intermediate \
         certificates that were shown: issue it there, show the intermediates, or renew the bundle"
    )]
    UnknownIssuer(TrustDomain),
    /// A signature that does not fit.
    #[error(
        "a signature in the chain does not fit or is of an algorithm that is not accepted: issue it anew"
    )]
    Signature,
    /// Not yet.
    #[error("the certificate is not valid before {0}: wait, or set the clocks right")]
    NotYetValid(String),
    /// No longer.
    #[error("the certificate was valid until {0}: renew it")]
    Expired(String),
    /// A certificate above the leaf is not valid now.
    #[error(
        "a certificate between the leaf and the root is not valid now: renew the intermediate authority"
    )]
    IssuerExpired,
    /// An authority above forbids it.
    #[error(
        "an authority in the chain may not issue this name (name constraints; those on URIs are \
         not supported and refused): issue it from another one"
    )]
    NameConstraints,
    /// An authority above is none, or may not have so many below.
    #[error(
        "a certificate between the leaf and the root may not issue this one (basic constraints or key usage): issue it from an authority"
    )]
    NotAnAuthority,
    /// Withdrawn.
    #[error("the certificate with serial number {0} is revoked: get a new one")]
    Revoked(Serial),
    /// The list of revoked certificates cannot be counted on.
    #[error("the list of revoked certificates of {domain} cannot be used ({reason}): renew it")]
    RevocationList {
        /// Whose.
        domain: TrustDomain,
        /// What is wrong.
        reason: String,
    },
    /// Anything else.
    #[error(
        "the chain of certificates is not accepted ({0}): look at it with `openssl x509 -text`"
    )]
    Path(String),
}

impl Refusal {
    /// As in metrics, events and JSON.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no-certificate",
            Self::Malformed(_) => "malformed",
            Self::ChainTooLong { .. } => "chain-too-long",
            Self::NoUri => "no-uri",
            Self::ManyUris(_) => "many-uris",
            Self::BadId(_) => "bad-id",
            Self::Authority => "authority",
            Self::KeyUsage(_) => "key-usage",
            Self::ExtendedKeyUsage(_) => "extended-key-usage",
            Self::UnknownDomain(_) => "unknown-domain",
            Self::NoRoot(_) => "no-root",
            Self::UnknownIssuer(_) => "unknown-issuer",
            Self::Signature => "signature",
            Self::NotYetValid(_) => "not-yet-valid",
            Self::Expired(_) => "expired",
            Self::IssuerExpired => "issuer-expired",
            Self::NameConstraints => "name-constraints",
            Self::NotAnAuthority => "not-an-authority",
            Self::Revoked(_) => "revoked",
            Self::RevocationList { .. } => "revocation-list",
            Self::Path(_) => "path",
        }
    }
}
