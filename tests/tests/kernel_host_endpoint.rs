//! The host endpoint: what is addressed to the host itself, the ports that always stay open,
//! and sources that are dropped before anything else.

use std::time::Duration;

use anyhow::Result;
use tests::lab::{Daemon, Expect, FlowProtocol, Scene};

/// The host takes nothing but TCP 9000.
const CLOSED_HOST: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: host}
spec:
  selector: {host: true}
  ingress:
    - from: [{entity: any}]
      ports: [{protocol: TCP, port: 9000}]
";

#[test]
fn a_closed_host_keeps_its_failsafe_ports_and_its_workloads() -> Result<()> {
    let scene = Scene::new(CLOSED_HOST)?;
    let shop = &scene.shop;
    let host = shop.back.party()?;
    let _services = host.place.serve(&[22, 9000, 9100], &[9999])?;
    for port in [22, 9000, 9100] {
        scene.expect_tcp(&shop.intruder, &host, port, Expect::Open)?;
    }
    let _back = scene.enforce(&shop.back)?;
    scene.expect_tcp(&shop.intruder, &host, 22, Expect::Open)?;
    scene.expect_tcp(&shop.intruder, &host, 9000, Expect::Open)?;
    scene.expect_tcp(&shop.intruder, &host, 9100, Expect::Denied)?;
    scene.expect(
        &shop.intruder,
        &host,
        FlowProtocol::Udp,
        9999,
        Expect::Denied,
    )?;
    scene.expect(&shop.intruder, &host, FlowProtocol::Icmp, 0, Expect::Denied)?;
    // What is only forwarded, and what the host itself opens, is not the host's ingress.
    scene.expect_tcp(&shop.intruder, &shop.api, 5432, Expect::Open)?;
    scene.expect_tcp(&host, &shop.intruder, 9100, Expect::Open)?;
    scene.expect(&host, &shop.intruder, FlowProtocol::Udp, 9999, Expect::Open)?;
    scene.expect(&host, &shop.intruder, FlowProtocol::Icmp, 0, Expect::Open)?;
    Ok(())
}

#[test]
fn a_cgroup_workload_is_judged_by_itself_and_not_as_the_host() -> Result<()> {
    let scene = Scene::new(CLOSED_HOST)?;
    let shop = &scene.shop;
    scene.tree.write(
        "web.yaml",
        "\
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  ingress:
    - ports: [{protocol: TCP, port: 8080}, {protocol: UDP, port: 9999}]
",
    )?;
    let _front = scene.enforce(&shop.front)?;
    scene.expect_tcp(&shop.intruder, &shop.web, 8080, Expect::Open)?;
    scene.expect(
        &shop.intruder,
        &shop.web,
        FlowProtocol::Udp,
        9999,
        Expect::Open,
    )?;
    scene.expect_tcp(&shop.intruder, &shop.web, 9100, Expect::Denied)?;
    scene.expect(
        &shop.intruder,
        &shop.web,
        FlowProtocol::Icmp,
        0,
        Expect::Denied,
    )?;
    Ok(())
}

#[test]
fn failsafe_ports_can_be_turned_off() -> Result<()> {
    let scene = Scene::new(CLOSED_HOST)?;
    let shop = &scene.shop;
    let host = shop.back.party()?;
    let _services = host.place.serve(&[22, 9100], &[])?;
    scene.tree.write(
        "node.yaml",
        "\
apiVersion: enforcer.dev/v1alpha1
kind: Node
metadata: {name: back}
spec:
  failsafe:
    - {direction: ingress, protocol: TCP, port: 9100}
",
    )?;
    let _back = scene.enforce(&shop.back)?;
    scene.expect_tcp(&shop.intruder, &host, 9100, Expect::Open)?;
    scene.expect_tcp(&shop.intruder, &host, 22, Expect::Denied)?;
    Ok(())
}

#[test]
fn blocked_sources_are_dropped_at_the_uplink() -> Result<()> {
    let scene = Scene::new(CLOSED_HOST)?;
    let shop = &scene.shop;
    scene.expect_tcp(&shop.intruder, &shop.api, 9000, Expect::Open)?;
    scene.tree.write(
        "node.yaml",
        "\
apiVersion: enforcer.dev/v1alpha1
kind: Node
metadata: {name: back}
spec:
  blockedSources: [10.77.9.0/24, 'fd77:9::/64']
",
    )?;
    let back = scene.enforce(&shop.back)?;
    for v6 in [false, true] {
        let (from, to) = (shop.intruder.ip(v6), shop.api.ip(v6));
        shop.intruder
            .place
            .expect(FlowProtocol::Tcp, to, 9000, Expect::Denied)?;
        let record = back.wait_for_record(Duration::from_secs(5), |record| {
            record.source().address == Some(from)
        })?;
        assert_eq!(record.reason, "blocked", "{record:?}");
        let rule = record.rule.as_ref();
        assert!(rule.is_some_and(|rule| rule.line.is_some()), "{record:?}");
    }
    scene.expect_tcp(&shop.web, &shop.api, 9000, Expect::Open)?;
    scene.tree.remove("node.yaml")?;
    back.apply()?;
    scene.expect_tcp(&shop.intruder, &shop.api, 9000, Expect::Open)?;
    Ok(())
}

#[test]
fn a_failsafe_port_opens_the_host_to_blocked_sources_and_nothing_behind_it() -> Result<()> {
    let scene = Scene::new(CLOSED_HOST)?;
    let shop = &scene.shop;
    let host = shop.back.party()?;
    let _host = host.place.serve(&[22], &[])?;
    let _api = shop.api.place.serve(&[22], &[])?;
    scene.expect_tcp(&shop.intruder, &shop.api, 22, Expect::Open)?;
    scene.tree.write(
        "node.yaml",
        "\
apiVersion: enforcer.dev/v1alpha1
kind: Node
metadata: {name: back}
spec:
  blockedSources: [10.77.9.0/24, 'fd77:9::/64']
",
    )?;
    for xdp in ["on-demand", "off"] {
        let mut options = shop.back.daemon_options(scene.tree.path())?;
        options.extra = vec!["--xdp".to_owned(), xdp.to_owned()];
        let mut back = Daemon::start(&scene.lab, options)?;
        scene.expect_tcp(&shop.intruder, &host, 22, Expect::Open)?;
        scene.expect_tcp(&shop.intruder, &shop.api, 22, Expect::Denied)?;
        scene.expect_tcp(&shop.web, &shop.api, 22, Expect::Open)?;
        back.stop()?;
        back.detach()?;
        scene.expect_tcp(&shop.intruder, &shop.api, 22, Expect::Open)?;
    }
    Ok(())
}
