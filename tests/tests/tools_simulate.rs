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

/// Flows recorded for each tree.
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
        cases: generate::cases(10_000),
        max_shrink_iters: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Each flow is recorded so often that the sum of any of them tells which they are.
    #[test]
    fn every_change_is_told_and_nothing_else(
        mut scenario in generate::scenario(FLOWS),
        recorded in prop::sample::select(&Verdict::ALL[..]),
    ) {
        // A node in audit mode lets through what policies in `enforce` deny, too.
        scenario.mode = enforcer::policy::model::Mode::Enforce;
        let mut flows = Flows::default();
        flows.hosts.insert("n".to_owned(), scenario.host_addresses.iter().copied().collect());
        for (index, flow) in scenario.flows.iter().enumerate() {
            let tally = Tally { records: 1 << index, packets: 9, first: "a".into(), last: "b".into() };
            flows.see(seen(&scenario, flow, recorded), &tally, None);
        }
        let simulation = simulate(&scenario.policy, scenario.mode, scenario.now, &flows).expect("compiles");
        let mut told = [None; FLOWS];
        for change in &simulation.changes {
            for (index, told) in told.iter_mut().enumerate() {
                if change.seen.records >> index & 1 == 1 {
                    prop_assert_eq!(*told, None, "told twice: {:?}", scenario.flows[index]);
                    *told = Some((change.change, change.simulated.verdict));
                }
            }
        }
        let mut same = 0;
        for (index, flow) in scenario.flows.iter().enumerate() {
            let now = as_verdict(scenario.world().judge(flow).action);
            let kind = match (recorded, now) {
                (a, b) if a == b => None,
                (Verdict::Allow | Verdict::Audit, Verdict::Deny) => Some(SimulatedKind::Denied),
                (Verdict::Allow, Verdict::Audit) => Some(SimulatedKind::Audited),
                _ => Some(SimulatedKind::Allowed),
            };
            let answer = match now {
                Verdict::Allow => Answer::Allow,
                Verdict::Deny => Answer::Deny,
                Verdict::Audit => Answer::Audit,
            };
            prop_assert_eq!(told[index], kind.map(|kind| (kind, answer)), "{:?}", flow);
            if kind.is_none() {
                same |= 1 << index;
            }
        }
        prop_assert_eq!(simulation.judged, (1 << FLOWS) - 1);
        prop_assert_eq!(simulation.same, same);
        let denied = told.iter().flatten().any(|(kind, _)| *kind == SimulatedKind::Denied);
        prop_assert_eq!(simulation.denies(), denied);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: generate::cases(300),
        max_shrink_iters: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

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
