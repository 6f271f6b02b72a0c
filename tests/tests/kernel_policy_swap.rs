//! Policy is replaced again and again under traffic: no packet meets half a policy.

use std::{fmt::Write as _, time::Duration};

use anyhow::Result;
use tests::lab::{Expect, FlowProtocol, Scene, traffic::is_short};

/// Policies that all allow `web` to `api` by TCP 9000 and deny the rest, and share nothing
/// else: other names, other numbers of rules, other shapes of the port tables.
fn variant(number: usize) -> String {
    let mut ports = String::new();
    for extra in 0..number % 7 {
        let first = 10_000 + 97 * (number % 50) + 13 * extra;
        let _ = write!(
            ports,
            ", {{protocol: TCP, port: {first}, endPort: {}}}",
            first + extra
        );
    }
    let wide = if number.is_multiple_of(3) {
        "    - from: [{cidr: 192.0.2.0/24}, {labels: {app: nobody}}]\n"
    } else {
        ""
    };
    format!(
        "\
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {{name: api-{number}, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: api}}}}
  ingress:
{wide}    - name: web-{number}
      from: [{{labels: {{app: web}}}}]
      ports: [{{protocol: TCP, port: 9000}}{ports}]
  egress: []
---
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {{name: web-{number}, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  ingress: []
  egress:
    - to: [{{labels: {{app: api}}}}]
      ports: [{{protocol: TCP, port: 9000}}{ports}]
"
    )
}

#[test]
fn replaced_a_thousand_times_under_traffic() -> Result<()> {
    let scene = Scene::new(&variant(0))?;
    let shop = &scene.shop;
    let (web, api, db, intruder) = (&shop.web, &shop.api, &shop.db, &shop.intruder);
    scene.expect_tcp(intruder, api, 9000, Expect::Open)?;
    scene.expect_tcp(web, db, 5432, Expect::Open)?;
    let daemons = [scene.enforce(&shop.front)?, scene.enforce(&shop.back)?];

    let busy = Some(Duration::from_millis(5));
    let held = [
        web.place.hold(api.v4(9000), 4, busy)?,
        web.place.hold(api.v6(9000), 4, busy)?,
    ];
    let patient = Duration::from_secs(10);
    let hasty = Duration::from_millis(50);
    let pause = Duration::from_millis(5);
    let allowed = web
        .place
        .churn(FlowProtocol::Tcp, api.v4(9000), 2, patient, pause)?;
    let denied = [
        intruder
            .place
            .churn(FlowProtocol::Tcp, api.v4(9000), 4, hasty, pause)?,
        intruder
            .place
            .churn(FlowProtocol::Udp, api.v6(9999), 2, hasty, pause)?,
        web.place
            .churn(FlowProtocol::Tcp, db.v4(5432), 2, hasty, pause)?,
        web.place
            .churn(FlowProtocol::Tcp, api.v6(2222), 2, hasty, pause)?,
    ];

    let first: Vec<u64> = daemons.iter().map(generation).collect::<Result<_>>()?;
    // Two hosts: a thousand changes in all.
    let rounds = if is_short() { 25 } else { 500 };
    let start = std::time::Instant::now();
    for number in 1..=rounds {
        scene.tree.write("policy.yaml", &variant(number))?;
        for daemon in &daemons {
            daemon.apply()?;
        }
    }
    for (daemon, first) in daemons.iter().zip(first) {
        let raised = generation(daemon)? - first;
        assert!(raised >= rounds as u64, "only {raised} changes");
    }
    println!("{rounds} changes on two hosts in {:?}", start.elapsed());

    for churner in denied {
        let summary = churner.stop()?;
        assert_eq!(summary.open, 0, "denied flows were answered: {summary:?}");
        assert!(!summary.failed.is_empty());
    }
    let summary = allowed.stop()?;
    assert!(
        summary.failed.is_empty(),
        "allowed flows failed: {summary:?}"
    );
    assert!(summary.open > rounds as u64, "{summary:?}");
    for holder in held {
        let summary = holder.stop()?;
        assert_eq!((summary.alive, summary.deaths.len()), (4, 0), "{summary:?}");
    }
    Ok(())
}

fn generation(daemon: &tests::lab::Daemon) -> Result<u64> {
    let status: serde_json::Value = daemon.ask_json(&["status"])?;
    status["policy"]["generation"]
        .as_u64()
        .ok_or_else(|| anyhow::anyhow!("no generation in {status}"))
}
