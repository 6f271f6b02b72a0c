//! `cargo xtask fuzz`: libFuzzer over every parser of what comes from outside.
//!
//! The targets are functions of the `tests` package (`tests/src/fuzz`), all in one program.
//! They run in the debug profile, with its assertions and overflow checks; only our own crates
//! are instrumented, and optimised, so that most of everybody else's are those of any other build.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::{
    setup::{self, Purpose},
    step, workspace,
};

/// Our crates, and those that only ours use and that go through every byte: built at a speed
/// that fuzzing can use.
const OPTIMISED: &[&str] = &[
    "enforcer",
    "enforcer-common",
    "tests",
    "circular",
    "etherparse",
    "pcap-parser",
    "sha2",
];
/// An input that takes longer is a fault. A busy machine has its share of that.
const SLOWEST: Duration = Duration::from_mins(1);
/// So is one that takes more memory, in MiB.
const LARGEST: u32 = 2048;

/// `cargo xtask fuzz`.
#[derive(Args, Debug)]
pub struct Fuzz {
    /// Only this target
    target: Option<String>,
    /// How long in all; targets share it by the length of their inputs
    #[arg(long, value_name = "N", default_value_t = 10)]
    minutes: u64,
    /// How many targets at a time [default: one for each processor]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Begin with these random numbers, so that the same inputs come again, as far as the time
    /// allows [default: others each time]
    #[arg(long, value_name = "N")]
    seed: Option<u32>,
    /// Take into tests/corpus/fuzz what reaches code that nothing there reaches
    #[arg(long)]
    keep: bool,
}

/// What the program says of one of its targets.
#[derive(Clone, Debug)]
struct Target {
    name: String,
    /// Longest input, in bytes.
    longest: usize,
    directories: Vec<String>,
}

impl Target {
    /// From a line `NAME LONGEST DIRECTORY…`, separated by tabs.
    fn read(line: &str) -> Option<Self> {
        let mut words = line.split('\t').map(str::to_owned);
        Some(Self {
            name: words.next()?,
            longest: words.next()?.parse().ok()?,
            directories: words.collect(),
        })
    }

    /// Its share of the time: longer inputs take longer, and there are more of them.
    const fn weight(&self) -> usize {
        1 + self.longest / 1024
    }

    /// Its own corpus in the tree.
    fn corpus(&self) -> &Path {
        Path::new(self.directories.first().map_or("", String::as_str))
    }

    /// Where what the fuzzer finds is kept from run to run.
    fn found(&self) -> PathBuf {
        workspace::target().join("fuzz/corpus").join(&self.name)
    }

    fn log(&self) -> PathBuf {
        workspace::target()
            .join("fuzz")
            .join(format!("{}.log", self.name))
    }
}

impl Fuzz {
    /// Builds, and runs each target for its share of the time. Fails if one found something.
    pub fn run(self) -> Result<()> {
        setup::ensure(&[Purpose::Build, Purpose::Fuzz])?;
        let program = build()?;
        let mut targets = list(&program)?;
        if let Some(wanted) = &self.target {
            let names: Vec<_> = targets.iter().map(|t| t.name.clone()).collect();
            targets.retain(|target| target.name == *wanted);
            ensure!(
                !targets.is_empty(),
                "there is no target `{wanted}`: there are {}",
                names.join(", ")
            );
        }
        let jobs = self.jobs.unwrap_or_else(processors).clamp(1, targets.len());
        // The workers take the last one first: longest inputs, which get most of the time.
        targets.sort_by_key(|target| target.longest);
        let weights: usize = targets.iter().map(Target::weight).sum();
        let one =
            Duration::from_mins(self.minutes) * u32::try_from(jobs)? / u32::try_from(weights)?;
        step::say(&format!(
            "fuzzing {} targets for {} minutes, {jobs} at a time",
            targets.len(),
            self.minutes
        ));
        let queue = Mutex::new(targets.clone());
        let failures = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| {
                    loop {
                        let next = queue.lock().expect("no worker panics").pop();
                        let Some(target) = next else { break };
                        let time = one * u32::try_from(target.weight()).unwrap_or(1);
                        if let Err(error) = fuzz(&program, &target, time, self.seed) {
                            eprintln!("{error:#}");
                            failures.lock().expect("no worker panics").push(target.name);
                        }
                    }
                });
            }
        });
        let failures = failures.into_inner().expect("no worker panics");
        if !failures.is_empty() {
            bail!("fuzzing found something: {}", failures.join(", "));
        }
        if self.keep {
            for target in &targets {
                keep(&program, target)?;
            }
        }
        Ok(())
    }
}

fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn build() -> Result<PathBuf> {
    let mut cargo = workspace::cargo();
    // Of the whole workspace, as everything else is built: see the tests.
    cargo.args(["build", "--workspace", "--exclude", "enforcer-ebpf"]);
    cargo.args(["--features", "tests/fuzz", "--bin", "fuzz"]);
    for name in OPTIMISED {
        cargo.arg("--config");
        cargo.arg(format!("profile.dev.package.{name}.opt-level=1"));
    }
    cargo.env(
        "RUSTC_WORKSPACE_WRAPPER",
        workspace::root().join("tests/src/fuzz/instrument.sh"),
    );
    step::openly("building the fuzzer", &mut cargo)?;
    Ok(workspace::target().join("debug/fuzz"))
}

/// The targets that the program has.
fn list(program: &Path) -> Result<Vec<Target>> {
    let listed = step::output(workspace::command(program).env("ENFORCER_FUZZ_LIST", "1"))?;
    let targets: Vec<_> = listed.lines().filter_map(Target::read).collect();
    ensure!(!targets.is_empty(), "the fuzzer names no targets: {listed}");
    Ok(targets)
}

fn command(program: &Path, target: &Target) -> Result<Command> {
    fs::create_dir_all(target.found())?;
    let log = File::create(target.log())
        .with_context(|| format!("cannot write {}", target.log().display()))?;
    let mut command = workspace::command(program);
    command
        .env("ENFORCER_FUZZ_TARGET", &target.name)
        .env("RUST_BACKTRACE", "1")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    Ok(command)
}

fn fuzz(program: &Path, target: &Target, time: Duration, seed: Option<u32>) -> Result<()> {
    let mut command = command(program, target)?;
    command.args([
        format!("-max_total_time={}", time.as_secs().max(1)),
        // 0: others each time.
        format!("-seed={}", seed.unwrap_or(0)),
        format!("-max_len={}", target.longest),
        format!("-timeout={}", SLOWEST.as_secs()),
        format!("-rss_limit_mb={LARGEST}"),
        // What breaks something is in the corpus at once, and so in every later test run.
        format!("-artifact_prefix={}/", target.corpus().display()),
        "-print_final_stats=1".to_owned(),
        "-use_value_profile=1".to_owned(),
    ]);
    let dictionary = target.corpus().with_extension("dict");
    if dictionary.is_file() {
        command.arg(format!("-dict={}", dictionary.display()));
    }
    command.arg(target.found()).args(&target.directories);
    let done = command.status();
    let log = fs::read(target.log()).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    if done.context("cannot start the fuzzer")?.success() {
        step::say(&format!("{}: {}", target.name, summary(&log)));
        return Ok(());
    }
    let written = log
        .lines()
        .find_map(|line| line.split_once("Test unit written to "));
    let panic = log
        .lines()
        .skip_while(|line| !line.contains("panicked at"))
        .take(4)
        .collect::<Vec<_>>()
        .join("\n  ");
    bail!(
        "{}: {}\n  {panic}\n  (all of it in {}; mend it, and let the input stay in the corpus)",
        target.name,
        written.map_or("the fuzzer failed", |(_, path)| path),
        target.log().display()
    )
}

/// How many inputs were tried, and how much code is reached.
fn summary(log: &str) -> String {
    let executed = log
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    let coverage = log
        .lines()
        .rev()
        .find_map(|line| line.split_once("cov: ")?.1.split(' ').next());
    format!(
        "{} inputs, {} places in the code reached",
        executed.unwrap_or("?").trim(),
        coverage.unwrap_or("?")
    )
}

/// Copies into the tree the fewest inputs that reach what all that was found reaches.
fn keep(program: &Path, target: &Target) -> Result<()> {
    let done = command(program, target)?
        .args(["-merge=1", &format!("-max_len={}", target.longest)])
        .arg(target.corpus())
        .arg(target.found())
        .status()?;
    ensure!(
        done.success(),
        "{}: cannot merge: see {}",
        target.name,
        target.log().display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_and_results_are_read() {
        let target = Target::read("policy\t4096\t/r/tests/corpus/fuzz/policy\t/r/policies");
        let target = target.expect("a target");
        assert_eq!((&*target.name, target.longest), ("policy", 4096));
        assert_eq!(target.weight(), 5);
        assert_eq!(target.corpus(), Path::new("/r/tests/corpus/fuzz/policy"));
        assert!(Target::read("").is_none());
        let log = "#2 INITED cov: 5 ft: 6\n#9 NEW    cov: 17 ft: 20\nstat::number_of_executed_units: 99\n";
        assert_eq!(summary(log), "99 inputs, 17 places in the code reached");
    }
}
