//! Networks and the other side of a flow.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::{
    diagnostic::{Code, listed},
    document::{Node, Value},
    model::{Assurance, Group, Peer, WorkloadSelector},
    reader::{Fields, NO_NAMES, Reader, quoted},
    selector::FACTS,
};

/// What says who a peer is. A peer may have several of the first five.
const FORMS: [&str; 8] = [
    "labels",
    "matchExpressions",
    "spiffeId",
    "serviceAccount",
    "unit",
    "cidr",
    "entity",
    "group",
];

const ASSURANCES: [(&str, Assurance); 4] = [
    ("address", Assurance::Address),
    ("orchestrator", Assurance::Orchestrator),
    ("kernel", Assurance::Kernel),
    ("attested", Assurance::Attested),
];

/// The field in which a peer that is only a word was probably meant.
fn form_of(text: &str) -> Option<&'static str> {
    if matches!(text, "world" | "host" | "remoteHost" | "any") {
        return Some("entity");
    }
    let network = text.parse::<IpNet>().is_ok() || text.parse::<IpAddr>().is_ok();
    network.then_some("cidr")
}

impl Reader<'_> {
    /// An item of `from` or `to`. `namespace` is the policy's own.
    pub(super) fn peer(&mut self, node: &Node, namespace: Option<&str>) -> Option<Peer> {
        if let Value::Text(text) = &node.value
            && let Some(form) = form_of(text)
        {
            let message = format!("a peer is a mapping, not {}", quoted(text));
            self.error(
                Code::WrongType,
                node.at,
                message,
                format!("write `{form}: {text}`"),
            );
            return None;
        }
        let known = &[
            "labels",
            "matchExpressions",
            "namespace",
            "namespaceSelector",
            "spiffeId",
            "serviceAccount",
            "unit",
            "cidr",
            "except",
            "entity",
            "group",
            "assurance",
        ];
        let fields = self.fields(node, "a peer", known)?;
        let forms: Vec<_> = FORMS
            .into_iter()
            .filter(|form| fields.find(form).is_some())
            .collect();
        let is_fact = |form: &str| FACTS.contains(&form) || form == "labels";
        let form = match forms.as_slice() {
            [first, rest @ ..] if is_fact(first) && rest.iter().all(|form| is_fact(form)) => {
                "labels"
            }
            [form] => *form,
            [] if fields.doubtful => return None,
            [] => {
                let of_namespace = ["namespace", "namespaceSelector"];
                let help = if of_namespace.iter().any(|name| fields.find(name).is_some()) {
                    "add `labels: {}` for every workload of the namespace".to_owned()
                } else {
                    format!("write one of {}; for anybody `entity: any`", listed(FORMS))
                };
                self.error(Code::BadPeer, node.at, "a peer that does not say who", help);
                return None;
            }
            [.., second] => {
                let at = fields.key(second).unwrap_or(node.at);
                let both = forms.iter().map(|form| format!("`{form}`"));
                let message = format!("{} in one peer", both.collect::<Vec<_>>().join(" and "));
                let help = "begin a new item with `-` for each; any of them matches";
                self.error(Code::BadPeer, at, message, help);
                return None;
            }
        };
        for (name, owner) in [
            ("namespace", "labels"),
            ("namespaceSelector", "labels"),
            ("except", "cidr"),
        ] {
            if let (true, Some(at)) = (form != owner, fields.key(name)) {
                let message = format!("`{name}` belongs to `{owner}`, not to `{form}`");
                self.error(Code::BadPeer, at, message, "remove it");
                return None;
            }
        }
        let assurance = match fields.find("assurance") {
            Some(node) => self.choice(node, "`assurance`", &ASSURANCES),
            None => Some(Assurance::Address),
        };
        let peer = match form {
            "labels" => self.workloads(&fields, namespace),
            "cidr" => self.network(&fields),
            "group" => self.group_reference(fields.find("group")?),
            _ => {
                let entities = [
                    ("world", Peer::World),
                    ("host", Peer::Host),
                    ("remoteHost", Peer::RemoteHost),
                    ("any", Peer::Any),
                ];
                self.choice(fields.find("entity")?, "`entity`", &entities)
            }
        };
        let (at_least, peer) = (assurance?, peer?);
        if let (Some(at), Peer::Cidr { .. } | Peer::World) = (fields.key("assurance"), &peer) {
            let message = "`assurance` of who is known by nothing but an address";
            let help = "remove it, or select workloads by `labels`";
            self.error(Code::BadPeer, at, message, help);
            return None;
        }
        Some(match at_least {
            Assurance::Address => peer,
            at_least => Peer::Assured {
                at_least,
                peer: Box::new(peer),
            },
        })
    }

    /// A group by its name; the rest comes when all groups are known.
    fn group_reference(&mut self, node: &Node) -> Option<Peer> {
        let group = self.group_name(node)?;
        self.references.push(node.at);
        Some(Peer::Group(Arc::new(group)))
    }

    /// The name of a group, as somebody refers to it.
    pub(super) fn group_name(&mut self, node: &Node) -> Option<Group> {
        Some(Group {
            namespace: None,
            name: self.name(node)?,
            peers: Vec::new(),
        })
    }

    fn workloads(&mut self, fields: &Fields<'_>, own: Option<&str>) -> Option<Peer> {
        let selector = self.facts(fields, "labels");
        let (name, by_labels) = (fields.find("namespace"), fields.key("namespaceSelector"));
        if let (Some(_), Some(at)) = (name, by_labels) {
            let message = "`namespace` and `namespaceSelector` in one peer";
            self.error(Code::BadPeer, at, message, "keep one of them");
            return None;
        }
        // An ID or a unit tells who it is, wherever.
        let of_own = ["labels", "matchExpressions", "serviceAccount"];
        let of_own = of_own.iter().any(|name| fields.find(name).is_some());
        let namespace = match name {
            None if by_labels.is_none() && of_own => own.map(str::to_owned),
            None => None,
            Some(node) if self.text(node, "`namespace`")? == "*" => None,
            Some(node) => Some(self.namespace(node)?),
        };
        Some(Peer::Workloads(WorkloadSelector {
            namespace,
            ..selector?
        }))
    }

    fn network(&mut self, fields: &Fields<'_>) -> Option<Peer> {
        let prefix = self.cidr(fields.find("cidr")?);
        let mut except = Vec::new();
        let mut good = true;
        if let Some(node) = fields.find("except") {
            for node in self.list(node, "`except`", None)? {
                match (self.cidr(node), prefix) {
                    (Some(inner), Some(outer)) if !outer.contains(&inner) => {
                        good = false;
                        self.error(
                            Code::ExceptOutside,
                            node.at,
                            format!("`{inner}` is not inside `{outer}`"),
                            "an exception takes part of `cidr` away; remove it or correct one",
                        );
                    }
                    (Some(inner), Some(outer)) if inner == outer => {
                        good = false;
                        self.error(
                            Code::NoEffect,
                            node.at,
                            format!("`{inner}` takes all of `{outer}` away"),
                            "remove the peer, or correct one of the two",
                        );
                    }
                    (Some(inner), _) => except.push(inner),
                    (None, _) => good = false,
                }
            }
        }
        let prefix = prefix?;
        good.then_some(Peer::Cidr { prefix, except })
    }

    /// A network, or a single address as one of full length.
    pub(super) fn cidr(&mut self, node: &Node) -> Option<IpNet> {
        let text = self.text(node, "a network")?;
        if let Ok(address) = text.parse::<IpAddr>() {
            return self.unmapped(node, IpNet::from(address));
        }
        let Ok(network) = text.parse::<IpNet>() else {
            let is_name = text.contains('.') && text.contains(|c: char| c.is_ascii_alphabetic());
            if is_name && !text.contains(['/', ':']) {
                let message = format!("{} is a name, and not an address", quoted(text));
                self.error(Code::NotYet, node.at, message, NO_NAMES);
                return None;
            }
            let address = text.split('/').next().unwrap_or_default();
            let help = match address.parse::<IpAddr>() {
                Ok(IpAddr::V4(address)) => format!("write `{address}/24`, with a length up to 32"),
                Ok(IpAddr::V6(address)) => format!("write `{address}/64`, with a length up to 128"),
                Err(_) => "write an address or a network, as in `10.1.2.3`, `10.0.0.0/8` or \
                           `fd00:1::/32`"
                    .to_owned(),
            };
            let message = format!("{} is not a network", quoted(text));
            self.error(Code::BadCidr, node.at, message, help);
            return None;
        };
        if network.trunc() != network {
            let trunc = network.trunc();
            let single = IpNet::from(network.addr());
            self.error(
                Code::HostBits,
                node.at,
                format!("`{network}` has bits set beyond its length"),
                format!("write `{trunc}` for the network, or `{single}` for the one address"),
            );
            return None;
        }
        self.unmapped(node, network)
    }

    /// Packets carry IPv4 addresses as such: one that is written as IPv6 would never match.
    fn unmapped(&mut self, node: &Node, network: IpNet) -> Option<IpNet> {
        if let IpNet::V6(v6) = network
            && let Some(v4) = v6.addr().to_ipv4_mapped()
            && v6.prefix_len() >= 96
        {
            self.error(
                Code::BadCidr,
                node.at,
                format!("`{network}` is an IPv4 network in IPv6 form"),
                format!("write `{v4}/{}`", v6.prefix_len() - 96),
            );
            return None;
        }
        Some(network)
    }
}
