//! The least policies that allow what was seen.
//!
//! Workloads with equal labels are one subject and one peer. A rule joins the peers with which
//! exactly the same services were seen, so nothing is allowed that was not seen between two
//! groups, unless [`Generalise`] asks for it or labels cannot tell two groups apart (then the
//! policy says so).

pub(super) mod yaml;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    str::FromStr,
};

use enforcer_common::Protocol;
use ipnet::IpNet;
use serde::Serialize;

use super::{
    flows::{
        Flows, PassedOver, Seen, Tally,
        place::{PlacedPeer, Unjudged, place},
    },
    services::Service,
    simulate::{by_hosts, has_service},
    tree::{Tree, name_of},
};
use crate::{
    compile::{CompileError, image::RuleDirection, image::WorkloadName},
    observe::record::Verdict,
    policy::model::{LabelSelector, Labels, Mode, Moment, ResolvedPolicy},
};

/// Version of [`Recommendation`], in its field `version`.
pub const RECOMMENDATION_VERSION: u32 = 1;

/// Where a recommendation may be wider than what was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generalise {
    /// Only these keys of labels count.
    pub labels: Option<BTreeSet<String>>,
    /// Addresses that belong to nobody stand for networks of these lengths (IPv4, IPv6).
    pub networks: Option<(u8, u8)>,
    /// Addresses that belong to nobody stand for the whole world.
    pub world: bool,
    /// A port stands for every port of its protocol.
    pub ports: bool,
}

impl FromStr for Generalise {
    type Err = String;

    /// One wish: `labels=KEY,…`, `networks=V4[,V6]`, `world` or `ports`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut wish = Self::default();
        let (what, values) = text.split_once('=').unwrap_or((text, ""));
        match (what, values) {
            ("world", "") => wish.world = true,
            ("ports", "") => wish.ports = true,
            ("labels", keys) if !keys.is_empty() => {
                wish.labels = Some(keys.split(',').map(str::to_owned).collect());
            }
            ("networks", lengths) => {
                let wrong = || {
                    format!("`{lengths}` are no prefix lengths: write for example `networks=24,64`")
                };
                let (v4, v6) = lengths.split_once(',').unwrap_or((lengths, "128"));
                let (v4, v6) = (
                    v4.parse().map_err(|_| wrong())?,
                    v6.parse().map_err(|_| wrong())?,
                );
                if v4 > 32 || v6 > 128 {
                    return Err(wrong());
                }
                wish.networks = Some((v4, v6));
            }
            _ => {
                return Err(format!(
                    "`{text}` is not known: write `labels=KEY,KEY`, `networks=24,64`, `world` or \
                     `ports`"
                ));
            }
        }
        Ok(wish)
    }
}

impl Generalise {
    /// Both wishes.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        if let Some(keys) = other.labels {
            self.labels.get_or_insert_default().extend(keys);
        }
        self.networks = other.networks.or(self.networks);
        self.world |= other.world;
        self.ports |= other.ports;
        self
    }

    fn labels(&self, labels: &Labels) -> Labels {
        let keeps = |key: &String| self.labels.as_ref().is_none_or(|keys| keys.contains(key));
        let kept = labels.iter().filter(|(key, _)| keeps(key));
        kept.map(|(k, v)| (k.clone(), v.clone())).collect()
    }

    fn network(&self, address: IpAddr) -> IpNet {
        let full = IpNet::from(address);
        let length = match (address, self.networks) {
            (_, None) => full.max_prefix_len(),
            (IpAddr::V4(_), Some((length, _))) | (IpAddr::V6(_), Some((_, length))) => length,
        };
        IpNet::new(address, length).unwrap_or(full).trunc()
    }
}

/// Whom a policy is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// The host endpoint.
    Host,
    /// Workloads.
    Workloads {
        /// Their namespace.
        namespace: String,
        /// Labels that they have.
        labels: Labels,
    },
}

/// The other side of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RecommendedPeer {
    /// This host.
    Host,
    /// Nobody known.
    World,
    /// Workloads.
    Workloads {
        /// Their namespace.
        namespace: String,
        /// Labels that they have.
        labels: Labels,
    },
    /// A network.
    Cidr(IpNet),
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecommendedRule {
    /// Its direction.
    pub direction: RuleDirection,
    /// Its name.
    pub name: String,
    /// Whom it lets through.
    pub peers: Vec<RecommendedPeer>,
    /// Services, as policies write them.
    pub services: Vec<String>,
    /// How often, and when, what it allows was seen.
    pub seen: Tally,
    /// `services`, not in words.
    #[serde(skip)]
    pub stretches: Vec<Service>,
}

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecommendedPolicy {
    /// Its namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Whom it is about.
    pub subject: Subject,
    /// Egress first, the most frequent first.
    pub rules: Vec<RecommendedRule>,
    /// Workloads with other labels that its selectors mean too, because labels cannot leave
    /// them out: wider than what was seen.
    pub also_selects: Vec<String>,
}

/// What is recommended. A public, versioned schema (docs/tools.md).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Recommendation {
    /// [`RECOMMENDATION_VERSION`].
    pub version: u32,
    /// Policies, by namespace and name.
    pub policies: Vec<RecommendedPolicy>,
    /// How much they allow, and when that was seen.
    pub seen: Tally,
    /// Records that were denied, and are therefore not allowed.
    pub denied: u64,
    /// Records of flows to port 0, which the language cannot name.
    pub unnameable: u64,
    /// Records of whom the tree does not know, by why.
    pub unjudged: BTreeMap<Unjudged, u64>,
    /// Records that are no new flow, or that policy did not decide about, by why.
    pub passed_over: BTreeMap<PassedOver, u64>,
    /// The policies as YAML.
    pub yaml: String,
}

/// What one policy is made from: by direction, and by peer and service, how often it was seen.
type Collected = BTreeMap<Subject, [BTreeMap<RecommendedPeer, BTreeMap<Service, Tally>>; 2]>;

/// Recommends policies for the workloads of a tree. With `denied`, what was denied is wanted
/// too.
pub fn recommend(
    policy: &ResolvedPolicy,
    flows: &Flows,
    generalise: &Generalise,
    denied: bool,
) -> Result<Recommendation, CompileError> {
    let mut recommendation = Recommendation {
        version: RECOMMENDATION_VERSION,
        policies: Vec::new(),
        seen: Tally::default(),
        denied: 0,
        unnameable: 0,
        unjudged: BTreeMap::new(),
        passed_over: flows.passed_over.clone(),
        yaml: String::new(),
    };
    // Who is where does not depend on policies.
    let known = ResolvedPolicy {
        policies: Vec::new(),
        ..policy.clone()
    };
    let mut collected = Collected::new();
    for (hosts, seen) in by_hosts(flows) {
        let hosts: Vec<IpAddr> = hosts.into_iter().collect();
        let tree = Tree::new(known.clone(), Mode::Enforce, Moment::default(), &hosts)?;
        for seen in seen {
            let (tally, _) = &flows.seen[seen];
            if seen.verdict == Verdict::Deny && !denied {
                recommendation.denied += tally.records;
                continue;
            }
            if Protocol::has_ports(seen.protocol) && seen.port == 0 {
                recommendation.unnameable += tally.records;
                continue;
            }
            match place(&tree, seen) {
                Err(why) => *recommendation.unjudged.entry(why).or_default() += tally.records,
                Ok(placed) => {
                    let subject = subject(&tree, placed.endpoint.as_ref(), generalise);
                    let is_world = tree.is_world(placed.peer);
                    let peer = peer(&tree, &placed.party, is_world, generalise);
                    let by_direction = collected.entry(subject).or_default();
                    let of_peer = by_direction[seen.direction as usize]
                        .entry(peer)
                        .or_default();
                    of_peer
                        .entry(service(seen, generalise))
                        .or_default()
                        .add(tally);
                    recommendation.seen.add(tally);
                }
            }
        }
    }
    let mut taken: BTreeSet<(Option<String>, String)> = policy
        .policies
        .iter()
        .map(|p| (p.namespace.clone(), p.name.clone()))
        .collect();
    for (subject, by_direction) in collected {
        let new = recommended(policy, subject, by_direction, generalise, &mut taken);
        recommendation.policies.push(new);
    }
    recommendation.yaml = yaml::write(&recommendation);
    Ok(recommendation)
}

fn subject(tree: &Tree, endpoint: Option<&WorkloadName>, generalise: &Generalise) -> Subject {
    match endpoint.and_then(|name| tree.workload(name)) {
        None => Subject::Host,
        Some(workload) => Subject::Workloads {
            namespace: workload.namespace.clone(),
            labels: generalise.labels(&workload.labels),
        },
    }
}

fn peer(
    tree: &Tree,
    party: &PlacedPeer,
    is_world: bool,
    generalise: &Generalise,
) -> RecommendedPeer {
    match party {
        PlacedPeer::Host => RecommendedPeer::Host,
        PlacedPeer::World(None) => RecommendedPeer::World,
        // Another host, which is known.
        PlacedPeer::World(Some(address)) if !is_world => {
            RecommendedPeer::Cidr(IpNet::from(*address))
        }
        PlacedPeer::World(Some(_)) if generalise.world => RecommendedPeer::World,
        PlacedPeer::World(Some(address)) => RecommendedPeer::Cidr(generalise.network(*address)),
        PlacedPeer::Workload(name, address) => {
            let labels = tree.workload(name).map(|w| generalise.labels(&w.labels));
            match (labels, address) {
                // Without labels, its address is narrower than everybody in its namespace.
                (Some(labels), Some(address)) if labels.is_empty() => {
                    RecommendedPeer::Cidr(IpNet::from(*address))
                }
                (labels, _) => RecommendedPeer::Workloads {
                    namespace: name.namespace.clone(),
                    labels: labels.unwrap_or_default(),
                },
            }
        }
    }
}

fn service(seen: &Seen, generalise: &Generalise) -> Service {
    let whole =
        generalise.ports && Protocol::has_ports(seen.protocol) || !has_service(seen.protocol);
    Service {
        protocol: Some(seen.protocol),
        first: if whole { 0 } else { seen.port },
        last: if whole { u16::MAX } else { seen.port },
    }
}

fn recommended(
    policy: &ResolvedPolicy,
    subject: Subject,
    by_direction: [BTreeMap<RecommendedPeer, BTreeMap<Service, Tally>>; 2],
    generalise: &Generalise,
    taken: &mut BTreeSet<(Option<String>, String)>,
) -> RecommendedPolicy {
    let mut rules = Vec::new();
    let mut also_selects = BTreeSet::new();
    if let Subject::Workloads { namespace, labels } = &subject {
        others(policy, namespace, labels, generalise, &mut also_selects);
    }
    for (direction, peers) in [RuleDirection::Egress, RuleDirection::Ingress]
        .into_iter()
        .zip(by_direction)
    {
        let mut by_services: BTreeMap<Vec<Service>, (Vec<RecommendedPeer>, Tally)> =
            BTreeMap::new();
        for (peer, services) in peers {
            if let RecommendedPeer::Workloads { namespace, labels } = &peer {
                others(policy, namespace, labels, generalise, &mut also_selects);
            }
            let stretches = merged(services.keys().copied());
            let (same, tally) = by_services.entry(stretches).or_default();
            same.push(peer);
            for seen in services.values() {
                tally.add(seen);
            }
        }
        let mut of_direction: Vec<_> = by_services.into_iter().collect();
        of_direction.sort_by_key(|(_, (_, tally))| std::cmp::Reverse(tally.records));
        let mut names = BTreeSet::new();
        for (stretches, (peers, seen)) in of_direction {
            let peers = aggregated(peers);
            let first = peers.first().map(peer_name).unwrap_or_default();
            let way = match direction {
                RuleDirection::Egress => "to",
                RuleDirection::Ingress => "from",
            };
            rules.push(RecommendedRule {
                direction,
                name: unique(&yaml::as_name(&format!("{way}-{first}"), 60), |name| {
                    names.insert(name.to_owned())
                }),
                peers,
                services: stretches.iter().map(Service::to_string).collect(),
                seen,
                stretches,
            });
        }
    }
    let (namespace, base) = match &subject {
        Subject::Host => (None, "seen-host".to_owned()),
        Subject::Workloads { namespace, labels } => {
            let values: Vec<_> = labels.values().map(String::as_str).collect();
            let name = if values.is_empty() {
                "unlabelled".to_owned()
            } else {
                values.join("-")
            };
            (Some(namespace.clone()), format!("seen-{name}"))
        }
    };
    RecommendedPolicy {
        name: unique(
            &yaml::as_name(&base.to_lowercase(), 200).replace('_', "-"),
            |name| taken.insert((namespace.clone(), name.to_owned())),
        ),
        namespace,
        subject,
        rules,
        also_selects: also_selects.into_iter().collect(),
    }
}

/// The name, with a number if it is taken.
fn unique(name: &str, mut take: impl FnMut(&str) -> bool) -> String {
    if take(name) {
        return name.to_owned();
    }
    let mut numbers = 2..u32::MAX;
    numbers
        .find_map(|number| {
            let name = format!("{name}-{number}");
            take(&name).then_some(name)
        })
        .unwrap_or_default()
}

/// The workloads that a selector means though their labels are others.
fn others(
    policy: &ResolvedPolicy,
    namespace: &str,
    labels: &Labels,
    generalise: &Generalise,
    found: &mut BTreeSet<String>,
) {
    let selector = LabelSelector::of(labels.clone());
    for workload in policy.workloads.iter() {
        if workload.namespace == namespace
            && selector.matches(&workload.labels)
            && generalise.labels(&workload.labels) != *labels
        {
            found.insert(name_of(workload).to_string());
        }
    }
}

/// Neighbouring ports as one range.
fn merged(services: impl Iterator<Item = Service>) -> Vec<Service> {
    let mut merged: Vec<Service> = Vec::new();
    for service in services {
        let has_ports = service.protocol.is_some_and(Protocol::has_ports);
        match merged.last_mut() {
            Some(last)
                if has_ports
                    && last.protocol == service.protocol
                    && u32::from(service.first) <= u32::from(last.last) + 1 =>
            {
                last.last = last.last.max(service.last);
            }
            _ => merged.push(service),
        }
    }
    merged
}

/// Neighbouring networks as one.
fn aggregated(peers: Vec<RecommendedPeer>) -> Vec<RecommendedPeer> {
    let mut networks = Vec::new();
    let mut all = Vec::new();
    for peer in peers {
        match peer {
            RecommendedPeer::Cidr(network) => networks.push(network),
            other => all.push(other),
        }
    }
    let networks = IpNet::aggregate(&networks);
    all.extend(networks.into_iter().map(RecommendedPeer::Cidr));
    all
}

fn peer_name(peer: &RecommendedPeer) -> String {
    match peer {
        RecommendedPeer::Host => "host".to_owned(),
        RecommendedPeer::World => "world".to_owned(),
        RecommendedPeer::Cidr(network) if network.prefix_len() == network.max_prefix_len() => {
            network.addr().to_string()
        }
        RecommendedPeer::Cidr(network) => network.to_string(),
        RecommendedPeer::Workloads { namespace, labels } if labels.is_empty() => namespace.clone(),
        RecommendedPeer::Workloads { labels, .. } => labels
            .values()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join("-"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        policy::load_text,
        tools::{flows::Who, simulate::simulate},
    };

    const TREE: &str = "
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: web-1, namespace: shop, labels: {app: web}}
spec: {interface: a, addresses: [10.0.0.1]}
---
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: web-2, namespace: shop, labels: {app: web}}
spec: {interface: b, addresses: [10.0.0.2]}
---
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: db, namespace: shop, labels: {app: db, version: \"1.10\"}}
spec: {interface: c, addresses: [10.0.1.1]}
---
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: canary, namespace: shop, labels: {app: web, canary: \"yes\"}}
spec: {interface: d, addresses: [10.0.0.3]}
";

    fn flows(list: &[(&str, RuleDirection, &str, u8, u16, Verdict)]) -> Flows {
        let mut flows = Flows::default();
        for (endpoint, direction, peer, protocol, port, verdict) in list {
            let seen = Seen {
                node: String::new(),
                endpoint: Who::Proven(WorkloadName {
                    namespace: "shop".into(),
                    name: (*endpoint).into(),
                }),
                direction: *direction,
                peer: Who::Address(peer.parse().unwrap()),
                protocol: *protocol,
                port: *port,
                verdict: *verdict,
            };
            let tally = Tally {
                records: 2,
                packets: 5,
                first: "2026-01-01T00:00:00.000000Z".into(),
                last: "2026-01-02T00:00:00.000000Z".into(),
            };
            flows.see(seen, &tally, None);
        }
        flows
    }

    #[test]
    fn what_was_seen_becomes_readable_policies_that_let_it_through() {
        use RuleDirection::{Egress, Ingress};
        use Verdict::{Allow, Audit, Deny};
        let policy = load_text("a.yaml", TREE).unwrap();
        let flows = flows(&[
            ("web-1", Egress, "10.0.1.1", 6, 5432, Audit),
            ("web-2", Egress, "10.0.1.1", 6, 5432, Allow),
            ("web-2", Egress, "192.0.2.8", 17, 53, Allow),
            ("web-2", Egress, "192.0.2.9", 17, 53, Allow),
            ("db", Ingress, "10.0.0.1", 6, 5432, Allow),
            ("db", Ingress, "10.0.0.2", 6, 5433, Allow),
            ("db", Ingress, "10.0.0.1", 1, 0x0800, Allow),
            ("db", Ingress, "203.0.113.1", 6, 22, Deny),
        ]);
        let wanted = recommend(&policy, &flows, &Generalise::default(), false).unwrap();
        assert_eq!(wanted.denied, 2);
        insta::assert_snapshot!(wanted.yaml);
        let both = load_text("a.yaml", &format!("{TREE}---\n{}", wanted.yaml))
            .unwrap_or_else(|e| panic!("{}", e.render(false)));
        let simulation = simulate(&both, Mode::Enforce, Moment::default(), &flows).unwrap();
        assert!(!simulation.denies(), "{:?}", simulation.changes);
        // The denial stays one, so nothing changes at all but what was in audit.
        assert_eq!(simulation.changes.len(), 1);
    }

    #[test]
    fn only_what_is_asked_for_is_wider() {
        use RuleDirection::Egress;
        let policy = load_text("a.yaml", TREE).unwrap();
        let flows = flows(&[
            ("web-1", Egress, "192.0.2.8", 6, 443, Verdict::Allow),
            ("canary", Egress, "192.0.2.77", 6, 8443, Verdict::Allow),
        ]);
        let of = |wishes: &[&str]| {
            let wishes = wishes.iter().map(|w| w.parse::<Generalise>().unwrap());
            let wish = wishes.fold(Generalise::default(), Generalise::and);
            let wanted = recommend(&policy, &flows, &wish, false).unwrap();
            let rules = wanted.policies.iter().flat_map(|p| &p.rules);
            let rules = rules.map(|r| format!("{:?} {}", r.peers, r.services.join(" ")));
            (wanted.policies.len(), rules.collect::<Vec<_>>())
        };
        assert_eq!(
            of(&[]),
            (
                2,
                vec![
                    "[Cidr(192.0.2.8/32)] 443/tcp".to_owned(),
                    "[Cidr(192.0.2.77/32)] 8443/tcp".to_owned()
                ]
            )
        );
        assert_eq!(
            of(&["labels=app", "networks=24"]),
            (1, vec!["[Cidr(192.0.2.0/24)] 443/tcp 8443/tcp".to_owned()])
        );
        assert_eq!(
            of(&["labels=app", "world", "ports"]),
            (1, vec!["[World] tcp".to_owned()])
        );
        assert!("networks=33".parse::<Generalise>().is_err());
        assert!("everything".parse::<Generalise>().is_err());
    }
}
