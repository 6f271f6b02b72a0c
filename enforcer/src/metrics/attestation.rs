//! Proofs of identity, and what proofs are made with.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet},
};

use crate::{
    identity::{
        attest::{
            AttestView,
            journal::{Journal, Subject},
        },
        workload_api::{WorkloadApiView, client::ProviderStats},
    },
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

/// The events of one door, and how many of them were only counted: each with its name and help.
pub(super) fn encode_events(
    encoder: &mut DescriptorEncoder<'_>,
    journal: &Journal,
    subject: Subject,
    events: (&str, &str),
    suppressed: (&str, &str),
) -> Result<(), fmt::Error> {
    let mut metric = counter(encoder, events.0, events.1)?;
    for (event, reason, count) in journal.counts(subject) {
        let event = event.name();
        metric
            .encode_family(&EventLabels { event, reason })?
            .encode_counter::<NoLabelSet, _, u64>(&count, None)?;
    }
    counter(encoder, suppressed.0, suppressed.1)?
        .encode_counter::<NoLabelSet, _, u64>(&journal.suppressed(subject), None)
}

impl Collector for AttestationCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        encode_events(
            &mut encoder,
            &self.0.journal,
            Subject::Attestation,
            (
                "attestation_events",
                "Proofs that were bound, renewed, ended or refused, by reason",
            ),
            (
                "attestation_events_suppressed",
                "Events of attestation that were counted and nothing else",
            ),
        )?;
        let bindings = self.0.bindings.borrow().len();
        gauge(
            &mut encoder,
            "attestation_bindings",
            "Endpoints to which a proof of identity is bound",
        )?
        .encode_gauge(&i64::try_from(bindings).unwrap_or(i64::MAX))?;
        // Without one there is nothing to show.
        let Some(own) = self.0.material.borrow().own.clone() else {
            return Ok(());
        };
        gauge(
            &mut encoder,
            "identity_own_not_after_seconds",
            "Until when the daemon's own SVID is valid, in seconds of the Unix epoch",
        )?
        .encode_gauge(&own.svid.not_after())
    }
}

/// Encodes how it goes with the provider of the own SVID.
#[derive(Debug)]
pub(super) struct ProviderCollector(pub(super) Arc<ProviderStats>);

impl Collector for ProviderCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        gauge(
            &mut encoder,
            "identity_provider_connected",
            "1 while the provider of the daemon's own SVID is heard",
        )?
        .encode_gauge(&i64::from(self.0.connected.load(Ordering::Relaxed)))?;
        counter(
            &mut encoder,
            "identity_provider_updates",
            "SVIDs and bundles that came from the provider",
        )?
        .encode_counter::<NoLabelSet, _, u64>(&self.0.updates.load(Ordering::Relaxed), None)?;
        counter(
            &mut encoder,
            "identity_provider_failures",
            "Times that the provider was not there, refused, or was lost",
        )?
        .encode_counter::<NoLabelSet, _, u64>(&self.0.failures.load(Ordering::Relaxed), None)
    }
}

/// Encodes the counts of the Workload API.
#[derive(Debug)]
pub(super) struct WorkloadApiCollector(pub(super) WorkloadApiView);

impl Collector for WorkloadApiCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        encode_events(
            &mut encoder,
            &self.0.journal,
            Subject::WorkloadApi,
            (
                "workload_api_events",
                "SVIDs that were issued to workloads, and requests that were refused, by reason",
            ),
            (
                "workload_api_events_suppressed",
                "Events of the Workload API that were counted and nothing else",
            ),
        )?;
        let streams = self.0.streams.load(Ordering::Relaxed);
        gauge(
            &mut encoder,
            "workload_api_streams",
            "Streams by which workloads follow their SVIDs and bundles",
        )?
        .encode_gauge(&i64::try_from(streams).unwrap_or(i64::MAX))?;
        gauge(
            &mut encoder,
            "workload_api_root_not_after_seconds",
            "Until when the root that signs is valid, in seconds of the Unix epoch",
        )?
        .encode_gauge(&self.0.roots.borrow().until)
    }
}
