//! Proofs of identity.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet},
};

use crate::{
    identity::attest::AttestView,
    metrics::kernel::{counter, gauge},
};

/// Encodes the counts of attestation.
#[derive(Debug)]
pub(super) struct AttestationCollector(pub(super) AttestView);

#[derive(EncodeLabelSet)]
struct EventLabels {
    event: &'static str,
    reason: String,
}

impl Collector for AttestationCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let mut metric = counter(
            &mut encoder,
            "attestation_events",
            "Proofs that were bound, renewed, ended or refused, by reason",
        )?;
        for (event, reason, count) in self.0.journal.counts() {
            let event = event.name();
            metric
                .encode_family(&EventLabels { event, reason })?
                .encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        counter(
            &mut encoder,
            "attestation_events_suppressed",
            "Events of attestation that were counted but neither logged nor kept",
        )?
        .encode_counter::<NoLabelSet, _, u64>(&self.0.journal.suppressed(), None)?;
        let bindings = self.0.bindings.borrow().len();
        gauge(
            &mut encoder,
            "attestation_bindings",
            "Endpoints to which a proof of identity is bound",
        )?
        .encode_gauge(&i64::try_from(bindings).unwrap_or(i64::MAX))
    }
}
