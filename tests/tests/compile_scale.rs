//! How long compilation takes, at the sizes that the design promises. Figures mean something in
//! release builds only: `cargo test --release -p tests --test compile_scale -- --ignored
//! --nocapture`.

use std::{sync::Arc, time::Duration};

use enforcer::{
    compile::{Compiler, Image, Inputs, Limits, Numbers, Subjects},
    policy::model::{
        Accountability, Assurance, Labels, Mode, Moment, Origin, Peer, Place, Policy, PolicyKind,
        PortMatch, PortRange, ResolvedPolicy, Rule, RuleAction, Subject, Tier, Validity, Workload,
        WorkloadSelector,
    },
};
use nix::time::{ClockId, clock_gettime};

fn origin(line: usize) -> Origin {
    Origin {
        file: Arc::from("scale.yaml"),
        line: u32::try_from(line).expect("few lines"),
        column: 1,
    }
}

fn labels(app: usize) -> Labels {
    Labels::from([
        ("app".to_owned(), format!("app-{app}")),
        ("team".to_owned(), format!("team-{}", app % 100)),
        ("env".to_owned(), "production".to_owned()),
    ])
}

/// `workloads` workloads with an identity and an address each, and `policies` policies of
/// `rules` rules: each isolates one workload and lets some others in.
fn tree(workloads: usize, policies: usize, rules: usize) -> ResolvedPolicy {
    let workload = |app: usize| Workload {
        namespace: format!("ns-{}", app % 10),
        name: format!("w-{app}"),
        origin: origin(app),
        labels: labels(app),
        spiffe_id: None,
        service_account: None,
        ports: [].into(),
        assurance: Assurance::Address,
        addresses: vec![
            format!("10.{}.{}.{}/32", app >> 16, app >> 8 & 255, app & 255)
                .parse()
                .expect("a prefix"),
        ],
        place: Some(Place::Cgroup(format!("/w-{app}"))),
    };
    let select = |key: &str, value: String| {
        WorkloadSelector::labelled(None, Labels::from([(key.to_owned(), value)]))
    };
    let policy = |p: usize| Policy {
        kind: PolicyKind::SegmentPolicy,
        namespace: None,
        name: format!("p-{p}"),
        origin: origin(p),
        tier: Tier::Application,
        priority: None,
        mode: None,
        validity: Validity::ALWAYS,
        accountability: Accountability::default(),
        subject: Subject::Workloads(vec![select("app", format!("app-{}", p % workloads))]),
        rules: [
            None,
            Some(
                (0..rules)
                    .map(|r| Rule {
                        name: format!("ingress[{r}]"),
                        origin: origin(p),
                        action: RuleAction::Allow,
                        log: false,
                        validity: Validity::ALWAYS,
                        accountability: Accountability::default(),
                        peers: vec![Peer::Workloads(if r == 0 {
                            select("team", format!("team-{}", p % 100))
                        } else {
                            select("app", format!("app-{}", (p * 7 + r) % workloads))
                        })],
                        ports: vec![PortMatch::Range(PortRange {
                            protocol: Some(6),
                            first: 1000 + u16::try_from(r).expect("few rules"),
                            last: 1000 + u16::try_from(r).expect("few rules"),
                        })],
                    })
                    .collect(),
            ),
        ],
    };
    let mut policies: Vec<_> = (0..policies).map(policy).collect();
    policies.sort_by(|a, b| a.name.cmp(&b.name));
    ResolvedPolicy {
        workloads: (0..workloads).map(workload).map(Arc::new).collect(),
        policies: policies.into_iter().map(Arc::new).collect(),
        ..ResolvedPolicy::default()
    }
}

/// Of this thread: what it does not get of a busy machine is not counted.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .expect("every Linux has this clock")
        .into()
}

fn timed(
    policy: &ResolvedPolicy,
    compiler: &mut Compiler,
    numbers: &mut Numbers,
) -> (Image, Duration) {
    let inputs = Inputs {
        policy,
        mode: Mode::Enforce,
        now: Moment::default(),
        host_addresses: &[],
        subjects: Subjects::Placed,
        limits: &Limits::NONE,
        in_force: None,
    };
    let start = processor_time();
    let image = compiler
        .compile(&inputs, numbers)
        .expect("nothing is too large");
    (image, processor_time().saturating_sub(start))
}

#[test]
#[ignore = "takes long in debug builds"]
fn ten_thousand_policies_and_identities_compile_in_two_seconds() {
    for (workloads, policies, rules) in [
        (10, 10, 10),
        (1_000, 1_000, 10),
        (10_000, 10_000, 1),
        (10_000, 10_000, 10),
        (10_000, 1_000, 100),
    ] {
        let mut tree = tree(workloads, policies, rules);
        let mut numbers = Numbers::default();
        let mut compiler = Compiler::default();
        let (image, first) = timed(&tree, &mut compiler, &mut numbers);
        Arc::make_mut(&mut tree.workloads[0])
            .labels
            .insert("more".to_owned(), "yes".to_owned());
        let (_, again) = timed(&tree, &mut compiler, &mut numbers);
        println!(
            "{workloads} workloads, {policies} policies of {rules} rules: {first:?} first, \
             {again:?} after a label change; {} policy entries, {} port entries, {} rules",
            image.policies.len(),
            image.ports.len(),
            image.rules.len(),
        );
        if !cfg!(debug_assertions) {
            assert!(first < Duration::from_secs(2) && again < Duration::from_secs(2));
        }
    }
}
