//! Attestation: proofs a second of the daemon's CPU, and how long one takes, beside a bare
//! handshake of the same library with the same certificates (the floor) and OpenSSL's server (the
//! peer). One client drives all three in turns, each time by a connection of its own. Then what
//! many bindings cost in memory.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Child, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use enforcer::api::status::EndpointStatus;
use nix::{
    time::{ClockId, clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, Stream,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};

use super::{Options, change::kilobytes, figure::AttestFigure, fleet::link, median, progress};
use crate::lab::{
    Daemon, DaemonOptions, Lab, Namespace, Place, Tree,
    pki::{Identity, Pki, trust_domain},
};

/// Connections in one turn.
const PROOFS: u32 = 50;
const HOST: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 1);
const DAEMON: u16 = 9_465;
const FLOOR: u16 = 9_466;
const PEER: u16 = 9_467;
/// How long a server may take to listen.
const PATIENCE: Duration = Duration::from_secs(20);
/// Cgroups that are each proven once.
const BINDINGS: usize = 1_000;
/// Longer than memory that is not in use is kept.
const REST: Duration = Duration::from_secs(3);

const TREE: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: work, namespace: shop, labels: {app: work}}
spec:
  interface: veth-work
  addresses: [10.98.0.2]
  spiffeId: spiffe://example.org/work
---
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: many, namespace: shop, labels: {app: many}}
spec: {cgroup: '/many/*', spiffeId: 'spiffe://example.org/many'}
";

/// Measures.
pub fn measure(options: &Options) -> Result<Vec<AttestFigure>> {
    progress("attestation");
    let lab = Lab::new()?;
    let (host, work) = (lab.namespace("host")?, lab.namespace("work")?);
    link(&host, "veth-work", &work, 98)?;
    let pki = Pki::new(&lab, "pki")?;
    let server = pki.issue("node/bench", &["--ip", "10.98.0.1"])?;
    let client = Client::new(&pki.issue("work", &[])?)?;

    let tree = Tree::empty(&lab, "policies")?;
    tree.write("tree.yaml", TREE)?;
    tree.write("trust.yaml", &trust_domain(&pki.bundle(), &[]))?;
    let text = |path: &std::path::Path| path.display().to_string();
    let mut daemon = Daemon::start(
        &lab,
        DaemonOptions {
            name: "bench".to_owned(),
            place: Place::new("daemon", &host, lab.cgroup("daemon")?)?,
            cgroup_root: lab.cgroup("host")?,
            uplinks: vec!["none".to_owned()],
            policies: tree.path().to_owned(),
            mode: Some("enforce"),
            extra: vec![
                "--metrics".to_owned(),
                "off".to_owned(),
                "--attest".to_owned(),
                format!("{HOST}:{DAEMON}"),
                "--svid".to_owned(),
                text(&server.certificate),
                "--svid-key".to_owned(),
                text(&server.key),
            ],
        },
    )?;
    let floor_cpu = Arc::new(AtomicU64::new(0));
    bare_server(&host, &server, &floor_cpu)?;
    let peer_place = Place::new("peer", &host, lab.cgroup("peer")?)?;
    let peer = Peer::start(&peer_place, &server, &lab.folder())?;

    let (daemon_pid, peer_pid) = (daemon.pid()?, peer.0.id());
    let measured = [
        Target {
            port: DAEMON,
            request: "POST /v1/attest HTTP/1.1\r\nHost: bench\r\nContent-Length: 0\r\n\
                      Connection: close\r\n\r\n",
            cpu: &|| cpu_of(daemon_pid),
        },
        Target {
            port: FLOOR,
            request: "GET /answer HTTP/1.0\r\n\r\n",
            cpu: &|| Ok(floor_cpu.load(Ordering::Relaxed)),
        },
        Target {
            port: PEER,
            request: "GET /answer HTTP/1.0\r\n\r\n",
            cpu: &|| cpu_of(peer_pid),
        },
    ];
    let mut cpu = [const { Vec::new() }; 3];
    let mut times = [const { Vec::new() }; 3];
    // A turn that is not counted comes first: everybody listens, and the proof is bound.
    for turn in 0..=options.turns {
        for (index, target) in measured.iter().enumerate() {
            if turn == 0 {
                work.enter(|| client.wait_for(target))??;
                continue;
            }
            let before = (target.cpu)()?;
            for _ in 0..PROOFS {
                let took = work.enter(|| client.ask(target))??;
                times[index].push(took.as_secs_f64() * 1e3);
            }
            let spent = (target.cpu)()? - before;
            cpu[index].push(spent as f64 / f64::from(PROOFS) / 1e3);
        }
    }
    let per_binding = memory(&lab, &host, &daemon, &pki.issue("many", &[])?)?;
    daemon.stop()?;
    daemon.detach()?;
    drop(peer);
    let [ours, floor, peer] = cpu.map(median);
    let shown = |what: &str, unit: &str, values: [f64; 3]| AttestFigure {
        what: what.to_owned(),
        unit: unit.to_owned(),
        ours: values[0],
        floor: Some(values[1]),
        peer: Some(values[2]),
    };
    let sorted = times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times
    });
    let at = |share: usize| {
        sorted
            .each_ref()
            .map(|times| times[(times.len() * share / 100).min(times.len() - 1)])
    };
    Ok(vec![
        shown(
            "proofs a second of one core",
            "1/s",
            [ours, floor, peer].map(|cpu| 1e6 / cpu),
        ),
        shown("CPU of the server for each", "µs", [ours, floor, peer]),
        shown("time of one, p50", "ms", at(50)),
        shown("time of one, p99", "ms", at(99)),
        AttestFigure {
            what: format!("memory (RSS) of each of {BINDINGS} bindings"),
            unit: "bytes".to_owned(),
            ours: per_binding,
            floor: None,
            peer: None,
        },
    ])
}

/// Bytes by which the daemon grows for each cgroup that is proven.
fn memory(lab: &Lab, host: &Namespace, daemon: &Daemon, identity: &Identity) -> Result<f64> {
    progress(&format!("{BINDINGS} bindings"));
    let places = (0..BINDINGS).map(|number| {
        let name = format!("many-{number:04}");
        Place::new(&name, host, lab.cgroup(&format!("host/many/{number:04}"))?)
    });
    let places: Vec<Place> = places.collect::<Result<_>>()?;
    // As often before as afterwards: showing takes memory too.
    let resident = |attested: usize| -> Result<f64> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let endpoints: Vec<EndpointStatus> = daemon.ask_json(&["endpoints"])?;
            let many = endpoints.iter().filter(|e| e.name == "many");
            let proven = many.clone().filter(|e| e.attested.is_some()).count();
            if (many.count(), proven) == (BINDINGS, attested) {
                break;
            }
            ensure!(
                Instant::now() < deadline,
                "{proven} are attested, not {attested}"
            );
            thread::sleep(Duration::from_millis(100));
        }
        thread::sleep(REST);
        kilobytes(daemon.pid()?, "VmRSS:")
    };
    let before = resident(0)?;
    for place in &places {
        let output = identity.attest(place, &format!("{HOST}:{DAEMON}"), &[])?;
        ensure!(output.status.success(), "{output:?}");
    }
    let after = resident(BINDINGS)?;
    Ok((after - before) * 1024.0 / BINDINGS as f64)
}

/// A server that is asked.
struct Target<'a> {
    port: u16,
    request: &'a str,
    /// Nanoseconds of CPU that it has taken.
    cpu: &'a (dyn Fn() -> Result<u64> + Sync),
}

/// Shows a certificate and asks one thing.
struct Client(Arc<ClientConfig>);

impl Client {
    fn new(identity: &Identity) -> Result<Self> {
        let (chain, key, roots) = material(identity)?;
        let mut config = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self(config.into()))
    }

    /// From the first packet to the end of the answer.
    fn ask(&self, target: &Target<'_>) -> Result<Duration> {
        let began = Instant::now();
        let mut stream = TcpStream::connect((HOST, target.port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let name = ServerName::from(std::net::IpAddr::from(HOST));
        let mut session = ClientConnection::new(self.0.clone(), name)?;
        let mut tls = Stream::new(&mut session, &mut stream);
        tls.write_all(target.request.as_bytes())?;
        let mut answer = Vec::new();
        match tls.read_to_end(&mut answer) {
            // Not everybody takes leave.
            Err(error) if error.kind() != ErrorKind::UnexpectedEof => return Err(error.into()),
            _ => {}
        }
        let took = began.elapsed();
        let line = String::from_utf8_lossy(&answer);
        let line = line.lines().next().unwrap_or_default();
        ensure!(line.contains(" 200 "), "port {}: {line}", target.port);
        Ok(took)
    }

    fn wait_for(&self, target: &Target<'_>) -> Result<()> {
        let began = Instant::now();
        while let Err(error) = self.ask(target) {
            ensure!(began.elapsed() < PATIENCE, "{error:#}");
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

type Material = (
    Vec<CertificateDer<'static>>,
    PrivateKeyDer<'static>,
    RootCertStore,
);

fn material(identity: &Identity) -> Result<Material> {
    let chain = CertificateDer::pem_file_iter(&identity.certificate)?;
    let chain = chain.collect::<Result<_, _>>()?;
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(&identity.bundle)? {
        roots.add(root?)?;
    }
    Ok((chain, PrivateKeyDer::from_pem_file(&identity.key)?, roots))
}

/// A handshake by which both sides prove themselves, an answer, and nothing else; for as long as
/// this process runs.
fn bare_server(host: &Namespace, identity: &Identity, cpu: &Arc<AtomicU64>) -> Result<()> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let (chain, key, roots) = material(identity)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier.build()?)
        .with_single_cert(chain, key)?;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    let config = Arc::new(config);
    let listener = host.enter(|| TcpListener::bind(SocketAddr::from((HOST, FLOOR))))??;
    let cpu = Arc::clone(cpu);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // What goes wrong shows at the client.
            let _ = serve(&config, stream);
            if let Ok(spent) = nanoseconds(ClockId::CLOCK_THREAD_CPUTIME_ID) {
                cpu.store(spent, Ordering::Relaxed);
            }
        }
    });
    Ok(())
}

fn serve(config: &Arc<ServerConfig>, mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut session = ServerConnection::new(config.clone())?;
    let mut tls = Stream::new(&mut session, &mut stream);
    ensure!(tls.read(&mut [0; 1024])? > 0, "nothing was asked");
    tls.write_all(b"HTTP/1.0 200 ok\r\n\r\n")?;
    session.send_close_notify();
    session.complete_io(&mut stream)?;
    Ok(())
}

/// `openssl s_server`, which demands a certificate too. Dropping it ends it.
struct Peer(Child);

impl Peer {
    fn start(place: &Place, identity: &Identity, folder: &std::path::Path) -> Result<Self> {
        fs::write(folder.join("answer"), "HTTP/1.0 200 ok\r\n\r\n")?;
        let child = place
            .command("openssl")?
            .args(["s_server", "-tls1_3", "-quiet", "-HTTP"])
            .args(["-num_tickets", "0", "-no_cache"])
            .args(["-Verify", "1", "-verify_return_error"])
            .args(["-accept", &format!("{HOST}:{PEER}")])
            .arg("-cert")
            .arg(&identity.certificate)
            .arg("-key")
            .arg(&identity.key)
            .arg("-CAfile")
            .arg(&identity.bundle)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("running openssl (package openssl)")?;
        Ok(Self(child))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Nanoseconds of CPU that a process has taken.
fn cpu_of(pid: u32) -> Result<u64> {
    nanoseconds(clock_getcpuclockid(Pid::from_raw(pid.try_into()?))?)
}

fn nanoseconds(clock: ClockId) -> Result<u64> {
    let time = clock_gettime(clock)?;
    let (seconds, rest) = (time.tv_sec(), time.tv_nsec());
    Ok(u64::try_from(seconds)? * 1_000_000_000 + u64::try_from(rest)?)
}
