//! A new deny reaches open connections within a second, and their owners see them die.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tests::lab::{
    Expect, Scene, patient,
    shop::{Host, Party},
    traffic::Holder,
};

const OPEN: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: open, namespace: shop}
spec:
  tier: baseline
  selector: {}
  ingress: [{}]
  egress: [{}]
";

/// A denial of everything between `web` and `api`, written at `subject` for `peer`.
fn deny(subject: &str, peer: &str, direction: &str, word: &str) -> String {
    format!(
        "\
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {{name: cut, namespace: shop}}
spec:
  tier: quarantine
  selector: {{matchLabels: {{app: {subject}}}}}
  {direction}:
    - action: deny
      {word}: [{{labels: {{app: {peer}}}}}]
"
    )
}

/// Opens connections from `client` to `server`, lets the host of the judging side enforce, adds
/// the denial there and waits for the deaths.
fn dies(choose: impl Fn(&Scene) -> (&Host, &Party, &Party), port: u16, denial: &str) -> Result<()> {
    let scene = Scene::new(OPEN)?;
    let (host, client, server) = choose(&scene);
    let daemon = scene.enforce(host)?;
    let busy = Some(Duration::from_millis(20));
    let mut holders: Vec<(&str, Holder)> = vec![
        ("busy v4", client.place.hold(server.v4(port), 2, busy)?),
        ("busy v6", client.place.hold(server.v6(port), 2, busy)?),
        ("idle v4", client.place.hold(server.v4(port), 2, None)?),
        ("idle v6", client.place.hold(server.v6(port), 2, None)?),
    ];
    std::thread::sleep(Duration::from_millis(300));
    for (name, holder) in &mut holders {
        holder.ensure_alive().context(*name)?;
    }
    scene.tree.write("cut.yaml", denial)?;
    let written = Instant::now();
    for (name, holder) in &mut holders {
        for _ in 0..2 {
            let death = holder
                .wait_for_death(Duration::from_secs(3))
                .with_context(|| format!("{name}\n{}", daemon.log()))?;
            let took = written.elapsed();
            assert!(
                took < patient(Duration::from_secs(1)),
                "{name} took {took:?}"
            );
            assert_ne!(death.error, "closed", "{name}");
            println!("{name}: {} after {took:?}", death.error);
        }
    }
    scene.expect_tcp(client, server, port, Expect::Denied)
}

#[test]
fn of_a_cgroup_that_is_the_client() -> Result<()> {
    dies(
        |s| (&s.shop.front, &s.shop.web, &s.shop.api),
        9000,
        &deny("web", "api", "egress", "to"),
    )
}

#[test]
fn of_a_cgroup_that_is_the_server() -> Result<()> {
    dies(
        |s| (&s.shop.front, &s.shop.api, &s.shop.web),
        8080,
        &deny("web", "api", "ingress", "from"),
    )
}

#[test]
fn of_a_veth_workload_that_is_the_client() -> Result<()> {
    dies(
        |s| (&s.shop.back, &s.shop.api, &s.shop.web),
        8080,
        &deny("api", "web", "egress", "to"),
    )
}

#[test]
fn of_a_veth_workload_that_is_the_server() -> Result<()> {
    dies(
        |s| (&s.shop.back, &s.shop.web, &s.shop.api),
        9000,
        &deny("api", "web", "ingress", "from"),
    )
}
