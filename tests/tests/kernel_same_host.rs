//! Cgroup workloads of one host, who all have the same addresses, are told apart by their
//! sockets; nested cgroups belong to the nearest workload above.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use tests::lab::{
    Expect, FlowProtocol, Scene,
    shop::{Host, Party},
};

const POLICY: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: store, namespace: shop, labels: {app: store}}
spec: {cgroup: /shop/store}
---
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: guest, namespace: shop, labels: {app: guest}}
spec: {cgroup: /shop/guest}
---
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: inner, namespace: shop, labels: {app: inner}}
spec: {cgroup: /shop/web/inner}
---
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: store, namespace: shop}
spec:
  selector: {matchLabels: {app: store}}
  ingress:
    - from: [{labels: {app: web}}]
      ports: [{protocol: TCP, port: 19000}, {protocol: UDP, port: 19999}]
  egress: []
";

/// On the host that `api` is on, behind a link.
const BESIDE_API: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: clerk, namespace: shop, labels: {app: clerk}}
spec: {cgroup: /shop/clerk}
---
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: guest, namespace: shop, labels: {app: guest}}
spec: {cgroup: /shop/guest}
---
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: api-and-clerk, namespace: shop}
spec:
  selector: {matchLabels: {app: api}}
  ingress:
    - from: [{labels: {app: clerk}}]
      ports: [{protocol: TCP, port: 9100}, {protocol: UDP, port: 9999}]
";

fn party(host: &Host, path: &str, addresses: (Ipv4Addr, Ipv6Addr)) -> Result<Party> {
    Ok(Party {
        place: host.place(path)?,
        addresses,
    })
}

#[test]
fn neighbours_with_one_address_are_told_apart() -> Result<()> {
    let scene = Scene::new(POLICY)?;
    let host = &scene.shop.front;
    let loopback = (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
    for addresses in [loopback, host.addresses] {
        let store = party(host, "/shop/store", addresses)?;
        let web = party(host, "/shop/web", addresses)?;
        let nested = party(host, "/shop/web/worker/1", addresses)?;
        let inner = party(host, "/shop/web/inner", addresses)?;
        let guest = party(host, "/shop/guest", addresses)?;
        let system = party(host, "/system", addresses)?;
        // `web` holds the ports of the shop on this host already.
        let ports = (19_000, 19_999);
        let _server = store.place.serve(&[ports.0], &[ports.1])?;
        for from in [&web, &nested, &inner, &guest, &system] {
            scene.expect_tcp(from, &store, ports.0, Expect::Open)?;
        }
        let mut front = scene.enforce(host)?;
        for from in [&web, &nested] {
            scene.expect_tcp(from, &store, ports.0, Expect::Open)?;
            scene.expect(from, &store, FlowProtocol::Udp, ports.1, Expect::Open)?;
        }
        for from in [&inner, &guest, &system] {
            scene.expect_tcp(from, &store, ports.0, Expect::Denied)?;
            scene.expect(from, &store, FlowProtocol::Udp, ports.1, Expect::Denied)?;
        }
        front.stop()?;
        front.detach()?;
    }
    Ok(())
}

#[test]
fn a_workload_behind_a_link_knows_the_processes_of_its_host() -> Result<()> {
    let scene = Scene::new(BESIDE_API)?;
    let host = &scene.shop.back;
    let api = &scene.shop.api;
    let clerk = party(host, "/shop/clerk", host.addresses)?;
    let nested = party(host, "/shop/clerk/worker", host.addresses)?;
    let guest = party(host, "/shop/guest", host.addresses)?;
    let system = party(host, "/system", host.addresses)?;
    scene.expect_tcp(&guest, api, 9100, Expect::Open)?;
    let mut back = scene.enforce(host)?;
    for from in [&clerk, &nested] {
        scene.expect_tcp(from, api, 9100, Expect::Open)?;
        scene.expect(from, api, FlowProtocol::Udp, 9999, Expect::Open)?;
    }
    for from in [&guest, &system] {
        scene.expect_tcp(from, api, 9100, Expect::Denied)?;
        scene.expect(from, api, FlowProtocol::Udp, 9999, Expect::Denied)?;
    }
    back.stop()?;
    back.detach()
}
