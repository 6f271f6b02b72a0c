//! The messages of Envoy's secret discovery service, as far as it is served: the fields of Envoy's
//! own definitions (`envoy/service/discovery/v3/discovery.proto`,
//! `envoy/extensions/transport_sockets/tls/v3/*.proto`; Apache-2.0) that are read or written here.
//! prost passes over all others.

use std::fmt;

use prost::Message;
use zeroize::Zeroize;

/// The method, as a path of gRPC.
pub const STREAM_SECRETS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets";
/// The type of [`Secret`].
pub const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// The type of [`SpiffeValidator`].
pub const SPIFFE_VALIDATOR: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";

/// Asks for secrets, and says what became of those before.
#[derive(Clone, PartialEq, Message)]
pub struct DiscoveryRequest {
    /// Their names.
    #[prost(string, repeated, tag = "3")]
    pub resource_names: Vec<String>,
    /// [`SECRET`].
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// Of the answer that this is about; empty at first.
    #[prost(string, tag = "5")]
    pub response_nonce: String,
    /// Why that answer is not taken.
    #[prost(message, optional, tag = "6")]
    pub error_detail: Option<ErrorDetail>,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
pub struct ErrorDetail {
    /// For people.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// Secrets.
#[derive(Clone, PartialEq, Message)]
pub struct DiscoveryResponse {
    /// Changes with them.
    #[prost(string, tag = "1")]
    pub version_info: String,
    /// Each a [`Secret`].
    #[prost(message, repeated, tag = "2")]
    pub resources: Vec<Any>,
    /// [`SECRET`].
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// Names this answer.
    #[prost(string, tag = "5")]
    pub nonce: String,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct Any {
    /// What `value` is.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// A message.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// Something to prove oneself with, or to verify others by.
#[derive(Clone, PartialEq, Message)]
pub struct Secret {
    /// By which it was asked for.
    #[prost(string, tag = "1")]
    pub name: String,
    /// What it is.
    #[prost(oneof = "secret::Kind", tags = "2, 4")]
    pub kind: Option<secret::Kind>,
}

/// Parts of [`Secret`].
pub mod secret {
    /// See [`super::Secret::kind`].
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Kind {
        /// A certificate with its key.
        #[prost(message, tag = "2")]
        TlsCertificate(super::TlsCertificate),
        /// Whom to believe.
        #[prost(message, tag = "4")]
        ValidationContext(super::CertificateValidationContext),
    }
}

/// A certificate with its key.
#[derive(Clone, PartialEq, Message)]
pub struct TlsCertificate {
    /// PEM, the leaf first.
    #[prost(message, optional, tag = "1")]
    pub certificate_chain: Option<DataSource>,
    /// PKCS#8 in PEM, not encrypted.
    #[prost(message, optional, tag = "2")]
    pub private_key: Option<DataSource>,
}

/// `envoy.config.core.v3.DataSource`.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct DataSource {
    /// The thing itself.
    #[prost(bytes = "vec", tag = "2")]
    pub inline_bytes: Vec<u8>,
}

impl DataSource {
    /// Of text.
    pub fn inline(text: String) -> Self {
        Self {
            inline_bytes: text.into_bytes(),
        }
    }
}

/// Whom to believe.
#[derive(Clone, PartialEq, Message)]
pub struct CertificateValidationContext {
    /// Roots in PEM.
    #[prost(message, optional, tag = "1")]
    pub trusted_ca: Option<DataSource>,
    /// Another way to verify.
    #[prost(message, optional, tag = "12")]
    pub custom_validator_config: Option<TypedExtension>,
}

/// `envoy.config.core.v3.TypedExtensionConfig`.
#[derive(Clone, PartialEq, Message)]
pub struct TypedExtension {
    /// Of the extension.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its settings.
    #[prost(message, optional, tag = "2")]
    pub typed_config: Option<Any>,
}

/// Believes each trust domain in its own name only.
#[derive(Clone, PartialEq, Message)]
pub struct SpiffeValidator {
    /// Whom to believe.
    #[prost(message, repeated, tag = "1")]
    pub trust_domains: Vec<TrustedDomain>,
}

/// A trust domain.
#[derive(Clone, PartialEq, Message)]
pub struct TrustedDomain {
    /// Name, like `example.org`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Roots in PEM.
    #[prost(message, optional, tag = "2")]
    pub trust_bundle: Option<DataSource>,
}

// Keys are among these.
impl Drop for Any {
    fn drop(&mut self) {
        self.value.zeroize();
    }
}

impl Drop for DataSource {
    fn drop(&mut self) {
        self.inline_bytes.zeroize();
    }
}

impl fmt::Debug for Any {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Any")
            .field("type_url", &self.type_url)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for DataSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataSource").finish_non_exhaustive()
    }
}
