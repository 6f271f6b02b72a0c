use enforcer_common::{Action, Direction, Loss, Reason, counter};

use super::*;
use crate::{
    git::{judge::RefusalReason, known::AcceptedCommit, program::FetchCause, webhook::HookOutcome},
    observe::fixtures,
    sink::{SinkQueue, stdout::StreamSink},
};

#[derive(Debug)]
struct Kernel(Option<KernelReading>);

impl KernelSource for Kernel {
    fn read(&self) -> Result<KernelReading, Box<dyn std::error::Error + Send + Sync>> {
        self.0.clone().ok_or_else(|| "the map is gone".into())
    }
}

fn git() -> GitStats {
    let stats = GitStats::default();
    stats.fetched(1_767_225_600);
    stats.failed(FetchCause::Denied);
    stats.refused(RefusalReason::Unsigned);
    stats.hook(HookOutcome::Accept);
    stats.in_force(Some(AcceptedCommit {
        id: "0123".into(),
        reference: "main".into(),
        author: "Ada <ada@example.org>".into(),
        time: String::new(),
        accepted: String::new(),
        signer: None,
    }));
    stats
}

fn with_kernel(kernel: Kernel) -> Metrics {
    let sink = SinkQueue::start("test", StreamSink::new(Vec::new()), 1).unwrap();
    Metrics::new(MetricSources {
        kernel: Arc::new(kernel),
        names: Arc::new(NameBook::new(fixtures::context())),
        pipeline: Arc::default(),
        history: History::new(1),
        attestation: None,
        workload_api: None,
        provider: None,
        sinks: vec![Arc::clone(sink.stats())],
        git: Some(Arc::new(git())),
        answers: Arc::default(),
        fleet: Some(FleetBoard::default()),
    })
}

pub(super) fn metrics() -> Metrics {
    let count = |packets| counter::Counter {
        packets,
        bytes: packets * 100,
    };
    let metrics = with_kernel(Kernel(Some(KernelReading {
        verdicts: vec![
            (Reason::Rule, Action::Allow, Direction::Egress, count(9)),
            (
                Reason::Isolation,
                Action::Deny,
                Direction::Ingress,
                count(4),
            ),
        ],
        // The second is gone, the third never matched.
        rules: vec![(7, count(4)), (8, count(5)), (9, count(0))],
        losses: Loss::ALL.iter().map(|loss| (*loss, *loss as u64)).collect(),
        maps: vec![MapUse {
            name: "FLOWS4".into(),
            entries: 3,
            capacity: 100,
            bytes: 4_096,
        }],
    })));
    let labels = PolicyLabels {
        digest: "old".into(),
        commit: String::new(),
        mode: mode_name(Mode::Audit),
    };
    metrics.load_failed(3);
    metrics.applied(4, labels.clone(), Duration::from_millis(2));
    metrics.tree_refused(false);
    let labels = PolicyLabels {
        digest: "abc".into(),
        commit: "0123".into(),
        mode: mode_name(Mode::Enforce),
    };
    metrics.applied(5, labels, Duration::from_millis(20));
    metrics.placed(
        7,
        EndpointCounts {
            interface: 2,
            cgroup: 1,
            host: 1,
        },
    );
    metrics
}

#[test]
fn all_metrics_are_there() {
    let text = metrics().encode().unwrap();
    let ours: Vec<&str> = text
        .lines()
        // What depends on the process that tests.
        .filter(|line| !line.starts_with("process_"))
        .collect();
    insta::assert_snapshot!(ours.join("\n"));
}

#[test]
fn the_state_of_the_last_load_is_shown() {
    let metrics = metrics();
    metrics.load_failed(2);
    let text = metrics.encode().unwrap();
    for line in [
        "enforcer_policy_load_failed 1",
        "enforcer_policy_errors 2",
        "enforcer_policy_load_failures_total 2",
        "enforcer_policy_generation 5",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in {text}");
    }
}

#[test]
fn a_kernel_that_cannot_be_read_is_counted_and_the_rest_shown() {
    let metrics = with_kernel(Kernel(None));
    metrics.encode().unwrap();
    let text = metrics.encode().unwrap();
    assert!(
        text.contains("enforcer_kernel_read_failures_total 2\n"),
        "{text}"
    );
    assert!(text.contains("enforcer_records_total{verdict=\"deny\"} 0\n"));
}

#[test]
fn every_metric_is_documented() {
    const DOCUMENT: &str = include_str!("../../../docs/telemetry.md");
    let text = metrics().encode().unwrap();
    let types = text.lines().filter_map(|l| l.strip_prefix("# TYPE "));
    for metric in types {
        let (name, kind) = metric.split_once(' ').unwrap();
        let suffix = if kind == "counter" { "_total" } else { "" };
        let name = format!("`{name}{suffix}`");
        assert!(
            DOCUMENT.contains(&name),
            "{name} is not in docs/telemetry.md"
        );
    }
}
