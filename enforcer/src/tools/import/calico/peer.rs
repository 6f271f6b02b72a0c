//! Whom a rule of Calico means.

use ipnet::IpNet;

use super::{Demands, NAME, Reader, selector::Selector};
use crate::{
    policy::model::{Labels, NAME_LABEL, Peer, PortMatch},
    tools::import::field::Field,
};

/// Fields of `source` and `destination`.
pub(super) const ENTITY: &[&str] = &[
    "nets",
    "notNets",
    "selector",
    "notSelector",
    "namespaceSelector",
    "ports",
    "notPorts",
    "serviceAccounts",
    "services",
];

impl Reader<'_, '_> {
    /// Peers of a rule. `None`: left out.
    pub(super) fn peers(&mut self, rule: &Field<'_>, side: &str) -> Option<Vec<Peer>> {
        let Some(entity) = rule.find(side) else {
            return Some(vec![Peer::Any]);
        };
        if !self.report.knows(&entity, ENTITY) {
            return None;
        }
        if let Some(field) = entity.find("services") {
            let help = "select the workloads behind it by their labels";
            self.report
                .omit(&field, "selects what is behind a Service", help);
            return None;
        }
        let nets = self.networks(&entity, "nets")?;
        let not_nets = self.networks(&entity, "notNets")?;
        let names = [
            "selector",
            "notSelector",
            "namespaceSelector",
            "serviceAccounts",
        ];
        let by_labels = names.iter().find_map(|name| entity.find(name));
        match (by_labels, nets.is_some() || not_nets.is_some()) {
            (None, false) => Some(vec![Peer::Any]),
            (None, true) => Some(within(nets, &not_nets.unwrap_or_default())),
            (Some(_), false) => self.selected(&entity),
            (Some(field), true) => {
                let message = "demands labels and an address of the same peer";
                let help = "write one of the two";
                self.report.omit(&field, message, help);
                None
            }
        }
    }

    /// Networks; the inner `None` if none are written.
    #[expect(
        clippy::option_option,
        reason = "absence is said by one, what was left out by the other"
    )]
    fn networks(&mut self, entity: &Field<'_>, name: &str) -> Option<Option<Vec<IpNet>>> {
        let items = self.report.list(entity, name)?;
        if items.is_empty() {
            return Some(None);
        }
        let mut networks = Vec::new();
        for item in &items {
            let text = self.report.text(item)?;
            let Some(prefix) = crate::tools::import::prefix(text) else {
                self.report
                    .omit(item, "is not a network", "write it as in `10.0.0.0/8`");
                return None;
            };
            networks.push(prefix);
        }
        Some(Some(networks))
    }

    fn selected(&mut self, entity: &Field<'_>) -> Option<Vec<Peer>> {
        let selector = self.selector(entity, "selector")?;
        let not = self.selector(entity, "notSelector")?;
        let namespaces = self.selector(entity, "namespaceSelector")?;
        let accounts = self.named_accounts(entity)?;
        let selector = match (selector, not) {
            (selector, None) => selector.unwrap_or_else(Selector::all),
            (Some(selector), Some(not)) => {
                let both = not.negated().and_then(|not| selector.and(&not));
                match both {
                    Ok(both) => both,
                    Err(error) => {
                        let help = "write a rule for each alternative";
                        self.report.omit(entity, error.to_string(), help);
                        return None;
                    }
                }
            }
            (None, Some(_)) => {
                let message = "is about everybody but some workloads, and so also about the world";
                let help = "write who is meant with `selector`";
                self.report.omit(entity, message, help);
                return None;
            }
        };
        if selector.is_global {
            let help = "write `namespaceSelector: global()` beside a selector";
            self.report
                .omit(entity, "selects with `global()` alone", help);
            return None;
        }
        let is_global = namespaces.as_ref().is_some_and(|n| n.is_global);
        let namespaces = match (self.namespace, namespaces) {
            (Some(own), None) => Demands::own(own),
            (None, None) => Demands::Labels(Selector::all()),
            (_, Some(selector)) => Demands::Labels(selector),
        };
        let mut peers = Vec::new();
        if !is_global {
            let workloads = self.workloads(entity, &selector, &namespaces, accounts.as_deref())?;
            peers.extend(workloads.into_iter().map(Peer::Workloads));
        }
        if accounts.is_none() {
            peers.extend(self.matching_sets(entity, &selector, &namespaces, is_global)?);
        }
        Some(peers)
    }

    /// The sets of networks that a selector means.
    fn matching_sets(
        &mut self,
        entity: &Field<'_>,
        selector: &Selector,
        namespaces: &Demands,
        is_global: bool,
    ) -> Option<Vec<Peer>> {
        // `namespaceSelector: all()` means what is in a namespace.
        let names_namespaces = entity.find("namespaceSelector").is_some();
        let mut peers = Vec::new();
        for set in self.sets {
            if !selector.matches(&set.labels) {
                continue;
            }
            let group = &set.draft.group;
            let is_meant = match (&group.namespace, namespaces) {
                (None, Demands::Own(_)) => false,
                (None, Demands::Labels(_)) => is_global || !names_namespaces,
                (Some(namespace), Demands::Own(own)) => own == namespace,
                (Some(_), Demands::Labels(_)) if is_global => false,
                (Some(namespace), Demands::Labels(selector)) => {
                    let by_name_only = selector.any.iter().all(|alternative| {
                        let demands = super::selector::demands(alternative);
                        demands.iter().all(|d| d.key == NAME || d.key == NAME_LABEL)
                    });
                    if !by_name_only {
                        let message = format!(
                            "would also mean the NetworkSet {namespace}/{}, if its namespace has \
                             these labels, which is not known here",
                            group.name
                        );
                        let help = "select its namespace by name: `projectcalico.org/name == 'x'`";
                        self.report.omit(entity, message, help);
                        return None;
                    }
                    let labels = [NAME, NAME_LABEL].map(|k| (k.to_owned(), namespace.clone()));
                    selector.matches(&Labels::from(labels))
                }
            };
            if !is_meant || group.peers.is_empty() {
                continue;
            }
            // A group in a namespace can be referred to from there only.
            if group.namespace.is_none() || group.namespace.as_deref() == self.namespace {
                peers.push(Peer::Group(group.clone().into()));
            } else {
                peers.extend(group.peers.iter().cloned());
            }
        }
        Some(peers)
    }

    /// Names of service accounts; the inner `None` if none are written.
    #[expect(
        clippy::option_option,
        reason = "absence is said by one, what was left out by the other"
    )]
    fn named_accounts(&mut self, entity: &Field<'_>) -> Option<Option<Vec<String>>> {
        let Some(field) = entity.find("serviceAccounts") else {
            return Some(None);
        };
        if !self.report.knows(&field, &["names", "selector"]) {
            return None;
        }
        let selected = self.accounts(&field, "selector")?;
        let items = self.report.list(&field, "names")?;
        let mut names = Vec::new();
        for item in &items {
            names.push(self.report.text(item)?.to_owned());
        }
        Some(match (names.is_empty(), selected) {
            (true, selected) => selected,
            (false, None) => Some(names),
            (false, Some(selected)) => {
                names.retain(|name| selected.contains(name));
                Some(names)
            }
        })
    }

    /// Makes sure that `ipVersion` demands nothing that is not said already.
    pub(super) fn ip_version(
        &mut self,
        rule: &Field<'_>,
        ports: &[PortMatch],
        peers: &mut Vec<Peer>,
    ) -> Option<()> {
        use enforcer_common::Protocol;
        let Some(field) = rule.find("ipVersion") else {
            return Some(());
        };
        let (is_v4, own, other) = match field.text() {
            Some("4") => (true, Protocol::ICMP, Protocol::ICMPV6),
            Some("6") => (false, Protocol::ICMPV6, Protocol::ICMP),
            _ => {
                self.report
                    .omit(&field, "is neither 4 nor 6", "write `4` or `6`");
                return None;
            }
        };
        let is = |ports: &PortMatch, protocol: u8| matches!(ports, PortMatch::Range(range) if range.protocol == Some(protocol));
        // Flows of this version only, or of the other only: then it says nothing, or all.
        if ports.iter().all(|ports| is(ports, own)) {
            return Some(());
        }
        let known = peers.iter().all(|peer| matches!(peer, Peer::Cidr { .. }));
        if ports.iter().any(|ports| is(ports, other)) || !known {
            self.report.omit(
                &field,
                "means one version of IP only, of peers that have addresses of both",
                "leave it out if both versions may pass, or write networks of this version",
            );
            return None;
        }
        peers.retain(
            |peer| matches!(peer, Peer::Cidr { prefix, .. } if prefix.addr().is_ipv4() == is_v4),
        );
        (!peers.is_empty()).then_some(())
    }
}

/// Networks but for others.
fn within(nets: Option<Vec<IpNet>>, not_nets: &[IpNet]) -> Vec<Peer> {
    let everywhere = || {
        vec![
            IpNet::V4(ipnet::Ipv4Net::default()),
            IpNet::V6(ipnet::Ipv6Net::default()),
        ]
    };
    let nets = nets.unwrap_or_else(everywhere);
    let nets = nets
        .into_iter()
        .filter(|prefix| !not_nets.iter().any(|not| not.contains(prefix)));
    let peers = nets.map(|prefix| {
        let mut except: Vec<_> = not_nets
            .iter()
            .copied()
            .filter(|not| prefix.contains(not))
            .collect();
        except.sort();
        except.dedup();
        Peer::Cidr { prefix, except }
    });
    peers.collect()
}
