//! The demo proves what it says, leaves nothing behind, and can be interrupted.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tests::lab::{cgroup, patient};

const DEMO: &str = env!("CARGO_BIN_EXE_demo");

/// What labs of this process left: namespaces, cgroups, pins, files.
fn leftovers(pid: u32) -> Result<Vec<String>> {
    let prefix = format!("enflab-{pid}-");
    let mut found = Vec::new();
    for folder in [
        Path::new("/run/netns"),
        Path::new("/run/enforcer-lab"),
        Path::new("/sys/fs/bpf"),
        &cgroup::root()?,
    ] {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                found.push(entry.path().display().to_string());
            }
        }
    }
    Ok(found)
}

#[test]
fn everything_is_as_expected_and_nothing_is_left() -> Result<()> {
    let demo = Command::new(DEMO)
        .args(["--output", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let pid = demo.id();
    let output = demo.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let found: Value = serde_json::from_slice(&output.stdout).context(said.clone())?;
    assert!(output.status.success(), "{found:#}\n{said}");
    assert_eq!(found["ok"], true);
    let enforced = found["enforced"].as_array().context("no flows")?;
    let denied: Vec<&Value> = enforced
        .iter()
        .filter(|row| row["expected"] == "denied")
        .collect();
    assert!(denied.len() >= 10 && denied.len() < enforced.len());
    for row in denied {
        assert!(row["denials"][0]["rule"]["line"].is_u64(), "{row}");
    }
    let with_process = |row: &&Value| row["denials"][0]["process"]["pid"].is_u64();
    assert!(enforced.iter().any(|row| with_process(&row)));
    assert_eq!(leftovers(pid)?, Vec::<String>::new());
    Ok(())
}

#[test]
fn an_interrupted_demo_leaves_nothing() -> Result<()> {
    let mut demo = Command::new(DEMO)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let pid = demo.id();
    let stderr = demo.stderr.take().context("no stderr")?;
    let mut lines = BufReader::new(stderr).lines();
    // In the middle: namespaces, servers and daemons are there.
    lines
        .by_ref()
        .map_while(Result::ok)
        .find(|line| line.contains("asking the daemons"))
        .context("the demo did not come that far")?;
    assert!(!leftovers(pid)?.is_empty());
    kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGINT)?;
    let deadline = Instant::now() + patient(Duration::from_secs(20));
    let status = loop {
        if let Some(status) = demo.try_wait()? {
            break status;
        }
        assert!(Instant::now() < deadline, "the demo does not end");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(status.code(), Some(130));
    assert_eq!(leftovers(pid)?, Vec::<String>::new());
    Ok(())
}
