//! Fuzz targets: every parser of what comes from outside, each with what must hold of whatever
//! it makes of arbitrary bytes.
//!
//! A target is a function that panics on a fault. The same functions are run by libFuzzer
//! (`cargo xtask fuzz`, which builds `tests/src/bin/fuzz.rs`), and over the corpus by an ordinary
//! test (`tests/tests/fuzz_corpus.rs`). To add one: write the function, name it in [`TARGETS`],
//! and put at least one seed into `tests/corpus/fuzz/NAME`.

mod api;
mod flows;
mod git;
mod import;
mod kernel;
mod policy;
mod scene;
mod state;
mod text;

use std::path::{Path, PathBuf};

/// A parser, and what must hold of it.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Name on the command line, and of its directory in the corpus.
    pub name: &'static str,
    /// Panics if something does not hold.
    pub run: fn(&[u8]),
    /// Longest input that the fuzzer tries, in bytes.
    pub longest: usize,
    /// Further seeds: directories below the root of the repository.
    pub seeds: &'static [&'static str],
}

const fn target(name: &'static str, longest: usize, run: fn(&[u8])) -> Target {
    Target {
        name,
        run,
        longest,
        seeds: &[],
    }
}

const POLICIES: &[&str] = &["policies", "tests/corpus/policy/bad"];

/// Every target.
pub const TARGETS: &[Target] = &[
    Target {
        seeds: POLICIES,
        ..target("policy", 4096, policy::tree)
    },
    Target {
        seeds: POLICIES,
        ..target("fmt", 4096, policy::canonical_form)
    },
    Target {
        seeds: &["enforcer/src/tools/import/examples"],
        ..target("import", 4096, import::objects)
    },
    target("selectors", 256, import::selector),
    target("scalars", 1024, policy::scalars),
    target("flow_records", 4096, flows::records),
    target("captures", 4096, flows::capture),
    target("questions", 256, text::question),
    target("filters", 512, text::filters),
    target("arguments", 256, text::arguments),
    target("requests", 2048, api::request),
    target("git_remotes", 512, git::remote),
    target("git_listings", 2048, git::listing),
    target("git_commits", 4096, git::commit),
    target("git_signers", 1024, git::signers),
    target("events", 1024, kernel::events),
    target("sockets", 1024, kernel::sockets),
    target("units", 256, kernel::units),
    target("state", 4096, state::files),
];

/// The target of this name.
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// The root of the repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this package lies directly below the root")
}

/// Where the corpus of every target is.
pub fn corpus() -> PathBuf {
    root().join("tests/corpus/fuzz")
}

impl Target {
    /// The directories of its seeds, its own first.
    pub fn directories(&self) -> Vec<PathBuf> {
        let own = corpus().join(self.name);
        let further = self.seeds.iter().map(|seeds| root().join(seeds));
        std::iter::once(own).chain(further).collect()
    }
}
