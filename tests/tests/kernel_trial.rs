//! A change on trial rolls back by itself unless it is confirmed.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;
use tests::lab::{Daemon, Expect, Scene};

const POLICY: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: api, namespace: shop}
spec:
  selector: {matchLabels: {app: api}}
  ingress: []
";

fn audit_daemon(scene: &Scene) -> Result<Daemon> {
    let mut options = scene.shop.back.daemon_options(scene.tree.path())?;
    options.mode = None;
    Daemon::start(&scene.lab, options)
}

fn on_trial(daemon: &Daemon, time: &str) -> Result<()> {
    let _: Value = daemon.ask_json(&["apply", "--mode", "enforce", "--trial", time])?;
    Ok(())
}

#[test]
fn enforcement_on_trial_rolls_back() -> Result<()> {
    let scene = Scene::new(POLICY)?;
    let shop = &scene.shop;
    let mut back = audit_daemon(&scene)?;
    scene.expect_tcp(&shop.intruder, &shop.api, 9000, Expect::Open)?;
    on_trial(&back, "4s")?;
    let start = Instant::now();
    scene.expect_tcp(&shop.intruder, &shop.api, 9000, Expect::Denied)?;
    std::thread::sleep(Duration::from_secs(5).saturating_sub(start.elapsed()));
    scene.expect_tcp(&shop.intruder, &shop.api, 9000, Expect::Open)?;

    // A daemon that is killed while a trial runs keeps its word when it comes back.
    on_trial(&back, "3s")?;
    back.kill()?;
    scene.expect_tcp(&shop.intruder, &shop.api, 9000, Expect::Denied)?;
    std::thread::sleep(Duration::from_secs(3));
    back.launch()?;
    back.wait_ready()?;
    scene.expect_tcp(&shop.intruder, &shop.api, 9000, Expect::Open)?;
    Ok(())
}

#[test]
fn what_is_confirmed_stays() -> Result<()> {
    let scene = Scene::new(POLICY)?;
    let shop = &scene.shop;
    let mut back = audit_daemon(&scene)?;
    on_trial(&back, "3s")?;
    let _: Value = back.ask_json(&["confirm"])?;
    std::thread::sleep(Duration::from_secs(4));
    scene.expect_tcp(&shop.intruder, &shop.api, 9000, Expect::Denied)?;
    back.kill()?;
    back.launch()?;
    back.wait_ready()?;
    scene.expect_tcp(&shop.intruder, &shop.api, 9000, Expect::Denied)?;
    Ok(())
}
