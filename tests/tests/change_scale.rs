//! What a file with one rule of many that is saved costs in user space before the kernel is
//! asked, beside reading and compiling everything. For 100,000 rules: `cargo test --release -p
//! tests --test change_scale -- --nocapture`.

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

/// All rules are about one workload, so that they make one large set.
#[test]
fn one_rule_of_many_costs_a_small_part_of_all() {
    let rules = if cfg!(debug_assertions) {
        10_000
    } else {
        100_000
    };
    let folder = tempfile::tempdir().expect("a folder");
    policy::write(folder.path(), rules, 0).expect("a tree");
    let edited = folder.path().join("sources-5.yaml");
    let text = fs::read_to_string(&edited).expect("a file");
    let address = format!("{}/32", policy::source4(500));
    assert!(text.contains(&address));
    let mut loader = Loader::default();
    let mut compiler = Compiler::default();
    let mut numbers = Numbers::default();
    let mut in_force = None;
    let mut took = Vec::new();
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
        took.push(after_compiling.saturating_sub(start));
    }
    // Files of this age are read again, but the rest of them is not parsed.
    let (everything, changes) = took.split_first_mut().expect("eight turns");
    changes.sort_unstable();
    let median = changes[changes.len() / 2];
    assert!(median * 6 < *everything, "{everything:?} {changes:?}");
}
