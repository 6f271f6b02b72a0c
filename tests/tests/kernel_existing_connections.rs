//! Enforcement starts on a host with open connections: none that policy allows is cut,
//! whichever side opened it; those that it denies are.

use std::time::Duration;

use anyhow::Result;
use tests::lab::{Expect, Scene, patient, traffic::Holder};

/// `api` may be reached by `web` on 9000, reaches `db` on 5432 and `web` on 8080. The intruder
/// may reach `web` on 8080. Everything else of the four is denied.
const POLICY: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: api, namespace: shop}
spec:
  selector: {matchLabels: {app: api}}
  ingress:
    - from: [{labels: {app: web}}]
      ports: [{protocol: TCP, port: 9000}]
  egress:
    - to: [{labels: {app: db}}]
      ports: [{protocol: TCP, port: 5432}, {protocol: TCP, port: 40000}]
    - to: [{labels: {app: web}}]
      ports: [{protocol: TCP, port: 8080}]
---
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: db, namespace: shop}
spec:
  selector: {matchLabels: {app: db}}
  ingress:
    - from: [{labels: {app: api}}]
      ports: [{protocol: TCP, port: 5432}, {protocol: TCP, port: 40000}]
  egress: []
---
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  ingress:
    - from: [{entity: world}, {labels: {app: api}}]
      ports: [{protocol: TCP, port: 8080}]
  egress:
    - to: [{labels: {app: api}}]
      ports: [{protocol: TCP, port: 9000}]
";

#[test]
fn allowed_connections_live_and_denied_ones_die() -> Result<()> {
    let scene = Scene::new(POLICY)?;
    let shop = &scene.shop;
    // Both ports of a connection to it are in the range of ephemeral ports.
    let _high = shop.db.place.serve(&[40_000], &[])?;
    let allowed = [
        (&shop.web, &shop.api, 9000),
        (&shop.api, &shop.web, 8080),
        (&shop.api, &shop.db, 5432),
        (&shop.api, &shop.db, 40_000),
        (&shop.intruder, &shop.web, 8080),
    ];
    let denied = [
        (&shop.intruder, &shop.db, 5432),
        (&shop.web, &shop.db, 5432),
        (&shop.db, &shop.api, 9000),
        (&shop.web, &shop.intruder, 9000),
    ];
    let busy = Some(Duration::from_millis(10));
    let mut living: Vec<(String, Holder)> = Vec::new();
    let mut dying: Vec<(String, Holder)> = Vec::new();
    for (list, flows) in [(&mut living, &allowed[..]), (&mut dying, &denied[..])] {
        for (from, to, port) in flows {
            for (address, every) in [
                (to.v4(*port), busy),
                (to.v6(*port), busy),
                (to.v4(*port), None),
                (to.v6(*port), None),
            ] {
                let name = format!("{} -> {address}, every {every:?}", from.name());
                list.push((name, from.place.hold(address, 1, every)?));
            }
        }
    }

    let daemons = shop.start_daemons(&scene.lab, scene.tree.path())?;
    std::thread::sleep(Duration::from_secs(2));
    for (name, holder) in &mut living {
        if let Err(error) = holder.ensure_alive() {
            panic!("{name}: {error}");
        }
    }
    for (name, holder) in &mut dying {
        match holder.wait_for_death(Duration::from_secs(5)) {
            Ok(death) => assert_ne!(death.error, "closed", "{name}"),
            Err(error) => panic!("{name} lives on: {error}"),
        }
    }
    for (name, holder) in living {
        let summary = holder.stop()?;
        assert_eq!((summary.alive, summary.deaths.len()), (1, 0), "{name}");
        assert!(
            summary.longest < patient(Duration::from_secs(1)),
            "{name} {summary:?}"
        );
    }
    for (from, to, port) in denied {
        scene.expect_tcp(from, to, port, Expect::Denied)?;
    }
    drop(daemons);
    Ok(())
}
