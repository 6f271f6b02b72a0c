//! SPIFFE IDs (SPIFFE-ID, 2): `spiffe://trust-domain/path`, parsed once.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Longest SPIFFE ID and trust domain, in bytes (SPIFFE-ID, 2.3 and 2.1).
const SPIFFE_BYTES: usize = 2048;
const TRUST_DOMAIN_BYTES: usize = 255;

/// What is no SPIFFE ID of a workload, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not the SPIFFE ID of a workload: {why}; write for example \
     spiffe://example.org/ns/shop/sa/web"
)]
pub struct SpiffeIdError {
    text: String,
    why: &'static str,
}

/// What is no trust domain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a trust domain: use a to z, 0 to 9, `.`, `-` and `_`, as in example.org")]
pub struct TrustDomainError(String);

/// The name of a trust domain.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(String);

impl TrustDomain {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = TrustDomainError;

    fn from_str(text: &str) -> Result<Self, TrustDomainError> {
        if is_trust_domain(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(TrustDomainError(text.chars().take(80).collect()))
        }
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = TrustDomainError;

    fn try_from(text: String) -> Result<Self, TrustDomainError> {
        text.parse()
    }
}

impl From<TrustDomain> for String {
    fn from(domain: TrustDomain) -> Self {
        domain.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The SPIFFE ID of a workload: it has a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    domain: TrustDomain,
    /// With its leading `/`.
    path: String,
}

impl SpiffeId {
    /// Its trust domain.
    pub fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// Its path, with the leading `/`.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        let wrong = |why| SpiffeIdError {
            text: text.chars().take(80).collect(),
            why,
        };
        let (domain, path) = split(text).map_err(wrong)?;
        Ok(Self {
            domain: TrustDomain(domain.to_owned()),
            path: format!("/{path}"),
        })
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = SpiffeIdError;

    fn try_from(text: String) -> Result<Self, SpiffeIdError> {
        text.parse()
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}{}", self.domain, self.path)
    }
}

/// Whether a text is the SPIFFE ID of a workload; else why it is not.
pub fn check(text: &str) -> Result<(), &'static str> {
    split(text).map(drop)
}

/// Whether a text is the name of a trust domain.
pub fn is_trust_domain(text: &str) -> bool {
    let inner = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_')
    };
    !text.is_empty() && text.len() <= TRUST_DOMAIN_BYTES && text.bytes().all(inner)
}

/// Trust domain and path, without what stands between them.
fn split(text: &str) -> Result<(&str, &str), &'static str> {
    if text.len() > SPIFFE_BYTES {
        return Err("it has more than 2048 bytes");
    }
    let rest = text
        .strip_prefix("spiffe://")
        .ok_or("it does not begin with `spiffe://`")?;
    let (domain, path) = rest.split_once('/').ok_or("it has no path")?;
    if !is_trust_domain(domain) {
        return Err("its trust domain is not a lower-case name");
    }
    let in_path = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    for segment in path.split('/') {
        if segment.is_empty() {
            return Err("its path has an empty segment");
        }
        if matches!(segment, "." | "..") {
            return Err("its path has a segment `.` or `..`");
        }
        if !segment.bytes().all(in_path) {
            return Err("its path has a character that is not allowed");
        }
    }
    Ok((domain, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spiffe_ids_follow_the_standard() {
        for good in ["spiffe://example.org/web", "spiffe://a/ns/shop/sa/Web_1.x"] {
            assert_eq!(check(good), Ok(()), "{good}");
            let parsed: SpiffeId = good.parse().unwrap();
            assert_eq!(parsed.to_string(), good);
        }
        for bad in [
            "",
            "http://a/b",
            "SPIFFE://a/b",
            "spiffe://a",
            "spiffe://a/",
            "spiffe:///b",
            "spiffe://A/b",
            "spiffe://a:80/b",
            "spiffe://u@a/b",
            "spiffe://a/b/",
            "spiffe://a//b",
            "spiffe://a/./b",
            "spiffe://a/../b",
            "spiffe://a/b?c",
            "spiffe://a/b#c",
            "spiffe://a/%20",
        ] {
            assert!(check(bad).is_err(), "{bad}");
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_parts_of_an_id() {
        let id: SpiffeId = "spiffe://example.org/ns/shop".parse().unwrap();
        assert_eq!(id.domain().as_str(), "example.org");
        assert_eq!(id.path(), "/ns/shop");
        assert!("Example.org".parse::<TrustDomain>().is_err());
    }
}
