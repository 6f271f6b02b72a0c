//! What a tree says of flows that were seen, beside what became of them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    flows::{
        Bad, Flows, PassedOver, Seen, Tally, as_answer,
        place::{PlacedPeer, Unjudged, place},
    },
    parties::{self, GroupKind},
    services::Service,
    tree::{RulingView, Tree},
};
use crate::{
    compile::{
        CompileError,
        explain::Answer,
        image::{RuleDirection, RuleInfo, WorkloadName},
    },
    observe::record::RecordRule,
    policy::model::{Mode, Moment, ResolvedPolicy},
};

/// Version of [`Simulation`], in its field `version`.
pub const SIMULATION_VERSION: u32 = 1;

/// Most examples of one change.
const EXAMPLES: usize = 3;

/// What would change for flows that were seen. A public, versioned schema (docs/tools.md).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Simulation {
    /// [`SIMULATION_VERSION`].
    pub version: u32,
    /// The node's mode that verdicts are for.
    pub mode: Mode,
    /// Records, and flows of captures at each side, that were judged.
    pub judged: u64,
    /// Those of them whose verdict stays.
    pub same: u64,
    /// What changes: denials first.
    pub changes: Vec<SimulatedChange>,
    /// What the tree cannot say anything about, by why not.
    pub unjudged: BTreeMap<Unjudged, u64>,
    /// What is no flow that policy decides about, by why not.
    pub passed_over: BTreeMap<PassedOver, u64>,
    /// What could not be read.
    pub bad: Bad,
}

/// How a verdict changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SimulatedKind {
    /// It passed, and would be denied.
    Denied,
    /// It was allowed, and would be reported as what enforcing denies.
    Audited,
    /// It was denied or reported, and would be let through, or only be reported.
    Allowed,
}

/// A change of flows of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SimulatedChange {
    /// How it changes.
    pub change: SimulatedKind,
    /// Who opens: a group of workloads that the tree does not tell apart, or networks.
    pub from: String,
    /// Who is addressed.
    pub to: String,
    /// The side that judges: egress of `from`, ingress of `to`.
    pub direction: RuleDirection,
    /// As in policies.
    pub service: String,
    /// What became of it.
    pub recorded: Answer,
    /// The rule that decided then, of the latest record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recorded_rule: Option<RecordRule>,
    /// What would become of it, and by which rule.
    pub simulated: RulingView,
    /// How often, and when.
    pub seen: Tally,
    /// A few of them, as `address -> address`, where addresses are known.
    pub examples: Vec<String>,
}

impl Simulation {
    /// Whether something that passed would be denied.
    pub fn denies(&self) -> bool {
        self.of(SimulatedKind::Denied).next().is_some()
    }

    /// The changes of a kind.
    pub fn of(&self, kind: SimulatedKind) -> impl Iterator<Item = &SimulatedChange> {
        self.changes.iter().filter(move |c| c.change == kind)
    }
}

/// What changes of one kind have in common.
type Key = (
    SimulatedKind,
    String,
    String,
    RuleDirection,
    Service,
    Answer,
    Option<RuleInfo>,
    String,
);

/// Judges flows by a tree. The tree is compiled once for each set of host addresses that the
/// flows' nodes have.
pub fn simulate(
    policy: &ResolvedPolicy,
    mode: Mode,
    now: Moment,
    flows: &Flows,
) -> Result<Simulation, CompileError> {
    let names = Names::new(&Tree::new(policy.clone(), mode, now, &[])?);
    let mut simulation = Simulation {
        version: SIMULATION_VERSION,
        mode,
        judged: 0,
        same: 0,
        changes: Vec::new(),
        unjudged: BTreeMap::new(),
        passed_over: flows.passed_over.clone(),
        bad: flows.bad.clone(),
    };
    let mut changes: BTreeMap<Key, SimulatedChange> = BTreeMap::new();
    for (hosts, seen) in by_hosts(flows) {
        let hosts: Vec<IpAddr> = hosts.into_iter().collect();
        let tree = Tree::new(policy.clone(), mode, now, &hosts)?;
        for seen in seen {
            let (tally, rule) = &flows.seen[seen];
            let placed = match place(&tree, seen) {
                Ok(placed) => placed,
                Err(why) => {
                    *simulation.unjudged.entry(why).or_default() += tally.records;
                    continue;
                }
            };
            simulation.judged += tally.records;
            let ruling = placed.ruling(&tree, seen);
            let recorded = as_answer(seen.verdict);
            let Some(change) = kind(recorded, ruling.verdict) else {
                simulation.same += tally.records;
                continue;
            };
            let endpoint = names.endpoint(placed.endpoint.as_ref());
            let peer = names.peer(&placed.party);
            let (from, to) = match seen.direction {
                RuleDirection::Egress => (endpoint, peer),
                RuleDirection::Ingress => (peer, endpoint),
            };
            let service = Service {
                protocol: Some(seen.protocol),
                first: seen.port,
                last: if has_service(seen.protocol) {
                    seen.port
                } else {
                    u16::MAX
                },
            };
            let view = tree.view(ruling);
            let key = (
                change,
                from.clone(),
                to.clone(),
                seen.direction,
                service,
                recorded,
                view.rule.clone(),
                view.reason.clone(),
            );
            let told = changes.entry(key).or_insert_with(|| SimulatedChange {
                change,
                from,
                to,
                direction: seen.direction,
                service: service.to_string(),
                recorded,
                recorded_rule: None,
                simulated: view,
                seen: Tally::default(),
                examples: Vec::new(),
            });
            if rule.is_some() && tally.last >= told.seen.last {
                told.recorded_rule.clone_from(rule);
            }
            told.seen.add(tally);
            if told.examples.len() < EXAMPLES {
                told.examples.extend(example(seen));
            }
        }
    }
    simulation.changes = changes.into_values().collect();
    // The most frequent first.
    simulation
        .changes
        .sort_by_key(|c| (c.change, std::cmp::Reverse(c.seen.records)));
    Ok(simulation)
}

/// The flows by the host addresses of the node that saw them.
pub(super) fn by_hosts(flows: &Flows) -> BTreeMap<BTreeSet<IpAddr>, Vec<&Seen>> {
    let mut by_hosts: BTreeMap<BTreeSet<IpAddr>, Vec<&Seen>> = BTreeMap::new();
    let none = BTreeSet::new();
    for seen in flows.seen.keys() {
        let hosts = flows.hosts.get(&seen.node).unwrap_or(&none);
        match by_hosts.get_mut(hosts) {
            Some(same) => same.push(seen),
            None => {
                by_hosts.insert(hosts.clone(), vec![seen]);
            }
        }
    }
    by_hosts
}

/// Whether the protocol has ports, or types.
pub fn has_service(protocol: u8) -> bool {
    use enforcer_common::Protocol;
    Protocol::has_ports(protocol) || matches!(protocol, Protocol::ICMP | Protocol::ICMPV6)
}

const fn kind(recorded: Answer, now: Answer) -> Option<SimulatedKind> {
    match (recorded, now) {
        (Answer::Allow | Answer::Audit, Answer::Deny) => Some(SimulatedKind::Denied),
        (Answer::Allow, Answer::Audit) => Some(SimulatedKind::Audited),
        (Answer::Deny, Answer::Allow | Answer::Audit) | (Answer::Audit, Answer::Allow) => {
            Some(SimulatedKind::Allowed)
        }
        _ => None,
    }
}

fn example(seen: &Seen) -> Option<String> {
    use super::flows::Who;
    let address = |who: &Who| match who {
        Who::Address(address) | Who::HostAddress(address) => Some(address.to_string()),
        Who::Proven(name) => Some(name.to_string()),
        Who::Host => Some("host".to_owned()),
        Who::Described(..) | Who::World => None,
    };
    let (endpoint, peer) = (address(&seen.endpoint)?, address(&seen.peer)?);
    Some(match seen.direction {
        RuleDirection::Egress => format!("{endpoint} -> {peer}"),
        RuleDirection::Ingress => format!("{peer} -> {endpoint}"),
    })
}

/// How groups of a tree are called.
pub struct Names {
    workloads: HashMap<WorkloadName, String>,
    networks: HashMap<IpNet, String>,
}

impl Names {
    /// The groups of a tree.
    pub fn new(tree: &Tree) -> Self {
        let mut names = Self {
            workloads: HashMap::new(),
            networks: HashMap::new(),
        };
        for group in parties::groups(&[tree]) {
            if group.kind == GroupKind::Workload {
                for workload in &group.workloads {
                    let name = || group.plain_name.clone();
                    names.workloads.entry(workload.clone()).or_insert_with(name);
                }
            } else {
                for network in &group.networks {
                    names.networks.insert(*network, group.name.clone());
                }
            }
        }
        names
    }

    /// The group of a judging side.
    pub fn endpoint(&self, endpoint: Option<&WorkloadName>) -> String {
        endpoint.map_or_else(|| "host".to_owned(), |name| self.workload(name))
    }

    /// The group of a workload.
    pub fn workload(&self, name: &WorkloadName) -> String {
        self.workloads
            .get(name)
            .cloned()
            .unwrap_or_else(|| name.to_string())
    }

    /// The group of a peer.
    pub fn peer(&self, peer: &PlacedPeer) -> String {
        match peer {
            PlacedPeer::Host => "host".to_owned(),
            PlacedPeer::Workload(name, _) => self.workload(name),
            PlacedPeer::World(None) => "world".to_owned(),
            PlacedPeer::World(Some(address)) => {
                let full = IpNet::from(*address);
                (0..=full.max_prefix_len())
                    .rev()
                    .filter_map(|length| IpNet::new(*address, length).ok())
                    .find_map(|network| self.networks.get(&network.trunc()))
                    .cloned()
                    .unwrap_or_else(|| "world".to_owned())
            }
        }
    }
}
