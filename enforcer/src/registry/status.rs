//! The fleet, as it is shown.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::identity::attest::journal::Journal;

/// `GET /v1/nodes`, and the fleet's part of `GET /v1/status` (without the nodes).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetStatus {
    /// Where the registry is.
    pub registry: String,
    /// This node's SPIFFE ID.
    pub spiffe_id: String,
    /// Whether its changes are heard now.
    pub connected: bool,
    /// Since when it is as `connected` says: RFC 3339, UTC.
    pub since: String,
    /// Why it is not connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Not connected: for how long what is known still holds. 0: it was forgotten, or holds for
    /// good, as `afterwards` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_milliseconds: Option<u64>,
    /// What becomes of it then: `forget` or `keep`.
    pub afterwards: String,
    /// Whether this node's own record is in the registry.
    pub published: bool,
    /// Why it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish_problem: Option<String>,
    /// Nodes whose records are accepted, this one included.
    pub known: usize,
    /// Workloads of the other ones.
    pub workloads: usize,
    /// Addresses that several nodes claim: they are nobody's.
    pub contested: usize,
    /// Longest time from a node's making a record to its being accepted here, of the present
    /// records, by the clocks of both.
    pub lag_milliseconds: u64,
    /// Counts since the daemon's start.
    pub counts: FleetCounts,
    /// Records that were refused since the daemon's start, by reason.
    pub refusals: BTreeMap<String, u64>,
    /// Every node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeStatus>,
}

/// What was done since the daemon's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetCounts {
    /// Changes that were heard.
    pub changes: u64,
    /// Everything was listed anew.
    pub listings: u64,
    /// Watches that were lost.
    pub watches_lost: u64,
    /// Of these, because changes were not kept any more.
    pub compacted: u64,
    /// This node's record was published.
    pub published: u64,
    /// It could not be published, or its lease not be kept.
    pub publish_failures: u64,
    /// This node's lease had ended.
    pub leases_lost: u64,
    /// Somebody else had changed or removed this node's record.
    pub overwritten: u64,
    /// What was known was forgotten, because the registry was away for too long.
    pub forgotten: u64,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Whether it is this one.
    pub own: bool,
    /// Its addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// Its workloads.
    pub workloads: usize,
    /// Ports of its addresses behind which workloads are known.
    pub services: usize,
    /// How many different identities share its addresses, so that a flow from there counts as
    /// that of the host or of one of them. 0 where it does not enforce.
    #[serde(default)]
    pub sharing: usize,
    /// Whether it enforces policy.
    #[serde(default)]
    pub enforces: bool,
    /// Number of its record.
    pub sequence: u64,
    /// Size of its record.
    pub bytes: usize,
    /// When it was made, by the node's clock: RFC 3339, UTC.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub issued: String,
    /// From its being made to its being accepted here, by the clocks of both.
    pub lag_milliseconds: u64,
    /// When it ends if the node says nothing more: RFC 3339, UTC.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub expires: String,
    /// Addresses that another node claims too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contested: Vec<IpAddr>,
    /// Ports at which several of its workloads listen, in words: they are nobody's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contested_ports: Vec<String>,
    /// Why what is published under its name now is refused; what is shown was accepted before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

impl FleetStatus {
    /// What is wrong, one sentence each.
    pub fn shortfalls(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if !self.connected {
            let problem = self.problem.as_deref().unwrap_or("it was not heard yet");
            reasons.push(match self.kept_milliseconds {
                Some(0) if self.afterwards == "forget" => format!(
                    "other nodes are forgotten, because the registry is not heard: {problem}"
                ),
                Some(left) if left > 0 => format!(
                    "what is known of other nodes is old, and holds for {} s more: {problem}",
                    left / 1_000
                ),
                _ => format!("what is known of other nodes may be old: {problem}"),
            });
        }
        if let Some(problem) = &self.publish_problem {
            reasons.push(format!("other nodes do not hear of this one: {problem}"));
        }
        if self.contested > 0 {
            reasons.push(format!(
                "{} addresses are claimed by several nodes and are nobody's (see `enforcer nodes`)",
                self.contested
            ));
        }
        reasons
    }
}

/// The status, written by those who know and read by those who show; and where security events go.
#[derive(Clone, Debug, Default)]
pub struct FleetBoard {
    status: Arc<Mutex<FleetStatus>>,
    journal: Arc<Journal>,
}

impl FleetBoard {
    /// A board on which nothing is written yet.
    pub fn new(journal: Arc<Journal>) -> Self {
        Self {
            status: Arc::default(),
            journal,
        }
    }

    /// Where security events go.
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// As it is now.
    pub fn read(&self) -> FleetStatus {
        self.lock().clone()
    }

    /// Without the nodes.
    pub fn summary(&self) -> FleetStatus {
        let status = self.lock();
        FleetStatus {
            nodes: Vec::new(),
            registry: status.registry.clone(),
            spiffe_id: status.spiffe_id.clone(),
            since: status.since.clone(),
            problem: status.problem.clone(),
            afterwards: status.afterwards.clone(),
            publish_problem: status.publish_problem.clone(),
            refusals: status.refusals.clone(),
            ..*status
        }
    }

    /// Changes it.
    pub fn write<T>(&self, change: impl FnOnce(&mut FleetStatus) -> T) -> T {
        change(&mut self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, FleetStatus> {
        // Every field stands for itself: one written after a panic and one before are as good.
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
