//! libFuzzer over one of the targets of [`tests::fuzz`]. Built and started by `cargo xtask fuzz`.
//!
//! `ENFORCER_FUZZ_TARGET` names the target; the arguments are libFuzzer's.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tests::fuzz::{self, Target};

/// Which target this process is about.
static TARGET: LazyLock<&'static Target> = LazyLock::new(|| {
    let name = std::env::var("ENFORCER_FUZZ_TARGET").unwrap_or_default();
    fuzz::find(&name).unwrap_or_else(|| panic!("ENFORCER_FUZZ_TARGET={name} is no target"))
});

/// With `ENFORCER_FUZZ_LIST`, says which targets there are instead: name, longest input, and the
/// directories of the seeds, separated by tabs.
fn begin() {
    if std::env::var_os("ENFORCER_FUZZ_LIST").is_none() {
        LazyLock::force(&TARGET);
        return;
    }
    for target in fuzz::TARGETS {
        print!("{}\t{}", target.name, target.longest);
        for directory in target.directories() {
            print!("\t{}", directory.display());
        }
        println!();
    }
    std::process::exit(0);
}

fuzz_target!(init: begin(), |data: &[u8]| (TARGET.run)(data));
