//! Three hosts that learn of each other through etcd: what one of them runs is known on the
//! others, for as long as it lives, and nobody can speak for another.

use std::{
    thread,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use enforcer::{
    identity::attest::journal::{EventKind, Subject},
    registry::{
        node_identity::{NodeIdentity, node_id},
        record::NodeRecord,
        signed::{milliseconds, sign, verify},
    },
};
use tests::lab::{
    Daemon, Expect, FlowProtocol, Lab, Process, Tree,
    fleet::{self, Fleet, LEASE, TRUST_DOMAIN, document, node, wait_for},
    provider::Provider,
    shop::{Host, Party, Shop},
};

const POLICY: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  egress:
    - name: to-api
      to: [{labels: {app: api}, assurance: orchestrator}]
      ports: [8080/tcp]
    - name: to-scraper
      to: [{labels: {app: scraper}}]
---
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: db, namespace: shop}
spec:
  selector: {matchLabels: {app: db}}
  egress:
    - name: to-scraper
      to: [{labels: {app: scraper}}]
";

const WEB: (&str, &str) = ("web", "cgroup: /shop/web");
const API: (&str, &str) = (
    "api",
    "interface: veth-api, addresses: [10.77.12.2, 'fd77:12::2']",
);
const DB: (&str, &str) = (
    "db",
    "interface: veth-db, addresses: [10.77.22.2, 'fd77:22::2']",
);
const SCRAPER: (&str, &str) = ("scraper", "cgroup: /shop/scraper");

struct Scene {
    servers: Vec<Process>,
    fleet: Fleet,
    shop: Shop,
    lab: Lab,
}

impl Scene {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let shop = Shop::build(&lab)?;
        Ok(Self {
            servers: Vec::new(),
            fleet: Fleet::start(&lab, &shop)?,
            shop,
            lab,
        })
    }

    fn tree(&self, host: &Host, workloads: &[(&str, &str)]) -> Result<Tree> {
        let documents = workloads.iter();
        let documents = documents.map(|(name, spec)| document(name, "", spec));
        Fleet::tree(&self.lab, host, &documents.collect::<Vec<_>>(), POLICY)
    }

    fn prepare(&self, host: &Host, workloads: &[(&str, &str)], extra: &[&str]) -> Result<Daemon> {
        let tree = self.tree(host, workloads)?;
        self.fleet.daemon(&self.lab, host, &tree, extra)
    }

    fn start(&self, host: &Host, workloads: &[(&str, &str)], extra: &[&str]) -> Result<Daemon> {
        let mut daemon = self.prepare(host, workloads, extra)?;
        daemon.launch()?;
        daemon.wait_ready()?;
        Ok(daemon)
    }

    fn serve(&mut self, party: &Party, port: u16) -> Result<()> {
        self.servers.push(party.place.serve(&[port], &[])?);
        Ok(())
    }

    /// A record that is in the registry, as whoever has the fleet's roots reads it.
    fn read(&self, name: &str) -> Result<NodeRecord> {
        let bytes = self.fleet.record(name)?;
        let reader = fleet::of_files(self.fleet.svid("reader")?);
        let now = SystemTime::now();
        Ok(verify(&bytes, name, TRUST_DOMAIN, &reader, None, now)?)
    }
}

/// Tries TCP over IPv4 and IPv6.
fn expect(from: &Party, to: &Party, port: u16, expect: Expect) -> Result<()> {
    for v6 in [false, true] {
        from.place
            .expect(FlowProtocol::Tcp, to.ip(v6), port, expect)?;
    }
    Ok(())
}

/// Waits until a host knows so many workloads elsewhere.
fn knows(daemon: &Daemon, workloads: usize) -> Result<()> {
    let what = format!("{workloads} workloads elsewhere");
    wait_for(daemon, &what, |status| {
        status.connected && status.workloads == workloads
    })?;
    Ok(())
}

#[test]
fn a_workload_is_known_elsewhere_for_as_long_as_its_host_lives() -> Result<()> {
    let mut scene = Scene::new()?;
    let (web, api) = (scene.shop.web.clone(), scene.shop.api.clone());
    scene.serve(&api, 8080)?;
    scene.serve(&api, 9000)?;
    expect(&web, &api, 8080, Expect::Open)?;
    let front = scene.start(&scene.shop.front, &[WEB], &[])?;
    wait_for(&front, "it is published", |s| s.published && s.known == 1)?;
    // No document says who is there.
    expect(&web, &api, 8080, Expect::Denied)?;

    let mut back = scene.start(&scene.shop.back, &[API], &[])?;
    knows(&front, 1)?;
    expect(&web, &api, 8080, Expect::Open)?;
    expect(&web, &api, 9000, Expect::Denied)?;
    let denied = front.wait_for_record(Duration::from_secs(5), |record| {
        record.destination().address == Some(api.ip(false))
            && record.destination().port == Some(9000)
    })?;
    let name = denied.destination().name.clone();
    ensure!(name.as_deref() == Some("api"), "{denied:?}");
    // One workload more on a host that is known already.
    let tree = scene.tree(&scene.shop.back, &[API, DB])?;
    drop(tree);
    knows(&front, 2)?;

    // It dies: what it said ends with its lease. Until then it holds.
    back.kill()?;
    expect(&web, &api, 8080, Expect::Open)?;
    wait_for(&front, "the node is gone", |s| node(s, "back").is_none())?;
    expect(&web, &api, 8080, Expect::Denied)?;
    back.launch()?;
    back.wait_ready()?;
    knows(&front, 2)?;
    expect(&web, &api, 8080, Expect::Open)?;

    // A daemon that is started again within its lease was never away.
    back.stop()?;
    back.launch()?;
    back.wait_ready()?;
    thread::sleep(LEASE * 2);
    let status = fleet::status(&front)?;
    ensure!(node(&status, "back").is_some(), "{status:#?}");
    let metric = front.metric("enforcer_fleet_nodes", &[])?;
    ensure!(metric == 2, "{metric}");
    Ok(())
}

#[test]
fn a_nodes_identity_may_come_from_a_provider_and_outlives_it() -> Result<()> {
    let mut scene = Scene::new()?;
    let (web, api) = (scene.shop.web.clone(), scene.shop.api.clone());
    scene.serve(&api, 8080)?;
    let back = scene.start(&scene.shop.back, &[API], &[])?;
    let socket = scene.lab.folder().join("provider.sock");
    let id = node_id(TRUST_DOMAIN, "front");
    let nodes = &scene.fleet.nodes;
    let svid = nodes.svid("provided", &id)?;
    let provider = Provider::start(&socket, &id, &svid, &nodes.root())?;
    let from = format!("unix://{}", socket.display());
    let flags = ["--identity-from", &from];
    let mut front = scene.start(&scene.shop.front, &[WEB], &flags)?;
    // It hears, and is heard.
    knows(&front, 1)?;
    expect(&web, &api, 8080, Expect::Open)?;
    wait_for(&back, "the other node is known", |s| {
        node(s, "front").is_some()
    })?;
    let status = fleet::status(&front)?;
    ensure!(status.spiffe_id == id, "{status:#?}");

    // Without the provider it starts with what that said last: whom it knows, it knows on.
    front.stop()?;
    drop(provider);
    front.launch()?;
    front.wait_ready()?;
    expect(&web, &api, 8080, Expect::Open)?;
    let status = fleet::status(&front)?;
    ensure!(status.workloads == 1, "{status:#?}");
    // What is new is believed too; the own record needs the key, which nobody kept.
    scene.tree(&scene.shop.back, &[API, DB])?;
    knows(&front, 2)?;
    wait_for(&front, "it says what is missing", |s| {
        s.publish_problem
            .as_ref()
            .is_some_and(|p| p.contains("provider"))
    })?;
    let _provider = Provider::start(&socket, &id, &svid, &scene.fleet.nodes.root())?;
    wait_for(&front, "it is published again", |s| s.published)?;
    Ok(())
}

#[test]
fn a_port_of_a_shared_address_tells_who_is_behind() -> Result<()> {
    let mut scene = Scene::new()?;
    let shop = scene.shop.clone();
    let (web, db, scraper) = (&shop.web, &shop.db, &shop.scraper);
    let host = shop.ops.party()?;
    scene.serve(&host, 2222)?;
    let server = scraper.place.serve(&[9100], &[])?;
    for port in [9100, 2222] {
        expect(web, scraper, port, Expect::Open)?;
    }
    let front = scene.start(&shop.front, &[WEB], &[])?;
    let back = scene.start(&shop.back, &[DB], &[])?;
    expect(web, scraper, 9100, Expect::Denied)?;
    let ops = scene.start(&shop.ops, &[SCRAPER], &[])?;
    for daemon in [&front, &back] {
        wait_for(daemon, "the port is known", |status| {
            node(status, "ops").is_some_and(|ops| ops.services > 0)
        })?;
    }
    // At cgroup hooks (web) and at an interface (db): the scraper's port, and no other one.
    for party in [web, db] {
        expect(party, scraper, 9100, Expect::Open)?;
        expect(party, scraper, 2222, Expect::Denied)?;
    }
    // It listens no more.
    drop(server);
    wait_for(&front, "the port is known no more", |status| {
        node(status, "ops").is_none_or(|ops| ops.services == 0)
    })?;
    scene.serve(&host, 9100)?;
    expect(web, scraper, 9100, Expect::Denied)?;
    drop(ops);
    Ok(())
}

#[test]
fn nobody_can_speak_for_another_node() -> Result<()> {
    let mut scene = Scene::new()?;
    let (web, api) = (scene.shop.web.clone(), scene.shop.api.clone());
    scene.serve(&api, 8080)?;
    let mut front = scene.prepare(&scene.shop.front, &[WEB], &[])?;
    let mut back = scene.prepare(&scene.shop.back, &[API], &[])?;
    for daemon in [&mut front, &mut back] {
        let flags = daemon.flow_log_flags();
        daemon.options().extra.extend(flags);
        daemon.launch()?;
        daemon.wait_ready()?;
    }
    knows(&front, 1)?;
    expect(&web, &api, 8080, Expect::Open)?;
    let refused = |reason: &'static str, count: u64| {
        wait_for(&front, reason, move |s| {
            s.refusals.get(reason) >= Some(&count)
        })
    };
    // Its owner puts its own record back each time.
    let healed = |times: u64| {
        wait_for(&back, "it is put back", move |s| {
            s.counts.overwritten >= times
        })
    };

    // An old record of the node itself.
    let old = scene.fleet.record("back")?;
    let before = scene.read("back")?;
    scene.tree(&scene.shop.back, &[API, DB])?;
    knows(&front, 2)?;
    scene.fleet.publish("back", old.clone())?;
    refused("replayed", 1)?;
    healed(1)?;
    // It is counted before it is there.
    let mut after = scene.read("back")?;
    while after.workloads.len() < 2 {
        thread::sleep(Duration::from_millis(50));
        after = scene.read("back")?;
    }
    ensure!(after.sequence > before.sequence);

    // Another node's name, by a node of the fleet: by its own key, under its victim's name, and
    // the other way round.
    let ops = fleet::of_files(scene.fleet.svid("ops")?);
    let ops_svid = ops.svid().context("its identity")?;
    let now = milliseconds(SystemTime::now());
    let mut forged = NodeRecord {
        sequence: now + 100_000,
        issued: now,
        expires: now + 600_000,
        ..after.clone()
    };
    forged.workloads[0].name = "forged".to_owned();
    let bytes = sign(&forged, &ops_svid)?;
    scene.fleet.publish("back", bytes.clone())?;
    refused("other-node", 1)?;
    healed(2)?;
    scene.fleet.publish("ops", bytes.clone())?;
    refused("other-node", 2)?;

    // A changed record under the old signature.
    let mut changed = scene.fleet.record("back")?;
    while changed == bytes {
        thread::sleep(Duration::from_millis(50));
        changed = scene.fleet.record("back")?;
    }
    let at = changed.windows(3).position(|bytes| bytes == b"api");
    changed[at.context("no workload in it")?] = b'A';
    scene.fleet.publish("back", changed)?;
    refused("signature", 1)?;
    healed(3)?;
    // And by somebody whom nobody trusts, of the same name.
    let stranger = tests::lab::authority::Authority::new(&scene.lab.folder().join("stranger"))?;
    let files = stranger.svid("back", &node_id(TRUST_DOMAIN, "back"))?;
    let stranger = fleet::of_files(enforcer::registry::settings::NodeIdentitySettings {
        certificate: files.certificate,
        key: files.key,
        bundle: stranger.root(),
    });
    scene
        .fleet
        .publish("back", sign(&forged, &stranger.svid()?)?)?;
    refused("untrusted", 1)?;
    healed(4)?;
    // Each of that is a security event where flow records are.
    for reason in ["replayed", "other-node", "signature", "untrusted"] {
        front.wait_for_event(reason, |e| {
            (e.kind, e.event, e.reason.as_str()) == (Subject::Fleet, EventKind::Refuse, reason)
                && e.published_as.as_deref() == Some("back")
                && e.node == "front"
        })?;
    }
    back.wait_for_event("it is put back", |e| {
        (e.kind, e.event) == (Subject::Fleet, EventKind::Restore)
    })?;
    let status = fleet::status(&front)?;
    ensure!(status.workloads == 2, "{status:#?}");
    expect(&web, &api, 8080, Expect::Open)?;

    // A node that claims another's address does not get it; the two together have none.
    let mut thief = NodeRecord {
        node: "ops".to_owned(),
        sequence: now,
        ..forged
    };
    thief.addresses = vec![scene.shop.ops.addresses.0.into()];
    thief.workloads.retain(|w| w.name == "forged");
    scene.fleet.publish("ops", sign(&thief, &ops_svid)?)?;
    let status = wait_for(&front, "it is contested", |s| s.contested == 2)?;
    ensure!(node(&status, "back").is_some_and(|back| back.contested.len() == 2));
    expect(&web, &api, 8080, Expect::Denied)?;
    let output = front.ask(&["status", "--check"])?;
    ensure!(!output.status.success(), "{output:?}");
    let told = |event: EventKind| {
        front.wait_for_event(event.name(), move |e| {
            (e.kind, e.event) == (Subject::Fleet, event)
                && e.nodes == ["back", "ops"]
                && e.addresses.len() == 2
        })
    };
    let events = told(EventKind::Contest)?;
    ensure!(events.iter().all(|e| e.event != EventKind::Settle));
    // Until it lets go.
    thief.sequence += 1;
    thief.workloads.clear();
    scene.fleet.publish("ops", sign(&thief, &ops_svid)?)?;
    wait_for(&front, "it is not contested any more", |s| s.contested == 0)?;
    told(EventKind::Settle)?;
    let settled = ["event=\"settle\"", "reason=\"claims-ended\""];
    ensure!(front.metric("enforcer_fleet_events_total", &settled)? == 1);
    expect(&web, &api, 8080, Expect::Open)?;
    Ok(())
}

#[test]
fn without_the_registry_what_is_known_holds_for_its_time() -> Result<()> {
    let mut scene = Scene::new()?;
    let (web, api) = (scene.shop.web.clone(), scene.shop.api.clone());
    scene.serve(&api, 8080)?;
    let mut front = scene.start(&scene.shop.front, &[WEB], &["--fleet-keep", "40s"])?;
    let flags = ["--fleet-keep", "10s", "--fleet-afterwards", "keep"];
    let back = scene.start(&scene.shop.back, &[API], &flags)?;
    knows(&front, 1)?;
    knows(&back, 1)?;
    expect(&web, &api, 8080, Expect::Open)?;

    // One member of three is no loss.
    scene.fleet.etcd.kill(0)?;
    scene.tree(&scene.shop.back, &[API, DB])?;
    knows(&front, 2)?;
    scene.fleet.etcd.launch(0)?;
    scene.fleet.etcd.wait()?;

    // All of them: nothing is lost, also not by a daemon that is started meanwhile.
    for member in 0..3 {
        scene.fleet.etcd.kill(member)?;
    }
    wait_for(&front, "it is not heard", |status| !status.connected)?;
    expect(&web, &api, 8080, Expect::Open)?;
    front.kill()?;
    front.launch()?;
    front.wait_ready()?;
    expect(&web, &api, 8080, Expect::Open)?;
    let status = fleet::status(&front)?;
    ensure!(!status.connected && status.workloads == 2, "{status:#?}");
    // Until its time is over.
    wait_for(&front, "it is forgotten", |status| {
        status.counts.forgotten == 1 && status.workloads == 0
    })?;
    expect(&web, &api, 8080, Expect::Denied)?;
    let output = front.ask(&["status", "--check"])?;
    ensure!(!output.status.success(), "{output:?}");

    // Or for good, where the operator says so.
    let status = wait_for(&back, "its time is over too", |status| {
        !status.connected && status.kept_milliseconds == Some(0)
    })?;
    ensure!(
        status.workloads == 1 && status.counts.forgotten == 0,
        "{status:#?}"
    );

    for member in 0..3 {
        scene.fleet.etcd.launch(member)?;
    }
    scene.fleet.etcd.wait()?;
    knows(&front, 2)?;
    expect(&web, &api, 8080, Expect::Open)?;
    Ok(())
}

#[test]
fn a_watcher_that_missed_what_is_not_kept_lists_anew() -> Result<()> {
    let mut scene = Scene::new()?;
    let (web, api) = (scene.shop.web.clone(), scene.shop.api.clone());
    scene.serve(&api, 8080)?;
    let front = scene.start(&scene.shop.front, &[WEB], &[])?;
    let _back = scene.start(&scene.shop.back, &[], &[])?;
    wait_for(&front, "the other node", |s| s.connected && s.known == 2)?;
    let listings = fleet::status(&front)?.counts.listings;
    let cut = || -> Result<()> {
        scene.shop.router.ip(&["link set to-front down"])?;
        wait_for(&front, "it is not heard", |status| !status.connected)?;
        Ok(())
    };
    let mend = || {
        scene.shop.router.ip(&[
            "link set to-front up".to_owned(),
            // IPv6 addresses go with the link.
            "addr replace fd77:1::1/64 dev to-front nodad".to_owned(),
        ])
    };
    let published = |workloads: usize| -> Result<()> {
        while scene.read("back")?.workloads.len() < workloads {
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    };
    // A watch that was lost goes on where it ended.
    cut()?;
    scene.tree(&scene.shop.back, &[DB])?;
    published(1)?;
    mend()?;
    let status = wait_for(&front, "it goes on", |status| {
        status.connected && status.workloads == 1
    })?;
    ensure!(status.counts.watches_lost > 0, "{status:#?}");
    ensure!(status.counts.listings == listings, "{status:#?}");

    // What happens meanwhile is compacted away.
    cut()?;
    scene.tree(&scene.shop.back, &[API, DB])?;
    let known = scene.fleet.list()?.revision;
    published(2)?;
    scene.fleet.publish("nobody", b"noise".to_vec())?;
    let revision = scene.fleet.list()?.revision;
    ensure!(revision > known);
    scene
        .fleet
        .etcd
        .ctl("root", &["compact", &revision.to_string()])?;
    mend()?;
    let status = wait_for(&front, "it lists anew", |status| {
        status.connected && status.workloads == 2
    })?;
    ensure!(status.counts.compacted > 0, "{status:#?}");
    ensure!(status.counts.listings > listings, "{status:#?}");
    expect(&web, &api, 8080, Expect::Open)?;
    Ok(())
}

/// The roles of docs/fleet.md: a node's credential changes its own record, and no other one.
#[test]
fn with_roles_a_node_writes_its_own_record_and_no_other() -> Result<()> {
    let scene = Scene::new()?;
    let ctl = |arguments: &[&str]| scene.fleet.etcd.ctl("root", arguments);
    ctl(&["role", "add", "enforcer-reader"])?;
    let read = "role grant-permission enforcer-reader read /enforcer/nodes/ --prefix";
    ctl(&read.split(' ').collect::<Vec<_>>())?;
    // As lab clients are called.
    for node in ["front", "back"] {
        let user = format!("client-{node}");
        ctl(&["role", "add", &user])?;
        let key = format!("/enforcer/nodes/{node}");
        ctl(&["role", "grant-permission", &user, "readwrite", &key])?;
        ctl(&["user", "add", &user, "--no-password"])?;
        ctl(&["user", "grant-role", &user, "enforcer-reader"])?;
        ctl(&["user", "grant-role", &user, &user])?;
    }
    ctl(&["user", "add", "root", "--no-password"])?;
    ctl(&["user", "grant-role", "root", "root"])?;
    ctl(&["auth", "enable"])?;

    let front = scene.start(&scene.shop.front, &[WEB], &[])?;
    let back = scene.start(&scene.shop.back, &[API], &[])?;
    knows(&front, 1)?;
    wait_for(&back, "the other node", |s| s.connected && s.known == 2)?;
    // What a stolen credential of a node may do.
    let etcd = &scene.fleet.etcd;
    let stolen = |arguments: &[&str]| etcd.ctl("client-front", arguments);
    stolen(&["get", "/enforcer/nodes/back"])?;
    for forbidden in [
        &["put", "/enforcer/nodes/back", "x"][..],
        &["del", "/enforcer/nodes/back"],
        &["del", "/enforcer/nodes/", "--prefix"],
        &["put", "/enforcer/nodes/frontier", "x"],
        &["put", "/elsewhere", "x"],
        &["role", "add", "more"],
    ] {
        let refused = stolen(forbidden).expect_err("it was let");
        let refused = refused.to_string();
        ensure!(
            refused.contains("permission denied"),
            "{forbidden:?}: {refused}"
        );
    }
    let status = fleet::status(&back)?;
    ensure!(status.counts.overwritten == 0, "{status:#?}");
    // Its own it may.
    stolen(&["put", "/enforcer/nodes/front", "x"])?;
    wait_for(&front, "it is put back", |s| s.counts.overwritten == 1)?;
    // A user that nobody made reads nothing.
    let stranger = etcd.ctl("client-stranger", &["get", "/enforcer/nodes/back"]);
    ensure!(stranger.is_err(), "{stranger:?}");
    Ok(())
}
