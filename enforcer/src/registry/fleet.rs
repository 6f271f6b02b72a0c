//! What is known of the other nodes: accepted records, and what follows from them.
//!
//! A record that is refused changes nothing: what was accepted before holds until its lease or
//! its time ends. This node is one of those that claim addresses, so nobody else gets its own.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::SystemTime,
};

use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use super::{
    Change, Changes, Listing,
    claims::Claims,
    listeners::Contested,
    node_identity::NodeIdentity,
    shared_labels::SharedLabels,
    signed::{self, Refusal, milliseconds},
    statement::Statement,
    status::NodeStatus,
};
use crate::{
    compile::elsewhere::{Announced, Elsewhere, NodePeers},
    identity::attest::journal::{EventKind, Journal, SecurityEvent, Subject},
    observe::clock::rfc3339,
};

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
    nodes: BTreeMap<Arc<str>, Node>,
    /// Of all that nodes say.
    labels: SharedLabels,
    /// Highest number of every node, and until when it has to be remembered: as long as an older
    /// record would be believed.
    floors: HashMap<String, Floor>,
    claims: Claims,
    /// Names under which the present record is refused, and why.
    refused: BTreeMap<String, String>,
    /// How often records were refused, by reason.
    refusals: BTreeMap<&'static str, u64>,
    elsewhere: Arc<Elsewhere>,
}

#[derive(Debug)]
struct Node {
    digest: RecordDigest,
    says: Statement,
    /// Size of the record.
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
            labels: SharedLabels::default(),
            floors: HashMap::new(),
            claims: Claims::default(),
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
        let listed = listing.records.iter().map(|(name, _)| name.as_str());
        let listed: HashSet<&str> = listed.collect();
        let known = self.nodes.keys().map(|name| &**name);
        let known = known.chain(self.refused.keys().map(String::as_str));
        let gone: Vec<String> = (known.filter(|name| !listed.contains(name)))
            .map(str::to_owned)
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
        let expired = (self.nodes.iter()).filter(|(_, node)| node.says.expires <= at);
        let removed: Vec<_> = expired
            .map(|(name, _)| Change::Remove {
                node: name.to_string(),
            })
            .collect();
        self.take(removed, now)
    }

    /// Removes all.
    pub fn forget(&mut self) -> bool {
        let nodes = std::mem::take(&mut self.nodes);
        for (name, node) in &nodes {
            self.tell_ports(name, Some(&node.says), None);
        }
        self.claims.clear();
        self.tell_turns();
        self.labels.clear();
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
        self.tell_turns();
        for name in &touched {
            if let Some(node) = self.nodes.get_mut(name)
                && **name != *self.own
            {
                let contested = |address: &IpAddr| self.claims.is_contested(address);
                let made = node.says.peers(node.peers.as_deref(), contested);
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
        let Some(node) = self.nodes.get(&*self.own) else {
            return known.cloned();
        };
        let contested = |address: &IpAddr| self.claims.is_contested(address);
        let announced = node.says.announced(contested);
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
        touched: &mut BTreeSet<Arc<str>>,
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
        let (name, former) = match self.nodes.remove_entry(name) {
            Some((name, node)) => (name, Some(node)),
            None => (Arc::from(name), None),
        };
        let before = former.as_ref().map(|node| &node.says);
        let says = Statement::of(record, before, &mut self.labels);
        let claimed = before.map_or(&[][..], Statement::claims);
        self.tell_ports(&name, before, Some(&says));
        touched.extend(self.claims.change(&name, claimed, says.claims()));
        touched.insert(Arc::clone(&name));
        let node = Node {
            digest,
            says,
            bytes: bytes.len(),
            accepted: milliseconds(now),
            // What stays the same is to stay the same in memory.
            peers: former.and_then(|node| node.peers),
        };
        self.nodes.insert(name, node);
    }

    fn remove(&mut self, name: &str, touched: &mut BTreeSet<Arc<str>>) {
        if let Some((name, node)) = self.nodes.remove_entry(name) {
            self.tell_ports(&name, Some(&node.says), None);
            touched.extend(self.claims.change(&name, node.says.claims(), &[]));
            touched.insert(name);
        }
    }

    /// Tells of ports at which several workloads of a node listen now, or do not any more.
    fn tell_ports(&self, node: &str, before: Option<&Statement>, now: Option<&Statement>) {
        let nobody = Contested::default();
        let before = before.map_or(&nobody, |says| &says.contested);
        let now = now.map_or(&nobody, |says| &says.contested);
        for event in Contested::turns(node, before, now) {
            self.journal.note(event);
        }
    }

    /// Tells of addresses that came to be contested, or are not any more.
    fn tell_turns(&mut self) {
        for turn in self.claims.turns() {
            self.journal.note(turn.event());
        }
    }

    /// How many addresses several nodes claim.
    pub fn contested(&self) -> usize {
        self.claims.contested().count()
    }

    /// Every node, as it is shown.
    pub fn status(&self) -> Vec<NodeStatus> {
        let mut contested: BTreeMap<&str, Vec<IpAddr>> = BTreeMap::new();
        for (address, nodes) in self.claims.contested() {
            for node in nodes {
                contested.entry(node).or_default().push(*address);
            }
        }
        let known = self.nodes.iter().map(|(name, node)| {
            let services = node.peers.as_ref().map_or(0, |peers| peers.services.len());
            NodeStatus {
                name: name.to_string(),
                own: **name == *self.own,
                addresses: node.says.addresses().collect(),
                workloads: node.says.len(),
                services,
                sharing: node.peers.as_ref().map_or(0, |peers| peers.sharing.len()),
                enforces: node.says.enforces,
                sequence: node.says.sequence,
                bytes: node.bytes,
                issued: shown(node.says.issued),
                lag_milliseconds: node.accepted.saturating_sub(node.says.issued),
                expires: shown(node.says.expires),
                contested: contested.get(&**name).cloned().unwrap_or_default(),
                contested_ports: node.says.contested.shown(),
                refused: self.refused.get(&**name).cloned(),
            }
        });
        let strangers = self
            .refused
            .iter()
            .filter(|(name, _)| !self.nodes.contains_key(name.as_str()));
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

#[cfg(test)]
mod tests;
