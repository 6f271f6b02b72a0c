//! Which workload of a node is behind which port of its addresses. A port at which several
//! listen is nobody's, as is an address that several nodes claim: whoever takes a flow for the one
//! would let it in to the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::{
    claims::{MOST_LISTED, listed},
    record::Listen,
};
use crate::{
    compile::{elsewhere::ServiceAddress, image::WorkloadName},
    identity::attest::journal::{EventKind, SecurityEvent, Subject},
    policy::model::Workload,
    protocol_name,
};

/// Names of workloads.
type Names = BTreeSet<WorkloadName>;

/// Ports at which several workloads of a node listen, and these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Contested(BTreeMap<ServiceAddress, Names>);

/// A workload and where it listens.
pub(super) type Listener<'l> = (&'l Workload, &'l [Listen]);

/// The ports of these addresses at which it listens.
pub(super) fn ports_of<'a>(
    listens: &'a [Listen],
    addresses: &'a [IpNet],
) -> impl Iterator<Item = ServiceAddress> + 'a {
    listens.iter().flat_map(move |listen| {
        let here = addresses.iter().map(IpNet::addr);
        let here = here
            .filter(|address| listen.addresses.is_empty() || listen.addresses.contains(address));
        here.map(|address| ServiceAddress {
            address,
            protocol: listen.protocol,
            port: listen.port,
        })
    })
}

impl Contested {
    /// Of the workloads of a node with these addresses.
    pub fn of<'l>(
        addresses: &[IpNet],
        listeners: impl Iterator<Item = Listener<'l>> + Clone,
    ) -> Self {
        let mut first: BTreeMap<ServiceAddress, usize> = BTreeMap::new();
        let mut several = BTreeSet::new();
        for (index, (_, listens)) in listeners.clone().enumerate() {
            for at in ports_of(listens, addresses) {
                if *first.entry(at).or_insert(index) != index {
                    several.insert(at);
                }
            }
        }
        let mut contested: BTreeMap<ServiceAddress, Names> = BTreeMap::new();
        if several.is_empty() {
            return Self(contested);
        }
        for (workload, listens) in listeners {
            let ports = ports_of(listens, addresses);
            for at in ports.filter(|at| several.contains(at)) {
                let name = WorkloadName {
                    namespace: workload.namespace.clone(),
                    name: workload.name.clone(),
                };
                contested.entry(at).or_default().insert(name);
            }
        }
        Self(contested)
    }

    /// Whether several listen there.
    pub fn contains(&self, at: &ServiceAddress) -> bool {
        self.0.contains_key(at)
    }

    /// Whether several listen at a port of any of the addresses.
    pub fn anywhere(&self, protocol: u8, port: u16) -> bool {
        let mut ports = self.0.keys();
        ports.any(|at| (at.protocol, at.port) == (protocol, port))
    }

    /// In words, a line for each port and those who listen there.
    pub fn shown(&self) -> Vec<String> {
        let groups = groups(self.0.iter()).into_iter();
        groups
            .map(|(addresses, what)| format!("{what} ({})", listed(&addresses)))
            .collect()
    }

    /// What became of the ports of a node.
    pub fn turns(node: &str, before: &Self, now: &Self) -> Vec<SecurityEvent> {
        let event = |kind, reason, addresses: Vec<IpAddr>, message| SecurityEvent {
            kind: Subject::Fleet,
            nodes: vec![node.to_owned()],
            addresses: addresses.into_iter().take(MOST_LISTED).collect(),
            ..SecurityEvent::new(kind, reason, message)
        };
        let came = (now.0.iter()).filter(|(at, names)| {
            let known = before.0.get(at);
            known.is_none_or(|known| !names.is_subset(known))
        });
        let went = before.0.iter().filter(|(at, _)| !now.0.contains_key(at));
        let contest = groups(came).into_iter().map(|(addresses, what)| {
            let message = format!(
                "{}: {what} of node {node}, so that it is nobody's until only one does",
                listed(&addresses)
            );
            event(EventKind::Contest, "port-of-several", addresses, message)
        });
        let settle = groups(went).into_iter().map(|(addresses, what)| {
            let message = format!(
                "{}: it is over that {what} of node {node}",
                listed(&addresses)
            );
            event(EventKind::Settle, "port-of-one", addresses, message)
        });
        contest.chain(settle).collect()
    }
}

/// Ports with the same workloads behind them: the addresses, and the rest in words.
fn groups<'g>(
    ports: impl Iterator<Item = (&'g ServiceAddress, &'g Names)>,
) -> Vec<(Vec<IpAddr>, String)> {
    let mut groups: BTreeMap<(u8, u16, &Names), Vec<IpAddr>> = BTreeMap::new();
    for (at, names) in ports {
        let group = groups.entry((at.protocol, at.port, names));
        group.or_default().push(at.address);
    }
    let groups = groups.into_iter();
    let groups = groups.map(|((protocol, port, names), addresses)| {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let (names, protocol) = (names.join(" and "), protocol_name::text(protocol));
        (addresses, format!("{names} listen at {port}/{protocol}"))
    });
    groups.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{record::NodeRecord, shared_labels::SharedLabels, statement::Statement};

    fn statement(listens: &[(&str, u16, &[&str])]) -> Statement {
        let workloads = listens.iter().map(|(name, port, addresses)| {
            let mut workload = crate::registry::record::tests::workload(name, "10.0.1.1");
            workload.addresses.clear();
            workload.listens.push(Listen {
                protocol: 6,
                port: *port,
                addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            });
            workload
        });
        let record = NodeRecord {
            addresses: vec!["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()],
            workloads: workloads.collect(),
            ..crate::registry::record::tests::record("a", 1)
        };
        Statement::of(record, None, &mut SharedLabels::default())
    }

    fn services(statement: &Statement) -> Vec<(String, String)> {
        let peers = statement.peers(None, |_| false);
        let services = peers.services.iter();
        let shown = services.map(|s| (s.at.address.to_string(), s.workload.name.clone()));
        shown.collect()
    }

    /// The ports by which others know a workload.
    fn announced(statement: &Statement, contested: bool) -> BTreeMap<String, usize> {
        let announced = statement.announced(|_| contested);
        let ports = announced
            .0
            .into_iter()
            .map(|(name, reached)| match reached {
                crate::compile::elsewhere::Reached::ByPort(ports) => (name.name, ports.len()),
                crate::compile::elsewhere::Reached::ByAddress => (name.name, usize::MAX),
            });
        ports.collect()
    }

    #[test]
    fn a_port_of_several_is_nobodys() {
        let one = |name: &str, address: &str| (address.to_owned(), name.to_owned());
        let alone = statement(&[("web", 80, &[]), ("api", 81, &[])]);
        assert_eq!(services(&alone).len(), 4);
        assert_eq!(announced(&alone, false)["web"], 1);
        // At one of the addresses another one listens too.
        let both = statement(&[("web", 80, &[]), ("api", 80, &["10.0.0.2"])]);
        assert_eq!(services(&both), [one("web", "10.0.0.1")]);
        // Nobody enforces for either there, so neither is let in to on that ground.
        assert_eq!(
            announced(&both, false),
            [("api".into(), 0), ("web".into(), 0)].into()
        );
        // Each at an address of its own.
        let apart = statement(&[("web", 80, &["10.0.0.1"]), ("api", 80, &["10.0.0.2"])]);
        assert_eq!(
            services(&apart),
            [one("web", "10.0.0.1"), one("api", "10.0.0.2")]
        );
        assert_eq!(announced(&apart, false)["api"], 1);
        // Others do not know whose an address is that another node claims too.
        assert_eq!(announced(&apart, true)["api"], 0);
    }

    #[test]
    fn what_comes_and_goes_is_an_event_for_all_addresses() {
        let none = Contested::default();
        let both = statement(&[("web", 80, &[]), ("api", 80, &[])]).contested;
        let events = Contested::turns("a", &none, &both);
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].event, EventKind::Contest);
        assert_eq!(events[0].nodes, ["a"]);
        assert_eq!(events[0].addresses.len(), 2);
        let words = "shop/api and shop/web listen at 80/tcp";
        assert!(events[0].message.contains(words), "{}", events[0].message);
        assert_eq!(both.shown(), [format!("{words} (10.0.0.1, 10.0.0.2)")]);
        // A third one is news, one less is none.
        let three = statement(&[("web", 80, &[]), ("api", 80, &[]), ("db", 80, &[])]).contested;
        assert_eq!(Contested::turns("a", &both, &three).len(), 1);
        assert!(Contested::turns("a", &three, &both).is_empty());
        let events = Contested::turns("a", &both, &none);
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].event, EventKind::Settle);
        assert!(Contested::turns("a", &both, &both).is_empty());
    }
}
