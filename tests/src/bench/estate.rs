//! A large estate in a daemon: what it costs there, in all, that one policy is saved.

use std::{fmt::Write as _, fs, path::Path, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::{
    time::{clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};
use serde_json::Value;

use super::{
    change::{cabled, ready},
    median, progress,
    scale::Size,
};
use crate::lab::{Daemon, Lab};

/// Workloads in a file.
const IN_A_FILE: usize = 1_000;
/// How long a daemon takes at most to come to rest after a change: copies of the tree are kept,
/// free memory is given back.
const REST: Duration = Duration::from_secs(3);

/// Milliseconds of the daemon's CPU time from a saved policy until it has come to rest.
pub(super) fn one_policy_saved(size: &Size, turns: usize) -> Result<f64> {
    progress(&format!("a daemon with {} workloads", size.workloads));
    let lab = Lab::new()?;
    let (host, _work) = cabled(&lab)?;
    let tree = lab.folder().join("policies");
    write(&tree, size)?;
    // Every set has about a hundred peers; old and new stand side by side.
    let mut daemon = ready(&lab, &host, &tree, size.policies * 45)?;
    // Files that have just been written are read again, because they may change without a trace.
    thread::sleep(REST);
    let mut taken = Vec::new();
    for turn in 0..turns.max(3) {
        let number = turn * 17 % size.policies;
        let beside = tree.join("policies/.new");
        fs::write(&beside, policy(size, number, 2000 + turn))?;
        let generation = generation(&daemon)?;
        let before = processor_time(&daemon)?;
        fs::rename(&beside, tree.join(format!("policies/p-{number}.yaml")))?;
        let next = (generation + 1).to_string();
        let waited = daemon.ask(&["wait", "--generation", &next, "--timeout", "60s"])?;
        ensure!(waited.status.success(), "{waited:?}\n{}", daemon.log());
        thread::sleep(REST);
        let took = processor_time(&daemon)?.saturating_sub(before);
        taken.push(took.as_secs_f64() * 1e3);
    }
    daemon.stop()?;
    daemon.detach()?;
    Ok(median(taken))
}

fn generation(daemon: &Daemon) -> Result<u64> {
    let status: Value = daemon.ask_json(&["status"])?;
    status["policy"]["generation"]
        .as_u64()
        .context("a generation")
}

/// What a daemon has taken of the processors so far.
fn processor_time(daemon: &Daemon) -> Result<Duration> {
    let pid = Pid::from_raw(daemon.pid()?.try_into()?);
    Ok(clock_gettime(clock_getcpuclockid(pid)?)?.into())
}

/// The tree that [`super::scale::tree`] is, in files: each policy in one of its own.
fn write(folder: &Path, size: &Size) -> Result<()> {
    for below in ["policies", "workloads"] {
        fs::create_dir_all(folder.join(below))?;
    }
    for number in 0..size.policies {
        let path = folder.join(format!("policies/p-{number}.yaml"));
        fs::write(path, policy(size, number, 1000))?;
    }
    for start in (0..size.workloads).step_by(IN_A_FILE) {
        let mut text = String::new();
        for number in start..(start + IN_A_FILE).min(size.workloads) {
            let app = number % size.identities;
            let [_, a, b, c] = u32::try_from(number)?.to_be_bytes();
            writeln!(
                text,
                "---\napiVersion: enforcer.dev/v1alpha1\nkind: Workload\n\
                 metadata: {{name: w-{number}, namespace: ns-{}, \
                 labels: {{app: app-{app}, team: team-{}, env: production}}}}\n\
                 spec: {{cgroup: /w-{number}, addresses: [10.{a}.{b}.{c}]}}",
                app % 10,
                app % size.teams(),
            )?;
        }
        fs::write(folder.join(format!("workloads/{start}.yaml")), text)?;
    }
    Ok(())
}

/// A policy of which the first rule opens this port and the others the next ones.
fn policy(size: &Size, number: usize, port: usize) -> String {
    let mut text = format!(
        "apiVersion: enforcer.dev/v1alpha1\nkind: SegmentPolicy\n\
         metadata: {{name: p-{number}, namespace: ns-{}}}\nspec:\n  \
         selector: {{matchLabels: {{app: app-{}}}}}\n  ingress:\n",
        number % size.identities % 10,
        number % size.identities,
    );
    for rule in 0..size.rules {
        let labels = if rule == 0 {
            format!("team: team-{}", number % size.teams())
        } else {
            format!("app: app-{}", (number * 7 + rule) % size.identities)
        };
        // Writing into a string cannot fail.
        let _ = writeln!(
            text,
            "    - from: [{{namespace: '*', labels: {{{labels}}}}}]\n      ports: [{}/tcp]",
            port + rule
        );
    }
    text
}
