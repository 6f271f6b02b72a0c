//! Envoy gets its identity, and whom to believe, from the daemon's socket alone, by its secret
//! discovery service: it shows it, demands one of others, and follows what changes.

use std::{ffi::OsStr, fs, io::Write, path::Path, process::Output, time::Duration};

use anyhow::{Context, Result};
use enforcer::identity::svid::{Svid, Usage};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tests::lab::{
    Daemon, Place, Process, ProofScene, patient,
    pki::{Identity, Pki, s_client, trust_domain},
};

const WEB: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {cgroup: /shop/web, spiffeId: 'spiffe://example.org/web'}
";

/// Ports of Envoy: one for each name of roots.
const ROOTS: [(u16, &str); 3] = [
    (8443, "ROOTCA"),
    (8444, "spiffe://example.org"),
    (8445, "ALL"),
];
/// What it answers to whom it believes.
const GREETING: &str = "it is believed";
const SOON: Duration = Duration::from_secs(20);

/// Envoy's own configuration, by its documentation of SDS: nothing of ours but the socket.
fn configuration(socket: &Path) -> serde_json::Value {
    let sds = serde_json::json!({
        "resource_api_version": "V3",
        "api_config_source": {
            "api_type": "GRPC",
            "transport_api_version": "V3",
            "grpc_services": [{"envoy_grpc": {"cluster_name": "enforcer"}}],
        },
    });
    let listeners = ROOTS.map(|(port, roots)| {
        serde_json::json!({
            "name": roots,
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
            "filter_chains": [{
                "filters": [{
                    "name": "envoy.filters.network.http_connection_manager",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                        "stat_prefix": "web",
                        "http_filters": [{
                            "name": "envoy.filters.http.router",
                            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
                        }],
                        "route_config": {"virtual_hosts": [{
                            "name": "all",
                            "domains": ["*"],
                            "routes": [{
                                "match": {"prefix": "/"},
                                "direct_response": {"status": 200, "body": {"inline_string": GREETING}},
                            }],
                        }]},
                    },
                }],
                "transport_socket": {
                    "name": "envoy.transport_sockets.tls",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                        "require_client_certificate": true,
                        "common_tls_context": {
                            "tls_certificate_sds_secret_configs": [{"name": "default", "sds_config": sds}],
                            "validation_context_sds_secret_config": {"name": roots, "sds_config": sds},
                        },
                    },
                },
            }],
        })
    });
    serde_json::json!({
        "node": {"id": "web", "cluster": "shop"},
        "static_resources": {
            "listeners": listeners,
            "clusters": [{
                "name": "enforcer",
                "connect_timeout": "1s",
                "typed_extension_protocol_options": {
                    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                        "explicit_http_config": {"http2_protocol_options": {}},
                    },
                },
                "load_assignment": {
                    "cluster_name": "enforcer",
                    "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": socket}}}}]}],
                },
            }],
        },
    })
}

fn envoy(scene: &ProofScene, place: &Place) -> Result<Process> {
    let file = scene.lab.folder().join("envoy.json");
    let text = configuration(&scene.socket(&scene.shop.front)).to_string();
    fs::write(&file, text)?;
    let log = fs::File::create(scene.lab.folder().join("envoy.log"))?;
    let mut command = place.command("envoy")?;
    command
        .arg("--config-path")
        .arg(&file)
        .args(["--concurrency", "1", "--log-level", "warning"])
        // Several may run on one machine.
        .arg("--disable-hot-restart")
        .stderr(log);
    Process::spawn(command).context("`cargo xtask setup` brings Envoy")
}

/// A connection to Envoy with a certificate, or none, by `OpenSSL`, which verifies Envoy's.
fn connect(place: &Place, port: u16, bundle: &Path, own: Option<&Identity>) -> Result<Output> {
    let server = format!("127.0.0.1:{port}");
    let flags = ["-verify_return_error", "-showcerts", "-ign_eof", "-CAfile"].map(OsStr::new);
    let flags = [&flags[..], &[bundle.as_os_str()]].concat();
    let mut child = s_client(place, &server, own, &flags)?;
    // A connection that was refused may be gone by now.
    let request = b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";
    let _ = child.stdin.take().context("no stdin")?.write_all(request);
    Ok(child.wait_with_output()?)
}

fn is_believed(output: &Output) -> bool {
    String::from_utf8_lossy(&output.stdout).contains(GREETING)
}

/// What Envoy shows.
fn shown(output: &Output) -> Result<Svid> {
    let leaf = CertificateDer::from_pem_slice(&output.stdout);
    let leaf = leaf.with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok(Svid::parse(&[leaf], Usage::Server)?)
}

/// Waits until Envoy believes whom it should.
fn wait(daemon: &Daemon, what: &str, is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    daemon.wait_until(what, patient(SOON), is_so)
}

#[test]
fn envoy_proves_itself_and_verifies_others_by_the_daemon_alone() -> Result<()> {
    let scene = ProofScene::new(&[("web.yaml", WEB)])?;
    let front = &scene.shop.front;
    let mut flags = scene.issuing(front);
    flags.extend(["--svid-lifetime", "8s"].map(str::to_owned));
    let daemon = scene.start(front, &flags)?;
    let web = &scene.shop.web.place;
    let _envoy = envoy(&scene, web)?;

    let client = scene.pki.issue("client", &[])?;
    let stranger = Pki::new(&scene.lab, "stranger")?.issue("client", &[])?;
    let bundle = scene.pki.bundle();
    for (port, roots) in ROOTS {
        wait(&daemon, "Envoy does not answer", || {
            Ok(is_believed(&connect(web, port, &bundle, Some(&client))?))
        })
        .with_context(|| format!("roots {roots}"))?;
        // Of the same name, from an authority of the same name.
        for identity in [None, Some(&stranger)] {
            let output = connect(web, port, &bundle, identity)?;
            assert!(!is_believed(&output), "{roots}: {identity:?}");
            shown(&output).with_context(|| format!("{roots}: {identity:?}"))?;
        }
        let again = connect(web, port, &bundle, Some(&client))?;
        assert!(is_believed(&again), "{roots}: it serves nobody");
    }
    let first = shown(&connect(web, ROOTS[0].0, &bundle, Some(&client))?)?;
    assert_eq!(first.id().to_string(), "spiffe://example.org/web");

    // Half of its life later there is another one.
    wait(
        &daemon,
        "Envoy shows the first certificate for ever",
        || {
            let svid = shown(&connect(web, ROOTS[0].0, &bundle, Some(&client))?)?;
            Ok(svid.serial() != first.serial())
        },
    )?;

    // A domain that is believed from now on, with the name of nobody else.
    let other = Pki::new(&scene.lab, "other")?;
    let foreign = other.forge("foreign", |params| {
        params.subject_alt_names = vec![rcgen::SanType::URI(
            "spiffe://example.net/client".try_into().expect("a URI"),
        )];
    })?;
    let all = ROOTS[2].0;
    assert!(!is_believed(&connect(web, all, &bundle, Some(&foreign))?));
    let federated = trust_domain(&other.bundle(), &[]).replace("example.org", "example.net");
    scene.tree.write("federated.yaml", &federated)?;
    wait(
        &daemon,
        "Envoy does not believe the federated domain",
        || Ok(is_believed(&connect(web, all, &bundle, Some(&foreign))?)),
    )?;
    // Only in its own name, and not where one domain is wanted.
    let own = ROOTS[0].0;
    assert!(!is_believed(&connect(web, own, &bundle, Some(&foreign))?));
    let posing = other.issue("client", &[])?;
    assert!(!is_believed(&connect(web, all, &bundle, Some(&posing))?));

    // A root that signs no more.
    scene.pki.ca(&["rotate"])?;
    scene.pki.ca(&["rotate", "--activate"])?;
    let roots = scene.pki.bundle();
    let renewed = scene.pki.issue("renewed", &[])?;
    wait(&daemon, "Envoy does not know the new root", || {
        Ok(is_believed(&connect(web, own, &roots, Some(&renewed))?))
    })
}

#[test]
fn who_is_nobody_gets_no_secret_and_no_secret_is_made_up() -> Result<()> {
    let scene = ProofScene::new(&[("web.yaml", WEB)])?;
    let front = &scene.shop.front;
    let daemon = scene.start(front, &scene.issuing(front))?;
    let outside = front.place("/system")?;
    let _envoy = envoy(&scene, &outside)?;
    wait(&daemon, "Envoy was not refused", || {
        Ok(daemon.refusals("workload_api", "no-endpoint")? >= 1)
    })?;
    let client = scene.pki.issue("client", &[])?;
    let output = connect(&outside, ROOTS[0].0, &scene.pki.bundle(), Some(&client))?;
    assert!(!is_believed(&output) && shown(&output).is_err());
    Ok(())
}
