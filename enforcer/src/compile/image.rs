//! The image: the complete desired content of the kernel's policy maps, as data, with the way
//! back from every number to what it stands for.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use enforcer_common::{
    Decision, Direction, PolicyLookup, identity,
    policy_key::{ALLOW_ALL, PolicyEntry, PolicyKey, PortKey},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    elsewhere::ServiceAddress,
    paged::Paged,
    tables::{PolicySets, PortTables},
};
pub use crate::policy::model::Assurance;
use crate::policy::model::{
    Accountability, Labels, Mode, Moment, NamedPort, Origin, PolicyKind, RuleAction, Tier, Workload,
};

/// What policy can see of a peer or endpoint. Equal values share a number.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Identity {
    /// Who.
    pub subject: IdentitySubject,
    /// The prefixes named in policy that contain the address by which the peer is known.
    pub prefixes: BTreeSet<IpNet>,
    /// How well the peer is known; for workloads, the highest minimum named in policy that it
    /// meets, and `Address` where it meets none.
    #[serde(default)]
    pub assurance: Assurance,
}

/// Who an identity is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IdentitySubject {
    /// This host's own processes and addresses.
    Host,
    /// Another host.
    #[serde(rename = "remote-host")]
    RemoteHost {
        /// Labels.
        labels: Labels,
        /// The workloads that share the address with it, without the names of their ports:
        /// whoever sends from there is the host or one of them. Only of a node that enforces
        /// what the others' policy says of its workloads.
        #[serde(default, skip_serializing_if = "nobody")]
        sharing: Arc<BTreeSet<IdentitySubject>>,
    },
    /// Nobody known.
    World,
    /// A workload.
    Workload {
        /// Namespace.
        namespace: String,
        /// Labels.
        labels: Labels,
        /// SPIFFE ID.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spiffe_id: Option<String>,
        /// Service account.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service_account: Option<String>,
        /// systemd unit, as its document names it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unit: Option<String>,
        /// Named ports.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        ports: BTreeSet<NamedPort>,
    },
}

fn nobody(sharing: &Arc<BTreeSet<IdentitySubject>>) -> bool {
    sharing.is_empty()
}

impl IdentitySubject {
    /// Another host that shares its addresses with nobody.
    pub fn remote_host(labels: Labels) -> Self {
        Self::RemoteHost {
            labels,
            sharing: Arc::default(),
        }
    }

    /// What policy sees of a workload.
    pub fn of(workload: &Workload) -> Self {
        Self::Workload {
            namespace: workload.namespace.clone(),
            labels: workload.labels.clone(),
            spiffe_id: workload.spiffe_id.clone(),
            service_account: workload.service_account.clone(),
            unit: workload.unit().map(str::to_owned),
            ports: workload.ports.clone(),
        }
    }

    /// The same without the names of its ports, which nobody asks of who opens a flow.
    #[must_use]
    pub fn without_ports(mut self) -> Self {
        if let Self::Workload { ports, .. } = &mut self {
            ports.clear();
        }
        self
    }

    /// The named ports of a workload.
    pub fn ports(&self) -> Option<&BTreeSet<NamedPort>> {
        match self {
            Self::Workload { ports, .. } => Some(ports),
            _ => None,
        }
    }
}

/// A rule, or what stands for one, behind a rule number.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RuleInfo {
    /// Kind of the policy; for what is the node's own without meaning.
    #[serde(default)]
    pub kind: PolicyKind,
    /// `None` for policies of all namespaces, the node's default and blocked sources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Policy, or the `Node` document's name.
    pub policy: String,
    /// Rule name; `isolation` for the default deny of an isolating policy; `default` for the
    /// node's default; `blocked[0]` and so on for blocked sources.
    pub rule: String,
    /// `None` for the node's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
    /// Direction; `None` for blocked sources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<RuleDirection>,
    /// What it does.
    pub action: RuleAction,
    /// The policy's mode.
    pub mode: Mode,
    /// Who answers for it: what the policy says and what the rule says.
    #[serde(flatten)]
    pub accountability: Accountability,
    /// Where it is written. `None` for a node default that no document states.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// [`Direction`], for records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleDirection {
    /// From the workload.
    Egress,
    /// To the workload.
    Ingress,
}

impl From<Direction> for RuleDirection {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Egress => Self::Egress,
            Direction::Ingress => Self::Ingress,
        }
    }
}

/// Policy sets of one identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Sets {
    /// By direction (egress, ingress); [`enforcer_common::policy_key::ALLOW_ALL`] where nothing
    /// restricts.
    pub numbers: [u32; 2],
    /// What they become at moments ahead, ascending.
    pub later: Vec<(Moment, [u32; 2])>,
}

impl Sets {
    /// Whether something restricts the identity, now or at one of the moments ahead.
    pub fn restrict(&self) -> bool {
        let later = self.later.iter().map(|(_, numbers)| numbers);
        let mut all = later.chain([&self.numbers]);
        all.any(|numbers| *numbers != [ALLOW_ALL; 2])
    }

    /// The numbers at a moment, which is not before that of the image.
    pub fn numbers_at(&self, moment: Moment) -> [u32; 2] {
        let passed = self.later.iter().take_while(|(from, _)| *from <= moment);
        passed.last().map_or(self.numbers, |(_, numbers)| *numbers)
    }
}

/// The full name of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WorkloadName {
    /// Namespace.
    pub namespace: String,
    /// Name, unique in the namespace.
    pub name: String,
}

impl fmt::Display for WorkloadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The complete desired content of the policy, port, address and prefix maps.
///
/// Numbers of sets, tables, identities and rules come from [`super::numbers::Numbers`], and
/// what did not change keeps its number, so that two images can be compared entry by entry.
/// Sets and tables are numbered by content: no key that two images share has two values in
/// `policies` or `ports`, so the new image can be written beside the old one. Images share the
/// parts that are the same in them, which makes a copy cheap and a comparison too.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    /// Which compilation of its [`super::numbers::Numbers`] made this image.
    pub serial: u64,
    /// Policy entries. Every set has an entry for the wildcard peer.
    pub policies: PolicySets,
    /// Port entries.
    pub ports: PortTables,
    /// Identity of every single address (full-length prefix) that is known, except for this
    /// host's own.
    pub addresses: Paged<IpNet, u32>,
    /// Identity of this host's own addresses, for peers that no socket proves to be a
    /// workload. None of them is in `addresses`, whoever else declares it.
    pub host_addresses: BTreeMap<IpAddr, u32>,
    /// Identity of every shorter prefix that policy names or a workload declares.
    pub prefixes: Paged<IpNet, u32>,
    /// Identity of whoever is behind one port of an address that is shared: for the destination
    /// of a flow, it comes before that of the address.
    pub services: Paged<ServiceAddress, u32>,
    /// Blocked source prefixes: the rule number, and whether only to report.
    pub blocked: BTreeMap<IpNet, (u32, bool)>,
    /// Policy sets of every local subject: workloads by identity number, the host under
    /// [`enforcer_common::identity::HOST`].
    pub sets: Paged<u32, Sets>,
    /// The moments ahead at which some of `sets` change by themselves, ascending.
    pub moments: Vec<Moment>,
    /// How many more moments there are at which that may be, for which there was no room
    /// ([`super::Limits::moments`]).
    pub moments_beyond: usize,
    /// The identity of every local workload where the kernel itself proves it (interface or
    /// cgroup), under which its `sets` stand.
    pub workloads: Paged<WorkloadName, u32>,
    /// The same where a proof by mTLS is bound to the endpoint, of those that have a SPIFFE ID.
    /// Where no rule asks for that it is the same number.
    pub attested: Paged<WorkloadName, u32>,
    /// Who is behind an identity number. Also those of earlier images that are not retired.
    pub identities: Paged<u32, Arc<Identity>>,
    /// What is behind a rule number. Also those of earlier images that are not retired.
    pub rules: Paged<u32, Arc<RuleInfo>>,
}

impl Image {
    /// The identity of a peer of which only the address is known.
    pub fn identity_of(&self, address: IpAddr) -> u32 {
        if let Some(number) = self.host_addresses.get(&address) {
            return *number;
        }
        let full = IpNet::from(address);
        if let Some(number) = self.addresses.get(&full) {
            return *number;
        }
        (0..full.max_prefix_len())
            .rev()
            .filter_map(|length| IpNet::new(address, length).ok())
            .find_map(|prefix| self.prefixes.get(&prefix.trunc()))
            .copied()
            .unwrap_or(identity::WORLD)
    }
}

impl Image {
    /// The identity of the destination of a flow of which only address and port are known.
    pub fn identity_behind(&self, at: ServiceAddress) -> u32 {
        let service = self.services.get(&at).copied();
        service.unwrap_or_else(|| self.identity_of(at.address))
    }
}

impl PolicyLookup for Image {
    fn policy(&self, key: &PolicyKey) -> Option<PolicyEntry> {
        self.policies.get(key).copied()
    }

    fn port(&self, key: &PortKey) -> Option<Decision> {
        self.ports.get(key).copied()
    }
}
