//! A flood of denied flows: counted exactly, in bounded memory.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tests::lab::{
    Daemon, Expect, Scene, patient,
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
  egress: []
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

/// Floods `api` with `count` datagrams to denied ports and gives the daemon that counted them.
fn flooded(scene: &Scene, vary: &[usize], count: u64) -> Result<Daemon> {
    let shop = &scene.shop;
    let mark = b"-flood-";
    let datagram = shop.intruder_hop()?.udp(
        (shop.intruder.ip(false), 40_000),
        (shop.api.ip(false), UDP_PORT),
        mark,
    );
    let flood = |count| {
        shop.intruder
            .place
            .flood("eth0", &datagram, vary, count, RATE)?
            .finish(Duration::from_mins(2))
    };
    let mut sniffer = shop.api.place.sniff("eth0", mark)?;
    flood(100)?;
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
    flood(count)?;
    let summary = held.stop()?;
    assert_eq!((summary.alive, summary.deaths.len()), (2, 0));
    // What the machine itself lost on the way, if anything, is not the enforcer's to count.
    let arrived = shop.back.namespace.link_counter(UPLINK, "rx_packets")? - received;
    assert!(arrived >= count, "{arrived} of {count} arrived at the host");
    assert!(sniffer.stop()?.is_empty());

    let by_rule = [
        "policy=\"api\"",
        "rule=\"isolation\"",
        "direction=\"ingress\"",
    ];
    let by_verdict = ["verdict=\"deny\"", "reason=\"isolation\""];
    for (metric, labels) in [
        ("enforcer_rule_packets_total", &by_rule[..]),
        ("enforcer_verdicts_total", &by_verdict[..]),
    ] {
        // A scrape waits its turn behind the draining of tens of thousands of flows.
        let deadline = Instant::now() + patient(Duration::from_secs(20));
        loop {
            let counted = back.metric(metric, labels)?;
            if counted == count {
                break;
            }
            assert!(
                counted < count && Instant::now() < deadline,
                "{metric}: {counted} of {count}"
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    let grown = resident(back.pid()?)?.saturating_sub(before);
    assert!(grown < 64 << 20, "the daemon grew by {grown} bytes");
    let status: serde_json::Value = back.ask_json(&["status"])?;
    for map in status["maps"].as_array().context("no maps")? {
        assert!(map["entries"].as_u64() <= map["capacity"].as_u64(), "{map}");
    }
    scene.expect_tcp(&shop.web, &shop.api, 9000, Expect::Open)?;
    Ok(back)
}

const RATE: u64 = 10_000;

/// Where the ports stand in a UDP datagram behind Ethernet and IPv4.
const SOURCE_PORT: usize = 34;
const DESTINATION_PORT: usize = 36;

fn seconds() -> u64 {
    if is_short() { 2 } else { 8 }
}

#[test]
fn ten_thousand_denied_flows_a_second_to_one_port_are_in_the_records_to_the_last() -> Result<()> {
    let scene = Scene::new(POLICY)?;
    let count = RATE * seconds();
    // 65,536 flows to each port.
    let back = flooded(&scene, &[DESTINATION_PORT, SOURCE_PORT], count)?;
    let from = Some(scene.shop.intruder.ip(false));
    back.wait_for_count(Duration::from_secs(20), count, |record| {
        record.source().address == from
    })
}

#[test]
fn a_scan_of_all_ports_at_that_rate_is_counted_to_the_last() -> Result<()> {
    let scene = Scene::new(POLICY)?;
    let count = RATE * seconds();
    let back = flooded(&scene, &[SOURCE_PORT, DESTINATION_PORT], count)?;
    // More keys than are reported one by one: what is missing from the records is counted.
    let lost = back.metric("enforcer_events_lost_total", &[])?;
    let records = back.metric("enforcer_records_total", &["verdict=\"deny\""])?;
    assert!(lost > 0 || records >= count / 65_536, "{lost} {records}");
    Ok(())
}
