//! Trust domains.

use std::{collections::BTreeSet, path::PathBuf};

use super::Origin;
use crate::identity::{serial::Serial, spiffe_id::TrustDomain};

/// A trust domain (kind `TrustDomain`): whose SVIDs are believed, and on which ground.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustDomainSettings {
    /// Name of the domain.
    pub name: TrustDomain,
    /// The document.
    pub origin: Origin,
    /// Its roots.
    pub bundle: BundleSource,
    /// Serial numbers of certificates that are not believed any more.
    pub revoked: BTreeSet<Serial>,
    /// A CRL, or a list of such numbers, which is watched.
    pub revoked_file: Option<PathBuf>,
}

/// Where the roots of a trust domain are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BundleSource {
    /// Here, in PEM.
    Inline(String),
    /// In a file, which is watched.
    File(PathBuf),
    /// The identity provider has them.
    Provider,
}
