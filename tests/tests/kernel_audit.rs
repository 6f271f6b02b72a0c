//! Audit mode reports and cuts nothing: the default of a node, and of single policies.

use std::time::Duration;

use anyhow::Result;
use enforcer::observe::record::Verdict;
use tests::lab::{Daemon, Expect, FlowProtocol, Scene};

/// `api` is closed; `db` is closed by a policy in audit mode.
const POLICY: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: api, namespace: shop}
spec:
  selector: {matchLabels: {app: api}}
  ingress: []
---
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: db, namespace: shop}
spec:
  mode: audit
  selector: {matchLabels: {app: db}}
  ingress: []
---
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  egress: []
";

#[test]
fn a_node_without_a_mode_cuts_nothing_and_says_what_it_would() -> Result<()> {
    let scene = Scene::new(POLICY)?;
    let shop = &scene.shop;
    let held = shop
        .web
        .place
        .hold(shop.api.v4(9000), 2, Some(Duration::from_millis(10)))?;
    let mut daemons = Vec::new();
    for host in shop.hosts() {
        let mut options = host.daemon_options(scene.tree.path())?;
        options.mode = None;
        daemons.push(Daemon::start(&scene.lab, options)?);
    }
    for to in [&shop.api, &shop.db] {
        scene.expect_tcp(&shop.intruder, to, 9000, Expect::Open)?;
        scene.expect_tcp(&shop.web, to, 9000, Expect::Open)?;
        scene.expect(&shop.web, to, FlowProtocol::Udp, 9999, Expect::Open)?;
        scene.expect(&shop.web, to, FlowProtocol::Icmp, 0, Expect::Open)?;
    }
    let summary = held.stop()?;
    assert_eq!((summary.alive, summary.deaths.len()), (2, 0));
    for (daemon, policy) in [
        (&daemons[0], "web"),
        (&daemons[1], "api"),
        (&daemons[1], "db"),
    ] {
        let record = daemon.wait_for_record(Duration::from_secs(5), |record| {
            record.rule.as_ref().is_some_and(|r| r.policy == policy)
        })?;
        assert_eq!(record.verdict, Verdict::Audit, "{record:?}");
        assert_eq!(record.reason, "isolation", "{record:?}");
    }
    Ok(())
}

#[test]
fn a_policy_in_audit_mode_cuts_nothing_on_a_node_that_enforces() -> Result<()> {
    let scene = Scene::new(POLICY)?;
    let shop = &scene.shop;
    let back = scene.enforce(&shop.back)?;
    scene.expect_tcp(&shop.intruder, &shop.db, 5432, Expect::Open)?;
    scene.expect_tcp(&shop.intruder, &shop.api, 9000, Expect::Denied)?;
    let record = back.wait_for_record(Duration::from_secs(5), |record| {
        record.destination().address == Some(shop.db.ip(false))
    })?;
    assert_eq!(record.verdict, Verdict::Audit, "{record:?}");
    Ok(())
}
