//! The long-running `enforcer attest`, and to whom a proof belongs in the end.

use std::{
    collections::BTreeSet,
    net::TcpListener,
    os::unix::net::UnixDatagram,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tests::lab::{
    Daemon, Expect, FlowProtocol, Place, Process, ProofScene, patient,
    pki::{Identity, SERVER, URL},
    place::program,
};

const TREE: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {cgroup: /shop/web, spiffeId: 'spiffe://example.org/web'}
---
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: inner, namespace: shop, labels: {app: inner}}
spec: {cgroup: /shop/web/inner, spiffeId: 'spiffe://example.org/inner'}
---
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: store, namespace: shop, labels: {app: store}}
spec: {cgroup: /shop/store}
---
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: store, namespace: shop}
spec:
  selector: {matchLabels: {app: store}}
  ingress:
    - name: proven
      from: [{spiffeId: 'spiffe://example.org/web', assurance: attested}]
      ports: [7000/tcp]
---
";

struct Scene {
    daemon: Daemon,
    ground: ProofScene,
}

impl Scene {
    fn new() -> Result<Self> {
        Self::with(|_| Vec::new())
    }

    /// With a Workload API of this host's own authority; further flags.
    fn with_workload_api(flags: &[&str]) -> Result<Self> {
        Self::with(|ground| {
            let mut all = ground.issuing(&ground.shop.front);
            all.extend(flags.iter().map(|flag| (*flag).to_owned()));
            all
        })
    }

    fn with(flags: impl FnOnce(&ProofScene) -> Vec<String>) -> Result<Self> {
        let ground = ProofScene::trusting(&[("tree.yaml", TREE)])?;
        let front = &ground.shop.front;
        let flags = [ground.pki.daemon_flags(front.name)?, flags(&ground)].concat();
        Ok(Self {
            daemon: ground.start(front, &flags)?,
            ground,
        })
    }

    /// The agent at a place, with what the Workload API says.
    fn attest_from_api(&self, place: &Place) -> Result<Command> {
        let socket = self.ground.socket(&self.ground.shop.front);
        let mut command = place.command(program("enforcer")?)?;
        command
            .args(["attest", "--server", SERVER, "--identity-from"])
            .arg(format!("unix://{}", socket.display()))
            .stdin(Stdio::null());
        Ok(command)
    }

    fn web(&self) -> &Place {
        &self.ground.shop.web.place
    }

    /// Serial number of the certificate that is bound there.
    fn serial(&self, name: &str) -> Result<String> {
        let attested = self
            .daemon
            .endpoint(name)?
            .and_then(|endpoint| endpoint.attested);
        Ok(attested
            .with_context(|| format!("{name} is not attested"))?
            .serial)
    }

    /// The store, which runs from now on, and is an endpoint when this returns.
    fn serve_store(&self) -> Result<Process> {
        let server = self
            .ground
            .shop
            .front
            .place("/shop/store")?
            .serve(&[7000], &[])?;
        self.daemon.wait_for_endpoint("store", true)?;
        Ok(server)
    }

    fn store_is(&self, from: &Place, expect: Expect) -> Result<()> {
        let store = self.ground.shop.web.ip(false);
        from.expect(FlowProtocol::Tcp, store, 7000, expect)?;
        Ok(())
    }

    fn refused(&self, reason: &str) -> Result<u64> {
        self.daemon.refusals("attestation", reason)
    }
}

/// The agent, with whoever is told that it is ready.
struct Agent {
    child: Child,
    manager: UnixDatagram,
}

impl Agent {
    fn start(scene: &Scene, identity: &Identity, flags: &[&str]) -> Result<Self> {
        let mut command = identity.attest_command(scene.web(), SERVER)?;
        command.args(flags);
        Self::start_command(scene, command)
    }

    fn start_command(scene: &Scene, mut command: Command) -> Result<Self> {
        let path = scene.ground.lab.folder().join("notify");
        let _ = std::fs::remove_file(&path);
        let manager = UnixDatagram::bind(&path)?;
        let child = command
            .env("NOTIFY_SOCKET", &path)
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self { child, manager })
    }

    /// What the service manager is told next.
    fn hears(&self, within: Duration) -> Result<String> {
        self.manager.set_read_timeout(Some(patient(within)))?;
        let mut bytes = [0; 4096];
        let length = self.manager.recv(&mut bytes).context("nothing was told")?;
        Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
    }

    fn terminate(&mut self) -> Result<()> {
        kill(Pid::from_raw(self.child.id().try_into()?), Signal::SIGTERM)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "{status:?}");
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_agent_says_when_it_is_ready_and_renews_before_a_lease_ends() -> Result<()> {
    let scene = Scene::new()?;
    let _server = scene.serve_store()?;
    let identity = scene.ground.pki.issue("web", &[])?;
    scene.store_is(scene.web(), Expect::Denied)?;
    let mut agent = Agent::start(&scene, &identity, &["--lease", "4s"])?;
    let told = agent.hears(Duration::from_secs(10))?;
    ensure!(told.starts_with("READY=1\n"), "{told}");
    ensure!(
        told.contains("spiffe://example.org/web is proven"),
        "{told}"
    );
    // Whoever waited for that gets through, and what it opens lives through every renewal.
    scene.store_is(scene.web(), Expect::Open)?;
    let address = scene.ground.shop.web.v4(7000);
    let mut held = scene
        .web()
        .hold(address, 1, Some(Duration::from_millis(50)))?;
    for _ in 0..4 {
        let told = agent.hears(Duration::from_secs(10))?;
        ensure!(
            told.starts_with("STATUS=spiffe://example.org/web"),
            "{told}"
        );
        ensure!(scene.daemon.assurance("web")? == "attested");
    }
    held.ensure_alive()?;
    // Asked to stop, it takes its proof back.
    agent.terminate()?;
    scene.daemon.wait_for_assurance("web", "kernel")?;
    held.wait_for_death(Duration::from_secs(10))?;
    scene.store_is(scene.web(), Expect::Denied)?;
    Ok(())
}

#[test]
fn the_agent_takes_new_files_up_without_a_gap() -> Result<()> {
    let scene = Scene::new()?;
    let _server = scene.serve_store()?;
    let identity = scene.ground.pki.issue("web", &[])?;
    let old = identity.serial()?;
    let mut agent = Agent::start(&scene, &identity, &["--keep"])?;
    agent.hears(Duration::from_secs(10))?;
    let address = scene.ground.shop.web.v4(7000);
    let mut held = scene
        .web()
        .hold(address, 1, Some(Duration::from_millis(50)))?;
    // Long before its lease ends: the files say so.
    let renewed = scene.ground.pki.issue("web", &[])?;
    ensure!(renewed.certificate == identity.certificate && renewed.serial()? != old);
    let told = agent.hears(Duration::from_secs(10))?;
    ensure!(told.contains("is proven"), "{told}");
    // The old certificate is worth nothing any more, and nobody notices.
    scene.ground.revoke(&[&old])?;
    std::thread::sleep(Duration::from_secs(2));
    held.ensure_alive()?;
    ensure!(scene.daemon.assurance("web")? == "attested");
    // Told to leave the proof to its lease.
    agent.terminate()?;
    ensure!(scene.daemon.assurance("web")? == "attested");
    scene.store_is(scene.web(), Expect::Open)?;
    Ok(())
}

#[test]
fn the_agent_follows_the_workload_api_without_a_gap() -> Result<()> {
    let scene = Scene::with_workload_api(&["--svid-lifetime", "10s"])?;
    let _server = scene.serve_store()?;
    scene.store_is(scene.web(), Expect::Denied)?;
    let command = scene.attest_from_api(scene.web())?;
    let mut agent = Agent::start_command(&scene, command)?;
    let told = agent.hears(Duration::from_secs(20))?;
    ensure!(told.starts_with("READY=1\n"), "{told}");
    scene.store_is(scene.web(), Expect::Open)?;
    let address = scene.ground.shop.web.v4(7000);
    let mut held = scene
        .web()
        .hold(address, 1, Some(Duration::from_millis(50)))?;
    // What is open outlives several SVIDs, each proven with before the one before it ends.
    let mut serials = BTreeSet::from([scene.serial("web")?]);
    let deadline = Instant::now() + patient(Duration::from_mins(1));
    while serials.len() < 4 {
        ensure!(Instant::now() < deadline, "{serials:?}");
        std::thread::sleep(Duration::from_millis(100));
        serials.insert(scene.serial("web")?);
    }
    held.ensure_alive()?;
    agent.terminate()?;
    scene.daemon.wait_for_assurance("web", "kernel")?;
    held.wait_for_death(Duration::from_secs(10))?;
    Ok(())
}

#[test]
fn what_a_new_root_signs_is_proven_with_at_once() -> Result<()> {
    // The lease alone would ask for nothing new for half an hour.
    let scene = Scene::with_workload_api(&["--svid-lifetime", "1h"])?;
    let _server = scene.serve_store()?;
    let command = scene.attest_from_api(scene.web())?;
    let agent = Agent::start_command(&scene, command)?;
    agent.hears(Duration::from_secs(20))?;
    let address = scene.ground.shop.web.v4(7000);
    let mut held = scene
        .web()
        .hold(address, 1, Some(Duration::from_millis(50)))?;
    let before = scene.serial("web")?;
    scene.ground.pki.ca(&["rotate"])?;
    scene.ground.pki.ca(&["rotate", "--activate"])?;
    // The daemon shows one by the new root, too.
    scene.ground.pki.daemon_flags("front")?;
    let deadline = Instant::now() + patient(Duration::from_secs(20));
    while scene.serial("web")? == before {
        ensure!(Instant::now() < deadline, "{}", scene.daemon.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    // What the old root signed is worth nothing now, and nobody notices.
    scene.ground.pki.ca(&["rotate", "--retire"])?;
    std::thread::sleep(Duration::from_secs(2));
    held.ensure_alive()?;
    ensure!(scene.daemon.assurance("web")? == "attested");
    Ok(())
}

#[test]
fn whom_the_workload_api_does_not_know_is_told_so() -> Result<()> {
    let scene = Scene::with_workload_api(&[])?;
    let once = |place: &Place| -> Result<Output> {
        let mut command = scene.attest_from_api(place)?;
        Ok(command.args(["--once", "--timeout", "3s"]).output()?)
    };
    let output = once(&scene.ground.shop.front.place("/shop/store")?)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(3), "{output:?}");
    ensure!(said.contains("PermissionDenied"), "{said}");
    ensure!(scene.refused("no-certificate")? == 0);
    let output = once(scene.web())?;
    ensure!(output.status.success(), "{output:?}");
    scene.daemon.wait_for_assurance("web", "attested")?;
    Ok(())
}

#[test]
fn nobody_there_is_told_apart_from_nobody_who_answers() -> Result<()> {
    let ground = ProofScene::new(&[])?;
    let identity = ground.pki.issue("web", &[])?;
    let web = &ground.shop.web.place;
    let once = || identity.attest(web, SERVER, &[]);
    let output = once()?;
    ensure!(output.status.code() == Some(3), "{output:?}");
    // The kernel takes the connection, and that is all.
    let listener = web.enter(|| TcpListener::bind(SERVER))??;
    let output = once()?;
    ensure!(output.status.code() == Some(4), "{output:?}");
    drop(listener);
    Ok(())
}

#[test]
fn a_proof_is_the_cgroups_whatever_is_executed_in_it() -> Result<()> {
    let scene = Scene::new()?;
    let _server = scene.serve_store()?;
    let identity = scene.ground.pki.issue("web", &[])?;
    let connect = format!("exec 3<>/dev/tcp/{}/7000", scene.ground.shop.web.ip(false));
    let run = |script: String| -> Result<bool> {
        let mut command = scene.web().command("timeout")?;
        let output = command.args(["5", "bash", "-c", &script]).output()?;
        Ok(output.status.success())
    };
    ensure!(!run(connect.clone())?, "open without a proof");
    let shown = |file: &std::path::Path| file.display().to_string();
    let attest = format!(
        "curl -s --fail -X POST --cert {} --key {} --cacert {} {URL}",
        shown(&identity.certificate),
        shown(&identity.key),
        shown(&identity.bundle),
    );
    // The same process becomes another program, which has the identity all the same; so does
    // every other process of the cgroup. SECURITY.md says so.
    ensure!(run(format!("{attest} && exec bash -c '{connect}'"))?);
    scene.store_is(scene.web(), Expect::Open)?;
    // Not outside of it, nor inside where somebody else is.
    let outside = scene.ground.shop.front.place("system")?;
    scene.store_is(&outside, Expect::Denied)?;
    let inner = scene.ground.shop.front.place("/shop/web/inner")?;
    scene.daemon.wait_for_assurance("inner", "kernel")?;
    scene.store_is(&inner, Expect::Denied)?;
    Ok(())
}

#[test]
fn the_nearest_endpoint_is_the_one_that_is_proven() -> Result<()> {
    let scene = Scene::new()?;
    let inner = scene.ground.shop.front.place("/shop/web/inner")?;
    let deeper = scene.ground.shop.front.place("/shop/web/inner/deeper")?;
    let beside = scene.ground.shop.front.place("/shop/web/beside")?;
    let web = scene.ground.pki.issue("web", &[])?;
    let own = scene.ground.pki.issue("inner", &[])?;
    scene.daemon.wait_for_assurance("inner", "kernel")?;
    // Below an endpoint, but nearer to another one.
    let before = scene.refused("wrong-workload")?;
    for place in [&inner, &deeper] {
        let refused = web.attest(place, SERVER, &[])?;
        ensure!(refused.status.code() == Some(1), "{refused:?}");
    }
    ensure!(scene.refused("wrong-workload")? == before + 2);
    ensure!(own.attest(&deeper, SERVER, &[])?.status.success());
    ensure!(
        scene.daemon.assurance("inner")? == "attested"
            && scene.daemon.assurance("web")? == "kernel"
    );
    // Below it, and nearer to none.
    ensure!(web.attest(&beside, SERVER, &[])?.status.success());
    ensure!(scene.daemon.assurance("web")? == "attested");

    // A process that has proven itself outside and goes inside is the other one's then.
    let mut agent = Agent::start(&scene, &web, &["--lease", "600s"])?;
    agent.hears(Duration::from_secs(10))?;
    let procs = inner.cgroup().join("cgroup.procs");
    std::fs::write(procs, agent.child.id().to_string())?;
    scene.daemon.wait_for_assurance("web", "kernel")?;
    agent.child.kill()?;
    Ok(())
}
