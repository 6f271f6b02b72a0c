//! `cargo xtask test`: the whole suite on this kernel, or the enforcement tests on another one.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    sync::Mutex,
    thread,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Deserialize;

use crate::{
    kernel_image::{self, Kernel, Release},
    setup::{self, Purpose},
    step, vm, workspace,
};

/// The test binaries that must pass on every kernel are those of the `tests` package whose
/// names start so: `tests/tests/kernel_*.rs`.
const EVERY_KERNEL: &str = "kernel_";

/// Test programs of user space, by how their names start: they want a processor and nothing else of
/// the machine, and run beside all others, which mostly wait.
const USER_SPACE: &[&str] = &[
    "compile_",
    "half_policy",
    "image_entries",
    "import_semantics",
    "policy_",
    "tools_",
    "verdict_",
];

/// What measures is named so, and runs when nothing else does.
const MEASURES: &str = "_scale";

/// Of the enforcement tests, what `--short` runs: load and attach, verdicts on the wire at both
/// kinds of endpoint, restart and adoption, detach. By program; no names mean all of its tests.
/// What puts the machine under load is left out: an emulated processor has no reserve for it.
const SHORT: &[(&str, &[&str])] = &[
    ("kernel_shop", &[]),
    (
        "kernel_same_host",
        &["neighbours_with_one_address_are_told_apart"],
    ),
    (
        "kernel_restart",
        &[
            "a_graceful_stop_leaves_enforcement_and_connections",
            "only_detach_removes_enforcement",
        ],
    ),
];

/// `cargo xtask test`.
#[derive(Args, Debug)]
pub struct Test {
    /// Only tests whose names contain this
    filter: Option<String>,
    /// Run the enforcement tests under this kernel, in a virtual machine; given more than once,
    /// the machines run side by side
    #[arg(long, value_name = "VERSION")]
    kernel: Vec<Release>,
    /// How many random cases each property test makes
    #[arg(long, value_name = "N")]
    cases: Option<u32>,
    /// Leave out what takes minutes
    #[arg(long)]
    short: bool,
}

impl Test {
    /// Sets up, builds, runs, sums up.
    pub fn run(self) -> Result<()> {
        if self.kernel.is_empty() {
            self.here()
        } else {
            self.elsewhere()
        }
    }

    /// What tests read from their environment.
    fn settings(&self) -> Vec<(&'static str, String)> {
        let mut settings = vec![(
            "ENFORCER_BIN",
            workspace::target()
                .join("debug/enforcer")
                .display()
                .to_string(),
        )];
        if let Some(cases) = self.cases {
            // Our own generators, and those of proptest.
            settings.push(("ENFORCER_CASES", cases.to_string()));
            settings.push(("PROPTEST_CASES", cases.to_string()));
        }
        if self.short {
            settings.push(("ENFORCER_TEST_SHORT", "1".to_owned()));
        }
        settings
    }

    fn here(&self) -> Result<()> {
        if !workspace::is_root() {
            bail!(
                "many tests load kernel programs and make network namespaces: run as root \
                 (without root, `cargo test -p enforcer -p enforcer-common` runs the rest)"
            );
        }
        setup::ensure(&[Purpose::Build, Purpose::Test, Purpose::Clients])?;
        build_binaries()?;
        step::openly("building the tests", cargo_test().arg("--no-run"))?;
        let (measures, others): (Vec<_>, Vec<_>) =
            (test_programs()?.into_iter()).partition(|program| program.ends_with(MEASURES));
        let (user_space, machine): (Vec<_>, Vec<_>) = (others.into_iter())
            .partition(|program| (USER_SPACE.iter()).any(|start| program.starts_with(start)));
        step::say("running the tests");
        let summary = Mutex::new(Summary::default());
        thread::scope(|scope| {
            let beside = scope.spawn(|| {
                let mut tests = cargo_test();
                tests.args(only(&user_space));
                // One after the other: the other processor is for those who wait.
                tests.env("RUST_TEST_THREADS", "1");
                self.follow(tests, "user space | ", &summary)
            });
            let mut tests = cargo_test();
            tests.args(["--lib", "--bins"]).args(only(&machine));
            self.follow(tests, "", &summary)?;
            let mut examples = cargo_test();
            examples.arg("--doc");
            self.follow(examples, "", &summary)?;
            beside
                .join()
                .unwrap_or_else(|_| bail!("its watcher panicked"))
        })?;
        let mut tests = cargo_test();
        tests.args(only(&measures));
        self.follow(tests, "", &summary)?;
        summary.into_inner()?.conclude()
    }

    /// Runs cargo test, passes its output on, each line behind the label, and reads along.
    fn follow(&self, mut cargo: Command, label: &str, summary: &Mutex<Summary>) -> Result<()> {
        let (reader, writer) = io::pipe()?;
        cargo
            .arg("--no-fail-fast")
            .args(&self.filter)
            .envs(self.settings())
            .stdout(writer.try_clone()?)
            .stderr(writer);
        let mut child = cargo.spawn().context("cannot start cargo")?;
        // Our own ends of the pipe: it ends with the last program that writes to it.
        drop(cargo);
        for line in BufReader::new(reader).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            let mut summary = summary.lock().expect("nobody panics with it");
            println!("{label}{line}");
            summary.note(&line);
        }
        let failed = !child.wait()?.success();
        summary
            .lock()
            .expect("nobody panics with it")
            .failed_outright |= failed;
        Ok(())
    }

    fn elsewhere(&self) -> Result<()> {
        setup::ensure(&[Purpose::Build, Purpose::Kernel])?;
        let kernels = (self.kernel.iter())
            .map(|release| kernel_image::ensure(*release))
            .collect::<Result<Vec<_>>>()?;
        build_binaries()?;
        let binaries = kernel_test_binaries(self.short)?;
        let script = self.guest_script(&binaries);
        let alone = kernels.len() == 1;
        let ended: Vec<Result<()>> = thread::scope(|scope| {
            let runs: Vec<_> = (kernels.iter())
                .map(|kernel| {
                    step::say(&format!(
                        "running {} test programs under Linux {}",
                        binaries.len(),
                        kernel.version
                    ));
                    scope.spawn(|| on(kernel, &script, alone))
                })
                .collect();
            runs.into_iter()
                .map(|run| run.join().unwrap_or_else(|_| bail!("its watcher panicked")))
                .collect()
        });
        let mut failures = Vec::new();
        for (kernel, ended) in kernels.iter().zip(ended) {
            if let Err(error) = ended {
                failures.push(format!("under Linux {}: {error:#}", kernel.version));
            }
        }
        ensure!(failures.is_empty(), "{}", failures.join("\n"));
        Ok(())
    }

    /// What the guest runs: one test program after the other, one test at a time, since they
    /// share the machine and emulation is slow enough as it is.
    fn guest_script(&self, binaries: &[PathBuf]) -> String {
        let mut lines: Vec<String> = self
            .settings()
            .iter()
            .map(|(name, value)| format!("export {name}={}", quoted(value)))
            .collect();
        let tests = workspace::root().join("tests");
        lines.push(format!("cd {}", quoted(&tests.display().to_string())));
        lines.push("export CARGO_MANIFEST_DIR=$PWD ENFORCER_EMULATED=1; failed=0".to_owned());
        for binary in binaries {
            let names = binary
                .file_name()
                .and_then(|file| file.to_str()?.rsplit_once('-'))
                .and_then(|(program, _)| SHORT.iter().find(|(short, _)| *short == program))
                .map_or(&[][..], |(_, names)| names);
            let binary = quoted(&binary.display().to_string());
            let filter = match &self.filter {
                Some(filter) => quoted(filter),
                None if self.short && !names.is_empty() => format!("--exact {}", names.join(" ")),
                None => String::new(),
            };
            lines.push(format!("echo '     Running' {binary}"));
            lines.push(format!(
                "{binary} --test-threads=1 --color=never {filter} || failed=1"
            ));
        }
        lines.push("exit $failed\n".to_owned());
        lines.join("\n")
    }
}

/// Runs the script under a kernel and sums up. Beside others, each line says of which kernel it is.
fn on(kernel: &Kernel, script: &str, alone: bool) -> Result<()> {
    let mut machine = vm::Machine::new(kernel);
    if !alone {
        machine = machine.labelled(&format!("{} | ", kernel.version));
    }
    let mut summary = Summary::default();
    let run = machine.run(script)?;
    for line in run.console.lines() {
        summary.note(line);
    }
    summary.failed_outright = run.exit_code != 0;
    if summary.results == 0 && run.exit_code == 0 {
        bail!("the machine ran no test at all");
    }
    summary.conclude()
}

/// Tests and demo start the real programs; `cargo test` alone does not promise to build them.
fn build_binaries() -> Result<()> {
    let mut cargo = workspace::cargo();
    cargo.args([
        "build",
        "--workspace",
        "--exclude",
        "enforcer-ebpf",
        "--bins",
    ]);
    step::openly("building", &mut cargo)
}

/// The tests of the whole workspace: other choices of packages have other features, and build
/// every crate again.
fn cargo_test() -> Command {
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--workspace", "--exclude", "enforcer-ebpf"]);
    cargo
}

/// The arguments that have cargo run these test programs.
fn only(programs: &[String]) -> impl Iterator<Item = &str> {
    programs.iter().flat_map(|name| ["--test", name])
}

/// The names of all test programs, sorted.
fn test_programs() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for package in ["enforcer", "tests"] {
        let sources = workspace::root().join(package).join("tests");
        let entries =
            fs::read_dir(&sources).with_context(|| format!("cannot read {}", sources.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "rs")
                || path.join("main.rs").exists()
            {
                names.extend(
                    path.file_stem()
                        .and_then(|stem| Some(stem.to_str()?.to_owned())),
                );
            }
        }
    }
    names.sort();
    Ok(names)
}

/// Builds the enforcement tests and returns where they are.
fn kernel_test_binaries(short: bool) -> Result<Vec<PathBuf>> {
    let names: Vec<String> = (test_programs()?.into_iter())
        .filter(|name| name.starts_with(EVERY_KERNEL))
        .filter(|name| !short || SHORT.iter().any(|(program, _)| program == name))
        .collect();
    ensure!(
        !names.is_empty(),
        "there is no tests/tests/{EVERY_KERNEL}*.rs"
    );
    let mut cargo = cargo_test();
    cargo
        .args(["--no-run", "--message-format", "json-render-diagnostics"])
        .args(only(&names));
    step::say("building the enforcement tests");
    let built = cargo
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .output()?;
    if !built.status.success() {
        bail!("the enforcement tests do not compile");
    }
    let mut found = BTreeMap::new();
    for line in String::from_utf8_lossy(&built.stdout).lines() {
        if let Ok(Artifact {
            target,
            executable: Some(executable),
        }) = serde_json::from_str(line)
        {
            found.insert(target.name, executable);
        }
    }
    names
        .iter()
        .map(|name| {
            found
                .remove(name)
                .with_context(|| format!("cargo built no program for {name}"))
        })
        .collect()
}

/// What we read of a `compiler-artifact` message of cargo.
#[derive(Deserialize)]
struct Artifact {
    target: ArtifactTarget,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct ArtifactTarget {
    name: String,
}

/// A word that the shell takes as it is.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The sum over all test programs.
struct Summary {
    started: Instant,
    /// Test programs that ended with a result line.
    results: usize,
    passed: u64,
    failed: u64,
    ignored: u64,
    /// Names of the tests that failed.
    failures: Vec<String>,
    /// The run as a whole failed, whatever the lines say.
    failed_outright: bool,
}

impl Default for Summary {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            results: 0,
            passed: 0,
            failed: 0,
            ignored: 0,
            failures: Vec::new(),
            failed_outright: false,
        }
    }
}

impl Summary {
    /// Reads one line of a test program's output (the format of Rust's test harness).
    fn note(&mut self, line: &str) {
        let line = line.trim_end();
        if let Some(rest) = line.strip_prefix("test result: ") {
            self.results += 1;
            let mut before = "";
            for word in rest.split([' ', ';']).filter(|word| !word.is_empty()) {
                let count = || before.parse::<u64>().unwrap_or(0);
                match word {
                    "passed" => self.passed += count(),
                    "failed" => self.failed += count(),
                    "ignored" => self.ignored += count(),
                    _ => {}
                }
                before = word;
            }
        } else if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            self.failures.push(name.to_owned());
        }
    }

    /// Prints the sum as one more result line, last of all.
    fn conclude(&self) -> Result<()> {
        let failed = self.failed > 0 || self.failed_outright;
        println!("\n{} test programs", self.results);
        for name in &self.failures {
            println!("failed: {name}");
        }
        println!(
            "test result: {}. {} passed; {} failed; {} ignored; in total, finished in {:.1}s",
            if failed { "FAILED" } else { "ok" },
            self.passed,
            self.failed,
            self.ignored,
            self.started.elapsed().as_secs_f64(),
        );
        if failed {
            bail!("tests failed");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_result_lines_and_names_failures() {
        let mut summary = Summary::default();
        for line in [
            "test lab::one ... ok",
            "test lab::two ... FAILED",
            "test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.01s",
            "test result: ok. 40 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 1.00s\r",
        ] {
            summary.note(line);
        }
        assert_eq!(
            (
                summary.results,
                summary.passed,
                summary.failed,
                summary.ignored
            ),
            (2, 41, 1, 2)
        );
        assert_eq!(summary.failures, ["lab::two"]);
        assert!(summary.conclude().is_err());
    }

    #[test]
    fn a_run_that_ends_badly_fails_without_a_failed_test() {
        let summary = Summary {
            failed_outright: true,
            ..Summary::default()
        };
        assert!(summary.conclude().is_err());
        assert!(Summary::default().conclude().is_ok());
    }

    #[test]
    fn quotes_survive_the_shell() {
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
