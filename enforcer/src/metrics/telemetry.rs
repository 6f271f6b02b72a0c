//! What became of records.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet},
};

use crate::{
    metrics::kernel::{Series, counter, counters, gauge},
    observe::{pipeline::PipelineStats, record::Verdict},
    reject::Answers,
    sink::{SinkStats, queue::DropCause},
};

/// Encodes the counts of the pipeline and the sinks.
#[derive(Debug)]
pub(super) struct TelemetryCollector {
    pub(super) pipeline: Arc<PipelineStats>,
    pub(super) sinks: Vec<Arc<SinkStats>>,
    pub(super) answers: Arc<Answers>,
}

#[derive(EncodeLabelSet)]
struct SinkLabels {
    sink: &'static str,
}

#[derive(EncodeLabelSet)]
struct DropLabels {
    sink: &'static str,
    cause: &'static str,
}

impl Collector for TelemetryCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let made = ("records", "Flow records made");
        let records = |verdict: Verdict| (verdict.name(), self.pipeline.records(verdict));
        let records = Verdict::ALL.into_iter().map(records);
        counters(&mut encoder, made, "verdict", records)?;
        let answered = (
            "reject_answers",
            "Denied packets that were handed over to be answered",
        );
        let answers = &self.answers;
        let outcomes = [
            ("sent", &answers.sent),
            ("failed", &answers.failed),
            ("late", &answers.late),
        ];
        let outcomes = outcomes.map(|(outcome, count)| (outcome, count.load(Ordering::Relaxed)));
        counters(&mut encoder, answered, "outcome", outcomes)?;
        let mut metric = counter(
            &mut encoder,
            "sink_dropped",
            "Flow records that a sink did not take",
        )?;
        for sink in &self.sinks {
            for cause in DropCause::ALL {
                let labels = DropLabels {
                    sink: sink.name(),
                    cause: cause.name(),
                };
                metric
                    .encode_family(&labels)?
                    .encode_counter::<NoLabelSet, _, u64>(&sink.dropped(cause), None)?;
            }
        }
        let counters: [Series<SinkStats>; 2] = [
            ("sink_written", "Flow records that a sink took", |s| {
                s.written()
            }),
            (
                "sink_errors",
                "Attempts of a sink that failed; they are repeated",
                |s| s.errors(),
            ),
        ];
        for (name, help, value) in counters {
            let mut metric = counter(&mut encoder, name, help)?;
            for sink in &self.sinks {
                metric
                    .encode_family(&SinkLabels { sink: sink.name() })?
                    .encode_counter::<NoLabelSet, _, u64>(&value(sink), None)?;
            }
        }
        let mut metric = gauge(
            &mut encoder,
            "sink_failing",
            "1 if the last attempt of a sink failed",
        )?;
        for sink in &self.sinks {
            metric
                .encode_family(&SinkLabels { sink: sink.name() })?
                .encode_gauge(&u64::from(sink.is_failing()))?;
        }
        Ok(())
    }
}
