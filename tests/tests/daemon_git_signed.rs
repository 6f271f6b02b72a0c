//! Only commits that named people signed take effect.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::Value;
use tests::lab::{
    Daemon, Lab, Scene,
    git::{Repository, SigningKey},
    tree::SHOP_WORKLOADS,
};

const POLICY: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: api, namespace: shop}
spec:
  selector: {matchLabels: {app: api}}
  ingress: [{}]
";

struct Signed {
    scene: Scene,
    repository: Repository,
    allowed: PathBuf,
    count: std::cell::Cell<u32>,
}

impl Signed {
    fn new(allowed: &str) -> Result<Self> {
        let scene = Scene::new(POLICY)?;
        let repository = Repository::create(&scene.lab)?;
        repository.write("workloads.yaml", SHOP_WORKLOADS)?;
        let path = scene.lab.folder().join("allowed");
        std::fs::write(&path, allowed)?;
        Ok(Self {
            scene,
            repository,
            allowed: path,
            count: 0.into(),
        })
    }

    /// Another commit, with other content.
    fn change(&self, key: Option<&SigningKey>) -> Result<String> {
        self.count.set(self.count.get() + 1);
        let text = POLICY.replace("name: api", &format!("name: api{}", self.count.get()));
        self.repository.write("policy.yaml", &text)?;
        self.repository.publish("change", key)
    }

    fn daemon(&self, extra: &[&str]) -> Result<Daemon> {
        let url = format!("git+file://{}#main", self.repository.bare().display());
        let mut options = self.scene.shop.back.daemon_options(url.as_ref())?;
        let allowed = self.allowed.to_str().context("path")?;
        options.extra = ["--git-poll", "1s", "--require-signed", allowed]
            .iter()
            .chain(extra)
            .map(|&text| text.to_owned())
            .collect();
        Daemon::start(&self.scene.lab, options)
    }
}

fn in_force(daemon: &Daemon, id: &str) -> Result<Value> {
    daemon.wait_for_commit(id)?;
    daemon.ask_json(&["status"])
}

fn refused(daemon: &Daemon, id: &str, reason: &str) -> Result<String> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let status: Value = daemon.ask_json(&["status"])?;
        let refused = &status["git"]["refused"];
        if refused["id"] == id {
            assert_eq!(refused["reason"], reason, "{refused:#}");
            assert_ne!(status["policy"]["commit"], id);
            assert_eq!(status["health"]["ok"], false);
            let message = refused["message"].as_str().context("message")?.to_owned();
            assert!(
                daemon.log().contains(&message),
                "{message}\n{}",
                daemon.log()
            );
            let label = format!("reason=\"{reason}\"");
            assert!(daemon.metric("enforcer_git_commits_refused_total", &[&label])? > 0);
            assert_eq!(daemon.metric("enforcer_git_commit_refused", &[])?, 1);
            return Ok(message);
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "{id}: {:#}\n{}",
            status["git"],
            daemon.log()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A key that is allowed and one that is not, of a kind.
fn keys(lab: &Lab, openpgp: bool) -> Result<[SigningKey; 2]> {
    let make = if openpgp {
        SigningKey::openpgp
    } else {
        SigningKey::ssh
    };
    Ok([make(lab, "ada")?, make(lab, "eve")?])
}

/// Unsigned, unknown and bad commits are refused, and a good one is then accepted.
fn all_kinds(openpgp: bool) -> Result<()> {
    let signed = Signed::new("")?;
    let [ada, eve] = keys(&signed.scene.lab, openpgp)?;
    std::fs::write(&signed.allowed, ada.allowed("")?)?;
    let repository = &signed.repository;
    let first = signed.change(Some(&ada))?;
    let back = signed.daemon(&[])?;
    let status = in_force(&back, &first)?;
    let by = &status["git"]["commit"]["signer"];
    assert_eq!(by["kind"], if openpgp { "openpgp" } else { "ssh" });
    assert!(by["name"].to_string().contains("ada@example.org"), "{by}");
    assert!(
        by["key"].as_str().is_some_and(|key| key.len() >= 40),
        "{by}"
    );

    let unsigned = signed.change(None)?;
    let message = refused(&back, &unsigned, "unsigned")?;
    assert!(message.contains("not signed"), "{message}");
    // Signed on top of what is not: what came between does not slip in.
    let above = signed.change(Some(&ada))?;
    let message = refused(&back, &above, "unsigned")?;
    assert!(message.contains(&unsigned[..12]), "{message}");

    repository.git(&["reset", "--quiet", "--hard", &first])?;
    let unknown = signed.change(Some(&eve))?;
    refused(&back, &unknown, "unknown-signer")?;

    // A good signature, under another message.
    repository.git(&["reset", "--quiet", "--hard", &first])?;
    signed.change(Some(&ada))?;
    let object = repository.git(&["cat-file", "commit", "HEAD"])?;
    let forged = signed.scene.lab.folder().join("forged");
    std::fs::write(
        &forged,
        format!("{}forged\n", object.trim_end_matches("change")),
    )?;
    let forged = forged.to_str().context("path")?;
    let bad = repository.git(&["hash-object", "-t", "commit", "-w", forged])?;
    repository.git(&["reset", "--quiet", "--hard", &bad])?;
    repository.push()?;
    refused(&back, &bad, "bad-signature")?;

    repository.git(&["reset", "--quiet", "--hard", &first])?;
    let good = signed.change(Some(&ada))?;
    let status = in_force(&back, &good)?;
    assert!(status["git"]["refused"].is_null(), "{status:#}");
    let words = String::from_utf8(back.ask(&["status"])?.stdout)?;
    assert!(
        words.contains("signed by ") && words.contains("ada@example.org"),
        "{words}"
    );
    // The signers' file is read anew.
    std::fs::write(&signed.allowed, eve.allowed("")?)?;
    let late = signed.change(Some(&ada))?;
    refused(&back, &late, "unknown-signer")?;
    Ok(())
}

#[test]
fn ssh_signatures() -> Result<()> {
    all_kinds(false)
}

#[test]
fn openpgp_signatures() -> Result<()> {
    all_kinds(true)
}

#[test]
fn keys_have_their_time_and_their_purpose() -> Result<()> {
    let signed = Signed::new("")?;
    let [ada, _] = keys(&signed.scene.lab, false)?;
    std::fs::write(&signed.allowed, ada.allowed("namespaces=\"git\"")?)?;
    let first = signed.change(Some(&ada))?;
    let back = signed.daemon(&[])?;
    in_force(&back, &first)?;
    for options in [
        "valid-before=\"20200101\"",
        "valid-after=\"20990101\"",
        "namespaces=\"file\"",
    ] {
        std::fs::write(&signed.allowed, ada.allowed(options)?)?;
        let late = signed.change(Some(&ada))?;
        refused(&back, &late, "invalid-signer")?;
    }
    // What was accepted stays in force; and the same commit counts once its signer does.
    let status: Value = back.ask_json(&["status"])?;
    assert_eq!(status["policy"]["commit"], first);
    std::fs::write(&signed.allowed, ada.allowed("valid-after=\"20200101\"")?)?;
    let _: Value = back.ask_json(&["fetch"])?;
    let tip = signed.repository.git(&["rev-parse", "HEAD"])?;
    in_force(&back, &tip)?;
    Ok(())
}

#[test]
fn the_tip_alone_can_answer_for_all_below() -> Result<()> {
    let signed = Signed::new("")?;
    let [ada, _] = keys(&signed.scene.lab, false)?;
    std::fs::write(&signed.allowed, ada.allowed("")?)?;
    let first = signed.change(Some(&ada))?;
    let back = signed.daemon(&["--signed-commits", "tip"])?;
    in_force(&back, &first)?;
    let unsigned = signed.change(None)?;
    refused(&back, &unsigned, "unsigned")?;
    let above = signed.change(Some(&ada))?;
    in_force(&back, &above)?;
    Ok(())
}

#[test]
fn a_daemon_that_demands_signatures_does_not_start_without_signers() -> Result<()> {
    let signed = Signed::new("# nobody\n")?;
    let error = signed.daemon(&[]).map(drop).unwrap_err().to_string();
    assert!(error.contains("no signer is named"), "{error}");
    Ok(())
}
