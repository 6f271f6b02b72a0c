//! Kind `Namespace` of `v1`: its labels.

use super::object::{Metadata, objects};
use crate::policy::{
    described::NamespaceDocument,
    diagnostic::Code,
    model::NAME_LABEL,
    name,
    reader::{Reader, quoted},
};

objects! {
    /// The object.
    Namespace open "a Namespace" {
        /// Name and labels.
        metadata: Metadata = "metadata",
    }
}

impl Reader<'_> {
    /// What a Namespace means.
    pub(super) fn cluster_namespace(&mut self, object: &Namespace) -> Option<NamespaceDocument> {
        let named = self.name_and_labels(object.metadata.as_ref(), object.at, false)?;
        let (name, name_at) = (named.name, named.name_at);
        if !name::is_dns_label(&name) {
            let message = format!("{} cannot be a namespace", quoted(&name));
            self.error(Code::BadName, name_at, message, name::DNS_LABEL);
            return None;
        }
        if let Some(label) = named.labels.get(NAME_LABEL)
            && *label != name
        {
            let message = format!("`{NAME_LABEL}` is {}", quoted(label));
            let help = format!("it is always the name: write `{name}`");
            self.error(Code::BadLabel, name_at, message, help);
            return None;
        }
        Some(NamespaceDocument {
            name,
            labels: named.labels,
            name_at,
        })
    }
}
