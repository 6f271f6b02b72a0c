//! What lints cost grows with the tree, and not with its square: `enforcer check` of ten thousand
//! policies and as many workloads.

use std::{fmt::Write, fs, time::Duration};

use enforcer::{lint, policy, policy::model::Moment};
use nix::time::{ClockId, clock_gettime};

/// Of this thread: what it does not get of a busy machine is not counted.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .expect("every Linux has this clock")
        .into()
}

/// As many workloads as policies, each policy about one of them, with everything that lints look
/// for: rules behind others, selectors of nobody, allows that a higher tier denies, isolation
/// from DNS, named ports, networks, and policies of Kubernetes.
fn tree(count: usize) -> String {
    let mut text = String::from(
        "apiVersion: enforcer.dev/v1alpha1\nkind: SegmentPolicy\nmetadata: {name: no-telnet}\n\
         spec: {tier: admin, selector: {}, ingress: [{name: telnet, action: deny, ports: [23/tcp]}]}\n",
    );
    for n in 0..count {
        let (b, c) = (n >> 8, n & 255);
        let next = (n + 1) % count;
        let team = n / 10;
        // A tenth is written as Kubernetes writes it.
        if n % 10 == 0 {
            write!(
                text,
                "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
                 metadata: {{name: p{n}, namespace: shop}}\n\
                 spec: {{podSelector: {{matchLabels: {{app: a{n}}}}}, ingress: [{{from: [{{podSelector: {{matchLabels: {{app: a{next}}}}}}}], ports: [{{port: http}}]}}]}}\n"
            )
        } else {
            write!(
                text,
                "---\napiVersion: enforcer.dev/v1alpha1\nkind: SegmentPolicy\n\
                 metadata: {{name: p{n}, namespace: shop}}\n\
                 spec:\n  selector: {{matchLabels: {{app: a{n}}}}}\n  ingress:\n  \
                 - {{name: wide, from: [{{labels: {{team: t{team}}}}}], ports: [1000-1099/tcp]}}\n  \
                 - {{name: narrow, from: [{{labels: {{team: t{team}}}}}], ports: [1050/tcp]}}\n  \
                 - {{name: telnet, from: [{{labels: {{app: a{next}}}}}], ports: [23/tcp, http/tcp]}}\n  \
                 - {{name: nobody, from: [{{labels: {{app: x{n}}}}}, {{cidr: 172.16.{b}.{c}}}], ports: [443/tcp]}}\n  \
                 egress:\n  - {{name: near, to: [{{labels: {{app: a{next}}}}}], ports: [80/tcp]}}\n"
            )
        }
        .expect("a string");
        write!(
            text,
            "---\napiVersion: enforcer.dev/v1alpha1\nkind: Workload\n\
             metadata: {{name: w{n}, namespace: shop, labels: {{app: a{n}, team: t{team}}}}}\n\
             spec: {{interface: i{n}, addresses: [10.7.{b}.{c}], ports: [{{name: http, port: {}}}]}}\n",
            8000 + n % 50
        )
        .expect("a string");
    }
    text
}

fn cost(count: usize) -> (Duration, usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tree.yaml");
    fs::write(&path, tree(count)).expect("writable");
    let study = policy::study(&[path]).unwrap_or_else(|e| panic!("{}", e.render(false)));
    let start = processor_time();
    let findings = lint::run(&study, None, Moment(1_800_000_000)).expect("compiles");
    (processor_time().saturating_sub(start), findings.len())
}

/// Twice the tree costs twice as much at most; what grows with the square costs four times as
/// much. Both are so large that lints which give up after some effort do: below that they would
/// hide all else.
#[test]
fn lints_of_a_large_tree_cost_in_proportion() {
    let full = if cfg!(debug_assertions) {
        5_000
    } else {
        10_000
    };
    // What others do at the same time can make one of two costs larger, but hardly three times the
    // same one.
    let in_proportion = (0..3).any(|_| {
        let (half, few) = cost(full / 2);
        let (whole, many) = cost(full);
        println!(
            "{}: {half:?}, {few} findings; {full}: {whole:?}, {many} findings",
            full / 2
        );
        assert!(few > 0 && many > few);
        whole * 10 < half * 22
    });
    assert!(
        in_proportion,
        "more than 2.2 times the cost for twice the tree"
    );
}
