//! What the control socket says of proofs of identity.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};

use super::{routes::Sources, status::EndpointStatus};
use crate::identity::{attest::journal::SecurityEvent, files::IdentitySource, svid::moment};

/// `GET /v1/identity`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityStatus {
    /// Where workloads attest; `None` where they cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// Where the daemon's own SVID comes from: `files`, or a server of the Workload API.
    pub source: String,
    /// The daemon's own SVID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<OwnStatus>,
    /// Who is believed.
    pub trust_domains: Vec<TrustDomainStatus>,
    /// Endpoints to which a proof is bound.
    pub bindings: Vec<EndpointStatus>,
    /// What is wrong, in sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// The daemon's own SVID.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnStatus {
    /// Who it is.
    pub spiffe_id: String,
    /// Serial number of the certificate.
    pub serial: String,
    /// Until when it is valid: RFC 3339, UTC.
    pub not_after: String,
}

/// A trust domain that is believed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustDomainStatus {
    /// Its name.
    pub name: String,
    /// Roots in its bundle.
    pub roots: usize,
}

pub(super) async fn identity(State(sources): State<Sources>) -> Json<IdentityStatus> {
    let now = sources.in_force.borrow().clone();
    let material = sources.attestation.material.borrow().clone();
    let own = material.own.as_ref().map(|own| OwnStatus {
        spiffe_id: own.svid.id().to_string(),
        serial: own.svid.serial().to_string(),
        not_after: moment(own.svid.not_after()),
    });
    let domains = material.trust.domains().iter();
    let bound = now.endpoints.iter().filter(|e| e.attested.is_some());
    let attest = sources.settings.attest.as_ref();
    Json(IdentityStatus {
        source: match &sources.settings.identity {
            IdentitySource::Files(_) => "files".to_owned(),
            IdentitySource::Provider(address) => address.to_string(),
        },
        listen: attest.map(|attest| attest.listen.to_string()),
        own,
        trust_domains: domains
            .map(|(name, trusted)| TrustDomainStatus {
                name: name.to_string(),
                roots: trusted.bundle.certificates().len(),
            })
            .collect(),
        bindings: bound.cloned().collect(),
        notes: material.notes.clone(),
    })
}

pub(super) async fn events(State(sources): State<Sources>) -> Json<Vec<SecurityEvent>> {
    Json(sources.attestation.journal.kept())
}
