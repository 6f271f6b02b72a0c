//! Recorded flows: JSON lines and captures.

use std::path::Path;

use enforcer::{
    policy::{load_text, model::Mode},
    tools::{
        flows::Flows,
        recommend::{Generalise, recommend},
        simulate::simulate,
    },
};

use super::scene::{NOW, SCENE};

/// Flows after which nothing is recommended any more: it would take too long.
const FEW: usize = 20;

/// Lines of a flow log.
pub fn records(data: &[u8]) {
    read(data);
}

/// A packet capture. What does not begin like one is given the beginning of one.
pub fn capture(data: &[u8]) {
    read(data);
}

fn read(data: &[u8]) {
    let mut flows = Flows::default();
    let lenient = flows.read_from(data, Path::new("f"), false);
    let strict = Flows::default().read_from(data, Path::new("f"), true);
    // Whatever is passed over when asked to go on is an error when asked not to.
    let is_good = lenient.is_ok() && flows.bad.count == 0;
    assert_eq!(strict.is_ok(), is_good, "{strict:?} {:?}", flows.bad);
    let policy = &SCENE.0;
    let simulation = simulate(policy, Mode::Enforce, NOW, &flows).expect("compiles");
    serde_json::to_value(&simulation).expect("a simulation has a JSON form");
    if flows.seen.len() > FEW {
        return;
    }
    let advice = recommend(policy, &flows, &Generalise::default(), false).expect("compiles");
    if !advice.policies.is_empty()
        && let Err(errors) = load_text("advice.yaml", &advice.yaml)
    {
        panic!("{}\n{}", errors.render(false), advice.yaml);
    }
}
