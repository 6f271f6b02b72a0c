//! Bridges with a port that belongs to no workload: whoever is behind it can send with the address
//! of a workload behind another one. A port is nobody's for a moment whenever something is plugged
//! in, so bindings end only where it stays so.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::origin::is_on_open_bridge;
use crate::{api::status::PlaceKind, identity::binding::Bindings, reconcile::in_force::InForce};

/// How long a new port may be nobody's.
const PATIENCE: Duration = Duration::from_secs(5);

/// Interfaces with a binding behind a bridge that is open, and since when.
#[derive(Debug, Default)]
pub(super) struct OpenBridges {
    since: BTreeMap<u64, Instant>,
}

impl OpenBridges {
    /// The interfaces behind a bridge that has been open for too long.
    pub fn look(&mut self, bindings: &Bindings, now: &InForce, at: Instant) -> BTreeSet<u64> {
        let interfaces = bindings.keys().filter(|at| at.kind == PlaceKind::Interface);
        let open: BTreeSet<u64> = interfaces
            .map(|at| at.number)
            .filter(|interface| is_on_open_bridge(now, *interface))
            .collect();
        self.since.retain(|interface, _| open.contains(interface));
        for interface in open {
            self.since.entry(interface).or_insert(at);
        }
        let since = self.since.iter();
        let over = since.filter(|(_, since)| at.duration_since(**since) >= PATIENCE);
        over.map(|(interface, _)| *interface).collect()
    }
}
