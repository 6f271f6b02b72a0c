//! Kind `TrustDomain`.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use super::{
    diagnostic::{Code, Position},
    document::Node,
    model::{BundleSource, TrustDomainSettings},
    reader::{Fields, Reader, quoted},
};
use crate::identity::{
    bundle::Bundle,
    serial::Serial,
    spiffe_id::{TrustDomain, is_trust_domain},
};

/// A trust domain, and where its name is written.
#[derive(Clone, Debug)]
pub(super) struct TrustDomainDocument {
    pub(super) domain: Arc<TrustDomainSettings>,
    pub(super) name_at: Position,
}

impl Reader<'_> {
    /// A whole document.
    pub(super) fn trust_domain(&mut self, document: &Fields<'_>) -> Option<TrustDomainDocument> {
        let metadata = self.metadata(document, false);
        let what = "`spec` of a TrustDomain";
        let help = "write `spec:` with `bundleFile`, the absolute path of a file of roots in PEM";
        let node = self.required(document, "spec", "a TrustDomain", help)?;
        let known = &["bundle", "bundleFile", "revoked", "revokedFile"];
        let spec = self.fields(node, what, known)?;
        let bundle = match (spec.find("bundle"), spec.find("bundleFile")) {
            (Some(node), None) => self.bundle(node).map(BundleSource::Inline),
            (None, Some(node)) => self
                .absolute_path(node, "`bundleFile`")
                .map(BundleSource::File),
            (Some(_), Some(node)) => {
                let message = "`bundle` and `bundleFile` beside each other";
                self.error(Code::BadTrustDomain, node.at, message, "keep one of them");
                None
            }
            // What is revoked may be said of a domain whose roots come from elsewhere.
            (None, None) if spec.find("revoked").or(spec.find("revokedFile")).is_some() => {
                Some(BundleSource::Provider)
            }
            (None, None) => {
                self.required(&spec, "bundleFile", what, help);
                None
            }
        };
        let revoked = match spec.find("revoked") {
            Some(node) => self.serials(node),
            None => Some(BTreeSet::new()),
        };
        let revoked_file = match spec.find("revokedFile") {
            Some(node) => self.absolute_path(node, "`revokedFile`").map(Some),
            None => Some(None),
        };
        let metadata = metadata?;
        Some(TrustDomainDocument {
            domain: Arc::new(TrustDomainSettings {
                name: self.domain_name(&metadata.name, metadata.at)?,
                origin: self.origin(document.at),
                bundle: bundle?,
                revoked: revoked?,
                revoked_file: revoked_file?,
            }),
            name_at: metadata.at,
        })
    }

    /// A document's name that is a trust domain's.
    fn domain_name(&mut self, name: &str, at: Position) -> Option<TrustDomain> {
        if is_trust_domain(name) {
            return name.parse().ok();
        }
        let message = format!("{} is not a trust domain", quoted(name));
        let help = "the name is the trust domain's: write for example `example.org`";
        self.error(Code::BadTrustDomain, at, message, help);
        None
    }

    /// Roots in PEM. What is read here is only looked at: who uses it reads it again.
    fn bundle(&mut self, node: &Node) -> Option<String> {
        let text = self.text(node, "`bundle`")?;
        let Err(error) = Bundle::from_pem(text.as_bytes()) else {
            return Some(text.to_owned());
        };
        let help = "write the roots in PEM behind `bundle: |`, or their file as `bundleFile`";
        let message = format!("`bundle` cannot be used: {error}");
        self.error(Code::BadTrustDomain, node.at, message, help);
        None
    }

    fn absolute_path(&mut self, node: &Node, what: &str) -> Option<PathBuf> {
        let text = self.text(node, what)?;
        let path = PathBuf::from(text);
        if path.is_absolute() && !text.contains('\0') {
            return Some(path);
        }
        let message = format!("{what} is {}, which is no absolute path", quoted(text));
        let help = "write it from the root, as in `/etc/enforcer/identity/bundle.pem`";
        self.error(Code::BadTrustDomain, node.at, message, help);
        None
    }

    fn serials(&mut self, node: &Node) -> Option<BTreeSet<Serial>> {
        let items = self.list(node, "`revoked`", None)?;
        let mut serials = BTreeSet::new();
        let mut good = true;
        for item in items {
            let text = self.text(item, "a serial number");
            match text.map(str::parse::<Serial>) {
                Some(Ok(serial)) => {
                    serials.insert(serial);
                }
                Some(Err(_)) => {
                    good = false;
                    let text = text.unwrap_or_default();
                    let message = format!("{} is not a serial number", quoted(text));
                    let help = "write it in hexadecimal, as `openssl x509 -serial` and \
                                `enforcer identity verify` show it";
                    self.error(Code::BadTrustDomain, item.at, message, help);
                }
                None => good = false,
            }
        }
        good.then_some(serials)
    }
}
