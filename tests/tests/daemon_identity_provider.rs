//! A daemon whose own SVID and whose bundles come from somebody else's Workload API: that of
//! another daemon here.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use enforcer::api::{identity::IdentityStatus, status::Status};
use tests::lab::{
    Daemon, Lab, Place,
    pki::{ATTEST, Pki, SERVER},
    shop::Shop,
    tree::Tree,
};

const PROVIDER: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: agent, namespace: agents, labels: {app: agent}}
spec: {cgroup: /agents/back, spiffeId: 'spiffe://example.org/agents/back'}
";

const WORKLOADS: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: job, namespace: shop, labels: {app: job}}
spec: {cgroup: /shop/job, spiffeId: 'spiffe://example.org/job'}
";

fn wait_for(
    daemon: &Daemon,
    what: &str,
    wanted: impl Fn(&IdentityStatus) -> bool,
) -> Result<IdentityStatus> {
    daemon.wait_for(what, Duration::from_mins(1), &["identity", "list"], wanted)
}

fn text(path: &Path) -> Result<String> {
    Ok(path.to_str().context("a path")?.to_owned())
}

#[test]
fn the_own_svid_comes_from_a_provider_and_outlives_it() -> Result<()> {
    let lab = Lab::new()?;
    let shop = Shop::build(&lab)?;
    let (front, back) = (&shop.front, &shop.back);
    let pki = Pki::new(&lab, "pki")?;
    let socket = lab.folder().join("provider.sock");

    let tree = Tree::empty(&lab, "provider")?;
    tree.write("agent.yaml", PROVIDER)?;
    let mut options = front.daemon_options(tree.path())?;
    options.extra = vec![
        "--workload-api".to_owned(),
        text(&socket)?,
        "--ca".to_owned(),
        text(&pki.folder())?,
        "--svid-lifetime".to_owned(),
        "12s".to_owned(),
    ];
    // Not there yet.
    let mut provider = Daemon::prepare(&lab, options)?;

    // The daemon of another host, in a cgroup where the provider knows it.
    let tree = Tree::empty(&lab, "policies")?;
    tree.write("workloads.yaml", WORKLOADS)?;
    let mut options = back.daemon_options(tree.path())?;
    let agent = front.place("/agents/back")?;
    let cgroup = agent.cgroup().to_owned();
    let namespace = &back.namespace;
    options.place = Place::new("agent", namespace, cgroup)?;
    options.extra = vec![
        "--attest".to_owned(),
        ATTEST.to_owned(),
        "--identity-from".to_owned(),
        format!("unix://{}", socket.display()),
    ];
    let daemon = Daemon::start(&lab, options)?;
    let none = wait_for(&daemon, "it says what is missing", |status| {
        status.notes.iter().any(|note| note.contains("provider"))
    })?;
    assert!(none.own.is_none());
    assert_eq!(none.source, format!("unix://{}", socket.display()));

    provider.launch()?;
    provider.wait_ready()?;
    let first = wait_for(&daemon, "an SVID comes", |status| status.own.is_some())?;
    let own = first.own.context("it is there")?;
    assert_eq!(own.spiffe_id, "spiffe://example.org/agents/back");
    assert_eq!(first.trust_domains.len(), 1);
    assert_eq!(
        daemon.metric("enforcer_identity_provider_connected", &[])?,
        1
    );
    assert!(daemon.metric("enforcer_identity_provider_failures_total", &[])? > 0);
    let status: Status = daemon.ask_json(&["status"])?;
    let reasons = status.health.reasons.iter();
    assert_eq!(reasons.filter(|r| r.contains("provider")).count(), 0);

    // Both sides of the handshake rest on what the provider said.
    let job = pki.issue("job", &[])?;
    let place = back.place("/shop/job")?;
    let attest = |expected: bool| -> Result<()> {
        let done = job.attest(&place, SERVER, &[])?;
        anyhow::ensure!(
            done.status.success() == expected,
            "{}\n{}",
            String::from_utf8_lossy(&done.stderr),
            daemon.log()
        );
        Ok(())
    };
    attest(true)?;

    // It is renewed, and a new root is believed as soon as there is one.
    let serial = own.serial;
    wait_for(&daemon, "the SVID is renewed", |status| {
        status.own.as_ref().is_some_and(|own| own.serial != serial)
    })?;
    pki.ca(&["rotate", "--now"])?;
    let rotated = wait_for(&daemon, "the new root is known", |status| {
        status.trust_domains.iter().any(|domain| domain.roots == 2)
    })?;
    let job = pki.issue("job", &[])?;
    let done = job.attest(&place, SERVER, &[])?;
    anyhow::ensure!(done.status.success(), "{done:?}");

    // The provider goes: what it said holds, and then ends.
    provider.kill()?;
    let lost = wait_for(&daemon, "it says that the provider is gone", |status| {
        status.notes.iter().any(|note| note.contains("provider"))
    })?;
    assert!(lost.own.is_some(), "{lost:#?}");
    assert_eq!(
        daemon.metric("enforcer_identity_provider_connected", &[])?,
        0
    );
    let status: Status = daemon.ask_json(&["status"])?;
    assert!(!status.health.ok);
    let ended = wait_for(&daemon, "the SVID ends", |status| status.own.is_none())?;
    assert_eq!(ended.trust_domains, rotated.trust_domains);
    attest(false)?;

    // And comes back.
    provider.launch()?;
    provider.wait_ready()?;
    wait_for(&daemon, "an SVID comes again", |status| {
        status.own.is_some() && status.notes.is_empty()
    })?;
    let done = job.attest(&place, SERVER, &[])?;
    anyhow::ensure!(done.status.success(), "{done:?}");
    Ok(())
}
