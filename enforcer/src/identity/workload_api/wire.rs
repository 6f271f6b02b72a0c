//! The messages of the SPIFFE Workload API, X.509-SVID profile, as the specification's
//! `workload.proto` has them (SPIFFE specifications, Apache-2.0).

use std::{collections::HashMap, fmt};

use prost::Message;
use zeroize::Zeroize;

/// The methods, as paths of gRPC.
pub const FETCH_X509_SVID: &str = "/SpiffeWorkloadAPI/FetchX509SVID";
/// See [`FETCH_X509_SVID`].
pub const FETCH_X509_BUNDLES: &str = "/SpiffeWorkloadAPI/FetchX509Bundles";

/// Must be there with the value `true`, so that whoever can be made to send requests elsewhere
/// cannot be made to ask here (SPIFFE Workload Endpoint, 3).
pub const SECURITY_HEADER: &str = "workload.spiffe.io";

/// Asks for SVIDs.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct X509SvidRequest {}

/// SVIDs and whom to believe.
#[derive(Clone, PartialEq, Message)]
pub struct X509SvidResponse {
    /// The default one first.
    #[prost(message, repeated, tag = "1")]
    pub svids: Vec<X509Svid>,
    /// Lists of what is revoked, in DER.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub crl: Vec<Vec<u8>>,
    /// By `spiffe://TRUST-DOMAIN`, certificates in DER, one behind the other.
    #[prost(map = "string, bytes", tag = "3")]
    pub federated_bundles: HashMap<String, Vec<u8>>,
}

/// An SVID with its key.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct X509Svid {
    /// Whose it is.
    #[prost(string, tag = "1")]
    pub spiffe_id: String,
    /// Certificates in DER, one behind the other, the leaf first.
    #[prost(bytes = "vec", tag = "2")]
    pub x509_svid: Vec<u8>,
    /// PKCS#8 in DER, not encrypted.
    #[prost(bytes = "vec", tag = "3")]
    pub x509_svid_key: Vec<u8>,
    /// Roots of its trust domain in DER, one behind the other.
    #[prost(bytes = "vec", tag = "4")]
    pub bundle: Vec<u8>,
    /// What it is meant for, where there are several.
    #[prost(string, tag = "5")]
    pub hint: String,
}

impl Drop for X509Svid {
    fn drop(&mut self) {
        self.x509_svid_key.zeroize();
    }
}

impl fmt::Debug for X509Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Svid")
            .field("spiffe_id", &self.spiffe_id)
            .finish_non_exhaustive()
    }
}

/// Asks whom to believe.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct X509BundlesRequest {}

/// Whom to believe.
#[derive(Clone, PartialEq, Message)]
pub struct X509BundlesResponse {
    /// Lists of what is revoked, in DER.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub crl: Vec<Vec<u8>>,
    /// By `spiffe://TRUST-DOMAIN`, certificates in DER, one behind the other.
    #[prost(map = "string, bytes", tag = "2")]
    pub bundles: HashMap<String, Vec<u8>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_in_no_message_for_people() {
        let mut svid = X509Svid::default();
        svid.spiffe_id = "spiffe://example.org/web".into();
        svid.x509_svid_key = vec![66; 8];
        let response = X509SvidResponse {
            svids: vec![svid],
            ..X509SvidResponse::default()
        };
        let shown = format!("{response:?}");
        assert!(shown.contains("spiffe://example.org/web"), "{shown}");
        assert!(!shown.contains("66"), "{shown}");
    }
}
