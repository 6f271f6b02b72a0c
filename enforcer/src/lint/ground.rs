//! What all lints ask: the tree as if everything in it were enforced, compiled, and everybody
//! whom its policies can tell apart.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use enforcer_common::Direction;

use super::index::Index;
use crate::{
    compile::{
        CompileError, Image, Inputs, Limits, Numbers, Subjects, compile,
        explain::{Explainer, Explanation, FlowQuery, Party, PolicyView, RuleView},
        image::{Identity, RuleDirection, RuleInfo, WorkloadName},
    },
    policy::{
        Study,
        model::{
            Mode, Moment, NamedPort, Origin, Peer, Policy, PolicyKind, PortMatch, ResolvedPolicy,
            Rule, RuleAction, Tier, Workload,
        },
    },
};

/// Questions that one run may put to the explainer, times policies: each costs about as much as
/// there are policies. A tree of usual size stays far below it; of a huge one some findings say
/// less, and none says something wrong.
const EFFORT: usize = 4_000_000;

/// Most ports of one range that are asked about.
const PORTS: usize = 64;

/// A protocol that policies hardly name (RFC 3692: for experiments).
const OTHER_PROTOCOL: u8 = 253;

/// The tree that is looked at.
pub(super) struct Ground<'a> {
    pub study: &'a Study,
    /// The moment that it is looked at.
    pub now: Moment,
    /// With every policy enforced: one that is only tried out is linted as what it is to be.
    pub policy: ResolvedPolicy,
    pub image: Image,
    /// Everybody whom policy can tell apart, as a peer.
    parties: Vec<(Party, Identity)>,
    parties_index: Index,
    /// Everybody who has a number.
    identities: Vec<Arc<Identity>>,
    identities_index: Index,
    workloads_index: Index,
    /// Every port that some workload calls so.
    named: HashMap<String, BTreeSet<NamedPort>>,
    /// By direction: tiers in which rules deny.
    denying: [BTreeSet<Tier>; 2],
    /// Policies of which something decides: kind, namespace, name.
    about_somebody: HashSet<(PolicyKind, Option<String>, String)>,
    /// By direction and protocol: where the ranges of rules begin, and behind their ends.
    edges: [BTreeMap<u8, BTreeSet<u16>>; 2],
    /// Rules that decide about something.
    deciding: HashSet<(RuleDirection, PolicyKind, Option<String>, String, String)>,
}

/// A rule and where it stands.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub policy: &'a Policy,
    pub direction: Direction,
    pub index: usize,
    pub rule: &'a Rule,
}

/// What decides about a flow.
pub(super) struct Decides<'a> {
    pub tier: Tier,
    pub policy: &'a PolicyView,
    /// `None`: isolation.
    pub rule: Option<&'a RuleView>,
}

impl<'a> Ground<'a> {
    pub fn new(study: &'a Study, now: Moment) -> Result<Self, CompileError> {
        let mut policy = study.policy.clone();
        for policy in &mut policy.policies {
            Arc::make_mut(policy).mode = None;
        }
        let inputs = Inputs {
            policy: &policy,
            mode: Mode::Enforce,
            now,
            host_addresses: &[],
            elsewhere: &crate::compile::elsewhere::NOBODY,
            attested: crate::compile::NOBODY,
            subjects: Subjects::All,
            limits: &Limits::NONE,
            in_force: None,
        };
        let image = compile(&inputs, &mut Numbers::default())?;
        let key = |rule: &RuleInfo| {
            let direction = rule.direction?;
            Some((
                direction,
                rule.kind,
                rule.namespace.clone(),
                rule.policy.clone(),
                rule.rule.clone(),
            ))
        };
        let deciding = image
            .rules
            .iter()
            .filter_map(|(_, rule)| key(rule))
            .collect();
        let about_somebody = image
            .rules
            .iter()
            .map(|(_, rule)| (rule.kind, rule.namespace.clone(), rule.policy.clone()))
            .collect();
        let mut named: HashMap<String, BTreeSet<NamedPort>> = HashMap::new();
        for port in policy.workloads.iter().flat_map(|workload| &workload.ports) {
            let ports = named.entry(port.name.clone()).or_default();
            ports.insert(port.clone());
        }
        let directions = [Direction::Egress, Direction::Ingress];
        let edges = directions.map(|direction| edges(&policy, &named, direction));
        let denying = directions.map(|direction| {
            let denies = |policy: &&Arc<Policy>| {
                let mut rules = policy.rules[direction as usize].iter().flatten();
                rules.any(|rule| rule.action == RuleAction::Deny)
            };
            let denying = policy.policies.iter().filter(denies);
            denying.map(|policy| policy.tier).collect()
        });
        let identities = image
            .identities
            .iter()
            .map(|(_, identity)| identity.clone());
        let identities: Vec<_> = identities.collect();
        let identities_index = Index::of_identities(identities.iter().map(|i| &**i));
        let workloads = policy.workloads.iter();
        let workloads_index =
            Index::of_workloads(workloads.map(|w| (w.namespace.as_str(), &w.labels)));
        let mut ground = Self {
            study,
            now,
            policy,
            image,
            parties: Vec::new(),
            parties_index: Index::default(),
            identities,
            identities_index,
            workloads_index,
            named,
            denying,
            about_somebody,
            edges,
            deciding,
        };
        ground.parties = ground.everybody();
        let known = ground.parties.iter().map(|(_, identity)| identity);
        ground.parties_index = Index::of_identities(known);
        Ok(ground)
    }

    pub fn explainer(&self) -> Explainer<'_> {
        Explainer {
            policy: &self.policy,
            mode: Mode::Enforce,
            now: self.now,
            image: &self.image,
        }
    }

    /// How many questions a lint may put.
    pub fn effort(&self) -> usize {
        (EFFORT / self.policy.policies.len().max(1)).max(100)
    }

    fn everybody(&self) -> Vec<(Party, Identity)> {
        let explainer = self.explainer();
        let mut parties = vec![Party::World, Party::Host];
        let prefixes = self
            .image
            .prefixes
            .keys()
            .chain(self.image.addresses.keys());
        for prefix in prefixes {
            // An address of the prefix that does not belong to a longer one.
            let number = self
                .image
                .prefixes
                .get(prefix)
                .or(self.image.addresses.get(prefix));
            let candidates = [prefix.network(), prefix.broadcast()].into_iter();
            let mut candidates = candidates.chain(prefix.hosts().take(PORTS));
            let found = candidates.find(|a| Some(&self.image.identity_of(*a)) == number);
            parties.extend(found.map(Party::Address));
        }
        parties.extend(
            self.policy
                .workloads
                .iter()
                .map(|w| Party::Workload(name_of(w))),
        );
        let known = |party: Party| {
            let identity = explainer.identity(&party).ok()?;
            Some((party, identity))
        };
        parties.into_iter().filter_map(known).collect()
    }

    /// Every rule that holds and that somebody wrote.
    pub fn rules(&self) -> impl Iterator<Item = Place<'_>> {
        let policies = self.policy.policies.iter();
        let policies = policies.filter(|policy| policy.validity.holds(self.now));
        policies.flat_map(move |policy| {
            let directions = [Direction::Egress, Direction::Ingress].into_iter();
            directions.flat_map(move |direction| {
                let rules = policy.rules[direction as usize]
                    .iter()
                    .flatten()
                    .enumerate();
                let holds = |rule: &Rule| rule.validity.holds(self.now) && !policy.adds(rule);
                let rules = rules.filter(move |(_, rule)| holds(rule));
                rules.map(move |(index, rule)| Place {
                    policy,
                    direction,
                    index,
                    rule,
                })
            })
        })
    }

    /// Whether a rule decides about any flow.
    pub fn decides(&self, place: &Place<'_>) -> bool {
        self.deciding.contains(&(
            place.direction.into(),
            place.policy.kind,
            place.policy.namespace.clone(),
            place.policy.name.clone(),
            place.rule.name.clone(),
        ))
    }

    /// Whether a higher tier has rules that deny.
    pub fn is_below_denials(&self, place: &Place<'_>) -> bool {
        let mut denying = self.denying[place.direction as usize].iter();
        denying.any(|tier| *tier < place.policy.tier)
    }

    /// Whether a policy is about some workload.
    pub fn is_about_somebody(&self, policy: &Policy) -> bool {
        let key = (policy.kind, policy.namespace.clone(), policy.name.clone());
        // A policy of which a rule decides is about somebody.
        self.about_somebody.contains(&key) || self.workloads_of(policy).next().is_some()
    }

    /// Workloads that a policy is about.
    fn workloads_of(&self, policy: &Policy) -> impl Iterator<Item = &Arc<Workload>> {
        let explainer = self.explainer();
        let could_be = self
            .workloads_index
            .could_be_about(&policy.subject)
            .into_iter();
        let workloads = could_be.map(|place| &self.policy.workloads[place]);
        workloads.filter(move |workload| explainer.is_about(policy, Some(workload)))
    }

    /// Endpoints that a policy is about: one for each policy set, because those that share one
    /// are judged alike.
    pub fn endpoints(&self, policy: &Policy, direction: Direction) -> Vec<Party> {
        let explainer = self.explainer();
        if explainer.is_about(policy, None) {
            return vec![Party::Host];
        }
        let mut seen = HashSet::new();
        let mut endpoints = Vec::new();
        for workload in self.workloads_of(policy) {
            let name = name_of(workload);
            let Some(sets) = self
                .image
                .workloads
                .get(&name)
                .and_then(|n| self.image.sets.get(n))
            else {
                continue;
            };
            let set = sets.numbers[direction as usize];
            if seen.insert(set) {
                endpoints.push(Party::Workload(name));
            }
        }
        endpoints
    }

    /// Whether a peer means anybody, known in whatever way.
    pub fn is_anybody(&self, peer: &Peer) -> bool {
        let explainer = self.explainer();
        let mut could_be = self.identities_index.could_be(peer).into_iter();
        could_be.any(|place| explainer.means(peer, &self.identities[place]))
    }

    /// Everybody whom a peer means.
    pub fn meant(&self, peer: &Peer) -> Vec<&Party> {
        let explainer = self.explainer();
        let could_be = self.parties_index.could_be(peer).into_iter();
        let parties = could_be.map(|place| &self.parties[place]);
        let meant = parties.filter(|(_, identity)| explainer.means(peer, identity));
        meant.map(|(party, _)| party).collect()
    }

    /// Protocols and ports that stand for all that a rule's entry means: between two of them no
    /// rule begins or ends. `false` where there are too many.
    pub fn services(&self, direction: Direction, ports: &PortMatch) -> (Vec<(u8, u16)>, bool) {
        let edges = &self.edges[direction as usize];
        let in_range = |protocol: u8, first: u16, last: u16| {
            let inside = edges.get(&protocol).into_iter();
            let inside = inside
                .flat_map(move |edges| edges.range(first..=last))
                .copied();
            std::iter::once(first).chain(inside.filter(move |port| *port != first))
        };
        let mut services = Vec::new();
        let mut complete = true;
        for (protocol, first, last) in ranges(&self.named, ports) {
            let protocols = match protocol {
                Some(protocol) => vec![protocol],
                None => edges.keys().copied().chain([OTHER_PROTOCOL]).collect(),
            };
            for protocol in protocols {
                let mut ports = in_range(protocol, first, last);
                services.extend(ports.by_ref().take(PORTS).map(|port| (protocol, port)));
                complete &= ports.next().is_none();
            }
        }
        (services, complete)
    }

    /// What is said about a flow at one endpoint.
    pub fn ask(
        &self,
        endpoint: &Party,
        direction: Direction,
        peer: &Party,
        (protocol, port): (u8, u16),
    ) -> Option<Explanation> {
        let query = FlowQuery {
            endpoint: endpoint.clone(),
            direction: direction.into(),
            peer: peer.clone(),
            protocol,
            port,
        };
        self.explainer().explain(&query).ok()
    }
}

/// What of an explanation decided; `None` for the node's default.
pub(super) fn decider(said: &Explanation) -> Option<Decides<'_>> {
    said.tiers.iter().find_map(|tier| {
        tier.policies.iter().find_map(|policy| {
            let rule = policy.rules.iter().find(|rule| rule.decides);
            (rule.is_some() || policy.isolation_decides).then_some(Decides {
                tier: tier.tier,
                policy,
                rule,
            })
        })
    })
}

/// Whether a rule is about the flow of an explanation.
pub(super) fn matches(said: &Explanation, place: &Place<'_>) -> bool {
    let mut policies = said.tiers.iter().flat_map(|tier| &tier.policies);
    let policy = policies.find(|policy| policy.origin == place.policy.origin);
    let rule = policy.and_then(|policy| policy.rules.get(place.index));
    rule.is_some_and(|rule| rule.matches)
}

impl Decides<'_> {
    /// As messages name it.
    pub fn name(&self) -> String {
        let policy =
            crate::policy_test::full_name(self.policy.namespace.as_deref(), &self.policy.name);
        match self.rule {
            Some(rule) => format!("rule {} of policy {policy}", rule.name),
            None => format!("the isolation by policy {policy}"),
        }
    }

    /// Where it is written.
    pub fn origin(&self) -> &Origin {
        self.rule.map_or(&self.policy.origin, |rule| &rule.origin)
    }

    /// Whether it is a rule that denies.
    pub fn denies(&self) -> bool {
        self.rule
            .is_some_and(|rule| rule.action == RuleAction::Deny)
    }
}

/// The full name of a workload.
pub(super) fn name_of(workload: &crate::policy::model::Workload) -> WorkloadName {
    WorkloadName {
        namespace: workload.namespace.clone(),
        name: workload.name.clone(),
    }
}

/// The ranges of protocol (`None`: all) and port that an entry means. A name means every port
/// that some workload calls so.
fn ranges(
    named: &HashMap<String, BTreeSet<NamedPort>>,
    ports: &PortMatch,
) -> Vec<(Option<u8>, u16, u16)> {
    match ports {
        PortMatch::Range(range) => vec![(range.protocol, range.first, range.last)],
        PortMatch::Named(wanted) => {
            let ports = named.get(&wanted.name).into_iter().flatten();
            let ports = ports.filter(|port| wanted.matches(port));
            let range = |port: &NamedPort| (Some(port.protocol), port.port, port.port);
            ports.map(range).collect()
        }
    }
}

fn edges(
    policy: &ResolvedPolicy,
    named: &HashMap<String, BTreeSet<NamedPort>>,
    direction: Direction,
) -> BTreeMap<u8, BTreeSet<u16>> {
    let mut edges: BTreeMap<u8, BTreeSet<u16>> = BTreeMap::new();
    for one in &policy.policies {
        let rules = one.rules[direction as usize].iter().flatten();
        let ports = rules.flat_map(|rule| &rule.ports);
        for (protocol, first, last) in ports.flat_map(|ports| ranges(named, ports)) {
            let Some(protocol) = protocol else { continue };
            let of_protocol = edges.entry(protocol).or_default();
            of_protocol.insert(first);
            of_protocol.extend(last.checked_add(1));
        }
    }
    edges
}
