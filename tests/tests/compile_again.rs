//! A compiler that remembers the last tree makes the same of the next one as one that does not:
//! the same image, byte for byte, and the same numbers given out.

use std::sync::Arc;

use enforcer::compile::{Compiler, Image, Inputs, Limits, Numbers, Subjects, compile};
use proptest::{collection::vec, prelude::*, sample::Index};
use tests::generate::{self, Scenario};

/// Brings a policy of another tree in, under a name of its own.
fn add_policy(scenario: &mut Scenario, other: &Scenario, which: Index, name: String) {
    let others = &other.policy.policies;
    if others.is_empty() {
        return;
    }
    let mut policy = others[which.index(others.len())].clone();
    Arc::make_mut(&mut policy).name = name;
    let policies = &mut scenario.policy.policies;
    policies.push(policy);
    policies.sort_by(|a, b| a.rank().cmp(&b.rank()));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: generate::cases(2000) / 2 + 1,
        max_shrink_iters: 500,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_is_remembered_changes_nothing(
        first in generate::scenario(0),
        other in generate::scenario(0),
        steps in vec((generate::edit(), any::<Option<Index>>(), 0_u8..8), 2..10),
        subjects in prop_oneof![Just(Subjects::Placed), Just(Subjects::All)],
    ) {
        let mut scenario = first;
        let mut compiler = Compiler::default();
        let (mut remembering, mut forgetting) = (Numbers::default(), Numbers::default());
        let mut image: Option<Image> = None;
        for (step, (edit, added, chance)) in steps.iter().enumerate() {
            scenario = edit.apply(&scenario);
            if let Some(which) = added {
                add_policy(&mut scenario, &other, *which, format!("p{chance}-{step}"));
            }
            // Sometimes it does not fit.
            let limits = match chance {
                0 => Limits { policies: 3, ..Limits::NONE },
                1..4 => Limits::NONE,
                _ => Limits { moments: 2, ..Limits::NONE },
            };
            let inputs = Inputs {
                policy: &scenario.policy,
                mode: scenario.mode,
                now: scenario.now,
                host_addresses: &scenario.host_addresses,
                subjects,
                limits: &limits,
                in_force: image.as_ref(),
            };
            let again = compiler.compile(&inputs, &mut remembering);
            let afresh = compile(&inputs, &mut forgetting);
            prop_assert_eq!(&again, &afresh);
            if let Ok(new) = again {
                image = Some(new);
            }
            if let (1, Some(image)) = (chance, &image) {
                prop_assert_eq!(remembering.retire(image), forgetting.retire(image));
            }
            prop_assert_eq!(
                serde_json::to_string(&remembering).expect("JSON"),
                serde_json::to_string(&forgetting).expect("JSON")
            );
        }
    }
}
