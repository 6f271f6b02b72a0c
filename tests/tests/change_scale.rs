//! How long each step takes in user space between a file with one rule of 100,000 that is saved
//! and the kernel. Figures mean something in release builds only: `cargo test --release -p tests
//! --test change_scale -- --ignored --nocapture`.

use std::{fs, time::Instant};

use enforcer::{
    compile::{self, Inputs, Limits, Numbers, Subjects},
    policy::{
        Loader,
        model::{Mode, Moment},
    },
};
use tests::bench::policy;

#[test]
#[ignore = "takes long in debug builds"]
fn one_of_a_hundred_thousand_rules_changes() {
    let folder = tempfile::tempdir().expect("a folder");
    policy::write(folder.path(), 100_000, 0).expect("a tree");
    let mut loader = Loader::default();
    let mut numbers = Numbers::default();
    let mut before = None;
    let mut policy_before = None;
    for turn in 0..5 {
        let text = policy::opening(7000 + turn);
        fs::write(folder.path().join("opening.yaml"), text).expect("a file");
        let mut last = Instant::now();
        let mut step = |what: &str| {
            println!("{turn} {what}: {:?}", last.elapsed());
            last = Instant::now();
        };
        let (policy, files) = loader.load(folder.path()).expect("a good tree");
        step("load");
        assert_ne!(policy_before.as_ref(), Some(&policy));
        step("compare");
        let inputs = Inputs {
            policy: &policy,
            mode: Mode::Enforce,
            now: Moment::default(),
            host_addresses: &[],
            subjects: Subjects::Placed,
            limits: &Limits::NONE,
            in_force: before.as_ref(),
        };
        let image = compile::compile(&inputs, &mut numbers).expect("nothing is too large");
        step("compile");
        let bytes = serde_json::to_vec(&numbers).expect("numbers").len();
        step("numbers");
        println!(
            "{bytes} bytes, {} files, {} policy entries",
            files.len(),
            image.policies.len()
        );
        before = Some(image);
        step("drop");
        policy_before = Some(policy);
        step("drop policy");
    }
}
