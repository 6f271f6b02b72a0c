//! A workload's interface or cgroup goes and comes back.

use anyhow::Result;
use tests::lab::{
    Expect, Scene, cgroup,
    namespace::{End, cable},
};

const POLICY: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: api, namespace: shop}
spec:
  selector: {matchLabels: {app: api}}
  ingress:
    - from: [{labels: {app: web}}]
---
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  ingress: []
  egress: [{to: [{labels: {app: api}}]}]
";

#[test]
fn an_interface_vanishes_and_returns() -> Result<()> {
    let scene = Scene::new(POLICY)?;
    let shop = &scene.shop;
    let back = scene.enforce(&shop.back)?;
    assert!(back.endpoint("api")?.is_some());
    for round in 0..3 {
        scene.expect_tcp(&shop.web, &shop.api, 9000, Expect::Open)?;
        scene.expect_tcp(&shop.intruder, &shop.api, 9000, Expect::Denied)?;
        shop.back.namespace.ip(&["link del veth-api"])?;
        back.wait_for_endpoint("api", false)?;
        cable(
            &End {
                namespace: &shop.back.namespace,
                link: "veth-api",
                v4: [10, 77, 12, 1].into(),
                v6: [0xfd77, 0x12, 0, 0, 0, 0, 0, 1].into(),
            },
            &End {
                namespace: &shop.api_inside,
                link: "eth0",
                v4: shop.api.addresses.0,
                v6: shop.api.addresses.1,
            },
        )?;
        shop.api_inside.ip(&[
            "route add default via 10.77.12.1",
            "route add default via fd77:12::1",
        ])?;
        back.wait_for_endpoint("api", true)?;
        println!("round {round}");
    }
    scene.expect_tcp(&shop.web, &shop.api, 9000, Expect::Open)?;
    scene.expect_tcp(&shop.intruder, &shop.api, 9000, Expect::Denied)
}

#[test]
fn a_cgroup_vanishes_and_returns() -> Result<()> {
    let mut scene = Scene::new(POLICY)?;
    let front = scene.enforce(&scene.shop.front)?;
    for _ in 0..3 {
        let shop = &scene.shop;
        front.wait_for_endpoint("web", true)?;
        scene.expect_tcp(&shop.web, &shop.api, 9000, Expect::Open)?;
        scene.expect_tcp(&shop.web, &shop.db, 5432, Expect::Denied)?;
        scene.expect_tcp(&shop.intruder, &shop.web, 8080, Expect::Denied)?;
        let path = shop.web.place.cgroup().to_owned();
        // The first server is that of `web`.
        scene.servers.remove(0);
        cgroup::kill_all(&path)?;
        cgroup::remove(&path)?;
        front.wait_for_endpoint("web", false)?;
        cgroup::make(&path)?;
        let server = scene
            .shop
            .web
            .place
            .serve(&tests::lab::shop::TCP_PORTS, &[])?;
        scene.servers.insert(0, server);
    }
    front.wait_for_endpoint("web", true)?;
    let shop = &scene.shop;
    scene.expect_tcp(&shop.web, &shop.db, 5432, Expect::Denied)?;
    scene.expect_tcp(&shop.web, &shop.api, 9000, Expect::Open)
}
