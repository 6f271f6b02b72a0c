//! Whom a rule of Cilium means.

use enforcer_common::Direction;

use super::Reader;
use crate::{
    policy::model::{Group, Peer, RuleAction, WorkloadSelector},
    tools::import::{field::Field, report::Effect},
};

/// Fields of a rule below `ingress`.
pub(super) const FROM: &[&str] = &[
    "fromEndpoints",
    "fromEntities",
    "fromCIDR",
    "fromCIDRSet",
    "fromNodes",
    "fromGroups",
    "fromRequires",
];
/// Fields of a rule below `egress`.
pub(super) const TO: &[&str] = &[
    "toEndpoints",
    "toEntities",
    "toCIDR",
    "toCIDRSet",
    "toNodes",
    "toGroups",
    "toRequires",
    "toServices",
    "toFQDNs",
];

impl Reader<'_, '_> {
    /// Peers of a rule; `None` if it matches nobody, or was left out.
    pub(super) fn peers(
        &mut self,
        rule: &Field<'_>,
        direction: Direction,
        has_ports: bool,
        action: RuleAction,
    ) -> Option<Vec<Peer>> {
        let keys = match direction {
            Direction::Ingress => FROM,
            Direction::Egress => TO,
        };
        let mut lists = Vec::new();
        let mut any_empty = false;
        for key in keys {
            let Some(field) = rule.find(key) else {
                continue;
            };
            let items = self.report.list(rule, key)?;
            if key.ends_with("Requires") {
                if !items.is_empty() {
                    self.report.omit_with(
                        &field,
                        Effect::Wider,
                        "demands labels of whoever is allowed by other rules, too",
                        "write the labels at the peers of each rule",
                    );
                    return None;
                }
            } else if items.is_empty() {
                any_empty = true;
            } else {
                lists.push((*key, field, items));
            }
        }
        match lists.as_slice() {
            // A list without items selects nobody.
            [] if any_empty => None,
            [] if has_ports => Some(vec![Peer::Any]),
            [] if action == RuleAction::Deny => {
                let help = "write `fromEntities: [all]` or `toEntities: [all]` for everybody";
                self.report.omit(rule, "does not say what it denies", help);
                None
            }
            // `- {}` allows nothing, and isolates.
            [] => None,
            [(key, field, items)] => {
                let peers = self.listed(key, field, items)?;
                (!peers.is_empty()).then_some(peers)
            }
            [_, (key, field, _), ..] => {
                let message = format!("`{key}` beside other peers, which Cilium refuses");
                self.report.omit(field, message, "write a rule for each");
                None
            }
        }
    }

    fn listed(&mut self, key: &str, field: &Field<'_>, items: &[Field<'_>]) -> Option<Vec<Peer>> {
        let (message, help) = match &key[key.find(char::is_uppercase).unwrap_or(0)..] {
            "Endpoints" => {
                let peers = items
                    .iter()
                    .filter_map(|item| self.endpoint(item))
                    .flatten();
                return Some(peers.collect());
            }
            "Entities" => {
                let peers = items.iter().filter_map(|item| self.entity(item)).flatten();
                return Some(peers.collect());
            }
            "CIDR" => {
                self.warn_of_networks(field);
                let peers = items
                    .iter()
                    .filter_map(|item| self.network(item, Vec::new()));
                return Some(peers.flatten().collect());
            }
            "CIDRSet" => {
                self.warn_of_networks(field);
                let peers = items
                    .iter()
                    .filter_map(|item| self.cidr_rule(item))
                    .flatten();
                return Some(peers.collect());
            }
            "Nodes" => (
                "selects nodes by their labels",
                "write `entity: host` and `entity: remoteHost`, or their addresses as `cidr`",
            ),
            "Groups" => (
                "selects what a cloud provider calls a group",
                "write its addresses as a Group of `cidr` peers",
            ),
            "Services" => (
                "selects what is behind a Service",
                "select the workloads behind it by their labels",
            ),
            _ => (
                "selects by names, which are not looked up in this version",
                "write the addresses as `cidr`, or as a Group of them",
            ),
        };
        self.report.omit(field, message, help);
        None
    }

    fn endpoint(&mut self, item: &Field<'_>) -> Option<Vec<Peer>> {
        if let Some(name) = Self::reserved(item) {
            return self.entity_named(item, name);
        }
        let selectors = self.workloads(item)?;
        Some(selectors.into_iter().map(Peer::Workloads).collect())
    }

    fn entity(&mut self, item: &Field<'_>) -> Option<Vec<Peer>> {
        let name = self.report.text(item)?;
        self.entity_named(item, name)
    }

    fn entity_named(&mut self, item: &Field<'_>, name: &str) -> Option<Vec<Peer>> {
        let help = match name {
            "all" => return Some(vec![Peer::Any]),
            "none" => return Some(Vec::new()),
            "world" => return Some(vec![Peer::World]),
            "host" => return Some(vec![Peer::Host]),
            "remote-node" => return Some(vec![Peer::RemoteHost]),
            "cluster" => {
                let workloads = Peer::Workloads(WorkloadSelector::default());
                return Some(vec![workloads, Peer::Host, Peer::RemoteHost]);
            }
            "world-ipv4" | "world-ipv6" => {
                "write `entity: world`, or the networks that are meant as `cidr`"
            }
            "kube-apiserver" => "write its addresses as a Group of `cidr` peers",
            "ingress" => "select the workloads of the ingress controller by their labels",
            "health" | "init" | "unmanaged" => "leave it out: there is nobody of this kind here",
            _ => "write one of the entities that docs/policy.md lists",
        };
        let message = format!("the entity `{name}` has no counterpart");
        self.report.omit(item, message, help);
        None
    }

    fn cidr_rule(&mut self, item: &Field<'_>) -> Option<Vec<Peer>> {
        let known = ["cidr", "except", "cidrGroupRef", "cidrGroupSelector"];
        if !self.report.knows(item, &known) {
            return None;
        }
        if let Some(field) = item.find("cidrGroupSelector") {
            let help = "write a `group:` for each of them";
            self.report
                .omit(&field, "selects groups of networks by labels", help);
            return None;
        }
        let mut except = Vec::new();
        for field in self.report.list(item, "except")? {
            except.push(self.prefix(&field)?);
        }
        if let Some(field) = item.find("cidrGroupRef") {
            let name = self.report.text(&field)?;
            let group = self.groups.iter().find(|draft| draft.group.name == name);
            let Some(draft) = group else {
                let message = format!("there is no CiliumCIDRGroup `{name}` among the files");
                let help = "give its file, too, or write a Group of this name by hand";
                self.report.omit(&field, message, help);
                return None;
            };
            if !except.is_empty() {
                let help = "write the exceptions into the group";
                self.report
                    .omit(&field, "a group of networks with exceptions", help);
                return None;
            }
            let group = Group::clone(&draft.group);
            return Some(if group.peers.is_empty() {
                Vec::new()
            } else {
                vec![Peer::Group(group.into())]
            });
        }
        let Some(cidr) = item.find("cidr") else {
            let help = "write `cidr: 10.0.0.0/8`";
            self.report.omit(item, "does not say which network", help);
            return None;
        };
        let prefix = self.prefix(&cidr)?;
        if let Some(outside) = except.iter().find(|inside| !prefix.contains(*inside)) {
            let message = format!("the exception {outside} is not inside {prefix}");
            self.report
                .omit(item, message, "correct it: Cilium refuses it, too");
            return None;
        }
        self.network(&cidr, except)
    }
}
