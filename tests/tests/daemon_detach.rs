//! `enforcer detach` where the daemon cannot be asked: it hangs, or another version was there.

use std::{fs, process::Output};

use anyhow::Result;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tests::lab::{Daemon, Expect, Scene};

const CLOSED: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: api, namespace: shop}
spec:
  selector: {matchLabels: {app: api}}
  ingress: []
";

fn detach(daemon: &Daemon, flags: &[&str]) -> Result<Output> {
    let pins = daemon.pins().to_string_lossy().into_owned();
    daemon.ask(&[&["detach", "--output", "json", "--pin-dir", &pins], flags].concat())
}

fn says(output: &Output, what: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains(what), "{text}");
}

#[test]
fn only_force_goes_beneath_a_daemon_that_hangs() -> Result<()> {
    let scene = Scene::new(CLOSED)?;
    let shop = &scene.shop;
    let daemon = scene.enforce(&shop.back)?;
    let denied = |expect| scene.expect_tcp(&shop.web, &shop.api, 9000, expect);
    denied(Expect::Denied)?;

    for flag in ["--yes", "--force"] {
        let refused = detach(&daemon, &[flag])?;
        assert_eq!(refused.status.code(), Some(1));
        says(&refused, "a daemon runs");
    }
    let pid = Pid::from_raw(i32::try_from(daemon.pid()?)?);
    kill(pid, Signal::SIGSTOP)?;
    let refused = detach(&daemon, &["--yes"])?;
    assert_eq!(refused.status.code(), Some(1));
    says(&refused, &format!("process {pid} holds"));
    denied(Expect::Denied)?;

    let removed = detach(&daemon, &["--force"])?;
    assert_eq!(removed.status.code(), Some(0), "{removed:?}");
    says(&removed, "program workload_ingress at ");
    let answer: Value = serde_json::from_slice(&removed.stdout)?;
    assert_eq!(answer["holder"], Value::from(pid.as_raw()));
    assert!(!daemon.pins().exists(), "pins are left");
    denied(Expect::Open)?;
    Ok(())
}

#[test]
fn what_another_version_left_goes_too_and_nothing_in_force_needs_no_word() -> Result<()> {
    let scene = Scene::new(CLOSED)?;
    let mut daemon = scene.enforce(&scene.shop.back)?;
    daemon.stop()?;
    fs::create_dir(daemon.pins().join("maps-9999-0123456789ab"))?;
    // A hook that only the other version knows: the link is moved to its name.
    let links = daemon.pins().join("links");
    let link = fs::read_dir(&links)?
        .filter_map(Result::ok)
        .find(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .contains("workload_ingress")
        })
        .expect("a link of the workload");
    let name = link.file_name().to_string_lossy().into_owned();
    fs::rename(
        link.path(),
        links.join(name.replace("workload_ingress", "later_ingress")),
    )?;

    let refused = detach(&daemon, &[])?;
    assert_eq!(refused.status.code(), Some(1));
    says(&refused, "in force");
    scene.expect_tcp(&scene.shop.web, &scene.shop.api, 9000, Expect::Denied)?;
    let removed = detach(&daemon, &["--force"])?;
    assert_eq!(removed.status.code(), Some(0), "{removed:?}");
    says(&removed, "layout 9999, of another version");
    says(&removed, "later_ingress");
    assert!(!daemon.pins().exists(), "pins are left");
    scene.expect_tcp(&scene.shop.web, &scene.shop.api, 9000, Expect::Open)?;

    // Maps without a hook enforce nothing.
    fs::create_dir_all(daemon.pins().join("maps-9999-0123456789ab"))?;
    for _ in 0..2 {
        assert_eq!(detach(&daemon, &[])?.status.code(), Some(0));
        assert!(!daemon.pins().exists());
    }
    Ok(())
}
