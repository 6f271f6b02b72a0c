//! A new deny reaches open connections within a second, and their owners see them die.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use enforcer::api::status::Status;
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

/// `web` to `api` by a port that looks like a client's, and nothing else of `api`.
const WEB_TO_HIGH: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: high, namespace: shop}
spec:
  selector: {matchLabels: {app: api}}
  ingress:
    - from: [{labels: {app: web}}]
      ports: [{protocol: TCP, port: 40000}]
  egress: []
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

#[test]
fn an_allowed_connection_whose_listener_is_gone_lives_on() -> Result<()> {
    let scene = Scene::new(WEB_TO_HIGH)?;
    let (web, api) = (&scene.shop.web, &scene.shop.api);
    // By its ports alone it looks as if `api` had opened it.
    let range = [("ipv4/ip_local_port_range", "20000 21000")];
    scene.shop.front.namespace.sysctl(&range)?;
    let daemon = scene.enforce(&scene.shop.back)?;
    let mut connections = Vec::new();
    for v6 in [false, true] {
        let at = (api.ip(v6), 40_000);
        let listener = api.place.enter(|| TcpListener::bind(at))??;
        let mut client = web.place.enter(|| TcpStream::connect(at))??;
        let (mut server, _) = listener.accept()?;
        for socket in [&client, &server] {
            socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        }
        exchange(&mut client, &mut server)?;
        connections.push((client, server));
    }
    let generation = daemon.ask_json::<Status>(&["status"])?.policy.generation;
    let another = WEB_TO_HIGH.replace("port: 40000}", "port: 40000}, {protocol: TCP, port: 40001}");
    scene.tree.write("policy.yaml", &another)?;
    daemon.wait_until(
        "the change is not in force",
        Duration::from_secs(10),
        || Ok(daemon.ask_json::<Status>(&["status"])?.policy.generation > generation),
    )?;
    // Longer than the daemon takes to end what is denied.
    std::thread::sleep(patient(Duration::from_millis(1500)));
    for (client, server) in &mut connections {
        exchange(client, server).with_context(|| daemon.log())?;
    }
    Ok(())
}

/// Something goes each way, and arrives.
fn exchange(one: &mut TcpStream, other: &mut TcpStream) -> Result<()> {
    one.write_all(b"?")?;
    other.read_exact(&mut [0])?;
    other.write_all(b"!")?;
    one.read_exact(&mut [0])?;
    Ok(())
}
