//! Kind `Workload`.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    diagnostic::{Code, Position},
    document::Node,
    model::{Assurance, NamedPort, Workload},
    place,
    reader::{Fields, Reader, quoted},
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
        let known = &[
            "spiffeId",
            "serviceAccount",
            "addresses",
            "ports",
            "cgroup",
            "unit",
            "interface",
        ];
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
                match self.own_address(item, "workload") {
                    Some(address) => {
                        addresses.push(address);
                        addresses_at.push(item.at);
                    }
                    None => good = false,
                }
            }
        }
        let service_account = match spec.find("serviceAccount") {
            Some(node) => self.service_account(node).map(Some),
            None => Some(None),
        };
        let ports = match spec.find("ports") {
            Some(node) => self.named_ports(node),
            None => Some(BTreeSet::new()),
        };
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
            service_account: service_account?,
            ports: ports?,
            assurance: Assurance::Address,
            addresses,
            place: place.ok()?,
            unit_elsewhere: None,
        });
        good.then_some(WorkloadDocument {
            workload,
            name_at: metadata.at,
            addresses_at,
            place_at,
        })
    }

    /// An address or network that somebody declares.
    pub(super) fn own_address(&mut self, node: &Node, whose: &str) -> Option<ipnet::IpNet> {
        let address = self.cidr(node)?;
        if address.prefix_len() > 0 {
            return Some(address);
        }
        self.error(
            Code::BadCidr,
            node.at,
            format!("`{address}` would make the whole world this {whose}"),
            format!("write the {whose}'s own addresses"),
        );
        None
    }

    fn named_ports(&mut self, node: &Node) -> Option<BTreeSet<NamedPort>> {
        let items = self.list(node, "`ports`", None)?;
        let mut ports: BTreeSet<NamedPort> = BTreeSet::new();
        let mut good = true;
        for item in items {
            let Some(port) = self.named_port(item) else {
                good = false;
                continue;
            };
            let same =
                |other: &&NamedPort| (&other.name, other.protocol) == (&port.name, port.protocol);
            if ports.iter().any(|other| same(&other)) {
                good = false;
                let message = format!("a second port called {}", quoted(&port.name));
                let help = "give each port of a protocol its own name";
                self.error(Code::DuplicateName, item.at, message, help);
            }
            ports.insert(port);
        }
        good.then_some(ports)
    }

    fn named_port(&mut self, node: &Node) -> Option<NamedPort> {
        let what = "a named port";
        let fields = self.fields(node, what, &["name", "port", "protocol"])?;
        let help = "write `{name: http, port: 8080}`";
        let name = self.required(&fields, "name", what, help);
        let name = name.and_then(|node| self.port_name(node));
        let port = self.required(&fields, "port", what, help);
        let port = port.and_then(|node| self.port_number(node));
        let protocol = match fields.find("protocol") {
            Some(node) => self.port_protocol(node),
            None => Some(enforcer_common::Protocol::TCP),
        };
        Some(NamedPort {
            name: name?,
            protocol: protocol?,
            port: port?,
        })
    }
}
