//! Envoy's way to ask: its secret discovery service (SDS, `envoy.service.secret.v3`), at the same
//! socket, because Envoy does not speak the Workload API. Whoever asks gets what the Workload API
//! would give, as secrets with the names that SPIRE gives them:
//!
//! | name | secret |
//! |---|---|
//! | `default`, the workload's SPIFFE ID | its SVID and key |
//! | `ROOTCA`, `spiffe://TRUST-DOMAIN` | the roots of its trust domain, or of a federated one |
//! | `ALL` | the roots of all domains, each for its own (`envoy.tls.cert_validator.spiffe`) |

use std::{pin::Pin, sync::Arc};

use futures::{Stream, future::BoxFuture, stream};
use pem::{EncodeConfig, LineEnding, Pem};
use prost::Message as _;
use tonic::{Request, Response, Status, Streaming, server::StreamingService};
use tracing::warn;

use super::{
    feed::{Connection, Feed, Refused},
    secrets_wire::{
        Any, CertificateValidationContext, DataSource, DiscoveryRequest, DiscoveryResponse, SECRET,
        SPIFFE_VALIDATOR, Secret, SpiffeValidator, TlsCertificate, TrustedDomain, TypedExtension,
        secret,
    },
    wire::X509SvidResponse,
};

/// The secrets of whoever asks when it names none.
const NAMES: [&str; 3] = [DEFAULT, ROOTS, ALL];
const DEFAULT: &str = "default";
const ROOTS: &str = "ROOTCA";
const ALL: &str = "ALL";

/// `StreamSecrets`.
pub(super) struct StreamSecrets(pub Arc<Connection>);

impl StreamingService<DiscoveryRequest> for StreamSecrets {
    type Response = DiscoveryResponse;
    type ResponseStream = Pin<Box<dyn Stream<Item = Result<DiscoveryResponse, Status>> + Send>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<DiscoveryRequest>>) -> Self::Future {
        let subscription = Subscription {
            feed: Feed::new(self.0.clone()),
            connection: self.0.clone(),
            requests: request.into_inner(),
            content: None,
            names: Vec::new(),
            asked: false,
            version: 0,
        };
        let answers = stream::unfold(Some(subscription), |subscription| async {
            let mut subscription = subscription?;
            match subscription.next().await {
                Ok(Some(answer)) => Some((Ok(answer), Some(subscription))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        });
        Box::pin(async { Ok(Response::new(Box::pin(answers) as Self::ResponseStream)) })
    }
}

/// A stream of Envoy's.
struct Subscription {
    connection: Arc<Connection>,
    requests: Streaming<DiscoveryRequest>,
    feed: Feed<X509SvidResponse>,
    content: Option<X509SvidResponse>,
    /// The secrets that it wants.
    names: Vec<String>,
    /// Whether it has said so.
    asked: bool,
    /// Of the last answer; also its nonce.
    version: u64,
}

impl Subscription {
    /// The next answer: to a request for other secrets than before, or because something changed.
    async fn next(&mut self) -> Result<Option<DiscoveryResponse>, Status> {
        loop {
            tokio::select! {
                request = self.requests.message() => match request? {
                    None => return Ok(None),
                    Some(request) => {
                        if !self.take(request)? {
                            continue;
                        }
                    }
                },
                content = self.feed.next() => self.content = Some(content?),
            }
            if let (true, Some(content)) = (self.asked, &self.content) {
                let secrets = secrets(content, &self.names).map_err(|name| {
                    let id = content.svids.first().map_or("", |svid| &svid.spiffe_id);
                    let (name, id) = (name.to_owned(), id.to_owned());
                    self.connection
                        .refuse(&Refused::NoSecret { name, id }, None)
                })?;
                self.version += 1;
                return Ok(Some(answer(&secrets, self.version)));
            }
        }
    }

    /// Whether a request is for something that it was not told.
    fn take(&mut self, request: DiscoveryRequest) -> Result<bool, Status> {
        if !request.type_url.is_empty() && request.type_url != SECRET {
            return Err(Status::invalid_argument("only secrets are served here"));
        }
        let of_last = request.response_nonce == self.version.to_string();
        if self.version > 0 && !request.response_nonce.is_empty() && !of_last {
            // Sent before it had the last answer; about that it will say something too.
            return Ok(false);
        }
        if let Some(error) = request.error_detail {
            let pid = self.connection.caller.pid;
            warn!(pid, error.message, "Envoy does not take a secret");
        }
        if self.asked && request.resource_names == self.names {
            return Ok(false);
        }
        self.names = request.resource_names;
        self.asked = true;
        Ok(true)
    }
}

fn answer(secrets: &[Secret], version: u64) -> DiscoveryResponse {
    let resources = secrets.iter().map(|secret| Any {
        type_url: SECRET.to_owned(),
        value: secret.encode_to_vec(),
    });
    DiscoveryResponse {
        version_info: version.to_string(),
        resources: resources.collect(),
        type_url: SECRET.to_owned(),
        nonce: version.to_string(),
    }
}

/// The secrets of these names; else the first name of which there is none.
fn secrets<'n>(content: &X509SvidResponse, names: &'n [String]) -> Result<Vec<Secret>, &'n str> {
    if names.is_empty() {
        let all = NAMES.iter().filter_map(|name| secret(content, name));
        return Ok(all.collect());
    }
    names
        .iter()
        .map(|name| secret(content, name).ok_or(name.as_str()))
        .collect()
}

fn secret(content: &X509SvidResponse, name: &str) -> Option<Secret> {
    let svid = content.svids.first()?;
    let domain = domain_of(&svid.spiffe_id)?;
    let kind = if name == DEFAULT || name == svid.spiffe_id {
        secret::Kind::TlsCertificate(TlsCertificate {
            certificate_chain: Some(certificates(&svid.x509_svid)),
            private_key: Some(DataSource::inline(pem("PRIVATE KEY", &svid.x509_svid_key))),
        })
    } else if name == ALL {
        let own = std::iter::once((domain, &svid.bundle));
        let federated = content.federated_bundles.iter();
        let federated = federated.filter_map(|(name, bundle)| Some((domain_of(name)?, bundle)));
        let mut domains: Vec<_> = own.chain(federated).collect();
        domains.sort_unstable();
        let trust_domains = domains.into_iter().map(|(name, bundle)| TrustedDomain {
            name: name.to_owned(),
            trust_bundle: Some(certificates(bundle)),
        });
        let validator = SpiffeValidator {
            trust_domains: trust_domains.collect(),
        };
        secret::Kind::ValidationContext(CertificateValidationContext {
            trusted_ca: None,
            custom_validator_config: Some(TypedExtension {
                name: "envoy.tls.cert_validator.spiffe".to_owned(),
                typed_config: Some(Any {
                    type_url: SPIFFE_VALIDATOR.to_owned(),
                    value: validator.encode_to_vec(),
                }),
            }),
        })
    } else {
        let is_own = name == ROOTS || name.strip_prefix("spiffe://") == Some(domain);
        let bundle = if is_own {
            &svid.bundle
        } else {
            content.federated_bundles.get(name)?
        };
        secret::Kind::ValidationContext(CertificateValidationContext {
            trusted_ca: Some(certificates(bundle)),
            custom_validator_config: None,
        })
    };
    Some(Secret {
        name: name.to_owned(),
        kind: Some(kind),
    })
}

/// The trust domain of a SPIFFE ID.
fn domain_of(id: &str) -> Option<&str> {
    id.strip_prefix("spiffe://")?.split('/').next()
}

/// Certificates in DER, one behind the other, as Envoy reads them.
fn certificates(mut der: &[u8]) -> DataSource {
    let mut text = String::new();
    while let Ok((rest, _)) = x509_parser::parse_x509_certificate(der) {
        text += &pem("CERTIFICATE", &der[..der.len() - rest.len()]);
        der = rest;
    }
    DataSource::inline(text)
}

fn pem(label: &str, der: &[u8]) -> String {
    let unix = EncodeConfig::new().set_line_ending(LineEnding::LF);
    pem::encode_config(&Pem::new(label, der), unix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{
        fixtures::{Ca, ca_params},
        workload_api::wire::X509Svid,
    };

    fn content() -> X509SvidResponse {
        let der = |name| Ca::root(ca_params(name)).certificate.to_vec();
        let mut svid = X509Svid::default();
        svid.spiffe_id = "spiffe://example.org/web".to_owned();
        svid.x509_svid = der("leaf");
        svid.x509_svid_key = b"the key".to_vec();
        svid.bundle = [der("old root"), der("new root")].concat();
        let federated_bundles = [("spiffe://example.net".to_owned(), der("far root"))].into();
        X509SvidResponse {
            svids: vec![svid],
            crl: Vec::new(),
            federated_bundles,
        }
    }

    fn roots(name: &str) -> usize {
        let found = secret(&content(), name).expect("there is one");
        let Some(secret::Kind::ValidationContext(context)) = found.kind else {
            panic!("{name} is no roots");
        };
        let text = context.trusted_ca.expect("roots").inline_bytes.clone();
        let text = String::from_utf8(text).expect("PEM");
        text.matches("BEGIN CERTIFICATE").count()
    }

    #[test]
    fn each_name_has_its_secret_and_no_other_name_has_one() {
        for name in ["default", "spiffe://example.org/web"] {
            let found = secret(&content(), name).expect("there is one");
            assert_eq!(found.name, name);
            let Some(secret::Kind::TlsCertificate(found)) = found.kind else {
                panic!("{name} is no certificate");
            };
            let key = found.private_key.expect("a key");
            assert!(
                key.inline_bytes
                    .starts_with(b"-----BEGIN PRIVATE KEY-----\n")
            );
        }
        assert_eq!(roots("ROOTCA"), 2);
        assert_eq!(roots("spiffe://example.org"), 2);
        assert_eq!(roots("spiffe://example.net"), 1);
        for name in [
            "",
            "root",
            "spiffe://example.com",
            "spiffe://example.org/db",
        ] {
            let names = ["default".to_owned(), name.to_owned()];
            assert_eq!(secrets(&content(), &names).err(), Some(name));
        }
        let all = secrets(&content(), &[]).expect("all there are");
        let names: Vec<_> = all.iter().map(|secret| secret.name.as_str()).collect();
        assert_eq!(names, ["default", "ROOTCA", "ALL"]);
    }

    #[test]
    fn every_domain_is_believed_in_its_own_name() {
        let Some(secret::Kind::ValidationContext(all)) = secret(&content(), "ALL").unwrap().kind
        else {
            panic!("it is no roots");
        };
        assert!(all.trusted_ca.is_none());
        let config = all.custom_validator_config.unwrap().typed_config.unwrap();
        assert_eq!(config.type_url, SPIFFE_VALIDATOR);
        let validator = SpiffeValidator::decode(&*config.value).unwrap();
        let names: Vec<_> = validator.trust_domains.iter().map(|d| &d.name).collect();
        assert_eq!(names, ["example.net", "example.org"]);
    }

    #[test]
    fn a_key_is_in_no_message_for_people() {
        let secret = secret(&content(), "default").unwrap();
        let response = answer(std::slice::from_ref(&secret), 1);
        for shown in [format!("{secret:?}"), format!("{response:?}")] {
            assert!(
                !shown.contains("inline_bytes") && !shown.contains("value"),
                "{shown}"
            );
        }
    }
}
