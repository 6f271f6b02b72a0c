//! Workloads that share the address of their host, as senders: their own host enforces what the
//! ingress of those elsewhere says of each of them, and the other host relies on it, as far as it
//! may.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use enforcer::{
    compile::image::RuleDirection,
    identity::attest::journal::{EventKind, Subject},
    observe::record::{FlowRecord, Verdict},
};
use tests::lab::{
    Daemon, Expect, FlowProtocol, Lab, Process,
    fleet::{self, Fleet, node, wait_for},
    patient,
    shop::{Host, Party, Shop},
};

const POLICY: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: service, namespace: shop}
spec:
  selector: {matchLabels: {kind: service}}
  ingress:
    - name: from-a
      from: [{labels: {app: a}, assurance: orchestrator}]
      ports: [8080/tcp]
    - name: proven
      from: [{labels: {app: a}, assurance: attested}]
      ports: [9000/tcp]
    - name: not-b
      action: deny
      from: [{labels: {app: b}}]
      ports: [5432/tcp]
    - name: everybody
      ports: [5432/tcp]
";

fn document(name: &str, kind: &str, spec: &str) -> String {
    fleet::document(name, &format!(", kind: {kind}"), spec)
}

const PORTS: [u16; 3] = [8080, 9000, 5432];

/// `a` and `b` in cgroups of `front`; on `back` a service in a cgroup, and one behind an
/// interface.
struct Scene {
    a: Party,
    b: Party,
    service: Party,
    servers: Vec<Process>,
    fleet: Fleet,
    shop: Shop,
    lab: Lab,
}

impl Scene {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let shop = Shop::build(&lab)?;
        let party = |host: &Host, path: &str| -> Result<Party> {
            Ok(Party {
                place: host.place(path)?,
                addresses: host.addresses,
            })
        };
        let mut scene = Self {
            a: party(&shop.front, "/shop/a")?,
            b: party(&shop.front, "/shop/b")?,
            service: party(&shop.back, "/shop/service")?,
            servers: Vec::new(),
            fleet: Fleet::start(&lab, &shop)?,
            shop,
            lab,
        };
        for server in [&scene.service, &scene.shop.api] {
            let server = server.place.serve(&PORTS, &[])?;
            scene.servers.push(server);
        }
        Ok(scene)
    }

    fn prepare(&self, host: &Host, workloads: &[String]) -> Result<Daemon> {
        let tree = Fleet::tree(&self.lab, host, workloads, POLICY)?;
        self.fleet.daemon(&self.lab, host, &tree, &[])
    }

    fn front(&self) -> Result<Daemon> {
        let a = document("a", "client", "cgroup: /shop/a");
        let b = document("b", "client", "cgroup: /shop/b");
        self.prepare(&self.shop.front, &[a, b])
    }

    fn back(&self) -> Result<Daemon> {
        let service = document("service", "service", "cgroup: /shop/service");
        let place = "interface: veth-api, addresses: [10.77.12.2, 'fd77:12::2']";
        let api = document("api", "service", place);
        self.prepare(&self.shop.back, &[service, api])
    }

    /// Both services.
    fn services(&self) -> [&Party; 2] {
        [&self.service, &self.shop.api]
    }

    fn expect(&self, from: &Party, port: u16, expect: Expect) -> Result<()> {
        for service in self.services() {
            for v6 in [false, true] {
                let to = service.ip(v6);
                from.place.expect(FlowProtocol::Tcp, to, port, expect)?;
            }
        }
        Ok(())
    }
}

fn start(daemon: &mut Daemon) -> Result<()> {
    daemon.launch()?;
    daemon.wait_ready()
}

/// Waits until both know each other: the clients as senders, the services by their ports.
fn acquainted(front: &Daemon, back: &Daemon) -> Result<()> {
    wait_for(front, "the services", |status| {
        node(status, "back").is_some_and(|back| back.services >= 2 * PORTS.len())
            && node(status, "front").is_some_and(|own| own.workloads == 2)
    })?;
    wait_for(back, "the clients", |status| {
        node(status, "front").is_some_and(|front| front.enforces && front.sharing == 2)
    })?;
    Ok(())
}

/// Denials of flows to a port.
fn denials(daemon: &Daemon, port: u16) -> Result<Vec<FlowRecord>> {
    let mut records = daemon.records()?;
    records.retain(|record| {
        record.verdict == Verdict::Deny && record.destination().port == Some(port)
    });
    Ok(records)
}

/// What denies a flow to a port first: policy, rule, whether ingress.
fn denied_by(daemon: &Daemon, from: &str, port: u16) -> Result<(String, String, bool)> {
    let record = daemon.wait_for_record(Duration::from_secs(5), |record| {
        record.verdict == Verdict::Deny
            && record.destination().port == Some(port)
            && record.source().name.as_deref() == Some(from)
    });
    let record = record.with_context(|| format!("the denial of {from} to port {port}"))?;
    let rule = record.rule.with_context(|| format!("{port}: no rule"))?;
    let ingress = rule.direction == Some(RuleDirection::Ingress);
    Ok((rule.policy, rule.name, ingress))
}

#[test]
fn the_sending_host_enforces_the_ingress_of_the_other() -> Result<()> {
    let scene = Scene::new()?;
    let host = scene.shop.front.party()?;
    for from in [&scene.a, &scene.b, &host, &scene.shop.intruder] {
        scene.expect(from, 8080, Expect::Open)?;
    }
    let mut back = scene.back()?;
    start(&mut back)?;
    // A host of which nobody has heard, and who is behind it, is nobody.
    for from in [&scene.a, &scene.b] {
        scene.expect(from, 8080, Expect::Denied)?;
    }
    let mut front = scene.front()?;
    start(&mut front)?;
    acquainted(&front, &back)?;

    scene.expect(&scene.a, 8080, Expect::Open)?;
    scene.expect(&scene.a, 5432, Expect::Open)?;
    let before = denials(&back, 8080)?.len() + denials(&back, 5432)?.len();
    for port in [8080, 5432] {
        scene.expect(&scene.b, port, Expect::Denied)?;
    }
    // Nor the host's own processes, behind the same address.
    scene.expect(&host, 8080, Expect::Denied)?;
    scene.expect(&host, 5432, Expect::Open)?;
    // It is denied before it leaves, by what denies it there.
    let named = |policy: &str, rule: &str| (policy.to_owned(), rule.to_owned(), true);
    ensure!(denied_by(&front, "b", 8080)? == named("service", "isolation"));
    ensure!(denied_by(&front, "b", 5432)? == named("service", "not-b"));
    let after = denials(&back, 8080)?.len() + denials(&back, 5432)?.len();
    ensure!(before == after, "{before} denials before, {after} after");

    // The word of another host is no proof.
    scene.expect(&scene.a, 9000, Expect::Denied)?;
    ensure!(denied_by(&front, "a", 9000)? == named("service", "isolation"));
    let explained = |daemon: &Daemon, flow: String, words: [&str; 2]| -> Result<()> {
        let told = daemon.ask(&["explain", &flow])?;
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        for words in words {
            ensure!(told.contains(words), "{flow}: {words}: {told}");
        }
        Ok(())
    };
    let flow = format!("shop/a -> {}:9000/tcp", scene.service.ip(false));
    let words = ["ingress of the other end", "assurance orchestrator only"];
    explained(&front, flow, words)?;
    let flow = format!("{} -> shop/service:8080/tcp", scene.a.ip(false));
    explained(&back, flow, ["=> allow from-a", "share its addresses"])?;
    // Strangers stay strangers.
    scene.expect(&scene.shop.intruder, 8080, Expect::Denied)?;
    scene.expect(&scene.shop.scraper, 8080, Expect::Denied)?;

    // A host that only reports enforces nothing for others.
    front.stop()?;
    front.options().mode = Some("audit");
    start(&mut front)?;
    wait_for(&back, "the host does not enforce", |status| {
        node(status, "front").is_some_and(|front| !front.enforces)
    })?;
    for from in [&scene.a, &scene.b] {
        scene.expect(from, 8080, Expect::Denied)?;
    }
    Ok(())
}

#[test]
fn a_port_that_nobody_knows_yet_is_open_to_nobody() -> Result<()> {
    let mut scene = Scene::new()?;
    let (mut back, mut front) = (scene.back()?, scene.front()?);
    start(&mut back)?;
    start(&mut front)?;
    acquainted(&front, &back)?;
    let port = scene.service.v4(8080);
    let open = |from: &Party| {
        from.place
            .expect(FlowProtocol::Tcp, port.ip(), 8080, Expect::Open)
    };
    open(&scene.a)?;
    // The service is begun anew, again and again: at no time does the other one get in.
    for _ in 0..3 {
        drop(scene.servers.remove(0));
        wait_for(&front, "the port is gone", |status| {
            node(status, "back").is_none_or(|back| back.services == 0)
        })?;
        let server = scene.service.place.serve(&PORTS, &[])?;
        scene.servers.insert(0, server);
        let deadline = Instant::now() + patient(Duration::from_secs(3));
        let known = |status: &enforcer::registry::status::FleetStatus| {
            node(status, "back").is_some_and(|back| back.services > 0)
        };
        let mut tries = 0;
        while tries < 5 || Instant::now() < deadline {
            let attempt = scene
                .b
                .place
                .expect(FlowProtocol::Tcp, port.ip(), 8080, Expect::Denied);
            attempt.context("a port that is new")?;
            tries += 1;
            if tries >= 5 && known(&fleet::status(&front)?) {
                break;
            }
        }
        wait_for(&front, "the port is known", known)?;
        open(&scene.a)?;
    }
    Ok(())
}

#[test]
fn a_port_of_two_workloads_is_neithers() -> Result<()> {
    let mut scene = Scene::new()?;
    scene.servers.clear();
    let service = scene.service.place.serve_sharing(&[8080])?;
    let mut front = scene.front()?;
    let twin = document("twin", "service", "cgroup: /shop/twin");
    let place = document("service", "service", "cgroup: /shop/service");
    let mut back = scene.prepare(&scene.shop.back, &[place, twin])?;
    for daemon in [&mut front, &mut back] {
        let flags = daemon.flow_log_flags();
        daemon.options().extra.extend(flags);
        start(daemon)?;
    }
    let known = |behind: bool| {
        wait_for(&front, "the port", move |status| {
            node(status, "back").is_some_and(|back| (back.services > 0) == behind)
        })?;
        // What others know of it, it hears in the same way.
        wait_for(&back, "the clients", move |status| {
            let own = node(status, "back");
            node(status, "front").is_some_and(|front| front.sharing == 2)
                && own.is_some_and(|own| own.contested_ports.is_empty() == behind)
        })
    };
    let port = scene.service.v4(8080);
    let is = |from: &Party, expect| {
        from.place
            .expect(FlowProtocol::Tcp, port.ip(), 8080, expect)
    };
    known(true)?;
    is(&scene.a, Expect::Open)?;
    is(&scene.b, Expect::Denied)?;

    // Another one at the same port: the kernel gives each of them some of the connections.
    let twin = scene.shop.back.place("/shop/twin")?;
    let server = twin.serve_sharing(&[8080])?;
    let status = known(false)?;
    let own = node(&status, "back").context("its own")?;
    ensure!(
        own.contested_ports[0].contains("shop/service and shop/twin"),
        "{own:?}"
    );
    let told = |daemon: &Daemon, event: EventKind, reason: &'static str| {
        daemon.wait_for_event(reason, move |e| {
            (e.kind, e.event, e.reason.as_str()) == (Subject::Fleet, event, reason)
                && e.nodes == ["back"]
                && !e.addresses.is_empty()
        })
    };
    for daemon in [&front, &back] {
        told(daemon, EventKind::Contest, "port-of-several")?;
    }
    // Whoever sends there is not asked by his own host whether he may, since that takes the
    // port for the host's: so nobody is let in by the other one on that ground.
    for _ in 0..20 {
        is(&scene.b, Expect::Denied)?;
    }
    is(&scene.a, Expect::Denied)?;

    drop(server);
    known(true)?;
    for daemon in [&front, &back] {
        told(daemon, EventKind::Settle, "port-of-one")?;
    }
    is(&scene.a, Expect::Open)?;
    is(&scene.b, Expect::Denied)?;
    drop(service);
    Ok(())
}
