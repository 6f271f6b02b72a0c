//! Why a flow is allowed or denied: every rule that was considered, and the one that decided.
//!
//! The verdict comes from the image, by the same [`Judge`] that the kernel runs. What is told
//! beside it (`story`) comes from the documents; tests hold the two together.

mod across;
mod explanation;
mod story;
mod words;

use enforcer_common::{Direction, Judge, Reason, identity};
use ipnet::IpNet;

use self::across::Told;
pub use self::explanation::{
    Answer, AuditView, Decided, ExplainError, Explanation, FlowQuery, Mismatch, Party, PolicyView,
    RuleView, TierView,
};
use self::story::Story;
pub use self::words::{peer_in_words, ports_in_words};
use super::elsewhere::ServiceAddress;
use super::image::{Assurance, Identity, IdentitySubject, Image, RuleDirection, WorkloadName};
use super::peers::Surroundings;
use crate::policy::{
    closest,
    model::{Mode, Moment, Peer, Place, Policy, ResolvedPolicy, Workload},
};

/// What a question is asked of: a policy and the image that was compiled from it.
#[derive(Clone, Copy, Debug)]
pub struct Explainer<'a> {
    /// The tree.
    pub policy: &'a ResolvedPolicy,
    /// The node's mode that `image` was compiled with.
    pub mode: Mode,
    /// The moment that `image` was compiled for.
    pub now: Moment,
    /// The image.
    pub image: &'a Image,
}

impl Explainer<'_> {
    /// Explains a flow from one party to another at each of its sides that has an endpoint in
    /// the image: the egress of `from`, the ingress of `to`. It passes if all of them let it.
    pub fn flow(
        &self,
        from: &Party,
        to: &Party,
        protocol: u8,
        port: u16,
    ) -> Result<Vec<Explanation>, ExplainError> {
        let mut sides = Vec::new();
        for (endpoint, direction, peer) in [
            (from, RuleDirection::Egress, to),
            (to, RuleDirection::Ingress, from),
        ] {
            let query = FlowQuery {
                endpoint: endpoint.clone(),
                direction,
                peer: peer.clone(),
                protocol,
                port,
            };
            match self.explain(&query) {
                Ok(explanation) => sides.push(explanation),
                Err(ExplainError::NoEndpoint(_)) => {}
                Err(other) => return Err(other),
            }
        }
        if sides.is_empty() {
            return Err(ExplainError::NoEndpoint(from.clone()));
        }
        Ok(sides)
    }

    /// What policy sees of a party as a peer.
    pub fn identity(&self, party: &Party) -> Result<Identity, ExplainError> {
        let number = self.peer(party)?;
        let known = self.image.identities.get(&number);
        Ok(known.map_or_else(unknown_peer, |known| (**known).clone()))
    }

    /// Whether a peer of a rule is one with this identity.
    pub fn means(&self, peer: &Peer, identity: &Identity) -> bool {
        super::peers::matches(peer, identity, Surroundings::of(self.policy))
    }

    /// Whether a policy is about the endpoint of a workload, or about the host endpoint.
    pub fn is_about(&self, policy: &Policy, workload: Option<&Workload>) -> bool {
        let subject = workload.map(IdentitySubject::of);
        story::is_about(policy, subject.as_ref(), Surroundings::of(self.policy))
    }

    /// Explains a flow at one endpoint.
    pub fn explain(&self, query: &FlowQuery) -> Result<Explanation, ExplainError> {
        let direction = match query.direction {
            RuleDirection::Egress => Direction::Egress,
            RuleDirection::Ingress => Direction::Ingress,
        };
        let endpoint = self.endpoint(&query.endpoint)?;
        let endpoint_number = match endpoint {
            Some(workload) => self.image.workloads.get(&name_of(workload)).copied(),
            None => Some(identity::HOST),
        };
        let sets = endpoint_number.and_then(|number| self.image.sets.get(&number));
        let sets = sets.ok_or_else(|| ExplainError::NoEndpoint(query.endpoint.clone()))?;
        let peer = match (&query.peer, direction) {
            (Party::Address(address), Direction::Egress) => {
                self.image.identity_behind(ServiceAddress {
                    address: *address,
                    protocol: query.protocol,
                    port: query.port,
                })
            }
            (party, _) => self.peer(party)?,
        };
        let peer_identity = self.image.identities.get(&peer);
        let peer_identity = peer_identity.map_or_else(unknown_peer, |known| (**known).clone());
        let judge = Judge {
            set: sets.numbers[direction as usize],
            peer,
            protocol: query.protocol,
            port: query.port,
        };
        let decision = judge.decide(self.image);
        let reason = Reason::from_byte(decision.reason);
        let rule = self.image.rules.get(&decision.rule);
        let subject = endpoint.map(IdentitySubject::of);
        let told = Told {
            endpoint: subject.as_ref(),
            direction,
            peer: &peer_identity,
            decision,
        };
        let (mut story, note, seen) = self.story(&told, query);
        let audit = story.tell(decision.action());
        let peer_identity = seen.unwrap_or(peer_identity);
        Ok(Explanation {
            endpoint: query.endpoint.to_string(),
            direction: query.direction,
            peer: query.peer.to_string(),
            protocol: query.protocol,
            port: query.port,
            verdict: decision.action().into(),
            reason: reason.map_or("unknown", Reason::name).to_owned(),
            rule: rule.map(|rule| (**rule).clone()),
            commit: self.policy.commit.clone(),
            audit,
            tiers: story.tiers,
            note,
            peer_identity,
        })
    }

    /// The workload whose endpoint a party is, or `None` for the host endpoint.
    fn endpoint(&self, party: &Party) -> Result<Option<&Workload>, ExplainError> {
        match party {
            Party::Host => Ok(None),
            Party::Workload(name) => self.workload(name).map(Some),
            Party::Address(address) if self.image.host_addresses.contains_key(address) => Ok(None),
            Party::Address(address) => {
                let single = IpNet::from(*address);
                let mut workloads = self.policy.workloads.iter();
                let owner = workloads.find(|w| w.addresses.contains(&single));
                owner.map_or_else(
                    || Err(ExplainError::NoEndpoint(party.clone())),
                    |w| Ok(Some(&**w)),
                )
            }
            Party::World => Err(ExplainError::NoEndpoint(party.clone())),
        }
    }

    /// The identity number by which a party is known as a peer.
    fn peer(&self, party: &Party) -> Result<u32, ExplainError> {
        match party {
            Party::Host => Ok(identity::HOST),
            Party::World => Ok(identity::WORLD),
            Party::Address(address) => Ok(self.image.identity_of(*address)),
            Party::Workload(name) => {
                let workload = self.workload(name)?;
                let addresses = workload.addresses.iter().filter(|prefix| is_single(prefix));
                let mut addresses = addresses.map(IpNet::addr);
                let proven = self.image.workloads.get(name).copied();
                // A process in a cgroup is known by its socket, if it is on this host. One that
                // has an address of another host is not.
                let in_cgroup = matches!(workload.place, Some(Place::Cgroup(_) | Place::Unit(_)));
                let is_here = |address| self.image.host_addresses.contains_key(&address);
                let first = addresses.clone().next();
                match (proven, first) {
                    (Some(proven), None) => Ok(proven),
                    (Some(proven), _) if in_cgroup && addresses.any(is_here) => Ok(proven),
                    (_, Some(address)) => Ok(self.image.identity_of(address)),
                    (None, None) => {
                        let prefix = workload.addresses.first();
                        let number = prefix.and_then(|p| self.image.prefixes.get(&p.trunc()));
                        let unknown = || ExplainError::Unrecognisable(name.clone());
                        number.copied().ok_or_else(unknown)
                    }
                }
            }
        }
    }

    fn workload(&self, name: &WorkloadName) -> Result<&Workload, ExplainError> {
        let workloads = &self.policy.workloads;
        // They are in this order, but for what tests make.
        let key = |w: &Workload| {
            (w.namespace.as_str().cmp(&name.namespace)).then(w.name.as_str().cmp(&name.name))
        };
        let found = workloads.binary_search_by(|workload| key(workload));
        let found = found
            .ok()
            .or_else(|| workloads.iter().position(|w| key(w).is_eq()));
        found.map(|place| &*workloads[place]).ok_or_else(|| {
            let names: Vec<_> = workloads.iter().map(|w| name_of(w).to_string()).collect();
            let asked = name.to_string();
            let meant = closest(&asked, names.iter().map(String::as_str));
            ExplainError::NoSuchWorkload {
                name: name.clone(),
                closest: meant.map(str::to_owned),
            }
        })
    }
}

fn is_single(prefix: &IpNet) -> bool {
    prefix.prefix_len() == prefix.max_prefix_len()
}

fn name_of(workload: &Workload) -> WorkloadName {
    WorkloadName {
        namespace: workload.namespace.clone(),
        name: workload.name.clone(),
    }
}

/// Every number that the image gives has an identity in it.
fn unknown_peer() -> Identity {
    Identity {
        subject: IdentitySubject::World,
        prefixes: std::collections::BTreeSet::new(),
        assurance: Assurance::Address,
    }
}
