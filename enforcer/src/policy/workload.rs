//! Kind `Workload`.

use std::sync::Arc;

use super::{
    diagnostic::{Code, Position},
    model::{Assurance, Workload},
    place,
    reader::{Fields, Reader},
};

/// The namespace of a workload that names none.
pub(super) const DEFAULT_NAMESPACE: &str = "default";

/// A workload, and where its claims are written that no two may make.
#[derive(Clone, Debug)]
pub(super) struct WorkloadDocument {
    pub(super) workload: Arc<Workload>,
    pub(super) name_at: Position,
    /// As long as [`Workload::addresses`].
    pub(super) addresses_at: Vec<Position>,
    pub(super) place_at: Position,
}

impl Reader<'_> {
    /// A whole document.
    pub(super) fn workload(&mut self, document: &Fields<'_>) -> Option<WorkloadDocument> {
        let metadata = self.metadata(document, true);
        let help = "write `spec:` with `cgroup`, `unit`, `interface` or `addresses`";
        let node = self.required(document, "spec", "a Workload", help)?;
        let known = &["spiffeId", "addresses", "cgroup", "unit", "interface"];
        let spec = self.fields(node, "`spec` of a Workload", known)?;
        let spiffe_id = match spec.find("spiffeId") {
            Some(node) => self.spiffe_id(node).map(Some),
            None => Some(None),
        };
        let mut addresses = Vec::new();
        let mut addresses_at = Vec::new();
        let mut good = true;
        if let Some(node) = spec.find("addresses") {
            for item in self.list(node, "`addresses`", None).unwrap_or_default() {
                match self.cidr(item) {
                    Some(address) if address.prefix_len() == 0 => {
                        good = false;
                        self.error(
                            Code::BadCidr,
                            item.at,
                            format!("`{address}` would make the whole world this workload"),
                            "write the workload's own addresses",
                        );
                    }
                    Some(address) => {
                        addresses.push(address);
                        addresses_at.push(item.at);
                    }
                    None => good = false,
                }
            }
        }
        let place = self.place(&spec);
        if spec.find("addresses").is_none()
            && !spec.doubtful
            && place::FORMS.iter().all(|form| spec.find(form).is_none())
        {
            self.error(
                Code::NoEffect,
                node.at,
                "neither a place nor an address: nothing will ever be this workload",
                "write `cgroup`, `unit` or `interface`, or `addresses`, or both",
            );
            good = false;
        }
        let place_at = place::FORMS
            .iter()
            .find_map(|form| spec.find(form))
            .map_or(spec.at, |node| node.at);
        let metadata = metadata?;
        let workload = Arc::new(Workload {
            namespace: metadata
                .namespace
                .unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
            name: metadata.name,
            origin: self.origin(document.at),
            labels: metadata.labels,
            spiffe_id: spiffe_id?,
            service_account: None,
            ports: std::collections::BTreeSet::new(),
            assurance: Assurance::Address,
            addresses,
            place: place.ok()?,
        });
        good.then_some(WorkloadDocument {
            workload,
            name_at: metadata.at,
            addresses_at,
            place_at,
        })
    }
}
