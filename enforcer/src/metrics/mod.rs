//! What Prometheus sees. Counts that others keep (the kernel, the pipeline, the sinks) are
//! read when they are asked for; what happens to policy is told by the daemon.

mod attestation;
mod fleet;
pub mod git;
pub mod kernel;
pub mod process;
pub mod serve;
mod telemetry;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::{
    identity::{
        attest::AttestView,
        workload_api::{WorkloadApiView, client::ProviderStats},
    },
    metrics::{
        attestation::{AttestationCollector, ProviderCollector, WorkloadApiCollector},
        fleet::FleetCollector,
        git::{GitCollector, GitStats},
        kernel::KernelCollector,
        process::ProcessCollector,
        telemetry::TelemetryCollector,
    },
    observe::{context::NameBook, history::History, pipeline::PipelineStats},
    policy::model::Mode,
    registry::status::FleetBoard,
    reject::Answers,
    sink::SinkStats,
};

pub use kernel::{KernelReading, KernelSource, MapUse};

/// Seconds. From what one changed rule takes to a hundred thousand on a slow machine.
const APPLY_BUCKETS: [f64; 10] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0];

/// Where counts are kept.
#[derive(Debug)]
pub struct MetricSources {
    /// The datapath.
    pub kernel: Arc<dyn KernelSource>,
    /// Names of rules.
    pub names: Arc<NameBook>,
    /// The pipeline.
    pub pipeline: Arc<PipelineStats>,
    /// The kept records.
    pub history: Arc<History>,
    /// The sinks.
    pub sinks: Vec<Arc<SinkStats>>,
    /// The git source, if there is one.
    pub git: Option<Arc<GitStats>>,
    /// Answers to denied packets.
    pub answers: Arc<Answers>,
    /// The fleet; `None` on one host.
    pub fleet: Option<FleetBoard>,
    /// Attestation, where there is any.
    pub attestation: Option<AttestView>,
    /// The Workload API, where it is served.
    pub workload_api: Option<WorkloadApiView>,
    /// The provider of the own SVID, where that is not files.
    pub provider: Option<Arc<ProviderStats>>,
}

/// All metrics of a daemon.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    state: Arc<State>,
    apply_seconds: Histogram,
    apply_failures: Counter,
    load_failures: Counter,
    load_failed: Gauge,
    policy_errors: Gauge,
    generation: Gauge,
    moments: Gauge,
    moments_beyond: Gauge,
    workloads: Gauge,
}

/// The policy in force, as `enforcer_policy_info` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PolicyLabels {
    /// Digest of the tree.
    pub digest: String,
    /// Git commit of the tree, or empty.
    pub commit: String,
    /// The node's mode.
    pub mode: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointLabels {
    place: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
    abi: u32,
    record: u32,
}

/// How many endpoints there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndpointCounts {
    /// At interfaces.
    pub interface: usize,
    /// In cgroups.
    pub cgroup: usize,
    /// At uplinks.
    pub host: usize,
}

impl Metrics {
    /// Registers everything.
    pub fn new(sources: MetricSources) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessCollector));
        let ours = registry.sub_registry_with_prefix("enforcer");
        let state = Arc::new(State::default());
        let metrics = Self {
            state: Arc::clone(&state),
            apply_seconds: Histogram::new(APPLY_BUCKETS),
            apply_failures: Counter::default(),
            load_failures: Counter::default(),
            load_failed: Gauge::default(),
            policy_errors: Gauge::default(),
            generation: Gauge::default(),
            moments: Gauge::default(),
            moments_beyond: Gauge::default(),
            workloads: Gauge::default(),
            registry: Registry::default(),
        };
        let build = Family::<BuildLabels, Gauge>::default();
        let labels = BuildLabels {
            version: env!("CARGO_PKG_VERSION"),
            abi: enforcer_common::abi::ABI_VERSION,
            record: crate::observe::record::RECORD_VERSION,
        };
        build.get_or_create(&labels).set(1);
        ours.register("build_info", "What runs; always 1", build);
        ours.register(
            "policy_generation",
            "Policy generation in force in the kernel",
            metrics.generation.clone(),
        );
        ours.register(
            "policy_moments",
            "Moments ahead at which rules begin or end, with or without a daemon",
            metrics.moments.clone(),
        );
        ours.register(
            "policy_moments_beyond",
            "Later moments for which the kernel has no room yet",
            metrics.moments_beyond.clone(),
        );
        ours.register(
            "policy_load_failed",
            "1 if the policy tree as it is now could not be loaded or applied, and an older one is in force",
            metrics.load_failed.clone(),
        );
        ours.register(
            "policy_errors",
            "Errors that the last load of the policy tree found",
            metrics.policy_errors.clone(),
        );
        ours.register(
            "policy_load_failures",
            "Loads of the policy tree that found errors",
            metrics.load_failures.clone(),
        );
        ours.register(
            "apply_failures",
            "Changes that the kernel did not take; what was in force stays",
            metrics.apply_failures.clone(),
        );
        ours.register(
            "apply_seconds",
            "Time from reading a changed policy or workload to its being in force",
            metrics.apply_seconds.clone(),
        );
        ours.register(
            "workloads",
            "Workloads that the policy tree names, here or elsewhere",
            metrics.workloads.clone(),
        );
        ours.register_collector(Box::new(state));
        ours.register_collector(Box::new(KernelCollector::new(
            sources.kernel,
            Arc::clone(&sources.names),
            Arc::clone(&sources.pipeline),
            Arc::clone(&sources.history),
        )));
        if let Some(git) = sources.git {
            ours.register_collector(Box::new(GitCollector(git)));
        }
        if let Some(board) = sources.fleet {
            ours.register_collector(Box::new(FleetCollector(board)));
        }
        if let Some(view) = sources.attestation {
            ours.register_collector(Box::new(AttestationCollector(view)));
        }
        if let Some(stats) = sources.provider {
            ours.register_collector(Box::new(ProviderCollector(stats)));
        }
        if let Some(view) = sources.workload_api {
            ours.register_collector(Box::new(WorkloadApiCollector(view)));
        }
        ours.register_collector(Box::new(TelemetryCollector {
            pipeline: sources.pipeline,
            sinks: sources.sinks,
            answers: sources.answers,
        }));
        Self {
            registry,
            ..metrics
        }
    }

    /// A policy, or a change of workloads, is in force.
    pub fn applied(&self, generation: u32, labels: PolicyLabels, took: Duration) {
        self.generation.set(generation.into());
        self.apply_seconds.observe(took.as_secs_f64());
        self.state.lock().policy = Some(labels);
    }

    /// How many moments ahead the kernel knows, and how many it does not.
    pub fn moments(&self, known: usize, beyond: usize) {
        self.moments.set(gauge(known));
        self.moments_beyond.set(gauge(beyond));
    }

    /// Whether the tree as it is now is kept out of force.
    pub fn tree_refused(&self, refused: bool) {
        self.load_failed.set(refused.into());
        if !refused {
            self.policy_errors.set(0);
        }
    }

    /// The tree has errors; the last good one stays in force.
    pub fn load_failed(&self, errors: usize) {
        self.load_failures.inc();
        self.load_failed.set(1);
        self.policy_errors.set(gauge(errors));
    }

    /// The tree is good, but the kernel did not take it; what was in force stays.
    pub fn apply_failed(&self) {
        self.apply_failures.inc();
        self.load_failed.set(1);
    }

    /// How many workloads there are, and endpoints of them here.
    pub fn placed(&self, workloads: usize, endpoints: EndpointCounts) {
        self.workloads.set(gauge(workloads));
        self.state.lock().endpoints = endpoints;
    }

    /// Everything, as OpenMetrics text. Reads the kernel: may take a while and block.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// The name of a mode in labels.
pub const fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Audit => "audit",
        Mode::Enforce => "enforce",
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// What is shown as it was last told, and nothing from before.
#[derive(Debug, Default)]
struct State(Mutex<Told>);

#[derive(Clone, Debug, Default)]
struct Told {
    policy: Option<PolicyLabels>,
    endpoints: EndpointCounts,
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Told> {
        // Every change is one assignment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for State {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let Told { policy, endpoints } = self.lock().clone();
        if let Some(labels) = policy {
            kernel::gauge(
                &mut encoder,
                "policy_info",
                "The policy tree in force; always 1",
            )?
            .encode_family(&labels)?
            .encode_gauge(&1_u64)?;
        }
        let mut metric = kernel::gauge(
            &mut encoder,
            "endpoints",
            "Enforcement points of local workloads",
        )?;
        for (place, count) in [
            ("interface", endpoints.interface),
            ("cgroup", endpoints.cgroup),
            ("host", endpoints.host),
        ] {
            metric
                .encode_family(&EndpointLabels { place })?
                .encode_gauge(&gauge(count))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
