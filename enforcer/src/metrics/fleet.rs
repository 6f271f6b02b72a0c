//! What is known of other nodes.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
};

use super::{
    attestation::encode_events,
    kernel::{counter, counters, gauge},
};
use crate::identity::attest::journal::Subject;
use crate::registry::{signed::Refusal, status::FleetBoard};

/// Encodes the fleet's status.
#[derive(Debug)]
pub(super) struct FleetCollector(pub(super) FleetBoard);

impl Collector for FleetCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let fleet = self.0.summary();
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        for (name, help, value) in [
            (
                "fleet_connected",
                "1 while changes of the registry are heard",
                u64::from(fleet.connected),
            ),
            (
                "fleet_published",
                "1 while this node's own record is in the registry",
                u64::from(fleet.published),
            ),
            (
                "fleet_nodes",
                "Nodes whose records are accepted, this one included",
                count(fleet.known),
            ),
            (
                "fleet_workloads",
                "Workloads of other nodes",
                count(fleet.workloads),
            ),
            (
                "fleet_contested_addresses",
                "Addresses that several nodes claim, and that are nobody's",
                count(fleet.contested),
            ),
            (
                "fleet_lag_milliseconds",
                "Longest time from a node's making its present record to its being accepted here",
                fleet.lag_milliseconds,
            ),
        ] {
            gauge(&mut encoder, name, help)?.encode_gauge(&value)?;
        }
        let counts = fleet.counts;
        for (name, help, value) in [
            ("fleet_changes", "Changes of the registry", counts.changes),
            (
                "fleet_listings",
                "The registry was listed as a whole",
                counts.listings,
            ),
            (
                "fleet_watches_lost",
                "Watches of the registry that were lost",
                counts.watches_lost,
            ),
            (
                "fleet_watches_compacted",
                "Watches that could not go on, because changes were not kept any more",
                counts.compacted,
            ),
            (
                "fleet_publishes",
                "This node's record was published",
                counts.published,
            ),
            (
                "fleet_publish_failures",
                "This node's record could not be published or its lease not be kept",
                counts.publish_failures,
            ),
            (
                "fleet_leases_lost",
                "The lease of this node's record had ended",
                counts.leases_lost,
            ),
            (
                "fleet_overwritten",
                "Somebody else had changed or removed this node's record",
                counts.overwritten,
            ),
            (
                "fleet_forgotten",
                "Other nodes were forgotten, because the registry was away for too long",
                counts.forgotten,
            ),
        ] {
            counter(&mut encoder, name, help)?
                .encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        let refused = (
            "fleet_refused_records",
            "Records of nodes that were refused",
        );
        let count = |reason| fleet.refusals.get(reason).copied().unwrap_or(0);
        let counts = Refusal::CODES
            .into_iter()
            .map(|reason| (reason, count(reason)));
        counters(&mut encoder, refused, "reason", counts)?;
        encode_events(
            &mut encoder,
            self.0.journal(),
            Subject::Fleet,
            (
                "fleet_events",
                "Security events of the fleet: records refused or put back, addresses and ports \
                 contested or settled, by reason",
            ),
            (
                "fleet_events_suppressed",
                "Security events of the fleet that were counted and nothing else",
            ),
        )
    }
}
