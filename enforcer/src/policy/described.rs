//! Kinds that say what others refer to: `Namespace`, `Host` and `Group`.

use std::sync::Arc;

use super::{
    diagnostic::{Code, Position},
    model::{Labels, NAME_LABEL, Peer, RemoteHost},
    reader::{Fields, Reader, quoted},
};

/// A namespace.
#[derive(Clone, Debug)]
pub(super) struct NamespaceDocument {
    pub(super) name: String,
    pub(super) labels: Labels,
    pub(super) name_at: Position,
}

/// Another host, and where its addresses are written.
#[derive(Clone, Debug)]
pub(super) struct HostDocument {
    pub(super) host: Arc<RemoteHost>,
    pub(super) name_at: Position,
    pub(super) addresses_at: Vec<Position>,
}

/// A group whose references to other groups are not looked up yet.
#[derive(Clone, Debug)]
pub(super) struct GroupDocument {
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    pub(super) name_at: Position,
    /// Nothing where one has an error, which was told.
    pub(super) peers: Option<Vec<Peer>>,
    /// Where the references among `peers` are written, in their order.
    pub(super) references: Vec<Position>,
}

impl Reader<'_> {
    /// A whole document.
    pub(super) fn namespace_document(
        &mut self,
        document: &Fields<'_>,
    ) -> Option<NamespaceDocument> {
        if let Some(node) = document.find("spec") {
            self.fields(node, "`spec` of a Namespace", &[]);
        }
        let metadata = self.metadata(document, false)?;
        if !super::name::is_dns_label(&metadata.name) {
            let message = format!("{} cannot be a namespace", quoted(&metadata.name));
            self.error(Code::BadName, metadata.at, message, super::name::DNS_LABEL);
            return None;
        }
        if let Some(name) = metadata.labels.get(NAME_LABEL)
            && *name != metadata.name
        {
            let message = format!("`{NAME_LABEL}` is {}", quoted(name));
            let help = format!("it is always the name: write `{}`", metadata.name);
            self.error(Code::BadLabel, metadata.at, message, help);
            return None;
        }
        Some(NamespaceDocument {
            name: metadata.name,
            labels: metadata.labels,
            name_at: metadata.at,
        })
    }

    /// A whole document.
    pub(super) fn host_document(&mut self, document: &Fields<'_>) -> Option<HostDocument> {
        let metadata = self.metadata(document, false);
        let help = "write `spec:` with a list of `addresses`";
        let node = self.required(document, "spec", "a Host", help)?;
        let spec = self.fields(node, "`spec` of a Host", &["addresses"])?;
        let addresses = self.required(&spec, "addresses", "`spec` of a Host", help)?;
        let help = "write its addresses: nothing else tells that a peer is this host";
        let items = self.list(addresses, "`addresses`", Some(help))?;
        let mut addresses = Vec::with_capacity(items.len());
        for item in items {
            addresses.extend(self.own_address(item, "host"));
        }
        if addresses.len() < items.len() {
            return None;
        }
        let metadata = metadata?;
        Some(HostDocument {
            host: Arc::new(RemoteHost {
                name: metadata.name,
                origin: self.origin(document.at),
                labels: metadata.labels,
                addresses,
            }),
            name_at: metadata.at,
            addresses_at: items.iter().map(|item| item.at).collect(),
        })
    }

    /// A whole document.
    pub(super) fn group_document(&mut self, document: &Fields<'_>) -> Option<GroupDocument> {
        let metadata = self.metadata(document, true);
        let namespace = metadata.as_ref().and_then(|m| m.namespace.as_deref());
        let peers = self.group_peers(document, namespace);
        let metadata = metadata?;
        Some(GroupDocument {
            namespace: metadata.namespace,
            name: metadata.name,
            name_at: metadata.at,
            peers,
            references: std::mem::take(&mut self.references),
        })
    }

    fn group_peers(&mut self, document: &Fields<'_>, namespace: Option<&str>) -> Option<Vec<Peer>> {
        let help = "write `spec:` with a list of `peers`";
        let node = self.required(document, "spec", "a Group", help)?;
        let spec = self.fields(node, "`spec` of a Group", &["peers"])?;
        let peers = self.required(&spec, "peers", "`spec` of a Group", help)?;
        let help = "write peers as in rules: `labels`, `cidr`, `entity`, `group` and so on";
        let items = self.list(peers, "`peers`", Some(help))?;
        let mut peers = Vec::with_capacity(items.len());
        for item in items {
            peers.extend(self.peer(item, namespace));
        }
        (peers.len() == items.len()).then_some(peers)
    }
}
