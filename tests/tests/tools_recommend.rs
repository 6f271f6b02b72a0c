//! What `recommend` writes is policy that `simulate` finds nothing to deny in.
//!
//! `ENFORCER_CASES` sets the number of trees tried.

use std::collections::BTreeSet;

use enforcer::{
    compile::image::{RuleDirection, WorkloadName},
    observe::record::Verdict,
    policy::{
        load_text,
        model::{Mode, ResolvedPolicy},
    },
    tools::{
        flows::{Flows, Seen, Tally, Who},
        recommend::{Generalise, recommend},
        simulate::simulate,
    },
};
use enforcer_common::{Direction, Protocol};
use proptest::{collection::vec, prelude::*};
use tests::{
    generate::{self, Scenario},
    model::{RawEndpoint, RawFlow, RawPeer},
};

fn seen(scenario: &Scenario, flow: &RawFlow, verdict: Verdict) -> Seen {
    let name = |index: usize| {
        let workload = &scenario.policy.workloads[index];
        WorkloadName {
            namespace: workload.namespace.clone(),
            name: workload.name.clone(),
        }
    };
    // The kernel has no ports where the protocol has none.
    let has_service = Protocol::has_ports(flow.protocol)
        || matches!(flow.protocol, Protocol::ICMP | Protocol::ICMPV6);
    Seen {
        node: "n".to_owned(),
        endpoint: match flow.endpoint {
            RawEndpoint::Host => Who::Host,
            RawEndpoint::Workload(index) => Who::Proven(name(index)),
        },
        direction: match flow.direction {
            Direction::Egress => RuleDirection::Egress,
            Direction::Ingress => RuleDirection::Ingress,
        },
        peer: match flow.peer {
            RawPeer::Host => Who::Host,
            RawPeer::Workload(index) => Who::Proven(name(index)),
            RawPeer::Address(address) => Who::Address(address),
        },
        protocol: flow.protocol,
        port: if has_service { flow.port } else { 0 },
        verdict,
    }
}

fn generalise() -> impl Strategy<Value = Generalise> {
    let wishes = vec!["labels=k", "networks=24,64", "world", "ports"];
    prop::sample::subsequence(wishes, 0..=4).prop_map(|wishes| {
        let wishes = wishes
            .iter()
            .map(|wish| wish.parse::<Generalise>().expect("known"));
        wishes.fold(Generalise::default(), Generalise::and)
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: generate::cases(1000),
        max_shrink_iters: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_is_recommended_denies_nothing_that_was_seen(
        scenario in generate::scenario(20),
        verdicts in vec(prop::sample::select(&Verdict::ALL[..]), 20..=20),
        generalise in generalise(),
        denied in any::<bool>(),
    ) {
        let mut flows = Flows::default();
        let hosts: BTreeSet<_> = scenario.host_addresses.iter().copied().collect();
        flows.hosts.insert("n".to_owned(), hosts);
        let tally = Tally {
            records: 1,
            packets: 2,
            first: "2026-01-01T00:00:00.000000Z".into(),
            last: "2026-01-02T00:00:00.000000Z".into(),
        };
        for (flow, verdict) in scenario.flows.iter().zip(verdicts) {
            let seen = seen(&scenario, flow, verdict);
            // No policy can name port 0.
            if seen.port != 0 || !Protocol::has_ports(seen.protocol) {
                flows.see(seen, &tally, None);
            }
        }
        let wanted = recommend(&scenario.policy, &flows, &generalise, denied).expect("compiles");
        // What is written is read back by the ordinary way.
        let policies = if wanted.policies.is_empty() {
            Vec::new()
        } else {
            match load_text("seen.yaml", &wanted.yaml) {
                Ok(policy) => policy.policies,
                Err(errors) => return Err(TestCaseError::fail(errors.render(false))),
            }
        };
        prop_assert_eq!(policies.len(), wanted.policies.len());
        let result = ResolvedPolicy { policies, ..scenario.policy.clone() };
        let simulation = simulate(&result, Mode::Enforce, scenario.now, &flows).expect("compiles");
        prop_assert!(!simulation.denies(), "{:?}\n{}", simulation.changes, wanted.yaml);
        if denied {
            let mut denied = flows.clone();
            denied.seen = flows.seen.iter().map(|(seen, tally)| {
                (Seen { verdict: Verdict::Allow, ..seen.clone() }, tally.clone())
            }).collect();
            let simulation = simulate(&result, Mode::Enforce, scenario.now, &denied).expect("compiles");
            prop_assert!(!simulation.denies(), "{:?}\n{}", simulation.changes, wanted.yaml);
        }
    }
}
