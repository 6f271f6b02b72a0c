//! How much processor time the daemon spends in user space between a file with one rule of
//! 100,000 that is saved and the kernel. Figures mean something in release builds only: `cargo
//! test --release -p tests --test change_scale -- --ignored --nocapture`.

use std::{fs, time::Duration};

use enforcer::{
    compile::{Compiler, Inputs, Limits, Numbers, Subjects},
    policy::{
        Loader,
        model::{Mode, Moment},
    },
};
use nix::time::{ClockId, clock_gettime};
use tests::bench::policy;

/// Of this thread: what it does not get of a busy machine is not counted.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .expect("every Linux has this clock")
        .into()
}

#[test]
#[ignore = "takes long in debug builds"]
fn one_of_a_hundred_thousand_rules_changes() {
    let folder = tempfile::tempdir().expect("a folder");
    policy::write(folder.path(), 100_000, 0).expect("a tree");
    let edited = folder.path().join("sources-5.yaml");
    let text = fs::read_to_string(&edited).expect("a file");
    let address = format!("{}/32", policy::source4(500));
    assert!(text.contains(&address));
    let mut loader = Loader::default();
    let mut compiler = Compiler::default();
    let mut numbers = Numbers::default();
    let mut in_force = None;
    for turn in 0..8 {
        let what = if turn == 0 {
            "everything"
        } else if turn < 4 {
            let text = policy::opening(7000 + turn);
            fs::write(folder.path().join("opening.yaml"), text).expect("a file");
            "another port"
        } else {
            let text = text.replace(&address, &format!("100.127.0.{turn}/32"));
            fs::write(&edited, text).expect("a file");
            "another address"
        };
        let start = processor_time();
        let (policy, _) = loader.load(folder.path()).expect("a good tree");
        let after_reading = processor_time();
        let inputs = Inputs {
            policy: &policy,
            mode: Mode::Enforce,
            now: Moment::default(),
            host_addresses: &[],
            elsewhere: &enforcer::compile::elsewhere::NOBODY,
            attested: enforcer::compile::NOBODY,
            subjects: Subjects::Placed,
            limits: &Limits::NONE,
            in_force: in_force.as_ref(),
        };
        let image = compiler.compile(&inputs, &mut numbers);
        let after_compiling = processor_time();
        let image = image.expect("nothing is too large");
        println!(
            "{what}: read {:?}, compiled {:?}; {} policy entries",
            after_reading.saturating_sub(start),
            after_compiling.saturating_sub(after_reading),
            image.policies.len()
        );
        in_force = Some(image);
    }
}
