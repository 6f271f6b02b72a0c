//! No packet meets half a policy: at every single map update on the way from one image to the
//! next, every flow is judged as the old policy judged it or as the new one does.
//!
//! The kernel's maps are played by hash maps here; `ENFORCER_CASES` sets the number of changes
//! tried.

use std::collections::{BTreeSet, HashMap};

use enforcer::compile::{
    self, Image, Inputs, Limits, Numbers, Subjects,
    bridge::{Bridge, EndpointChange, EndpointState, Held, TRANSIENT},
    image::WorkloadName,
    tables::PolicySets,
};
use enforcer_common::{
    Decision, Judge, PolicyLookup,
    config::MOMENTS,
    identity,
    policy_key::{PolicyEntry, PolicyKey, PortKey},
};
use ipnet::IpNet;
use proptest::prelude::*;
use tests::{
    generate::{self, Scenario},
    model::{RawEndpoint, RawFlow, RawPeer},
};

/// The maps that user space writes. Endpoint 0 is the host's, the others are the workloads'.
#[derive(Clone, Debug, PartialEq)]
struct Maps {
    policies: HashMap<PolicyKey, PolicyEntry>,
    ports: HashMap<PortKey, Decision>,
    peers: HashMap<IpNet, u32>,
    endpoints: Vec<EndpointState>,
}

impl PolicyLookup for Maps {
    fn policy(&self, key: &PolicyKey) -> Option<PolicyEntry> {
        self.policies.get(key).copied()
    }

    fn port(&self, key: &PortKey) -> Option<Decision> {
        self.ports.get(key).copied()
    }
}

impl Maps {
    fn of(scenario: &Scenario, image: &Image) -> Self {
        let workloads = scenario.policy.workloads.iter().map(|workload| {
            image.workloads[&WorkloadName {
                namespace: workload.namespace.clone(),
                name: workload.name.clone(),
            }]
        });
        let endpoint = |identity| EndpointState {
            identity,
            sets: [image.sets[&identity].numbers; MOMENTS + 1],
        };
        let host = image.host_addresses.iter();
        let host = host.map(|(address, number)| (IpNet::from(*address), *number));
        let peers = image.prefixes.iter().chain(image.addresses.iter());
        Self {
            policies: image.policies.iter().map(|(k, e)| (k, *e)).collect(),
            ports: image.ports.iter().map(|(k, d)| (k, *d)).collect(),
            peers: peers.map(|(p, n)| (*p, *n)).chain(host).collect(),
            endpoints: std::iter::once(identity::HOST)
                .chain(workloads)
                .map(endpoint)
                .collect(),
        }
    }

    fn judge(&self, flow: &RawFlow) -> Decision {
        let endpoint = match flow.endpoint {
            RawEndpoint::Host => 0,
            RawEndpoint::Workload(index) => index + 1,
        };
        let judge = Judge {
            set: self.endpoints[endpoint].sets[0][flow.direction as usize],
            peer: match flow.peer {
                RawPeer::Host => identity::HOST,
                RawPeer::Workload(index) => self.endpoints[index + 1].identity,
                RawPeer::Address(address) => (0..=IpNet::from(address).max_prefix_len())
                    .rev()
                    .map(|length| IpNet::new(address, length).expect("a length").trunc())
                    .find_map(|prefix| self.peers.get(&prefix).copied())
                    .unwrap_or(identity::WORLD),
            },
            protocol: flow.protocol,
            port: flow.port,
        };
        judge.decide(self)
    }
}

/// One map update.
#[derive(Clone, Debug)]
enum Write {
    Policy(PolicyKey, Option<PolicyEntry>),
    Port(PortKey, Option<Decision>),
    Peer(IpNet, Option<u32>),
    Endpoint(usize, EndpointState),
}

impl Write {
    fn apply(&self, maps: &mut Maps) {
        match self {
            Self::Policy(key, Some(entry)) => drop(maps.policies.insert(*key, *entry)),
            Self::Policy(key, None) => drop(maps.policies.remove(key)),
            Self::Port(key, Some(decision)) => drop(maps.ports.insert(*key, *decision)),
            Self::Port(key, None) => drop(maps.ports.remove(key)),
            Self::Peer(prefix, Some(number)) => drop(maps.peers.insert(*prefix, *number)),
            Self::Peer(prefix, None) => drop(maps.peers.remove(prefix)),
            Self::Endpoint(index, state) => maps.endpoints[*index] = *state,
        }
    }
}

/// The phases of [`enforcer::compile::bridge`], each with its writes in any order.
fn phases(old: &Maps, new: &Maps) -> Vec<Vec<Write>> {
    let endpoints = || old.endpoints.iter().zip(&new.endpoints);
    let changes: Vec<_> = endpoints()
        .map(|(old, new)| EndpointChange {
            old: Some(*old),
            new: Some(*new),
        })
        .collect();
    let sets = |maps: &Maps| maps.policies.iter().map(|(k, e)| (*k, *e)).collect();
    let (old_sets, new_sets): (PolicySets, PolicySets) = (sets(old), sets(new));
    let held = |maps, policies| {
        let Maps { peers, .. }: &Maps = maps;
        Held { peers, policies }
    };
    let bridge = Bridge::between(
        held(old, &old_sets),
        held(new, &new_sets),
        &changes,
        TRANSIENT,
    );

    let sets = new.policies.iter().chain(&bridge.entries);
    let mut beside: Vec<_> = sets.map(|(k, e)| Write::Policy(*k, Some(*e))).collect();
    beside.extend(new.ports.iter().map(|(k, d)| Write::Port(*k, Some(*d))));

    let direct = new
        .peers
        .iter()
        .filter(|(p, _)| !bridge.peers.contains_key(*p));
    let mut known: Vec<_> = direct
        .chain(&bridge.peers)
        .map(|(prefix, number)| Write::Peer(*prefix, Some(*number)))
        .collect();
    let mut flips = Vec::new();
    let mut settle: Vec<_> = bridge
        .peers
        .keys()
        .filter_map(|prefix| Some(Write::Peer(*prefix, Some(*new.peers.get(prefix)?))))
        .collect();
    for (index, (old, new)) in endpoints().enumerate() {
        let identity = bridge.identity(old.identity, new.identity);
        known.push(Write::Endpoint(index, EndpointState { identity, ..*old }));
        flips.push(Write::Endpoint(index, EndpointState { identity, ..*new }));
        settle.push(Write::Endpoint(index, *new));
    }
    // What the new image has not is gone last, the longest prefix as good as any.
    let peers: BTreeSet<&IpNet> = old.peers.keys().chain(bridge.peers.keys()).collect();
    let gone = peers.into_iter().filter(|p| !new.peers.contains_key(*p));
    let gone = gone.map(|prefix| Write::Peer(*prefix, None)).collect();
    let policies = old.policies.keys().chain(bridge.entries.keys());
    let policies = policies.filter(|key| !new.policies.contains_key(*key));
    let mut clean: Vec<_> = policies.map(|key| Write::Policy(*key, None)).collect();
    let ports = old.ports.keys().filter(|key| !new.ports.contains_key(*key));
    clean.extend(ports.map(|key| Write::Port(*key, None)));
    vec![beside, known, flips, settle, gone, clean]
}

/// Brings writes into an order that depends on nothing but the seed.
fn shuffle(writes: &mut [Write], seed: &mut u64) {
    writes.sort_by_cached_key(|write| format!("{write:?}"));
    for i in (1..writes.len()).rev() {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let at = usize::try_from(*seed >> 33).expect("31 bits") % (i + 1);
        writes.swap(i, at);
    }
}

fn compile(scenario: &Scenario, numbers: &mut Numbers) -> Maps {
    let inputs = Inputs {
        policy: &scenario.policy,
        mode: scenario.mode,
        now: scenario.now,
        host_addresses: &scenario.host_addresses,
        elsewhere: &enforcer::compile::elsewhere::NOBODY,
        attested: enforcer::compile::NOBODY,
        subjects: Subjects::All,
        limits: &Limits::NONE,
        in_force: None,
    };
    let image = compile::compile(&inputs, numbers).expect("nothing is too large");
    Maps::of(scenario, &image)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: generate::cases(1000) / 4 + 1,
        max_shrink_iters: 300,
        max_shrink_time: 20_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_moment_is_wholly_old_or_wholly_new(
        first in generate::scenario(24),
        edits in proptest::collection::vec(generate::edit(), 1..4),
        other in generate::policy(),
        replace in any::<bool>(),
        mut seed in any::<u64>(),
    ) {
        let mut second = edits.iter().fold(first.clone(), |scenario, edit| edit.apply(&scenario));
        if replace {
            // Another tree altogether, about the same workloads.
            second.policy.policies = other.policies;
            second.policy.node = other.node;
        }
        let mut numbers = Numbers::default();
        let old = compile(&first, &mut numbers);
        let new = compile(&second, &mut numbers);
        let mut maps = old.clone();
        for (phase, mut writes) in phases(&old, &new).into_iter().enumerate() {
            shuffle(&mut writes, &mut seed);
            for write in writes {
                write.apply(&mut maps);
                for flow in &first.flows {
                    let now = maps.judge(flow);
                    prop_assert!(
                        [old.judge(flow), new.judge(flow)].contains(&now),
                        "phase {phase}, after {write:?}: {flow:?} is {now:?}, was {:?}, will be {:?}",
                        old.judge(flow),
                        new.judge(flow),
                    );
                }
            }
        }
        prop_assert_eq!(maps, new);
    }
}
