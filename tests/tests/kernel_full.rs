//! What does not fit: a policy larger than the maps is refused whole; a full flow table is
//! counted and does what the node says.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde_json::Value;
use tests::lab::{Daemon, Expect, Outcome, Scene};

const SMALL: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: api, namespace: shop}
spec:
  selector: {matchLabels: {app: api}}
  ingress:
    - from: [{labels: {app: web}}]
      ports: [{protocol: TCP, port: 9000}]
  egress: [{}]
";

/// Allows also the intruder, and names more networks than fit.
fn large() -> String {
    let mut text = SMALL.replace(
        "  egress: [{}]\n",
        "    - from: [{entity: world}]\n      ports: [{protocol: TCP, port: 9000}]\n",
    );
    text.push_str("  egress:\n");
    for number in 0..5000 {
        let _ = writeln!(
            text,
            "    - {{to: [{{cidr: 198.18.{}.{}/32}}], ports: [{{protocol: TCP, port: {}}}]}}",
            number / 250,
            number % 250 + 1,
            1000 + number
        );
    }
    text
}

#[test]
fn a_policy_larger_than_the_maps_is_refused_whole() -> Result<()> {
    let scene = Scene::new(SMALL)?;
    let shop = &scene.shop;
    let (web, api, intruder) = (&shop.web, &shop.api, &shop.intruder);
    scene.expect_tcp(intruder, api, 9000, Expect::Open)?;
    let mut options = shop.back.daemon_options(scene.tree.path())?;
    options.extra = ["--max-addresses", "256"].map(str::to_owned).to_vec();
    let back = Daemon::start(&scene.lab, options)?;
    let before: Value = back.ask_json(&["status"])?;
    scene.expect_tcp(web, api, 9000, Expect::Open)?;
    scene.expect_tcp(intruder, api, 9000, Expect::Denied)?;

    scene.tree.write("policy.yaml", &large())?;
    let answer = back.ask(&["apply"])?;
    assert!(!answer.status.success());
    let said = String::from_utf8_lossy(&answer.stderr).into_owned();
    assert!(said.contains("256"), "the limit is not named: {said}");
    let after = status_with(&back, true)?;
    assert_eq!(after["policy"]["digest"], before["policy"]["digest"]);
    assert_eq!(after["health"]["ok"], false, "{after}");
    scene.expect_tcp(web, api, 9000, Expect::Open)?;
    scene.expect_tcp(intruder, api, 9000, Expect::Denied)?;

    scene.tree.write("policy.yaml", SMALL)?;
    back.apply()?;
    status_with(&back, false)?;
    Ok(())
}

/// The status, once the tree on disk is refused or not.
fn status_with(daemon: &Daemon, refused: bool) -> Result<Value> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let status: Value = daemon.ask_json(&["status"])?;
        if status["refused"].is_object() == refused {
            return Ok(status);
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "refused should be {refused}: {status}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn loss(daemon: &Daemon, cause: &str) -> Result<u64> {
    let status: Value = daemon.ask_json(&["status"])?;
    Ok(status["losses"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|loss| loss["cause"] == cause)
        .filter_map(|loss| loss["count"].as_u64())
        .sum())
}

#[test]
fn a_full_flow_table_is_counted_and_flows_are_judged_packet_by_packet() -> Result<()> {
    let scene = Scene::new(SMALL)?;
    let shop = &scene.shop;
    let mut options = shop.back.daemon_options(scene.tree.path())?;
    options.extra = ["--max-flows", "64"].map(str::to_owned).to_vec();
    let back = Daemon::start(&scene.lab, options)?;
    let held = shop
        .web
        .place
        .hold(shop.api.v4(9000), 300, Some(Duration::from_millis(100)))?;
    std::thread::sleep(Duration::from_secs(1));
    assert!(loss(&back, "flow-table-full")? > 0);
    scene.expect_tcp(&shop.intruder, &shop.api, 9000, Expect::Denied)?;
    let summary = held.stop()?;
    assert_eq!((summary.alive, summary.deaths.len()), (300, 0));
    Ok(())
}

#[test]
fn a_full_flow_table_refuses_new_flows_if_the_node_says_so() -> Result<()> {
    let scene = Scene::new(SMALL)?;
    let shop = &scene.shop;
    scene.tree.write(
        "node.yaml",
        "\
apiVersion: enforcer.dev/v1alpha1
kind: Node
metadata: {name: back}
spec: {flowTableFull: deny}
",
    )?;
    let mut options = shop.back.daemon_options(scene.tree.path())?;
    options.extra = ["--max-flows", "64"].map(str::to_owned).to_vec();
    let back = Daemon::start(&scene.lab, options)?;
    let held = shop.web.place.hold(shop.api.v4(9000), 20, None)?;
    let spec = tests::lab::traffic::flow(
        tests::lab::FlowProtocol::Tcp,
        shop.api.ip(false),
        9000,
        Expect::Denied,
    );
    let results = shop.web.place.try_flows(&vec![spec; 300])?;
    assert!(results.iter().any(|r| r.outcome == Outcome::Timeout));
    assert!(results.iter().any(|r| r.outcome == Outcome::Open));
    back.wait_for_record(Duration::from_secs(5), |record| {
        record.reason == "flow-table-full"
    })?;
    let summary = held.stop()?;
    assert_eq!((summary.alive, summary.deaths.len()), (20, 0));
    Ok(())
}
