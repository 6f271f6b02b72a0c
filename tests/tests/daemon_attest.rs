//! What must not get through the attestation server: bad certificates, old TLS, no certificate,
//! and whoever tries to keep others out.

use std::{
    ffi::OsStr,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use enforcer::identity::attest::journal::{EventKind, Subject};
use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
    date_time_ymd,
};
use rustls::{
    ClientConfig, ClientConnection, NamedGroup, RootCertStore,
    crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tests::lab::{
    Daemon, Expect, FlowProtocol, Place, ProofScene,
    pki::{self, Identity, SERVER, URL, leaf},
    place::program,
};

const WORKLOADS: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {cgroup: /shop/web, spiffeId: 'spiffe://example.org/web'}
---
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: noisy, namespace: shop, labels: {app: noisy}}
spec: {cgroup: /shop/noisy}
";

struct Scene {
    daemon: Daemon,
    ground: ProofScene,
}

impl Scene {
    fn new(revoked: &[&str]) -> Result<Self> {
        let ground = ProofScene::new(&[("workloads.yaml", WORKLOADS)])?;
        ground.revoke(revoked)?;
        Ok(Self {
            daemon: ground.start_attesting(&ground.shop.front)?,
            ground,
        })
    }

    fn web(&self) -> &Place {
        &self.ground.shop.web.place
    }

    /// How often connections were refused for this reason.
    fn refused(&self, reason: &str) -> Result<u64> {
        self.daemon.refusals("attestation", reason)
    }

    /// Tries to attest with it, from where it would be right; the reason that is counted.
    fn expect_refused(&self, identity: &Identity, reason: &str) -> Result<()> {
        let before = self.refused(reason)?;
        let (status, body) = identity.curl(self.web(), URL, &["-X", "POST"])?;
        assert_ne!(status, 200, "{reason}: {body}");
        let deadline = Instant::now() + tests::lab::patient(Duration::from_secs(5));
        while self.refused(reason)? == before {
            anyhow::ensure!(
                Instant::now() < deadline,
                "{reason} was not counted: {body}\n{}",
                self.daemon.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// The good one is served, and in time.
    fn expect_served(&self, identity: &Identity) -> Result<()> {
        let (status, body) = identity.curl(self.web(), URL, &["-X", "POST"])?;
        anyhow::ensure!(status == 200, "{status} {body}\n{}", self.daemon.log());
        Ok(())
    }
}

fn uri(text: &str) -> Result<SanType> {
    Ok(SanType::URI(text.try_into()?))
}

#[test]
fn no_bad_certificate_is_taken() -> Result<()> {
    let scene = Scene::new(&["5ead"])?;
    let pki = &scene.ground.pki;
    scene.expect_served(&pki.issue("web", &[])?)?;

    let expired = pki.forge("expired", |p| p.not_after = date_time_ymd(2020, 1, 1))?;
    scene.expect_refused(&expired, "expired")?;
    let early = pki.forge("early", |p| p.not_before = date_time_ymd(2090, 1, 1))?;
    scene.expect_refused(&early, "not-yet-valid")?;
    let two = pki.forge("two", |p| {
        let other = uri("spiffe://example.org/other").expect("a URI");
        p.subject_alt_names.push(other);
    })?;
    scene.expect_refused(&two, "many-uris")?;
    let none = pki.forge("none", |p| {
        p.subject_alt_names = vec![SanType::IpAddress(Ipv4Addr::LOCALHOST.into())];
    })?;
    scene.expect_refused(&none, "no-uri")?;
    let foreign = pki.forge("foreign", |p| {
        p.subject_alt_names = vec![uri("spiffe://example.com/web").expect("a URI")];
    })?;
    scene.expect_refused(&foreign, "unknown-domain")?;
    let authority = pki.forge("authority", |p| {
        p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        p.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
    })?;
    scene.expect_refused(&authority, "authority")?;
    let signer = pki.forge("signer", |p| {
        p.key_usages.push(KeyUsagePurpose::KeyCertSign);
    })?;
    scene.expect_refused(&signer, "key-usage")?;
    let cipher = pki.forge("cipher", |p| {
        p.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
    })?;
    scene.expect_refused(&cipher, "key-usage")?;
    let revoked = pki.forge("revoked", |p| {
        p.serial_number = Some(vec![0x5e, 0xad].into());
    })?;
    scene.expect_refused(&revoked, "revoked")?;

    let key = KeyPair::generate()?;
    let own = leaf("web")?.self_signed(&key)?.pem();
    scene.expect_refused(&pki.write("self-signed", &own, &key)?, "unknown-issuer")?;

    // Of another authority of the same name, with as many certificates as one likes.
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root_key = KeyPair::generate()?;
    let root = params.self_signed(&root_key)?.pem();
    let issuer = Issuer::from_params(&params, &root_key);
    let stranger = leaf("web")?.signed_by(&key, &issuer)?.pem();
    let long = format!("{stranger}{}", root.repeat(6));
    scene.expect_refused(&pki.write("stranger", &stranger, &key)?, "unknown-issuer")?;
    scene.expect_refused(&pki.write("long", &long, &key)?, "chain-too-long")?;

    // Name constraints of an authority between.
    let root_pem = std::fs::read_to_string(pki.folder().join("root.pem"))?;
    let root_key = std::fs::read_to_string(pki.folder().join("root.key"))?;
    let issuer = Issuer::from_ca_cert_pem(&root_pem, KeyPair::from_pem(&root_key)?)?;
    let mut bound = params.clone();
    bound.name_constraints = Some(rcgen::NameConstraints {
        permitted_subtrees: vec![rcgen::GeneralSubtree::DnsName("example.org".into())],
        excluded_subtrees: Vec::new(),
    });
    let bound_key = KeyPair::generate()?;
    let bound_pem = bound.signed_by(&bound_key, &issuer)?.pem();
    let mut params = leaf("web")?;
    let name = SanType::DnsName("web.example.com".try_into()?);
    params.subject_alt_names.push(name);
    let issuer = Issuer::from_params(&bound, &bound_key);
    let outside = params.signed_by(&key, &issuer)?.pem();
    let outside = pki.write("outside", &format!("{outside}{bound_pem}"), &key)?;
    scene.expect_refused(&outside, "name-constraints")?;
    scene.expect_served(&pki.issue("web", &[])?)
}

const CLOSED: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  egress: [{name: attest, to: [{cidr: 127.0.0.1/32}], ports: [9465/tcp]}]
";

#[test]
fn security_events_are_told_where_flow_records_are() -> Result<()> {
    let scene = Scene::new(&[])?;
    let daemon = &scene.daemon;
    scene.ground.tree.write("closed.yaml", CLOSED)?;
    daemon.apply()?;
    // A denied flow, so that records of both kinds are in the file.
    let to = Ipv4Addr::LOCALHOST.into();
    scene
        .web()
        .expect(FlowProtocol::Tcp, to, 9_999, Expect::Denied)?;
    daemon.wait_for_record(tests::lab::patient(Duration::from_secs(10)), |r| {
        r.peer.port == Some(9_999)
    })?;

    let identity = scene.ground.pki.issue("web", &[])?;
    scene.expect_served(&identity)?;
    let expired = scene
        .ground
        .pki
        .forge("expired", |p| p.not_after = date_time_ymd(2020, 1, 1))?;
    scene.expect_refused(&expired, "expired")?;
    let (status, body) = identity.curl(scene.web(), URL, &["-X", "DELETE"])?;
    assert_eq!(status, 200, "{body}");
    let told = daemon.wait_for_event("the end", |e| e.event == EventKind::End)?;
    let what: Vec<_> = told.iter().map(|e| (e.event, e.reason.as_str())).collect();
    assert!(what.contains(&(EventKind::Refuse, "expired")), "{what:?}");
    assert!(what.contains(&(EventKind::End, "released")), "{what:?}");
    let bound = told.iter().find(|e| e.event == EventKind::Bind);
    let bound = bound.context("no binding")?;
    assert_eq!(bound.kind, Subject::Attestation);
    assert_eq!(bound.workload.as_deref(), Some("shop/web"));
    let records = daemon.records()?;
    let record = records.first().context("no record")?;
    assert!(
        told.iter()
            .all(|e| e.run == record.run && e.node == record.node)
    );
    let numbers: Vec<u64> = told.iter().map(|e| e.sequence).collect();
    assert_eq!(numbers, (1..=told.len() as u64).collect::<Vec<_>>());

    // Who reads flow records passes over them.
    let log = daemon.flow_log();
    let log = log.to_str().context("a path")?;
    let tree = scene.ground.tree.path().to_str().context("a path")?;
    let output = Command::new(program("enforcer")?)
        .args([
            "--output", "json", "simulate", tree, "--strict", "--flows", log,
        ])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    let answer: serde_json::Value = serde_json::from_str(&text)?;
    assert_eq!(answer["bad"]["count"], 0, "{text}");
    let output = Command::new(program("enforcer")?)
        .args(["check", tree, "--flows", log])
        .output()?;
    assert!(output.status.success(), "{output:?}");
    Ok(())
}

/// What `openssl s_client` says of a handshake.
fn s_client(place: &Place, identity: Option<&Identity>, flags: &[&str]) -> Result<String> {
    let flags: Vec<_> = flags.iter().map(OsStr::new).collect();
    let mut child = pki::s_client(place, SERVER, identity, &flags)?;
    let mut input = child.stdin.take().context("no stdin")?;
    let _ = input.write_all(b"GET /v1/whoami HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    std::thread::sleep(Duration::from_millis(1_500));
    drop(input);
    let output = child.wait_with_output()?;
    Ok(format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}

#[test]
fn only_tls_of_today_with_a_certificate() -> Result<()> {
    let scene = Scene::new(&[])?;
    let web = scene.web();
    let identity = scene.ground.pki.issue("web", &[])?;
    let good = s_client(web, Some(&identity), &["-tls1_3", "-quiet"])?;
    assert!(good.contains("HTTP/1.1 200"), "{good}");
    assert!(good.contains("spiffe://example.org/web"), "{good}");
    for (flags, reason) in [
        (&["-tls1_2"][..], "tls-version-or-suite"),
        (
            &["-tls1_2", "-cipher", "AES128-SHA"],
            "tls-version-or-suite",
        ),
        (
            &["-tls1_3", "-ciphersuites", "TLS_AES_128_CCM_SHA256"],
            "tls-version-or-suite",
        ),
    ] {
        let before = scene.refused(reason)?;
        let said = s_client(web, Some(&identity), flags)?;
        assert!(!said.contains("HTTP/1.1"), "{flags:?}: {said}");
        assert!(scene.refused(reason)? > before, "{flags:?}: {said}");
    }
    let said = s_client(web, None, &["-tls1_3", "-quiet"])?;
    assert!(!said.contains("HTTP/1.1"), "{said}");
    assert_eq!(scene.refused("no-certificate")?, 1);
    // A resumed session would show no certificate: none is offered.
    let said = s_client(web, Some(&identity), &["-tls1_3"])?;
    assert!(!said.contains("New Session Ticket"), "{said}");
    Ok(())
}

/// The group by which keys are exchanged with a client that offers these, the first with a share.
fn exchanged_by(
    place: &Place,
    identity: &Identity,
    groups: &[&'static dyn SupportedKxGroup],
) -> Result<NamedGroup> {
    let provider = CryptoProvider {
        kx_groups: groups.to_vec(),
        ..aws_lc_rs::default_provider()
    };
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(&identity.bundle)? {
        roots.add(root?)?;
    }
    let chain = CertificateDer::pem_file_iter(&identity.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&identity.key)?;
    let config = ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain.collect::<Result<_, _>>()?, key)?;
    let name = ServerName::try_from("127.0.0.1")?;
    let mut client = ClientConnection::new(config.into(), name)?;
    place.enter(|| -> Result<()> {
        let mut stream = TcpStream::connect(SERVER)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        while client.is_handshaking() {
            client.complete_io(&mut stream)?;
        }
        Ok(())
    })??;
    let group = client.negotiated_key_exchange_group();
    Ok(group.context("no key was exchanged")?.name())
}

#[test]
fn keys_are_exchanged_so_that_a_quantum_computer_does_not_find_them() -> Result<()> {
    use aws_lc_rs::kx_group::{SECP256R1, X25519, X25519MLKEM768};
    let scene = Scene::new(&[])?;
    let identity = scene.ground.pki.issue("web", &[])?;
    let hybrid = NamedGroup::X25519MLKEM768;
    let by =
        |groups: &[&'static dyn SupportedKxGroup]| exchanged_by(scene.web(), &identity, groups);
    assert_eq!(by(&[X25519MLKEM768])?, hybrid);
    // Preferred by the server where the client has a share of another one, too.
    assert_eq!(by(&[X25519MLKEM768, X25519, SECP256R1])?, hybrid);
    // And ours begins with it.
    let ours = enforcer::identity::attest::tls::provider();
    assert_eq!(ours.kx_groups[0].name(), hybrid);
    // Who does not know it is served.
    assert_eq!(by(&[X25519])?, NamedGroup::X25519);
    Ok(())
}

#[test]
fn a_handshake_that_takes_too_long_is_ended() -> Result<()> {
    let scene = Scene::new(&[])?;
    let took = scene.web().enter(|| -> Result<Duration> {
        let mut stream = TcpStream::connect(SERVER)?;
        let began = Instant::now();
        // A byte a second: it never rests, and never comes to an end.
        let mut bytes = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3].into_iter().cycle();
        loop {
            let byte = bytes.next().context("they never end")?;
            if stream.write_all(&[byte]).is_err() {
                return Ok(began.elapsed());
            }
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            match stream.read(&mut [0; 64]) {
                Ok(0) => return Ok(began.elapsed()),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return Ok(began.elapsed()),
            }
            anyhow::ensure!(
                began.elapsed() < tests::lab::patient(Duration::from_secs(20)),
                "it is not ended"
            );
        }
    })??;
    assert!(took >= Duration::from_secs(4), "{took:?}");
    assert_eq!(scene.refused("handshake-timeout")?, 1);
    scene.expect_served(&scene.ground.pki.issue("web", &[])?)
}

#[test]
fn huge_and_malformed_requests_are_refused_and_others_served() -> Result<()> {
    let scene = Scene::new(&[])?;
    let web = scene.web();
    let identity = scene.ground.pki.issue("web", &[])?;
    let long = "x".repeat(60_000);
    let header = format!("X-Long: {long}");
    for (flags, expected) in [
        (&["-X", "POST", "--data-binary", long.as_str()][..], 413),
        (&["-X", "POST", "--data-binary", "{"], 400),
        (&["-X", "POST", "--data-binary", "{\"lease\": 5}"], 400),
        (&["-X", "PUT"], 404),
    ] {
        let (status, body) = identity.curl(web, URL, flags)?;
        assert_eq!(status, expected, "{:?}: {body}", &flags[..2]);
    }
    // A head without end: the connection ends, whether curl still reads the answer or not.
    let (status, _) = identity.curl(web, URL, &["-X", "POST", "-H", header.as_str()])?;
    assert!([431, 0].contains(&status), "{status}");
    let (status, _) = identity.curl(web, "https://127.0.0.1:9465/v1/nonsense", &[])?;
    assert_eq!(status, 404);
    // No TLS at all, and bytes that look like it.
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0x16, 3, 1, 0xff, 0xff],
        &[0; 4096],
    ] {
        web.enter(|| -> Result<()> {
            let mut stream = TcpStream::connect(SERVER)?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            stream.write_all(bytes)?;
            let _ = stream.read(&mut [0; 64]);
            Ok(())
        })??;
    }
    scene.expect_served(&identity)?;
    let (status, body) = identity.curl(web, "https://127.0.0.1:9465/v1/whoami", &[])?;
    assert_eq!(status, 200, "{body}");
    let whoami: serde_json::Value = serde_json::from_str(&body)?;
    assert_eq!(whoami["workload"], "shop/web");
    assert_eq!(whoami["assurance"], "attested");
    Ok(())
}

#[test]
fn ten_thousand_idle_connections_keep_nobody_out() -> Result<()> {
    const CONNECTIONS: usize = 10_000;
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, 20_000, 20_000)?;
    let scene = Scene::new(&[])?;
    let identity = scene.ground.pki.issue("web", &[])?;
    scene.expect_served(&identity)?;

    // From many sources at once, each with as many connections as it may have. What they begin
    // of a handshake they never end.
    let intruder = &scene.ground.shop.intruder;
    let sources: Vec<Ipv4Addr> = (0..200_u8)
        .map(|n| Ipv4Addr::new(10, 77, 9, 20 + n))
        .collect();
    let commands: Vec<String> = sources
        .iter()
        .map(|source| format!("addr add {source}/24 dev eth0"))
        .collect();
    scene.ground.shop.outside.ip(&commands)?;
    let to = SocketAddr::new(scene.ground.shop.web.ip(false), 9465);
    let idle = intruder
        .place
        .enter(|| -> Result<Vec<std::net::TcpStream>> {
            let mut idle = Vec::with_capacity(CONNECTIONS);
            for number in 0..CONNECTIONS {
                let source = sources[number % sources.len()];
                if let Ok(mut stream) = connect_from(source.into(), to) {
                    let _ = stream.write_all(&[0x16, 3, 1]);
                    idle.push(stream);
                }
            }
            Ok(idle)
        })??;
    assert!(idle.len() > CONNECTIONS / 2, "{}", idle.len());
    let began = Instant::now();
    scene.expect_served(&identity)?;
    eprintln!("{} idle; served after {:?}", idle.len(), began.elapsed());
    drop(idle);

    // And from one neighbour on the same host, with the same address as everybody there.
    let noisy = scene.ground.shop.front.place("/shop/noisy")?;
    let mut hold = noisy.command("bash")?;
    hold.args([
        "-c",
        "for n in $(seq 200); do exec {fd}<>/dev/tcp/127.0.0.1/9465 || true; done; sleep 600",
    ])
    .stdin(Stdio::null());
    let mut hold = hold.spawn()?;
    let deadline = Instant::now() + tests::lab::patient(Duration::from_secs(20));
    while scene.refused("too-many-from-source")? < 100 {
        anyhow::ensure!(Instant::now() < deadline, "{}", scene.daemon.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    scene.expect_served(&identity)?;
    hold.kill()?;
    hold.wait()?;
    Ok(())
}

/// Connects from one of several addresses of this namespace.
fn connect_from(source: IpAddr, to: SocketAddr) -> Result<TcpStream> {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket,
    };
    use std::os::fd::AsRawFd;
    let fd = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    bind(
        fd.as_raw_fd(),
        &SockaddrStorage::from(SocketAddr::new(source, 0)),
    )?;
    connect(fd.as_raw_fd(), &SockaddrStorage::from(to))?;
    Ok(fd.into())
}
