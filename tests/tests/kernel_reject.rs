//! `denied: reject`: who is denied is told at once, at every kind of endpoint; `drop` lets him
//! wait.

use std::{net::IpAddr, time::Duration};

use anyhow::Result;
use etherparse::IpNumber;
use tests::lab::{
    Daemon, FlowProtocol, Outcome, Scene, Tree,
    frame::TcpFlags,
    patient,
    shop::{Party, UDP_PORT},
    traffic::FlowSpec,
};

/// Nobody may reach `api`, `web` and the hosts, and `api` may reach nobody.
const CLOSED: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: closed, namespace: shop}
spec:
  selector: {matchExpressions: [{key: app, operator: In, values: [api, web]}]}
  ingress: []
---
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: silent, namespace: shop}
spec:
  selector: {matchExpressions: [{key: app, operator: In, values: [api, web]}]}
  egress: []
---
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: host}
spec:
  selector: {host: true}
  ingress: []
";

/// Milliseconds of patience. An answer comes much earlier.
const TIMEOUT: u64 = 4_000;
/// A port where nobody listens.
const UNUSED: u16 = 7;

fn node(tree: &Tree, denied: &str) -> Result<()> {
    tree.write(
        "node.yaml",
        &format!(
            "apiVersion: enforcer.dev/v1alpha1\nkind: Node\nmetadata: {{name: n}}\n\
             spec: {{denied: {denied}}}\n"
        ),
    )
}

fn tries(from: &Party, to: IpAddr, protocol: FlowProtocol, port: u16) -> Result<(Outcome, u64)> {
    let result = from.place.try_flow(FlowSpec {
        protocol,
        to,
        port,
        timeout: TIMEOUT,
        attempts: 1,
        connected: true,
        size: 5,
    })?;
    Ok((result.outcome, result.took))
}

/// What a client is told in place of an answer.
fn told(protocol: FlowProtocol, to: IpAddr) -> Outcome {
    match (protocol, to) {
        (FlowProtocol::Tcp, _) => Outcome::Refused,
        // What Linux makes of "administratively prohibited": EHOSTUNREACH, and EACCES for IPv6.
        (_, IpAddr::V4(_)) => Outcome::Unreachable,
        (_, IpAddr::V6(_)) => Outcome::NotPermitted,
    }
}

/// Tries TCP and UDP on both families, twice: the first time the kernel judges, then it knows.
/// Each must be told at once.
fn expect_told(from: &Party, to: &Party, ports: &[(FlowProtocol, u16)]) -> Result<()> {
    for (protocol, port) in ports.iter().chain(ports) {
        for v6 in [false, true] {
            let to = to.ip(v6);
            let (outcome, took) = tries(from, to, *protocol, *port)?;
            anyhow::ensure!(
                outcome == told(*protocol, to) && took < TIMEOUT / 2,
                "{} -> {to} {protocol:?} {port}: {outcome:?} after {took} ms",
                from.name()
            );
        }
    }
    Ok(())
}

const SERVED: [(FlowProtocol, u16); 2] = [(FlowProtocol::Tcp, 9000), (FlowProtocol::Udp, UDP_PORT)];

fn answered(daemon: &Daemon) -> Result<u64> {
    daemon.metric("enforcer_reject_answers_total", &["outcome=\"sent\""])
}

#[test]
fn at_interfaces_and_uplinks() -> Result<()> {
    let scene = Scene::new(CLOSED)?;
    let shop = &scene.shop;
    let (intruder, api, host) = (&shop.intruder, &shop.api, shop.back.party()?);
    let _services = host.place.serve(&[9000], &[UDP_PORT])?;
    node(&scene.tree, "drop")?;
    let back = scene.enforce(&shop.back)?;
    // In silence.
    for (from, to) in [(intruder, api), (api, intruder), (intruder, &host)] {
        let (outcome, took) = tries(from, to.ip(false), FlowProtocol::Tcp, 9000)?;
        anyhow::ensure!(outcome == Outcome::Timeout, "{outcome:?} after {took} ms");
    }
    assert_eq!(answered(&back)?, 0);
    node(&scene.tree, "reject")?;
    back.apply()?;
    // Denied where it arrives, where it leaves, and at the host with and without a listener.
    expect_told(intruder, api, &SERVED)?;
    expect_told(api, intruder, &SERVED)?;
    expect_told(intruder, &host, &SERVED)?;
    let unused = [FlowProtocol::Tcp, FlowProtocol::Udp].map(|protocol| (protocol, UNUSED));
    expect_told(intruder, &host, &unused)?;
    assert!(answered(&back)? >= 32, "{}", answered(&back)?);
    // An answer opens nothing, and is no flow.
    let (outcome, _) = tries(intruder, api.ip(false), FlowProtocol::Tcp, 9000)?;
    assert_eq!(outcome, Outcome::Refused);
    // The table is counted every five seconds.
    std::thread::sleep(Duration::from_secs(6));
    for map in ["FLOWS4", "FLOWS6"] {
        let label = format!("map=\"{map}\"");
        assert_eq!(back.metric("enforcer_map_entries", &[&label])?, 0, "{map}");
    }
    Ok(())
}

#[test]
fn at_cgroups() -> Result<()> {
    let scene = Scene::new(CLOSED)?;
    let shop = &scene.shop;
    let (intruder, web) = (&shop.intruder, &shop.web);
    node(&scene.tree, "drop")?;
    let front = scene.enforce(&shop.front)?;
    let (outcome, _) = tries(intruder, web.ip(false), FlowProtocol::Tcp, 9000)?;
    assert_eq!(outcome, Outcome::Timeout);
    node(&scene.tree, "reject")?;
    front.apply()?;
    expect_told(intruder, web, &SERVED)?;
    // A process of this host is told by its system call, and nobody else is.
    let before = answered(&front)?;
    for v6 in [false, true] {
        let (outcome, _) = tries(web, intruder.ip(v6), FlowProtocol::Tcp, 9000)?;
        assert_eq!(outcome, Outcome::NotPermitted);
    }
    // Both on this host.
    let host = shop.front.party()?;
    for (protocol, port) in SERVED {
        let (outcome, took) = tries(&host, web.ip(false), protocol, port)?;
        let told = told(protocol, web.ip(false));
        assert!(outcome == told && took < TIMEOUT / 2, "{outcome:?} {took}");
    }
    assert_eq!(answered(&front)?, before + 2);
    Ok(())
}

/// Never answered: resets, errors, what is for groups. And not more than the limit.
#[test]
fn not_everything_is_answered() -> Result<()> {
    let scene = Scene::new(CLOSED)?;
    let shop = &scene.shop;
    let (intruder, api) = (&shop.intruder, &shop.api);
    node(&scene.tree, "reject")?;
    let mut options = shop.back.daemon_options(scene.tree.path())?;
    options.extra.extend(["--reject-limit".into(), "5".into()]);
    let back = Daemon::start(&scene.lab, options)?;
    let hop = shop.intruder_hop()?;
    let (from, to) = (intruder.ip(false), api.ip(false));
    let reset = TcpFlags {
        rst: true,
        ..TcpFlags::default()
    };
    let denied = |daemon: &Daemon| daemon.metric("enforcer_verdicts_total", &["verdict=\"deny\""]);
    let before = denied(&back)?;
    let mut error = vec![3, 1, 0, 0, 0, 0, 0, 0];
    error.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]);
    error.extend([10, 77, 12, 2, 10, 77, 9, 2, 0, 7, 0, 8, 0, 8, 0, 0]);
    let frames = [
        hop.tcp((from, 40_000), (to, 9000), reset, &[]),
        hop.ip(from, to, IpNumber::ICMP, &with_checksum(error)),
    ];
    intruder.place.send_frames("eth0", &frames)?;
    let deadline = std::time::Instant::now() + patient(Duration::from_secs(5));
    while denied(&back)? < before + 2 {
        anyhow::ensure!(std::time::Instant::now() < deadline, "they do not arrive");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(answered(&back)?, 0);
    // A flood of openings: some are answered, the others counted.
    let syn = TcpFlags {
        syn: true,
        ..TcpFlags::default()
    };
    let frames: Vec<_> = (0..200)
        .map(|n| hop.tcp((from, 41_000 + n), (to, 9000), syn, &[]))
        .collect();
    intruder.place.send_frames("eth0", &frames)?;
    let lost =
        |daemon: &Daemon| daemon.metric("enforcer_events_lost_total", &["cause=\"reject-limit\""]);
    while lost(&back)? == 0 || answered(&back)? == 0 {
        anyhow::ensure!(std::time::Instant::now() < deadline, "nothing is limited");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(answered(&back)? < 200);
    Ok(())
}

/// The checksum of an ICMP message (RFC 792).
fn with_checksum(mut message: Vec<u8>) -> Vec<u8> {
    let words = message
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    let checksum = !u16::try_from(sum).expect("folded");
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    message
}
