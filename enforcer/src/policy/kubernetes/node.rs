//! Kind `Node` of `v1`: another host, for peers that are nodes.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::object::{Located, Metadata, objects};
use crate::policy::{
    described::HostDocument,
    diagnostic::Code,
    model::RemoteHost,
    reader::{Reader, quoted},
};

objects! {
    /// The object.
    Node open "a Node" {
        /// Name and labels.
        metadata: Metadata = "metadata",
        /// What is known of it.
        status: NodeStatus = "status",
    }

    /// What is known of a node.
    NodeStatus open "`status` of a Node" {
        /// Its addresses and names.
        addresses: Vec<NodeAddress> = "addresses",
    }

    /// An address or name.
    NodeAddress open "an item of `addresses`" {
        /// `InternalIP`, `ExternalIP`, or a kind of name.
        kind: String = "type",
        /// The address or name.
        address: Located<String> = "address",
    }
}

impl Reader<'_> {
    /// The host that a node is; the inner `None` where nothing tells its addresses. The outer
    /// one: an error was reported.
    #[expect(
        clippy::option_option,
        reason = "absence is said by one, errors by the other"
    )]
    pub(super) fn cluster_node(&mut self, object: &Node) -> Option<Option<HostDocument>> {
        let named = self.name_and_labels(object.metadata.as_ref(), object.at, false);
        let status = object.status.as_ref();
        let written = status.and_then(|status| status.addresses.as_deref());
        let mut addresses: Vec<IpNet> = Vec::new();
        let mut addresses_at = Vec::new();
        let mut good = true;
        for item in written.unwrap_or_default() {
            // The others are names.
            if !matches!(item.kind.as_deref(), Some("InternalIP" | "ExternalIP")) {
                continue;
            }
            let Some(text) = &item.address else { continue };
            if let Ok(address) = text.value.parse::<IpAddr>() {
                let address = IpNet::from(address.to_canonical());
                // An address may be internal and external.
                if !addresses.contains(&address) {
                    addresses.push(address);
                    addresses_at.push(text.at);
                }
            } else {
                good = false;
                let message = format!("{} is not an address", quoted(&text.value));
                let help = "write the node's address, as in `192.0.2.7`";
                self.error(Code::BadCidr, text.at, message, help);
            }
        }
        let named = named?;
        if !good {
            return None;
        }
        Some((!addresses.is_empty()).then(|| HostDocument {
            host: Arc::new(RemoteHost {
                name: named.name,
                origin: self.origin(object.at),
                labels: named.labels,
                addresses,
            }),
            name_at: named.name_at,
            addresses_at,
        }))
    }
}
