//! What is known of the other nodes: accepted records, and what follows from them.
//!
//! A record that is refused changes nothing: what was accepted before holds until its lease or
//! its time ends. An address that two nodes claim is neither's until only one does: otherwise a
//! node could take over another's peers by claiming its address. This node counts as one of
//! them, so nobody else gets its addresses.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::SystemTime,
};

use ipnet::IpNet;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use super::{
    Change, Changes, Listing,
    node_identity::NodeIdentity,
    record::{NodeRecord, PublishedWorkload},
    signed::{self, Refusal, milliseconds},
    status::NodeStatus,
};
use crate::{
    compile::{
        elsewhere::{Announced, Elsewhere, NodePeers, Reached, Service, ServiceAddress},
        image::WorkloadName,
    },
    identity::attest::journal::{EventKind, Journal, SecurityEvent, Subject},
    observe::clock::rfc3339,
    policy::model::{Assurance, Origin, RemoteHost, Workload},
};

/// How well a peer can be known at most by what another node says of it.
const AT_MOST: Assurance = Assurance::Orchestrator;

/// The digest by which a record is known again.
pub type RecordDigest = [u8; 32];

/// The digest of a record as it is published.
pub fn digest(record: &[u8]) -> RecordDigest {
    Sha256::digest(record).into()
}

/// See the module.
pub struct Fleet {
    /// This node's name.
    own: String,
    trust_domain: String,
    identity: Arc<dyn NodeIdentity>,
    journal: Arc<Journal>,
    nodes: BTreeMap<String, Node>,
    /// Highest number of every node, and until when it has to be remembered: as long as an older
    /// record would be believed.
    floors: HashMap<String, Floor>,
    /// Which nodes claim an address.
    claims: HashMap<IpAddr, BTreeSet<String>>,
    /// Names under which the present record is refused, and why.
    refused: BTreeMap<String, String>,
    /// How often records were refused, by reason.
    refusals: BTreeMap<&'static str, u64>,
    elsewhere: Arc<Elsewhere>,
}

#[derive(Debug)]
struct Node {
    digest: RecordDigest,
    record: NodeRecord,
    bytes: usize,
    /// When it was accepted here: milliseconds of the Unix epoch.
    accepted: u64,
    /// Of this node itself there is none: what runs here is known better.
    peers: Option<Arc<NodePeers>>,
}

#[derive(Clone, Copy, Debug)]
struct Floor {
    sequence: u64,
    /// Milliseconds of the Unix epoch.
    until: u64,
}

impl Fleet {
    /// A fleet of which nothing is known.
    pub fn new(
        own: &str,
        trust_domain: &str,
        identity: Arc<dyn NodeIdentity>,
        journal: Arc<Journal>,
    ) -> Self {
        Self {
            own: own.to_owned(),
            trust_domain: trust_domain.to_owned(),
            identity,
            journal,
            nodes: BTreeMap::new(),
            floors: HashMap::new(),
            claims: HashMap::new(),
            refused: BTreeMap::new(),
            refusals: Refusal::CODES.iter().map(|code| (*code, 0)).collect(),
            elsewhere: Arc::default(),
        }
    }

    /// The peers.
    pub fn elsewhere(&self) -> &Arc<Elsewhere> {
        &self.elsewhere
    }

    /// How often records were refused, by reason.
    pub fn refusals(&self) -> &BTreeMap<&'static str, u64> {
        &self.refusals
    }

    /// The highest number that this node's records had.
    pub fn own_sequence(&self) -> u64 {
        self.floors.get(&self.own).map_or(0, |floor| floor.sequence)
    }

    /// Takes a listing: what is not in it is gone. Whether peers are not what they were; so do
    /// the others.
    pub fn list(&mut self, listing: &Listing, now: SystemTime) -> bool {
        let listed: HashSet<&String> = listing.records.iter().map(|(name, _)| name).collect();
        let gone: Vec<String> = (self.nodes.keys().chain(self.refused.keys()))
            .filter(|name| !listed.contains(name))
            .cloned()
            .collect();
        let removed = gone.into_iter().map(|node| Change::Remove { node });
        let published = listing.records.iter();
        let published = published.map(|(node, record)| Change::Publish {
            node: node.clone(),
            record: record.clone(),
        });
        self.take(removed.chain(published).collect(), now)
    }

    /// Whether the record that is published under a name is the accepted one.
    pub fn accepts(&self, name: &str, record: &[u8]) -> bool {
        let node = self.nodes.get(name);
        node.is_some_and(|node| node.digest == digest(record))
    }

    /// Takes changes.
    pub fn change(&mut self, changes: Changes, now: SystemTime) -> bool {
        self.take(changes.changes, now)
    }

    /// Removes records whose time has ended.
    pub fn expire(&mut self, now: SystemTime) -> bool {
        let at = milliseconds(now);
        self.floors.retain(|_, floor| floor.until > at);
        let expired = (self.nodes.values()).filter(|node| node.record.expires <= at);
        let removed: Vec<_> = expired
            .map(|node| Change::Remove {
                node: node.record.node.clone(),
            })
            .collect();
        self.take(removed, now)
    }

    /// Removes all.
    pub fn forget(&mut self) -> bool {
        let nodes = std::mem::take(&mut self.nodes);
        self.claims.clear();
        self.refused.clear();
        self.elsewhere = Arc::default();
        nodes.values().any(|node| node.peers.is_some())
    }

    fn take(&mut self, changes: Vec<Change>, now: SystemTime) -> bool {
        // Whose peers are to be made anew: those that changed, and those whose claims did.
        let mut touched = BTreeSet::new();
        for change in changes {
            let (name, record) = match change {
                Change::Publish { node, record } => (node, Some(record)),
                Change::Remove { node } => (node, None),
            };
            match record {
                None => {
                    self.refused.remove(&name);
                    self.remove(&name, &mut touched);
                }
                Some(bytes) => self.publish(&name, &bytes, now, &mut touched),
            }
        }
        if touched.is_empty() {
            return false;
        }
        for name in &touched {
            if let Some(node) = self.nodes.get_mut(name)
                && *name != self.own
            {
                let made = peers_of(&node.record, node.peers.as_deref(), &self.claims);
                if node.peers.as_deref() != Some(&made) {
                    node.peers = Some(Arc::new(made));
                }
            }
        }
        let peers = self.nodes.values().filter_map(|node| node.peers.clone());
        let nodes: Vec<_> = peers.collect();
        let own = self.announced();
        let same = nodes.len() == self.elsewhere.nodes.len()
            && (nodes.iter().zip(&self.elsewhere.nodes)).all(|(a, b)| Arc::ptr_eq(a, b))
            && own == self.elsewhere.own;
        if !same {
            self.elsewhere = Arc::new(Elsewhere { nodes, own });
        }
        !same
    }

    /// What the others know of this node. What they knew last counts, also while the record is
    /// not there: flows do not depend on every gap.
    fn announced(&self) -> Option<Arc<Announced>> {
        let known = self.elsewhere.own.as_ref();
        let Some(node) = self.nodes.get(&self.own) else {
            return known.cloned();
        };
        let workloads = node.record.workloads.iter().map(|w| {
            let name = WorkloadName {
                namespace: w.namespace.clone(),
                name: w.name.clone(),
            };
            let reached = if w.shares_host() {
                let ports = w.listens.iter().map(|l| (l.protocol, l.port));
                Reached::ByPort(ports.collect())
            } else {
                Reached::ByAddress
            };
            (name, reached)
        });
        let announced = Announced(workloads.collect());
        match known {
            Some(known) if **known == announced => Some(Arc::clone(known)),
            _ => Some(Arc::new(announced)),
        }
    }

    fn publish(
        &mut self,
        name: &str,
        bytes: &[u8],
        now: SystemTime,
        touched: &mut BTreeSet<String>,
    ) {
        let digest = digest(bytes);
        if self
            .nodes
            .get(name)
            .is_some_and(|node| node.digest == digest)
        {
            // The same again, as after a listing.
            self.refused.remove(name);
            return;
        }
        let known = self.floors.get(name).map(|floor| floor.sequence);
        let domain = &self.trust_domain;
        let verified = signed::verify(bytes, name, domain, &*self.identity, known, now);
        let record = match verified {
            Ok(record) => record,
            Err(refusal) => {
                *self.refusals.entry(refusal.code()).or_default() += 1;
                let reason = refusal.to_string();
                let shown = printable(name);
                self.journal.note(SecurityEvent {
                    kind: Subject::Fleet,
                    published_as: Some(shown.clone()),
                    ..SecurityEvent::new(
                        EventKind::Refuse,
                        refusal.code(),
                        format!("the record of node {shown}: {reason}"),
                    )
                });
                // What is put under names that nobody has must not cost without bound.
                if self.refused.len() < MOST_REFUSED || self.refused.contains_key(name) {
                    self.refused.insert(name.to_owned(), reason);
                }
                return;
            }
        };
        self.refused.remove(name);
        let floor = Floor {
            sequence: record.sequence,
            until: record.expires,
        };
        let floors = self.floors.entry(name.to_owned()).or_insert(floor);
        floors.until = floors.until.max(floor.until);
        floors.sequence = floor.sequence;
        let claimed = claims_of(&record);
        let node = Node {
            digest,
            bytes: bytes.len(),
            accepted: milliseconds(now),
            record,
            peers: None,
        };
        let former = self.nodes.insert(name.to_owned(), node);
        let before = former.as_ref().map(|node| claims_of(&node.record));
        if let (Some(former), Some(node)) = (former, self.nodes.get_mut(name)) {
            // What stays the same is to stay the same in memory.
            node.peers = former.peers;
        }
        let before = before.unwrap_or_default();
        self.claim(name, &before, &claimed, touched);
        touched.insert(name.to_owned());
    }

    fn remove(&mut self, name: &str, touched: &mut BTreeSet<String>) {
        if let Some(node) = self.nodes.remove(name) {
            self.claim(name, &claims_of(&node.record), &BTreeSet::new(), touched);
            touched.insert(name.to_owned());
        }
    }

    fn claim(
        &mut self,
        name: &str,
        before: &BTreeSet<IpAddr>,
        now: &BTreeSet<IpAddr>,
        touched: &mut BTreeSet<String>,
    ) {
        for address in before.difference(now) {
            if let Some(nodes) = self.claims.get_mut(address) {
                nodes.remove(name);
                touched.extend(nodes.iter().cloned());
                if nodes.is_empty() {
                    self.claims.remove(address);
                }
            }
        }
        for address in now.difference(before) {
            let nodes = self.claims.entry(*address).or_default();
            touched.extend(nodes.iter().cloned());
            nodes.insert(name.to_owned());
        }
    }

    /// Every node, as it is shown.
    pub fn status(&self) -> Vec<NodeStatus> {
        let known = self.nodes.iter().map(|(name, node)| {
            let contested = claims_of(&node.record).into_iter().filter(|address| {
                let nodes = self.claims.get(address);
                nodes.is_some_and(|nodes| nodes.len() > 1)
            });
            let services = node.peers.as_ref().map_or(0, |peers| peers.services.len());
            NodeStatus {
                name: name.clone(),
                own: *name == self.own,
                addresses: node.record.addresses.clone(),
                workloads: node.record.workloads.len(),
                services,
                sharing: node.peers.as_ref().map_or(0, |peers| peers.sharing.len()),
                enforces: node.record.enforces,
                sequence: node.record.sequence,
                bytes: node.bytes,
                issued: shown(node.record.issued),
                lag_milliseconds: node.accepted.saturating_sub(node.record.issued),
                expires: shown(node.record.expires),
                contested: contested.collect(),
                refused: self.refused.get(name).cloned(),
            }
        });
        let strangers = self
            .refused
            .iter()
            .filter(|(name, _)| !self.nodes.contains_key(*name));
        let strangers = strangers.map(|(name, reason)| NodeStatus {
            name: printable(name),
            refused: Some(reason.clone()),
            ..NodeStatus::default()
        });
        known.chain(strangers).collect()
    }
}

/// Refused names that are remembered for `enforcer nodes`.
const MOST_REFUSED: usize = 1_024;

/// A name as whoever wrote to the registry chose it, fit for a terminal.
fn printable(name: &str) -> String {
    let shown = name.chars().take(80);
    shown
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

fn shown(milliseconds: u64) -> String {
    let moment = OffsetDateTime::from_unix_timestamp_nanos(i128::from(milliseconds) * 1_000_000);
    // Only nonsense is beyond the year 9999.
    rfc3339(moment.unwrap_or(OffsetDateTime::UNIX_EPOCH))
}

fn claims_of(record: &NodeRecord) -> BTreeSet<IpAddr> {
    let own = record.workloads.iter().flat_map(|w| &w.addresses);
    record.addresses.iter().chain(own).copied().collect()
}

/// What an accepted record means. `former`: what the last one meant.
fn peers_of(
    record: &NodeRecord,
    former: Option<&NodePeers>,
    claims: &HashMap<IpAddr, BTreeSet<String>>,
) -> NodePeers {
    let mut times: HashMap<IpAddr, usize> = HashMap::new();
    let own = record.workloads.iter().flat_map(|w| &w.addresses);
    for address in record.addresses.iter().chain(own) {
        *times.entry(*address).or_default() += 1;
    }
    // Claimed by nobody else, and by this node for one purpose.
    let undisputed = |address: &&IpAddr| {
        let nodes = claims.get(*address).map_or(0, BTreeSet::len);
        nodes <= 1 && times.get(*address) == Some(&1)
    };
    let origin = Origin {
        file: format!("node {}", record.node).into(),
        line: 1,
        column: 1,
    };
    let single = |addresses: &[IpAddr]| -> Vec<IpNet> {
        let addresses = addresses.iter().filter(undisputed);
        addresses.map(|address| IpNet::from(*address)).collect()
    };
    let mut known: HashMap<(&str, &str), Vec<&Arc<Workload>>> = HashMap::new();
    for workload in former.iter().flat_map(|former| &former.workloads) {
        let name = (workload.namespace.as_str(), workload.name.as_str());
        known.entry(name).or_default().push(workload);
    }
    let mut workloads = Vec::new();
    let mut services: BTreeMap<ServiceAddress, Option<Arc<Workload>>> = BTreeMap::new();
    for published in &record.workloads {
        let made = workload_of(published, &origin, single(&published.addresses));
        let name = (made.namespace.as_str(), made.name.as_str());
        let same = known.get(&name).into_iter().flatten();
        let same = same.copied().find(|former| ***former == made).cloned();
        let workload = same.unwrap_or_else(|| Arc::new(made));
        for listen in &published.listens {
            let at = |address: &IpAddr| ServiceAddress {
                address: *address,
                protocol: listen.protocol,
                port: listen.port,
            };
            let here = record.addresses.iter().filter(undisputed);
            let here = here.filter(|address| {
                listen.addresses.is_empty() || listen.addresses.contains(address)
            });
            for at in here.map(at) {
                services
                    .entry(at)
                    .and_modify(|who| {
                        // Two workloads at one port: neither is known by it.
                        if who.as_ref().is_some_and(|who| !Arc::ptr_eq(who, &workload)) {
                            *who = None;
                        }
                    })
                    .or_insert_with(|| Some(Arc::clone(&workload)));
            }
        }
        workloads.push(workload);
    }
    let host = RemoteHost {
        name: record.node.clone(),
        origin,
        labels: record.labels.clone(),
        addresses: single(&record.addresses),
    };
    let same_host = former.filter(|former| *former.host == host);
    let mut sharing = BTreeSet::new();
    if record.enforces {
        let subjects = record.workloads.iter().filter(|w| w.shares_host());
        sharing.extend(subjects.map(|w| w.subject().without_ports()));
    }
    let same_sharing = former.filter(|former| *former.sharing == sharing);
    NodePeers {
        name: record.node.clone(),
        host: same_host.map_or_else(|| Arc::new(host), |former| Arc::clone(&former.host)),
        sharing: same_sharing
            .map_or_else(|| Arc::new(sharing), |former| Arc::clone(&former.sharing)),
        workloads,
        services: (services.into_iter())
            .filter_map(|(at, workload)| {
                Some(Service {
                    at,
                    workload: workload?,
                })
            })
            .collect(),
    }
}

fn workload_of(published: &PublishedWorkload, origin: &Origin, addresses: Vec<IpNet>) -> Workload {
    let PublishedWorkload {
        namespace,
        name,
        labels,
        spiffe_id,
        service_account,
        unit,
        ports,
        assurance,
        addresses: _,
        listens: _,
    } = published.clone();
    Workload {
        namespace,
        name,
        origin: origin.clone(),
        labels,
        spiffe_id,
        service_account,
        ports,
        addresses,
        assurance: assurance.min(AT_MOST),
        place: None,
        unit_elsewhere: unit,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        super::{
            node_identity::tests::Authority,
            record::{
                Listen,
                tests::{record, workload},
            },
            signed::sign,
        },
        *,
    };

    struct Scene {
        authority: Authority,
        fleet: Fleet,
        now: SystemTime,
    }

    impl Scene {
        fn new() -> Self {
            let authority = Authority::new();
            let fleet = Fleet::new(
                "here",
                "example.org",
                authority.node("here"),
                Arc::default(),
            );
            Self {
                authority,
                fleet,
                now: SystemTime::now(),
            }
        }

        fn signed(&self, record: &NodeRecord) -> Vec<u8> {
            let svid = self.authority.node(&record.node).svid().unwrap();
            sign(record, &svid).unwrap()
        }

        fn publish(&mut self, name: &str, record: Vec<u8>) -> bool {
            let node = name.to_owned();
            let changes = Changes {
                changes: vec![Change::Publish { node, record }],
                revision: 1,
            };
            self.fleet.change(changes, self.now)
        }

        fn put(&mut self, record: &NodeRecord) -> bool {
            let signed = self.signed(record);
            self.publish(&record.node, signed)
        }

        fn remove(&mut self, node: &str) -> bool {
            let node = node.to_owned();
            let changes = Changes {
                changes: vec![Change::Remove { node }],
                revision: 1,
            };
            self.fleet.change(changes, self.now)
        }

        fn addresses(&self) -> Vec<String> {
            let nodes = self.fleet.elsewhere().nodes.iter();
            let workloads = nodes.flat_map(|node| &node.workloads);
            workloads
                .flat_map(|w| {
                    w.addresses
                        .iter()
                        .map(|a| format!("{} {}", w.name, a.addr()))
                })
                .collect()
        }
    }

    #[test]
    fn a_record_makes_peers_and_its_end_ends_them() {
        let mut scene = Scene::new();
        assert!(scene.put(&record("a", 1)));
        assert_eq!(scene.addresses(), ["web 10.0.1.1"]);
        let node = scene.fleet.elsewhere().nodes[0].clone();
        assert_eq!(node.workloads[0].assurance, Assurance::Orchestrator);
        assert_eq!(node.host.addresses, ["10.0.0.1/32".parse().unwrap()]);
        // Only signed again: nothing to do for anybody.
        assert!(!scene.put(&record("a", 2)));
        // One workload more: the others are the same in memory.
        let mut more = record("a", 3);
        more.workloads.push(workload("db", "10.0.1.2"));
        assert!(scene.put(&more));
        let again = &scene.fleet.elsewhere().nodes[0];
        assert!(Arc::ptr_eq(&node.workloads[0], &again.workloads[0]));
        assert!(Arc::ptr_eq(&node.host, &again.host));
        assert!(scene.remove("a"));
        assert!(scene.addresses().is_empty());
        assert!(scene.fleet.claims.is_empty());
    }

    #[test]
    fn what_is_refused_changes_nothing_and_is_counted() {
        let mut scene = Scene::new();
        scene.put(&record("a", 5));
        let old = scene.signed(&record("a", 4));
        assert!(!scene.publish("a", old.clone()));
        let stolen = scene.signed(&record("b", 6));
        assert!(!scene.publish("a", stolen));
        assert!(!scene.publish("x\u{1b}", vec![1, 2, 3]));
        assert_eq!(scene.addresses(), ["web 10.0.1.1"]);
        let counts = scene.fleet.refusals();
        assert_eq!(
            (
                counts["replayed"],
                counts["other-node"],
                counts["malformed"]
            ),
            (1, 1, 1)
        );
        let events = scene.fleet.journal.kept();
        let told = events
            .iter()
            .map(|e| (&*e.reason, e.published_as.as_deref()));
        assert_eq!(
            told.collect::<Vec<_>>(),
            [
                ("replayed", Some("a")),
                ("other-node", Some("a")),
                ("malformed", Some("x\u{fffd}"))
            ]
        );
        let status = scene.fleet.status();
        assert!(status[0].refused.as_ref().unwrap().contains('b'));
        assert_eq!(status[1].name, "x\u{fffd}");
        // Nor after its lease has ended: the number is remembered.
        scene.remove("a");
        scene.publish("a", old);
        assert!(scene.addresses().is_empty());
        // As long as it would be believed.
        scene.now += Duration::from_mins(2);
        scene.fleet.expire(scene.now);
        assert!(scene.fleet.floors.is_empty());
    }

    #[test]
    fn an_address_that_two_claim_is_neither_s() {
        let mut scene = Scene::new();
        scene.put(&record("a", 1));
        let mut thief = record("b", 1);
        thief.addresses = vec!["10.0.0.2".parse().unwrap()];
        thief.workloads[0].name = "thief".to_owned();
        scene.put(&thief);
        assert!(scene.addresses().is_empty());
        let status = scene.fleet.status();
        assert!(
            status.iter().all(|node| node.contested.len() == 1),
            "{status:?}"
        );
        // It lets go: the other has it again.
        thief.sequence = 2;
        thief.workloads.clear();
        scene.put(&thief);
        assert_eq!(scene.addresses(), ["web 10.0.1.1"]);
        // Nor can anybody claim an address of this node.
        let mut own = record("here", 1);
        own.workloads.clear();
        scene.put(&own);
        scene.put(&record("c", 1));
        assert!(
            scene
                .fleet
                .elsewhere()
                .nodes
                .iter()
                .all(|node| node.host.addresses.len() < 2)
        );
        let c = scene
            .fleet
            .elsewhere()
            .nodes
            .iter()
            .find(|node| node.name == "c");
        assert!(c.unwrap().host.addresses.is_empty());
    }

    #[test]
    fn ports_of_shared_addresses_tell_who_is_behind() {
        let mut scene = Scene::new();
        let mut host = record("a", 1);
        host.addresses.push("fd00::1".parse().unwrap());
        let listen = |port, addresses: &[&str]| Listen {
            protocol: 6,
            port,
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        };
        let mut web = workload("web", "10.0.1.1");
        web.addresses.clear();
        web.listens = vec![
            listen(80, &[]),
            listen(9, &["fd00::1"]),
            listen(7, &["10.9.9.9"]),
        ];
        let mut other = web.clone();
        other.name = "other".to_owned();
        other.listens = vec![listen(9, &[]), listen(81, &[])];
        host.workloads = vec![web, other];
        scene.put(&host);
        let node = &scene.fleet.elsewhere().nodes[0];
        let services = node.services.iter();
        let services: Vec<_> = services
            .map(|s| format!("{} {} {}", s.at.address, s.at.port, s.workload.name))
            .collect();
        // Not at an address that is not the node's, and not where two listen.
        assert_eq!(
            services,
            [
                "10.0.0.1 9 other",
                "10.0.0.1 80 web",
                "10.0.0.1 81 other",
                "fd00::1 80 web",
                "fd00::1 81 other",
            ]
        );
    }

    #[test]
    fn a_listing_replaces_what_was_known() {
        let mut scene = Scene::new();
        scene.put(&record("a", 1));
        let mut b = record("b", 1);
        b.addresses.clear();
        b.workloads = vec![workload("db", "10.0.1.2")];
        let records = vec![("b".to_owned(), scene.signed(&b))];
        let listing = Listing {
            records,
            revision: 9,
        };
        assert!(scene.fleet.list(&listing, scene.now));
        assert_eq!(scene.addresses(), ["db 10.0.1.2"]);
        assert!(!scene.fleet.list(&listing, scene.now));
        assert!(scene.fleet.forget());
        assert!(scene.addresses().is_empty());
    }
}
