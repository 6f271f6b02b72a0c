//! Policy from a git repository over ssh: only by the key that was given, only from the host
//! that is known.

use std::{fs, time::Duration, time::Instant};

use anyhow::{Context, Result};
use serde_json::Value;
use tests::lab::{
    Daemon, Scene,
    git::{Repository, SigningKey},
    ssh::SshServer,
    tree::SHOP_WORKLOADS,
};

const POLICY: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: api, namespace: shop}
spec:
  selector: {matchLabels: {app: api}}
  ingress: []
";
const PORT: u16 = 2200;

fn denied(daemon: &Daemon, what: &str) -> Result<String> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let status: Value = daemon.ask_json(&["status"]).unwrap_or_default();
        let failure = &status["git"]["failure"];
        if failure["cause"] == "denied" {
            assert!(status["policy"]["commit"].is_null(), "{what}: {status:#}");
            return Ok(failure["message"].to_string());
        }
        anyhow::ensure!(Instant::now() < deadline, "{what}: {:#}", status["git"]);
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_deploy_key_and_a_known_host() -> Result<()> {
    let scene = Scene::new(POLICY)?;
    let lab = &scene.lab;
    let repository = Repository::create(lab)?;
    repository.write("workloads.yaml", SHOP_WORKLOADS)?;
    repository.write("policy.yaml", POLICY)?;
    let id = repository.publish("first", None)?;
    let (mine, other) = (
        SigningKey::ssh(lab, "mine")?,
        SigningKey::ssh(lab, "other")?,
    );
    let (SigningKey::Ssh(mine), SigningKey::Ssh(other)) = (&mine, &other) else {
        anyhow::bail!("not ssh keys");
    };
    let place = scene.shop.back.place("/system")?;
    let server = SshServer::start(lab, &place, PORT, &mine.with_extension("pub"))?;
    let known = lab.folder().join("known_hosts");
    let stranger = fs::read_to_string(other.with_extension("pub"))?;
    let stranger: Vec<_> = stranger.split(' ').take(2).collect();
    let stranger = format!("[127.0.0.1]:{PORT} {}\n", stranger.join(" "));

    let url = format!(
        "git+ssh://root@127.0.0.1:{PORT}{}#main",
        repository.bare().display()
    );
    let start = |key: &std::path::Path| -> Result<Daemon> {
        let mut options = scene.shop.back.daemon_options(url.as_ref())?;
        let (key, known) = (
            key.to_str().context("path")?,
            known.to_str().context("path")?,
        );
        options.extra = [
            "--git-poll",
            "1s",
            "--git-ssh-key",
            key,
            "--git-known-hosts",
            known,
        ]
        .map(str::to_owned)
        .to_vec();
        // Without a first policy it is not ready.
        let mut back = Daemon::prepare(lab, options)?;
        back.launch()?;
        Ok(back)
    };
    fs::write(&known, stranger)?;
    let mut back = start(mine)?;
    let message = denied(&back, "another host key")?;
    assert!(message.contains("--git-known-hosts"), "{message}");
    back.stop()?;
    fs::write(&known, server.known_host())?;
    let mut back = start(other)?;
    let message = denied(&back, "another key")?;
    assert!(message.contains("--git-ssh-key"), "{message}");
    back.stop()?;
    let back = start(mine)?;
    back.wait_for_commit(&id)
}
