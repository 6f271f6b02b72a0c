//! The compiled image says of every flow what the documents say.
//!
//! `ENFORCER_CASES` sets the number of policies tried.

use enforcer::compile::{
    self, Image, Inputs, Limits, Numbers, Subjects,
    explain::{Answer, Explainer, Explanation, FlowQuery, Party},
    image::{RuleInfo, WorkloadName},
};
use enforcer_common::{Action, Decision, Judge, Reason, identity, verdict::decision_flag};
use proptest::{collection::vec, prelude::*};
use tests::{
    generate::{self, Scenario},
    model::{ModelAction, ModelCause, NamedRule, RawEndpoint, RawFlow, RawPeer},
};

/// Flows judged under each policy.
const FLOWS: usize = 40;
/// Flows explained under each policy.
const EXPLAINED: usize = 8;

fn compile(scenario: &Scenario, in_force: Option<&Image>, numbers: &mut Numbers) -> Image {
    let inputs = Inputs {
        policy: &scenario.policy,
        mode: scenario.mode,
        now: scenario.now,
        host_addresses: &scenario.host_addresses,
        elsewhere: &enforcer::compile::elsewhere::NOBODY,
        attested: enforcer::compile::NOBODY,
        subjects: Subjects::All,
        limits: &Limits::NONE,
        in_force,
    };
    compile::compile(&inputs, numbers).expect("nothing is too large")
}

fn workload_identity(scenario: &Scenario, image: &Image, index: usize) -> u32 {
    image.workloads[&name(scenario, index)]
}

fn by_image(scenario: &Scenario, image: &Image, flow: &RawFlow) -> Decision {
    let endpoint = match flow.endpoint {
        RawEndpoint::Host => identity::HOST,
        RawEndpoint::Workload(index) => workload_identity(scenario, image, index),
    };
    let judge = Judge {
        set: image.sets[&endpoint].numbers[flow.direction as usize],
        peer: match flow.peer {
            RawPeer::Host => identity::HOST,
            RawPeer::Workload(index) => workload_identity(scenario, image, index),
            RawPeer::Address(address) => image.identity_of(address),
        },
        protocol: flow.protocol,
        port: flow.port,
    };
    judge.decide(image)
}

fn named(info: &RuleInfo) -> NamedRule {
    NamedRule {
        kind: info.kind,
        namespace: info.namespace.clone(),
        policy: info.policy.clone(),
        rule: info.rule.clone(),
        origin: info.origin.clone().expect("rules of policies have one"),
    }
}

/// Compares model and image on every flow of a scenario.
fn agree(scenario: &Scenario, image: &Image) -> Result<(), TestCaseError> {
    for address in &scenario.host_addresses {
        prop_assert!(!image.addresses.contains_key(&(*address).into()));
    }
    for flow in &scenario.flows {
        let expected = scenario.world().judge(flow);
        let decision = by_image(scenario, image, flow);
        let action = match decision.action() {
            Action::Allow => ModelAction::Allow,
            Action::Deny => ModelAction::Deny,
            Action::Audit => ModelAction::Audit,
        };
        prop_assert_eq!(action, expected.action, "{:?}: {:?}", flow, expected);
        let logged = decision.flags & decision_flag::LOG != 0;
        prop_assert_eq!(logged, expected.log, "{:?}: {:?}", flow, expected);
        let rule = image.rules.get(&decision.rule);
        let reason = Reason::from_byte(decision.reason);
        let (wanted, by_rule) = match &expected.cause {
            ModelCause::Rule(rule) => (Reason::Rule, Some(rule)),
            ModelCause::Isolation(rule) => (Reason::Isolation, Some(rule)),
            ModelCause::NodeDefault => (Reason::NodeDefault, None),
            ModelCause::Unrestricted => (Reason::Unrestricted, None),
        };
        prop_assert_eq!(reason, Some(wanted), "{:?}", flow);
        if let Some(by_rule) = by_rule {
            let rule = rule.expect("a rule number that the image knows");
            prop_assert_eq!(&named(rule), by_rule, "{:?}", flow);
            prop_assert_eq!(rule.direction, Some(flow.direction.into()));
        } else if wanted == Reason::NodeDefault {
            prop_assert_eq!(&rule.expect("the default has a number").rule, "default");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: generate::cases(10_000),
        max_shrink_iters: 4000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// The image of a fresh start.
    #[test]
    fn image_says_what_the_documents_say(scenario in generate::scenario(FLOWS)) {
        let image = compile(&scenario, None, &mut Numbers::default());
        agree(&scenario, &image)?;
    }
}

fn name(scenario: &Scenario, index: usize) -> WorkloadName {
    let workload = &scenario.policy.workloads[index];
    WorkloadName {
        namespace: workload.namespace.clone(),
        name: workload.name.clone(),
    }
}

/// The rule or isolation that an explanation marks as deciding, by name and line.
fn marked(explanation: &Explanation) -> Vec<(String, u32)> {
    let mut marked = Vec::new();
    for policy in explanation.tiers.iter().flat_map(|tier| &tier.policies) {
        if policy.isolation_decides {
            marked.push(("isolation".to_owned(), policy.origin.line));
        }
        let rules = policy.rules.iter().filter(|rule| rule.decides);
        marked.extend(rules.map(|rule| (rule.name.clone(), rule.origin.line)));
    }
    marked
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: generate::cases(10_000),
        max_shrink_iters: 4000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// What `explain` tells of the documents ends where the image's verdict does.
    #[test]
    fn explanations_end_at_the_verdict(scenario in generate::scenario(EXPLAINED)) {
        let image = compile(&scenario, None, &mut Numbers::default());
        let explainer = Explainer {
            policy: &scenario.policy,
            mode: scenario.mode,
            now: scenario.now,
            image: &image,
        };
        for flow in &scenario.flows {
            let query = FlowQuery {
                endpoint: match flow.endpoint {
                    RawEndpoint::Host => Party::Host,
                    RawEndpoint::Workload(index) => Party::Workload(name(&scenario, index)),
                },
                direction: flow.direction.into(),
                peer: match flow.peer {
                    RawPeer::Host => Party::Host,
                    RawPeer::Workload(index) => Party::Workload(name(&scenario, index)),
                    RawPeer::Address(address) => Party::Address(address),
                },
                protocol: flow.protocol,
                port: flow.port,
            };
            let explanation = explainer.explain(&query).expect("everybody is known");
            let rule = explanation.rule.as_ref().map(|rule| {
                (rule.rule.clone(), rule.origin.as_ref().map_or(0, |origin| origin.line))
            });
            let by_policy = rule.filter(|_| {
                ["rule", "isolation"].contains(&explanation.reason.as_str())
            });
            let told = marked(&explanation);
            prop_assert_eq!(&told, &by_policy.into_iter().collect::<Vec<_>>(), "{:?}", query);
            // A workload may be known by its address here, where the model's socket proves it.
            if !matches!(flow.peer, RawPeer::Workload(_)) {
                let action = match scenario.world().judge(flow).action {
                    ModelAction::Allow => Answer::Allow,
                    ModelAction::Deny => Answer::Deny,
                    ModelAction::Audit => Answer::Audit,
                };
                prop_assert_eq!(explanation.verdict, action, "{:?}", query);
            }
            if explanation.verdict == Answer::Audit {
                prop_assert!(explanation.audit.is_some());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: generate::cases(10_000) / 40 + 1,
        max_shrink_iters: 4000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Images one after the other, with the daemon restarted and numbers retired in between:
    /// every one is right, no number that two neighbours share has two meanings, and the same
    /// policy gives the same image.
    #[test]
    fn numbers_keep_their_meaning(
        first in generate::scenario(16),
        edits in vec((generate::edit(), any::<bool>(), any::<bool>()), 2..8)
    ) {
        let mut scenario = first;
        let mut numbers = Numbers::default();
        let mut previous: Option<Image> = None;
        let mut retired = false;
        for (edit, retire, restart) in &edits {
            if *restart {
                let text = serde_json::to_string(&numbers).expect("numbers become JSON");
                numbers = serde_json::from_str(&text).expect("JSON becomes numbers");
            }
            let image = compile(&scenario, previous.as_ref(), &mut numbers);
            agree(&scenario, &image)?;
            if let Some(previous) = &previous {
                // What two images have under one number is the same.
                for (set, entries) in image.policies.parts() {
                    let before = previous.policies.part(set);
                    prop_assert!(before.is_none_or(|b| b == entries), "{set}");
                }
                for (table, entries) in image.ports.parts() {
                    let before = previous.ports.part(table);
                    prop_assert!(before.is_none_or(|b| b == entries), "{table}");
                }
                for (number, identity) in previous.identities.iter() {
                    if let Some(now) = image.identities.get(number) {
                        prop_assert_eq!(now, identity);
                    }
                }
                if !retired {
                    for (number, info) in previous.rules.iter() {
                        let now = &image.rules[number];
                        prop_assert_eq!((&now.policy, &now.rule), (&info.policy, &info.rule));
                    }
                }
            }
            let mut again = compile(&scenario, Some(&image), &mut numbers);
            again.serial = image.serial;
            prop_assert_eq!(&again, &image);
            retired = *retire;
            if retired {
                numbers.retire(&again);
            }
            previous = Some(image);
            scenario = edit.apply(&scenario);
        }
    }
}
