//! The SPIFFE Workload API: workloads get the identity that policy has for where they are, by
//! nothing but what the kernel says of them, and follow it for as long as they run. The client is
//! the `spiffe` crate.

use std::{
    fs,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use enforcer::{
    api::status::Status,
    identity::{
        attest::journal::{EventKind, SecurityEvent, Subject},
        bundle::{Bundle, Revoked},
        svid::{Svid, Usage},
        trust::{Trust, Trusted},
    },
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rustls_pki_types::UnixTime;
use tests::{
    lab::{
        Daemon, Expect, FlowProtocol, Place, Process, ProofScene, patient,
        pki::{DOMAIN, Identity, Pki, SERVER, trust_domain},
        shop::Host,
    },
    probe::workload_api::SvidEvent,
};

const WEB: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {cgroup: /shop/web, spiffeId: 'spiffe://example.org/web'}
";

const OTHERS: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: ledger, namespace: shop, labels: {app: ledger}}
spec: {unit: ledger.service, spiffeId: 'spiffe://example.org/ledger'}
---
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: store, namespace: shop, labels: {app: store}}
spec: {cgroup: /shop/store}
---
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: foreign, namespace: shop, labels: {app: foreign}}
spec: {cgroup: /shop/foreign, spiffeId: 'spiffe://example.com/foreign'}
---
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: node, namespace: shop, labels: {app: node}}
spec: {cgroup: /shop/node, spiffeId: 'spiffe://example.org/enforcer/node/front'}
---
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: api, namespace: shop, labels: {app: api}}
spec:
  interface: veth-api
  addresses: [10.77.12.2, 'fd77:12::2']
  spiffeId: spiffe://example.org/api
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
";

/// How long a message may take.
const MESSAGE: Duration = Duration::from_secs(20);

/// An SVID, as a workload has it.
#[derive(Clone)]
struct Shown {
    svid: Svid,
    roots: Vec<Vec<u8>>,
    domains: Vec<String>,
}

fn scene() -> Result<ProofScene> {
    ProofScene::new(&[("web.yaml", WEB), ("others.yaml", OTHERS)])
}

/// A daemon that issues; further flags.
fn start(scene: &ProofScene, host: &Host, flags: &[&str]) -> Result<Daemon> {
    let mut all = scene.issuing(host);
    all.extend(flags.iter().map(|flag| (*flag).to_owned()));
    scene.start(host, &all)
}

/// A workload that follows the API.
fn follow(scene: &ProofScene, host: &Host, place: &Place) -> Result<Process> {
    let socket = scene.socket(host).display().to_string();
    place.probe(&["svid", "--socket", &socket])
}

/// The next SVID, which must be a good one.
fn next(client: &mut Process) -> Result<Shown> {
    match client.event::<SvidEvent>(patient(MESSAGE))? {
        SvidEvent::Svid {
            spiffe_id,
            leaf,
            roots,
            domains,
        } => {
            let svid = Svid::parse(&[leaf.into()], Usage::Client)?;
            assert_eq!(svid.id().to_string(), spiffe_id);
            let bundle = roots.iter().cloned().map(Into::into).collect();
            let trusted = Trusted {
                bundle: Bundle::from_der(bundle)?,
                revoked: Revoked::default(),
                unknown_revoked: None,
            };
            let trust = Trust::new([(DOMAIN.parse()?, Arc::new(trusted))].into());
            for usage in [Usage::Client, Usage::Server] {
                trust.check(&svid, usage, UnixTime::now())?;
            }
            Ok(Shown {
                svid,
                roots,
                domains,
            })
        }
        SvidEvent::End { message } => bail!("no SVID: {message}"),
    }
}

/// Follows until there is an SVID as wanted.
fn next_where(client: &mut Process, wanted: impl Fn(&Shown) -> bool) -> Result<Shown> {
    let deadline = Instant::now() + patient(Duration::from_mins(1));
    loop {
        let shown = next(client)?;
        if wanted(&shown) {
            return Ok(shown);
        }
        anyhow::ensure!(Instant::now() < deadline, "it never came");
    }
}

/// Why there is no SVID (any more); those that come before are passed over.
fn end(client: &mut Process) -> Result<String> {
    let deadline = Instant::now() + patient(Duration::from_mins(1));
    loop {
        anyhow::ensure!(Instant::now() < deadline, "it has one for ever");
        if let SvidEvent::End { message } = client.event(patient(MESSAGE))? {
            return Ok(message);
        }
    }
}

fn refused(daemon: &Daemon, reason: &str) -> Result<u64> {
    daemon.refusals("workload_api", reason)
}

#[test]
fn each_workload_gets_its_own_svid_and_nobody_another_ones() -> Result<()> {
    let scene = scene()?;
    let (front, back) = (&scene.shop.front, &scene.shop.back);
    let other = Pki::new(&scene.lab, "other")?;
    let federated = trust_domain(&other.bundle(), &[]).replace(DOMAIN, "example.net");
    scene.tree.write("federated.yaml", &federated)?;
    let daemon = start(&scene, front, &[])?;

    let mut web = follow(&scene, front, &scene.shop.web.place)?;
    let shown = next_where(&mut web, |shown| shown.domains.len() == 2)?;
    assert_eq!(shown.svid.id().to_string(), "spiffe://example.org/web");
    assert_eq!(shown.domains, ["example.net", DOMAIN]);

    // A unit, from a cgroup below it that is made only now.
    let inside = front.place("/system.slice/ledger.service/worker")?;
    let mut ledger = follow(&scene, front, &inside)?;
    let ledgers = next(&mut ledger)?;
    assert_eq!(ledgers.svid.id().to_string(), "spiffe://example.org/ledger");
    // All processes of an endpoint have the same; another endpoint has another one.
    let mut second = follow(&scene, front, &scene.shop.web.place)?;
    assert_eq!(next(&mut second)?.svid.serial(), shown.svid.serial());
    assert_ne!(ledgers.svid.serial(), shown.svid.serial());
    let status: Status = daemon.ask_json(&["status"])?;
    let api = status.workload_api.context("not shown in status")?;
    assert_eq!((api.trust_domain.as_str(), api.streams), (DOMAIN, 3));

    for (place, reason) in [
        (front.place("/system")?, "no-endpoint"),
        (front.place("/shop/store")?, "no-spiffe-id"),
        (front.place("/shop/foreign")?, "foreign-id"),
        (front.place("/shop/node")?, "reserved-id"),
        // Of another host, although its socket is at hand.
        (scene.shop.intruder.place.clone(), "no-endpoint"),
    ] {
        let before = refused(&daemon, reason)?;
        let mut client = follow(&scene, front, &place)?;
        let message = end(&mut client)?;
        assert!(message.contains("ermission"), "{reason}: {message}");
        assert_eq!(refused(&daemon, reason)?, before + 1, "{reason}");
    }
    let events: Vec<SecurityEvent> = daemon.ask_json(&["identity", "events"])?;
    let of_api = events.iter().filter(|e| e.kind == Subject::WorkloadApi);
    let issued = of_api.clone().filter(|e| e.event == EventKind::Issue);
    assert_eq!(issued.count(), 2);
    let named = of_api.filter(|e| e.reason == "no-spiffe-id");
    assert_eq!(
        named.map(|e| e.workload.clone()).collect::<Vec<_>>(),
        [Some("shop/store".to_owned())]
    );

    // They are told where flow records are, too.
    let told = daemon.wait_for_event("the last refusal", |e| {
        e.kind == Subject::WorkloadApi && e.sequence == events.len() as u64
    })?;
    assert_eq!(told, events);

    // Behind an interface the network namespace says who it is.
    let _back = start(&scene, back, &[])?;
    let mut api = follow(&scene, back, &scene.shop.api.place)?;
    assert_eq!(
        next(&mut api)?.svid.id().to_string(),
        "spiffe://example.org/api"
    );
    let mut db = follow(&scene, back, &scene.shop.db.place)?;
    assert!(end(&mut db)?.contains("ermission"));
    Ok(())
}

#[test]
fn svids_roots_and_names_change_under_an_open_stream() -> Result<()> {
    let scene = scene()?;
    let front = &scene.shop.front;
    let daemon = start(&scene, front, &["--svid-lifetime", "8s"])?;
    let mut web = follow(&scene, front, &scene.shop.web.place)?;
    let first = next(&mut web)?;
    let second = next(&mut web)?;
    assert_ne!(first.svid.serial(), second.svid.serial());
    // The one from before is still good.
    first
        .svid
        .check_time(time::OffsetDateTime::now_utc().unix_timestamp())?;

    scene.pki.ca(&["rotate"])?;
    let prepared = next_where(&mut web, |shown| shown.roots.len() == 2)?;
    scene.pki.ca(&["rotate", "--activate"])?;
    let new_root = |shown: &Shown| {
        let old = Bundle::from_der(vec![prepared.roots[0].clone().into()]);
        let trusted = Trusted {
            bundle: old.expect("it was one before"),
            ..Trusted::default()
        };
        let domain = DOMAIN.parse().expect("a domain");
        let old = Trust::new([(domain, Arc::new(trusted))].into());
        old.check(&shown.svid, Usage::Client, UnixTime::now())
            .is_err()
    };
    assert!(!new_root(&prepared));
    next_where(&mut web, new_root)?;
    scene.pki.ca(&["rotate", "--retire"])?;
    next_where(&mut web, |shown| shown.roots.len() == 1)?;

    let renamed = WEB.replace("example.org/web", "example.org/shop-window");
    scene.tree.write("web.yaml", &renamed)?;
    next_where(&mut web, |shown| shown.svid.id().path() == "/shop-window")?;

    // Who runs there is nobody's concern any more.
    scene.tree.write("web.yaml", "")?;
    let message = end(&mut web)?;
    assert!(message.contains("ermission"), "{message}");
    daemon.wait_until("the stream is still counted", MESSAGE, || {
        Ok(daemon.metric("enforcer_workload_api_streams", &[])? == 0)
    })
}

#[test]
fn a_process_takes_no_identity_along_and_leaves_none_behind() -> Result<()> {
    let scene = scene()?;
    let front = &scene.shop.front;
    let daemon = start(&scene, front, &["--svid-lifetime", "8s"])?;
    let web = &scene.shop.web.place;

    // Into another workload, with an open stream.
    let ledger = front.place("/system.slice/ledger.service")?;
    let mut client = follow(&scene, front, web)?;
    next(&mut client)?;
    fs::write(
        ledger.cgroup().join("cgroup.procs"),
        client.pid().to_string(),
    )?;
    let message = end(&mut client)?;
    assert!(message.contains("ermission"), "{message}");
    assert_eq!(refused(&daemon, "moved")?, 1);

    // And to where nobody is.
    let mut client = follow(&scene, front, web)?;
    next(&mut client)?;
    let outside = front.place("/system")?;
    fs::write(
        outside.cgroup().join("cgroup.procs"),
        client.pid().to_string(),
    )?;
    end(&mut client)?;
    assert_eq!(refused(&daemon, "no-endpoint")?, 1);

    // A connection whose process ended before anybody looked is nobody's, whoever has it now.
    let daemon_pid = Pid::from_raw(i32::try_from(daemon.pid()?)?);
    kill(daemon_pid, Signal::SIGSTOP)?;
    let socket = scene.socket(front).display().to_string();
    let mut heir = web.probe(&["bequeath", "--socket", &socket])?;
    let child: i32 = heir.event(patient(MESSAGE))?;
    heir.wait(patient(MESSAGE))?;
    kill(daemon_pid, Signal::SIGCONT)?;
    daemon.wait_until("the heir was not refused", MESSAGE, || {
        Ok(refused(&daemon, "no-process")? == 1)
    })?;
    kill(Pid::from_raw(child), Signal::SIGKILL)?;
    Ok(())
}

/// What gRPC says to a request without a message; curl's trace has the trailers.
fn grpc_status(place: &Place, socket: &str, method: &str, headers: &[&str]) -> Result<String> {
    let mut command = place.command("curl")?;
    command
        .args([
            "--silent",
            "--show-error",
            "--http2-prior-knowledge",
            "--unix-socket",
            socket,
        ])
        .args(["--max-time", "20", "--output", "/dev/null"])
        .args(["--dump-header", "-", "--request", "POST"])
        .args(["-H", "content-type: application/grpc", "-H", "te: trailers"])
        .args(["--data-binary", "@-"]);
    for header in headers {
        command.args(["-H", header]);
    }
    command.arg(format!("http://localhost/{method}"));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("running curl (package curl)")?;
    // An empty message: not compressed, of no bytes.
    std::io::Write::write_all(&mut child.stdin.take().context("no stdin")?, &[0; 5])?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let status = text.lines().find_map(|l| l.strip_prefix("grpc-status: "));
    Ok(status
        .with_context(|| format!("no status: {output:?}"))?
        .trim()
        .to_owned())
}

#[test]
fn the_protocol_is_that_of_the_specification() -> Result<()> {
    let scene = scene()?;
    let front = &scene.shop.front;
    let daemon = start(&scene, front, &[])?;
    let (web, socket) = (&scene.shop.web.place, scene.socket(front));
    let socket = socket.to_str().context("a path")?;
    let header = ["workload.spiffe.io: true"];
    for method in ["FetchX509SVID", "FetchX509Bundles"] {
        let method = format!("SpiffeWorkloadAPI/{method}");
        for headers in [&[][..], &["workload.spiffe.io: false"]] {
            // INVALID_ARGUMENT
            assert_eq!(grpc_status(web, socket, &method, headers)?, "3", "{method}");
        }
        // PERMISSION_DENIED
        let nobody = front.place("/system")?;
        assert_eq!(grpc_status(&nobody, socket, &method, &header)?, "7");
    }
    assert_eq!(refused(&daemon, "no-header")?, 4);
    for method in ["FetchJWTSVID", "FetchJWTBundles", "ValidateJWTSVID"] {
        let method = format!("SpiffeWorkloadAPI/{method}");
        // UNIMPLEMENTED
        assert_eq!(grpc_status(web, socket, &method, &header)?, "12");
    }
    // Clients of gRPC in other languages have the socket's path for a host: as it is, or encoded.
    for host in [socket.to_owned(), socket.replace('/', "%2F")] {
        let host = format!("Host: {host}");
        let method = "SpiffeWorkloadAPI/FetchX509SVID";
        assert_eq!(grpc_status(web, socket, method, &[&host])?, "3", "{host}");
    }
    let mode = fs::metadata(socket)?.permissions();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777,
        0o666
    );
    Ok(())
}

#[test]
fn idle_connections_keep_nobody_out() -> Result<()> {
    const CONNECTIONS: usize = 2_000;
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, 20_000, 20_000)?;
    let scene = scene()?;
    let front = &scene.shop.front;
    let daemon = start(&scene, front, &[])?;
    let socket = scene.socket(front);
    // From this process, which is in no workload.
    let mut idle = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        idle.push(std::os::unix::net::UnixStream::connect(&socket)?);
    }
    daemon.wait_until("the flood was not cut", MESSAGE, || {
        Ok(refused(&daemon, "too-many-from-source")? >= 1_000)
    })?;
    let mut web = follow(&scene, front, &scene.shop.web.place)?;
    next(&mut web)?;
    drop(idle);
    Ok(())
}

#[test]
fn what_the_api_gives_is_proof_enough_to_attest() -> Result<()> {
    let scene = scene()?;
    let front = &scene.shop.front;
    scene.revoke(&[])?;
    let flags = scene.pki.daemon_flags("front")?;
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let web = &scene.shop.web.place;
    // There before the daemon is: a new cgroup is enrolled only some milliseconds after it appears.
    let store = front.place("/shop/store")?;
    let daemon = start(&scene, front, &flags)?;
    let _server = store.serve(&[7000], &[])?;
    let address = scene.shop.web.ip(false);
    web.expect(FlowProtocol::Tcp, address, 7000, Expect::Denied)?;

    let out = scene.lab.folder().join("from-the-api");
    let socket = scene.socket(front).display().to_string();
    let shown = out.display().to_string();
    let mut client = web.probe(&["svid", "--socket", &socket, "--out", &shown])?;
    let svid = next(&mut client)?.svid;
    for (kind, from, to) in [
        ("x509", "svid.der", "svid.pem"),
        ("pkey", "key.der", "svid.key"),
    ] {
        let done = Command::new("openssl")
            .args([kind, "-inform", "DER", "-in"])
            .arg(out.join(from))
            .arg("-out")
            .arg(out.join(to))
            .status()?;
        anyhow::ensure!(done.success(), "openssl {kind}");
    }
    let identity = Identity {
        certificate: out.join("svid.pem"),
        key: out.join("svid.key"),
        bundle: scene.pki.bundle(),
    };
    let url = "https://127.0.0.1:9465/v1/whoami";
    let (status, body) = identity.curl(web, url, &[])?;
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("spiffe://example.org/web"), "{body}");
    let done = identity.attest(web, SERVER, &[])?;
    anyhow::ensure!(done.status.success(), "{done:?}\n{}", daemon.log());
    web.expect(FlowProtocol::Tcp, address, 7000, Expect::Open)?;
    let events: Vec<SecurityEvent> = daemon.ask_json(&["identity", "events"])?;
    let bound = events.iter().find(|e| e.event == EventKind::Bind);
    let bound = bound.context("nothing was bound")?;
    assert_eq!(bound.serial, Some(svid.serial().to_string()));
    Ok(())
}
