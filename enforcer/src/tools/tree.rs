//! A policy tree that is asked for verdicts.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use enforcer_common::{
    Action, Decision, Direction, Judge, Reason, identity,
    policy_key::{ALLOW_ALL, PolicyKey},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::services::Services;
use crate::{
    compile::{
        CompileError, Image, Inputs, Limits, Numbers, Subjects, compile,
        explain::Answer,
        image::{IdentitySubject, RuleInfo, WorkloadName},
        prefix_table::PrefixTable,
    },
    policy::model::{Mode, Moment, ResolvedPolicy, Workload},
};

/// A tree, compiled for every workload in it.
pub struct Tree {
    /// What it says.
    pub policy: ResolvedPolicy,
    /// The node's mode that verdicts are for.
    pub mode: Mode,
    /// The tree, compiled.
    pub image: Image,
    /// Index into the workloads by the prefixes that they declare.
    owners: PrefixTable<usize>,
    by_name: HashMap<WorkloadName, usize>,
}

/// What one side says of a flow. Rule numbers are those of one [`Tree`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ruling {
    /// Whether it passes there.
    pub verdict: Answer,
    /// A [`Reason`].
    reason: u8,
    /// Number of the rule; 0 for none.
    rule: u32,
}

impl Ruling {
    /// Where no endpoint judges.
    pub const UNJUDGED: Self = Self {
        verdict: Answer::Allow,
        reason: Reason::Unrestricted as u8,
        rule: 0,
    };

    /// Whether a rule decides, and not isolation or a default.
    pub fn is_by_rule(&self) -> bool {
        self.reason == Reason::Rule as u8
    }
}

/// A ruling in words and names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulingView {
    /// `allow`, `deny` or `audit`.
    pub verdict: Answer,
    /// [`Reason::name`].
    pub reason: String,
    /// The rule that decided, with file and line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleInfo>,
    /// The git commit of the tree, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<Arc<str>>,
}

impl Tree {
    /// Compiles a tree for verdicts on a node in `mode` that has these addresses. Policies and
    /// rules with a validity hold as they do at `now`.
    pub fn new(
        policy: ResolvedPolicy,
        mode: Mode,
        now: Moment,
        host_addresses: &[IpAddr],
    ) -> Result<Self, CompileError> {
        let inputs = Inputs {
            policy: &policy,
            mode,
            now,
            host_addresses,
            elsewhere: &crate::compile::elsewhere::NOBODY,
            attested: crate::compile::NOBODY,
            subjects: Subjects::All,
            limits: &Limits::NONE,
            in_force: None,
        };
        let image = compile(&inputs, &mut Numbers::default())?;
        let mut by_order: Vec<usize> = (0..policy.workloads.len()).collect();
        by_order.sort_by_key(|i| (&policy.workloads[*i].namespace, &policy.workloads[*i].name));
        let mut owners = PrefixTable::default();
        let mut by_name = HashMap::new();
        for index in by_order {
            let workload = &policy.workloads[index];
            by_name.insert(name_of(workload), index);
            for prefix in &workload.addresses {
                owners.add(*prefix, index);
            }
        }
        Ok(Self {
            policy,
            mode,
            image,
            owners,
            by_name,
        })
    }

    /// A workload by its name.
    pub fn workload(&self, name: &WorkloadName) -> Option<&Workload> {
        self.by_name.get(name).map(|i| &*self.policy.workloads[*i])
    }

    /// Whose network or address it is: the longest declaration that contains it.
    pub fn owner(&self, network: IpNet) -> Option<&Workload> {
        let (_, index) = self.owners.containing(network).next()?;
        Some(&self.policy.workloads[*index])
    }

    /// Identity of a peer of which only the address, or a network that policy does not tell
    /// apart further, is known.
    pub fn peer_at(&self, network: IpNet) -> u32 {
        let full = network.max_prefix_len();
        if network.prefix_len() == full {
            return self.image.identity_of(network.addr());
        }
        (0..=network.prefix_len())
            .rev()
            .filter_map(|length| IpNet::new(network.addr(), length).ok())
            .find_map(|prefix| self.image.prefixes.get(&prefix.trunc()))
            .copied()
            .unwrap_or(identity::WORLD)
    }

    /// Whether an identity is that of a workload.
    pub fn is_known_as(&self, peer: u32, workload: &Workload) -> bool {
        let known = self.image.identities.get(&peer);
        known.is_some_and(|known| {
            matches!(
                &known.subject,
                IdentitySubject::Workload { namespace, labels, .. }
                    if *namespace == workload.namespace && *labels == workload.labels
            )
        })
    }

    /// Whether an identity is nobody that the tree knows.
    pub fn is_world(&self, peer: u32) -> bool {
        let known = self.image.identities.get(&peer);
        known.is_none_or(|known| known.subject == IdentitySubject::World)
    }

    /// Identity of a workload that its interface or socket proves.
    pub fn peer_proven(&self, name: &WorkloadName) -> Option<u32> {
        self.image.workloads.get(name).copied()
    }

    /// Policy sets of a workload's endpoint.
    pub fn sets_of(&self, name: &WorkloadName) -> Option<[u32; 2]> {
        let number = self.image.workloads.get(name)?;
        self.image.sets.get(number).map(|sets| sets.numbers)
    }

    /// Policy sets of the host endpoint.
    pub fn host_sets(&self) -> [u32; 2] {
        let sets = self.image.sets.get(&identity::HOST);
        sets.map_or([ALLOW_ALL; 2], |sets| sets.numbers)
    }

    /// What a set says of a peer and service.
    pub fn ruling(&self, set: u32, peer: u32, protocol: u8, port: u16) -> Ruling {
        let judge = Judge {
            set,
            peer,
            protocol,
            port,
        };
        self.as_ruling(judge.decide(&self.image))
    }

    /// On a node in audit mode everything passes, whatever a policy's own mode says.
    fn as_ruling(&self, decision: Decision) -> Ruling {
        let decision = decision.audited(self.mode == Mode::Audit);
        Ruling {
            verdict: match decision.action() {
                Action::Allow => Answer::Allow,
                Action::Deny => Answer::Deny,
                Action::Audit => Answer::Audit,
            },
            reason: decision.reason,
            rule: decision.rule,
        }
    }

    /// A ruling of this tree in words and names.
    pub fn view(&self, ruling: Ruling) -> RulingView {
        let reason = Reason::from_byte(ruling.reason);
        let rule = self.image.rules.get(&ruling.rule);
        RulingView {
            verdict: ruling.verdict,
            reason: reason.map_or("unknown", Reason::name).to_owned(),
            rule: rule.map(|rule| (**rule).clone()),
            commit: self.policy.commit.clone(),
        }
    }

    /// What a set says of a peer, for every service. The verdict function is asked once for
    /// each stretch of ports in which it cannot change.
    pub fn rulings(&self, set: u32, peer: u32) -> Services<Ruling> {
        let mut by_protocol: HashMap<u8, Vec<(u16, u16)>> = HashMap::new();
        for (protocol, first, last) in self.port_entries(set, peer) {
            by_protocol.entry(protocol).or_default().push((first, last));
        }
        let unnamed = (0..=u8::MAX).find(|protocol| !by_protocol.contains_key(protocol));
        let others = self.ruling(set, peer, unnamed.unwrap_or_default(), 0);
        let mut services = Services::all(others);
        for (protocol, ranges) in by_protocol {
            let mut starts: Vec<u32> = vec![0];
            for (first, last) in ranges {
                starts.push(u32::from(first));
                starts.push(u32::from(last) + 1);
            }
            starts.sort_unstable();
            starts.dedup();
            let starts = starts.iter().filter_map(|start| u16::try_from(*start).ok());
            let rulings = starts.map(|port| (port, self.ruling(set, peer, protocol, port)));
            services.set(protocol, rulings);
        }
        services
    }

    /// The entries of the port table that a set has for a peer: protocol, first and last port.
    fn port_entries(&self, set: u32, peer: u32) -> Vec<(u8, u16, u16)> {
        let entry = |peer| self.image.policies.get(&PolicyKey { set, peer });
        let entry = entry(peer).or_else(|| entry(identity::ANY));
        let table = entry.filter(|entry| entry.lengths != 0);
        let table = table.and_then(|entry| self.image.ports.part(entry.table));
        let entries = table.into_iter().flat_map(|entries| entries.iter());
        entries
            .map(|(key, _)| {
                let rest = u16::MAX.checked_shr(key.length.into()).unwrap_or(0);
                (key.protocol, key.port, key.port | rest)
            })
            .collect()
    }

    /// Networks that policies name or workloads declare, host bits cleared.
    pub fn networks(&self) -> impl Iterator<Item = IpNet> {
        let image = &self.image;
        image.prefixes.keys().chain(image.addresses.keys()).copied()
    }
}

/// The full name of a workload.
pub fn name_of(workload: &Workload) -> WorkloadName {
    WorkloadName {
        namespace: workload.namespace.clone(),
        name: workload.name.clone(),
    }
}

/// The set of a direction.
pub fn in_direction(sets: Option<[u32; 2]>, direction: Direction) -> u32 {
    sets.map_or(ALLOW_ALL, |sets| sets[direction as usize])
}
