//! Counts of the kernel, read when they are asked for.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use enforcer_common::{Action, Direction, Loss, Reason, counter::Counter};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, LabelSetEncoder, MetricEncoder, NoLabelSet},
    metrics::MetricType,
};

use crate::{
    compile::image::RuleDirection,
    metrics::mode_name,
    observe::{
        context::{NameBook, Names},
        history::History,
        patterns::direction_name,
        pipeline::PipelineStats,
        record::Verdict,
    },
    policy::model::Tier,
};

/// Most series of rules in one scrape. Rules that never matched have none.
const MOST_RULES: usize = 20_000;

/// Name and help of a metric, and its value in what is counted.
pub(super) type Series<T> = (&'static str, &'static str, fn(&T) -> u64);

/// Who reads the kernel's counts: the daemon, from its datapath.
pub trait KernelSource: fmt::Debug + Send + Sync {
    /// The counts as they are now. May block for as long as reading takes.
    fn read(&self) -> Result<KernelReading, Box<dyn std::error::Error + Send + Sync>>;
}

/// Counts of the kernel. What is not known is left empty.
#[derive(Clone, Debug, Default)]
pub struct KernelReading {
    /// Verdicts.
    pub verdicts: Vec<(Reason, Action, Direction, Counter)>,
    /// Counts by rule number.
    pub rules: Vec<(u32, Counter)>,
    /// What was not kept or reported.
    pub losses: Vec<(Loss, u64)>,
    /// How full the maps are.
    pub maps: Vec<MapUse>,
}

/// How full a map is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MapUse {
    /// Its name.
    pub name: String,
    /// Entries in use.
    pub entries: u64,
    /// Most entries.
    pub capacity: u64,
    /// Memory, bytes.
    pub bytes: u64,
}

/// Encodes a reading.
#[derive(Debug)]
pub(super) struct KernelCollector {
    source: Arc<dyn KernelSource>,
    names: Arc<NameBook>,
    pipeline: Arc<PipelineStats>,
    history: Arc<History>,
    failures: AtomicU64,
}

#[derive(EncodeLabelSet)]
struct VerdictLabels {
    verdict: &'static str,
    reason: &'static str,
    direction: &'static str,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct RuleLabels<'a> {
    namespace: &'a str,
    policy: &'a str,
    rule: &'a str,
    tier: &'static str,
    direction: &'static str,
    action: &'static str,
    mode: &'static str,
}

impl EncodeLabelSet for RuleLabels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> Result<(), fmt::Error> {
        [
            ("namespace", self.namespace),
            ("policy", self.policy),
            ("rule", self.rule),
            ("tier", self.tier),
            ("direction", self.direction),
            ("action", self.action),
            ("mode", self.mode),
        ]
        .encode(encoder)
    }
}

impl KernelCollector {
    pub(super) fn new(
        source: Arc<dyn KernelSource>,
        names: Arc<NameBook>,
        pipeline: Arc<PipelineStats>,
        history: Arc<History>,
    ) -> Self {
        Self {
            source,
            names,
            pipeline,
            history,
            failures: AtomicU64::new(0),
        }
    }
}

impl Collector for KernelCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        // A scrape without the kernel's part is better than none; its failures are counted.
        let reading = self.source.read().unwrap_or_else(|error| {
            self.failures.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(%error, "cannot read the kernel's counters for metrics");
            KernelReading::default()
        });
        encode_verdicts(&mut encoder, &reading.verdicts)?;
        encode_rules(&mut encoder, &self.names.load(), &reading.rules)?;
        self.encode_losses(&mut encoder, &reading.losses)?;
        encode_maps(&mut encoder, &reading.maps)?;
        let failures = self.failures.load(Ordering::Relaxed);
        counter(
            &mut encoder,
            "kernel_read_failures",
            "Scrapes that could not read the kernel's counters",
        )?
        .encode_counter::<NoLabelSet, _, u64>(&failures, None)
    }
}

impl KernelCollector {
    fn encode_losses(
        &self,
        encoder: &mut DescriptorEncoder,
        losses: &[(Loss, u64)],
    ) -> Result<(), fmt::Error> {
        let lost = (
            "events_lost",
            "Events and states that were not kept or not reported",
        );
        let ours = [
            ("refused", self.pipeline.refused()),
            ("reader-slow", self.history.lagged()),
        ];
        let kernels = losses.iter().map(|(loss, count)| (loss.name(), *count));
        counters(encoder, lost, "cause", kernels.chain(ours))
    }
}

fn encode_verdicts(
    encoder: &mut DescriptorEncoder,
    verdicts: &[(Reason, Action, Direction, Counter)],
) -> Result<(), fmt::Error> {
    let families: [Series<Counter>; 2] = [
        (
            "verdicts",
            "Packets (at socket hooks: calls) by verdict",
            |c| c.packets,
        ),
        ("verdict_bytes", "Bytes of packets by verdict", |c| c.bytes),
    ];
    for (name, help, value) in families {
        let mut metric = counter(encoder, name, help)?;
        for (reason, action, direction, count) in verdicts {
            let labels = VerdictLabels {
                verdict: Verdict::from(*action).name(),
                reason: reason.name(),
                direction: direction_name(RuleDirection::from(*direction)),
            };
            metric
                .encode_family(&labels)?
                .encode_counter::<NoLabelSet, _, u64>(&value(count), None)?;
        }
    }
    Ok(())
}

fn encode_rules(
    encoder: &mut DescriptorEncoder,
    names: &Names,
    counts: &[(u32, Counter)],
) -> Result<(), fmt::Error> {
    // Two numbers may stand for rules that look alike from here.
    let mut series: BTreeMap<RuleLabels<'_>, Counter> = BTreeMap::new();
    let mut hidden: u64 = 0;
    let rules = &names.context().image.rules;
    for (number, count) in counts.iter().filter(|(_, c)| c.packets > 0) {
        let Some(rule) = rules.get(number) else {
            continue;
        };
        let labels = RuleLabels {
            namespace: rule.namespace.as_deref().unwrap_or_default(),
            policy: &rule.policy,
            rule: &rule.rule,
            tier: rule.tier.map_or("node", tier_name),
            direction: rule.direction.map_or("", direction_name),
            action: rule.action.name(),
            mode: mode_name(rule.mode),
        };
        if series.len() >= MOST_RULES && !series.contains_key(&labels) {
            hidden += 1;
            continue;
        }
        let sum = series.entry(labels).or_default();
        sum.packets += count.packets;
        sum.bytes += count.bytes;
    }
    let families: [Series<Counter>; 2] = [
        (
            "rule_packets",
            "Packets (at socket hooks: calls) that a rule decided",
            |c| c.packets,
        ),
        ("rule_bytes", "Bytes of packets that a rule decided", |c| {
            c.bytes
        }),
    ];
    for (name, help, value) in families {
        let mut metric = counter(encoder, name, help)?;
        for (labels, count) in &series {
            metric
                .encode_family(labels)?
                .encode_counter::<NoLabelSet, _, u64>(&value(count), None)?;
        }
    }
    gauge(
        encoder,
        "rule_series_hidden",
        "Rules that have matched but are left out of this answer, because there are too many",
    )?
    .encode_gauge(&hidden)
}

fn encode_maps(encoder: &mut DescriptorEncoder, maps: &[MapUse]) -> Result<(), fmt::Error> {
    let families: [Series<MapUse>; 3] = [
        ("map_entries", "Entries of a kernel map in use", |m| {
            m.entries
        }),
        ("map_capacity", "Most entries of a kernel map", |m| {
            m.capacity
        }),
        ("map_bytes", "Memory of a kernel map", |m| m.bytes),
    ];
    for (name, help, value) in families {
        let mut metric = gauge(encoder, name, help)?;
        for map in maps {
            metric
                .encode_family(&[("map", map.name.as_str())])?
                .encode_gauge(&value(map))?;
        }
    }
    Ok(())
}

fn tier_name(tier: Tier) -> &'static str {
    match tier {
        Tier::Quarantine => "quarantine",
        Tier::Admin => "admin",
        Tier::Application => "application",
        Tier::Baseline => "baseline",
    }
}

pub(super) fn counter<'e>(
    encoder: &'e mut DescriptorEncoder<'_>,
    name: &'e str,
    help: &str,
) -> Result<MetricEncoder<'e>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, MetricType::Counter)
}

/// A counter for each value of one label.
pub(super) fn counters<'c>(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    label: &'static str,
    counts: impl IntoIterator<Item = (&'c str, u64)>,
) -> Result<(), fmt::Error> {
    let mut metric = counter(encoder, name, help)?;
    for (value, count) in counts {
        metric
            .encode_family(&[(label, value)])?
            .encode_counter::<NoLabelSet, _, u64>(&count, None)?;
    }
    Ok(())
}

pub(super) fn gauge<'e>(
    encoder: &'e mut DescriptorEncoder<'_>,
    name: &'e str,
    help: &str,
) -> Result<MetricEncoder<'e>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, MetricType::Gauge)
}
