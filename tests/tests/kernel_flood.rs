//! A flood of denied flows: counted exactly, in bounded memory.

use std::time::Duration;

use anyhow::{Context, Result};
use tests::lab::{
    Expect, Scene,
    shop::{UDP_PORT, UPLINK},
    traffic::is_short,
};

const POLICY: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: api, namespace: shop}
spec:
  selector: {matchLabels: {app: api}}
  ingress:
    - from: [{labels: {app: web}}]
      ports: [{protocol: TCP, port: 9000}]
";

/// Resident memory in bytes.
fn resident(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kilobytes: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next())
        .context("no VmRSS")?
        .parse()?;
    Ok(kilobytes * 1024)
}

#[test]
fn ten_thousand_denied_flows_a_second_are_counted_to_the_last() -> Result<()> {
    let scene = Scene::new(POLICY)?;
    let shop = &scene.shop;
    let mark = b"-flood-";
    let hop = shop.intruder_hop()?;
    let datagram = hop.udp(
        (shop.intruder.ip(false), 0),
        (shop.api.ip(false), UDP_PORT),
        mark,
    );
    // Source and destination port of UDP behind Ethernet and IPv4: every packet is another
    // flow, and 65,536 of them go to each port.
    let vary = [36, 34];
    let rate = 10_000;
    let count = rate * if is_short() { 2 } else { 8 };

    let mut sniffer = shop.api.place.sniff("eth0", mark)?;
    shop.intruder
        .place
        .flood("eth0", &datagram, &vary, 100, rate)?
        .finish(Duration::from_secs(20))?;
    sniffer.frame(Duration::from_secs(5))?;
    drop(sniffer);

    let back = scene.enforce(&shop.back)?;
    let held = shop
        .web
        .place
        .hold(shop.api.v4(9000), 2, Some(Duration::from_millis(10)))?;
    let before = resident(back.pid()?)?;
    let received = shop.back.namespace.link_counter(UPLINK, "rx_packets")?;
    let sniffer = shop.api.place.sniff("eth0", mark)?;
    let sent = shop
        .intruder
        .place
        .flood("eth0", &datagram, &vary, count, rate)?
        .finish(Duration::from_secs(120))?;
    assert_eq!(sent, count);
    let summary = held.stop()?;
    assert_eq!((summary.alive, summary.deaths.len()), (2, 0));
    // What the machine itself lost on the way, if anything, is not the enforcer's to count.
    let arrived = shop.back.namespace.link_counter(UPLINK, "rx_packets")? - received;
    assert!(arrived >= count, "{arrived} of {count} arrived at the host");

    let from = Some(shop.intruder.ip(false));
    back.wait_for_count(Duration::from_secs(20), count, |record| {
        record.source().address == from
    })?;
    assert!(sniffer.stop()?.is_empty());
    let grown = resident(back.pid()?)?.saturating_sub(before);
    assert!(grown < 64 << 20, "the daemon grew by {grown} bytes");
    let status: serde_json::Value = back.ask_json(&["status"])?;
    for map in status["maps"].as_array().context("no maps")? {
        assert!(map["entries"].as_u64() <= map["capacity"].as_u64(), "{map}");
    }
    scene.expect_tcp(&shop.web, &shop.api, 9000, Expect::Open)
}
