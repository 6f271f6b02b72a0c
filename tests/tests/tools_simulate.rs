//! `simulate` says of recorded flows what the reference model says.
//!
//! `ENFORCER_CASES` sets the number of trees tried.

use std::path::Path;

use enforcer::{
    compile::{
        explain::Answer,
        image::{RuleDirection, WorkloadName},
    },
    observe::record::Verdict,
    tools::{
        flows::{Flows, Seen, Tally, Who},
        simulate::{SimulatedKind, simulate},
    },
};
use enforcer_common::Direction;
use proptest::prelude::*;
use tests::{
    generate::{self, Scenario},
    model::{ModelAction, RawEndpoint, RawFlow, RawPeer},
};

const FLOWS: usize = 40;

fn name(scenario: &Scenario, index: usize) -> WorkloadName {
    let workload = &scenario.policy.workloads[index];
    WorkloadName {
        namespace: workload.namespace.clone(),
        name: workload.name.clone(),
    }
}

fn seen(scenario: &Scenario, flow: &RawFlow, verdict: Verdict) -> Seen {
    Seen {
        node: "n".to_owned(),
        endpoint: match flow.endpoint {
            RawEndpoint::Host => Who::Host,
            RawEndpoint::Workload(index) => Who::Proven(name(scenario, index)),
        },
        direction: match flow.direction {
            Direction::Egress => RuleDirection::Egress,
            Direction::Ingress => RuleDirection::Ingress,
        },
        peer: match flow.peer {
            RawPeer::Host => Who::Host,
            RawPeer::Workload(index) => Who::Proven(name(scenario, index)),
            RawPeer::Address(address) => Who::Address(address),
        },
        protocol: flow.protocol,
        port: flow.port,
        verdict,
    }
}

fn as_verdict(action: ModelAction) -> Verdict {
    match action {
        ModelAction::Allow => Verdict::Allow,
        ModelAction::Deny => Verdict::Deny,
        ModelAction::Audit => Verdict::Audit,
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: generate::cases(300),
        max_shrink_iters: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// One flow at a time, so that it is surely this one that is told.
    #[test]
    fn every_change_is_told_and_nothing_else(
        mut scenario in generate::scenario(FLOWS),
        recorded in prop::sample::select(&Verdict::ALL[..]),
    ) {
        // A node in audit mode lets through what policies in `enforce` deny, too.
        scenario.mode = enforcer::policy::model::Mode::Enforce;
        let hosts: std::collections::BTreeSet<_> = scenario.host_addresses.iter().copied().collect();
        for flow in scenario.flows.iter().take(8) {
            let mut flows = Flows::default();
            flows.hosts.insert("n".to_owned(), hosts.clone());
            let tally = Tally { records: 3, packets: 9, first: "a".into(), last: "b".into() };
            flows.see(seen(&scenario, flow, recorded), &tally, None);
            let simulation = simulate(&scenario.policy, scenario.mode, scenario.now, &flows).expect("compiles");
            let now = as_verdict(scenario.world().judge(flow).action);
            let expected = match (recorded, now) {
                (a, b) if a == b => None,
                (Verdict::Allow | Verdict::Audit, Verdict::Deny) => Some(SimulatedKind::Denied),
                (Verdict::Allow, Verdict::Audit) => Some(SimulatedKind::Audited),
                _ => Some(SimulatedKind::Allowed),
            };
            let told: Vec<_> = simulation.changes.iter().map(|c| c.change).collect();
            prop_assert_eq!(&told, &expected.into_iter().collect::<Vec<_>>(), "{:?}", flow);
            prop_assert_eq!(simulation.judged, 3);
            prop_assert_eq!(simulation.denies(), expected == Some(SimulatedKind::Denied));
            for change in &simulation.changes {
                prop_assert_eq!(change.seen.records, 3);
                let answer = match now {
                    Verdict::Allow => Answer::Allow,
                    Verdict::Deny => Answer::Deny,
                    Verdict::Audit => Answer::Audit,
                };
                prop_assert_eq!(change.simulated.verdict, answer);
            }
        }
    }

    /// All at once: counts add up, and what was recorded under the same tree stays.
    #[test]
    fn the_same_tree_changes_nothing(scenario in generate::scenario(FLOWS)) {
        let mut flows = Flows::default();
        flows.hosts.insert("n".to_owned(), scenario.host_addresses.iter().copied().collect());
        let tally = Tally { records: 1, packets: 1, first: String::new(), last: String::new() };
        for flow in &scenario.flows {
            let verdict = match scenario.world().judge(flow).action {
                // The tools show what a node in audit mode does.
                ModelAction::Deny if scenario.mode == enforcer::policy::model::Mode::Audit => Verdict::Audit,
                action => as_verdict(action),
            };
            flows.see(seen(&scenario, flow, verdict), &tally, None);
        }
        let simulation = simulate(&scenario.policy, scenario.mode, scenario.now, &flows).expect("compiles");
        prop_assert_eq!(&simulation.changes, &vec![]);
        prop_assert_eq!(simulation.judged, scenario.flows.len() as u64);
        prop_assert_eq!(simulation.same, simulation.judged);
    }

    /// Whatever a file holds, it is read to its end, and what is bad is counted.
    #[test]
    fn no_bytes_stop_the_reader(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        magic in prop::sample::select(vec![&[][..], &[0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0], &[0x0a, 0x0d, 0x0d, 0x0a], b"{\"version\":1,"]),
    ) {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), [magic, &bytes].concat()).expect("writable");
        let mut flows = Flows::default();
        // A capture may be refused whole; there is no third way.
        let _ = flows.read(file.path(), false);
        prop_assert!(flows.bad.first.len() <= 10);
    }
}

#[test]
fn a_missing_file_is_an_error_with_its_name() {
    let mut flows = Flows::default();
    let error = flows.read(Path::new("/nowhere/at/all"), false).unwrap_err();
    assert!(error.to_string().contains("/nowhere/at/all"));
}
