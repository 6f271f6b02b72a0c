//! Daemons are killed in a loop under load: nothing that policy denies gets through, and
//! nothing that it allows breaks.

use std::time::Duration;

use anyhow::Result;
use tests::lab::{
    Expect, FlowProtocol, Scene,
    shop::{TCP_PORTS, UDP_PORT},
    traffic::is_short,
};

/// `web` to `api` by TCP 9000 and UDP 9999, and nothing else of both.
const POLICY: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: api, namespace: shop}
spec:
  selector: {matchLabels: {app: api}}
  ingress:
    - from: [{labels: {app: web}}]
      ports: [{protocol: TCP, port: 9000}, {protocol: UDP, port: 9999}]
  egress: []
---
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  ingress: []
  egress:
    - to: [{labels: {app: api}}]
      ports: [{protocol: TCP, port: 9000}, {protocol: UDP, port: 9999}]
";

#[test]
fn killed_in_a_loop_under_load() -> Result<()> {
    let scene = Scene::new(POLICY)?;
    let shop = &scene.shop;
    let (web, api, db, intruder) = (&shop.web, &shop.api, &shop.db, &shop.intruder);
    let mark = b"-denied, and yet it came through-";
    let hop = shop.intruder_hop()?;
    let from = intruder.ip(false);
    let datagram = hop.udp((from, 0), (api.ip(false), UDP_PORT), mark);
    // Source port of the UDP header: behind Ethernet and IPv4.
    let source_port = 34;

    // All that is denied later is open now.
    for to in [web, api] {
        scene.expect_tcp(intruder, to, TCP_PORTS[0], Expect::Open)?;
    }
    scene.expect_tcp(web, db, 5432, Expect::Open)?;
    let mut sniffer = api.place.sniff("eth0", mark)?;
    intruder
        .place
        .send_frames("eth0", std::slice::from_ref(&datagram))?;
    sniffer.frame(Duration::from_secs(5))?;
    drop(sniffer);

    let mut daemons = shop.start_daemons(&scene.lab, scene.tree.path())?;
    let busy = Some(Duration::from_millis(5));
    let held = [
        web.place.hold(api.v4(9000), 4, busy)?,
        web.place.hold(api.v6(9000), 4, busy)?,
        web.place.hold(api.v4(9000), 4, None)?,
    ];
    let patient = Duration::from_secs(10);
    let pause = Duration::from_millis(2);
    let allowed = [
        web.place
            .churn(FlowProtocol::Tcp, api.v4(9000), 2, patient, pause)?,
        web.place
            .churn(FlowProtocol::Tcp, api.v6(9000), 2, patient, pause)?,
    ];
    let hasty = Duration::from_millis(50);
    let denied = [
        intruder
            .place
            .churn(FlowProtocol::Tcp, api.v4(9000), 4, hasty, pause)?,
        intruder
            .place
            .churn(FlowProtocol::Tcp, web.v6(8080), 4, hasty, pause)?,
        web.place
            .churn(FlowProtocol::Tcp, db.v4(5432), 2, hasty, pause)?,
        web.place
            .churn(FlowProtocol::Udp, api.v4(53), 2, hasty, pause)?,
    ];
    let sniffer = api.place.sniff("eth0", mark)?;
    let rounds = if is_short() { 4 } else { 20 };
    let flood = intruder
        .place
        .flood("eth0", &datagram, &[source_port], 2000 * rounds, 1000)?;

    for round in 0..rounds {
        for daemon in &mut daemons {
            daemon.kill()?;
        }
        std::thread::sleep(Duration::from_millis(40 * (round % 5)));
        for daemon in &mut daemons {
            daemon.launch()?;
        }
        // Every other time it is killed again while it starts.
        if round % 2 == 0 {
            for daemon in &mut daemons {
                daemon.wait_ready()?;
            }
        } else {
            std::thread::sleep(Duration::from_millis(15 * (round % 7)));
        }
    }
    for daemon in &mut daemons {
        daemon.kill()?;
        daemon.launch()?;
        daemon.wait_ready()?;
    }

    for churner in denied {
        let summary = churner.stop()?;
        assert_eq!(summary.open, 0, "denied flows were answered: {summary:?}");
        assert!(summary.failed.values().sum::<u64>() > rounds, "{summary:?}");
    }
    for churner in allowed {
        let summary = churner.stop()?;
        assert!(
            summary.failed.is_empty(),
            "allowed flows failed: {summary:?}"
        );
        assert!(summary.open > rounds * 10, "{summary:?}");
    }
    for holder in held {
        let summary = holder.stop()?;
        assert_eq!((summary.alive, summary.deaths.len()), (4, 0), "{summary:?}");
    }
    drop(flood);
    let seen = sniffer.stop()?;
    assert!(seen.is_empty(), "{} denied datagrams arrived", seen.len());
    Ok(())
}

#[test]
fn a_graceful_stop_leaves_enforcement_and_connections() -> Result<()> {
    let scene = Scene::new(POLICY)?;
    let shop = &scene.shop;
    let mut back = scene.enforce(&shop.back)?;
    let held = shop
        .web
        .place
        .hold(shop.api.v6(9000), 2, Some(Duration::from_millis(10)))?;
    assert!(back.stop()?.success());
    scene.expect_tcp(&shop.web, &shop.api, 9000, Expect::Open)?;
    scene.expect_tcp(&shop.intruder, &shop.api, 9000, Expect::Denied)?;
    back.launch()?;
    back.wait_ready()?;
    // What was denied meanwhile is told with all its names.
    let record = back.wait_for_record(Duration::from_secs(5), |record| {
        record.source().address == Some(shop.intruder.ip(true))
    })?;
    assert_eq!(record.workload.name.as_deref(), Some("api"), "{record:?}");
    let rule = record.rule.as_ref();
    assert!(rule.is_some_and(|rule| rule.line.is_some()), "{record:?}");
    scene.expect_tcp(&shop.web, &shop.api, 9000, Expect::Open)?;
    scene.expect_tcp(&shop.intruder, &shop.api, 9000, Expect::Denied)?;
    let summary = held.stop()?;
    assert_eq!((summary.alive, summary.deaths.len()), (2, 0));
    Ok(())
}

#[test]
fn only_detach_removes_enforcement() -> Result<()> {
    let scene = Scene::new(POLICY)?;
    let shop = &scene.shop;
    let mut daemons = shop.start_daemons(&scene.lab, scene.tree.path())?;
    scene.expect_tcp(&shop.intruder, &shop.api, 9000, Expect::Denied)?;
    scene.expect_tcp(&shop.web, &shop.db, 5432, Expect::Denied)?;
    for daemon in &mut daemons {
        daemon.stop()?;
    }
    scene.expect_tcp(&shop.intruder, &shop.api, 9000, Expect::Denied)?;
    scene.expect_tcp(&shop.web, &shop.db, 5432, Expect::Denied)?;
    for daemon in &daemons {
        daemon.detach()?;
        assert!(!daemon.pins().exists(), "pins are left");
    }
    scene.expect_tcp(&shop.intruder, &shop.api, 9000, Expect::Open)?;
    scene.expect_tcp(&shop.web, &shop.db, 5432, Expect::Open)?;
    Ok(())
}
