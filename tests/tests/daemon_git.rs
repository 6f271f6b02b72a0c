//! Policy from a git repository behind a real server.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;
use tests::lab::{
    Daemon, DaemonOptions, Expect, Scene,
    git::Repository,
    git_server::{GitServer, Manner},
    tree::SHOP_WORKLOADS,
};

const OPEN: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: api, namespace: shop}
spec:
  selector: {matchLabels: {app: api}}
  ingress: [{}]
";

fn closed() -> String {
    OPEN.replace("[{}]", "[]")
}

/// The shop, with its policy in a repository.
struct GitScene {
    scene: Scene,
    repository: Repository,
    server: Option<GitServer>,
}

impl GitScene {
    fn new() -> Result<Self> {
        Self::with_object_format("sha1")
    }

    fn with_object_format(format: &str) -> Result<Self> {
        let scene = Scene::new(OPEN)?;
        let repository = Repository::with_object_format(&scene.lab, format)?;
        repository.write("policies/workloads.yaml", SHOP_WORKLOADS)?;
        let place = scene.shop.back.place("/system")?;
        let server = Some(GitServer::start(&place, &repository, Manner::default())?);
        Ok(Self {
            scene,
            repository,
            server,
        })
    }

    fn policy(&self, text: &str) -> Result<String> {
        self.repository.write("policies/policy.yaml", text)?;
        self.repository.publish("change", None)
    }

    fn options(&self, extra: &[&str]) -> Result<DaemonOptions> {
        let server = self.server.as_ref().context("the server is down")?;
        let mut options = self
            .scene
            .shop
            .back
            .daemon_options(&server.policies("#main:policies"))?;
        options.extra = extra.iter().map(|&text| text.to_owned()).collect();
        Ok(options)
    }

    fn daemon(&self, extra: &[&str]) -> Result<Daemon> {
        Daemon::start(&self.scene.lab, self.options(extra)?)
    }

    fn expect(&self, expect: Expect) -> Result<()> {
        let shop = &self.scene.shop;
        self.scene
            .expect_tcp(&shop.intruder, &shop.api, 9000, expect)
    }
}

fn wait_for_status(daemon: &Daemon, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    daemon.wait_for(what, Duration::from_secs(40), &["status"], wanted)
}

#[test]
fn a_new_commit_takes_effect_and_every_denial_names_it() -> Result<()> {
    let git = GitScene::new()?;
    let first = git.policy(OPEN)?;
    let back = git.daemon(&["--git-poll", "1s"])?;
    back.wait_for_commit(&first)?;
    git.expect(Expect::Open)?;
    let second = git.policy(&closed())?;
    back.wait_for_commit(&second)?;
    git.expect(Expect::Denied)?;
    let record = back.wait_for_record(Duration::from_secs(5), |record| {
        record.destination().port == Some(9000)
    })?;
    let record = serde_json::to_value(record)?;
    assert!(record.to_string().contains(&second), "{record:#}");
    let status: Value = back.ask_json(&["status"])?;
    assert_eq!(status["policy"]["commit"], second, "{status:#}");
    let commit = &status["git"]["commit"];
    assert_eq!(commit["id"], second);
    assert_eq!(commit["reference"], "main");
    assert_eq!(commit["author"], "Ada <ada@example.org>");
    assert!(commit["signer"].is_null() && commit["time"].is_string());
    assert_eq!(status["health"]["ok"], true, "{status:#}");
    let words = String::from_utf8(back.ask(&["status"])?.stdout)?;
    assert!(
        words.contains(&format!("commit    {} of main by Ada", &second[..12])),
        "{words}"
    );
    let label = format!("commit=\"{second}\"");
    assert_eq!(back.metric("enforcer_git_commit_info", &[&label])?, 1);
    assert!(back.metric("enforcer_git_last_fetch_timestamp_seconds", &[])? > 1_700_000_000);
    Ok(())
}

#[test]
fn repositories_with_ids_by_sha256_are_followed_too() -> Result<()> {
    let git = GitScene::with_object_format("sha256")?;
    let first = git.policy(OPEN)?;
    assert_eq!(first.len(), 64);
    let back = git.daemon(&["--git-poll", "1s"])?;
    back.wait_for_commit(&first)?;
    let second = git.policy(&closed())?;
    back.wait_for_commit(&second)?;
    git.expect(Expect::Denied)
}

#[test]
fn a_web_hook_comes_before_the_poll_and_only_with_the_secret() -> Result<()> {
    let git = GitScene::new()?;
    let first = git.policy(OPEN)?;
    let secret = git.scene.lab.folder().join("secret");
    std::fs::write(&secret, "a secret for web hooks\n")?;
    let secret = secret.to_str().context("path")?.to_owned();
    let back = git.daemon(&["--git-poll", "1h", "--webhook-secret", &secret])?;
    back.wait_for_commit(&first)?;
    let second = git.policy(&closed())?;
    let post = |token: &str| -> Result<String> {
        let place = git.scene.shop.back.place("/system")?;
        place.enter(|| -> Result<String> {
            let mut stream = TcpStream::connect("127.0.0.1:9467")?;
            write!(
                stream,
                "POST /webhook HTTP/1.1\r\nHost: x\r\nX-Gitlab-Token: {token}\r\n\
                 Content-Length: 2\r\n\r\n{{}}"
            )?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })?
    };
    let answer = post("a guess")?;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    std::thread::sleep(Duration::from_secs(2));
    let status: Value = back.ask_json(&["status"])?;
    assert_eq!(status["git"]["commit"]["id"], first);
    let answer = post("a secret for web hooks")?;
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    back.wait_for_commit(&second)?;
    git.expect(Expect::Denied)?;
    let outcome = |outcome: &str| {
        back.metric(
            "enforcer_git_webhooks_total",
            &[&format!("outcome=\"{outcome}\"")],
        )
    };
    assert_eq!((outcome("accepted")?, outcome("wrong-secret")?), (1, 1));
    Ok(())
}

#[test]
fn a_branch_that_was_rewritten_is_refused_unless_somebody_says_so() -> Result<()> {
    let git = GitScene::new()?;
    let first = git.policy(OPEN)?;
    let second = git.policy(&closed())?;
    let mut back = git.daemon(&["--git-poll", "1s"])?;
    back.wait_for_commit(&second)?;
    for (what, rewritten) in [("an older commit", true), ("another history", false)] {
        git.repository
            .git(&["reset", "--quiet", "--hard", &first])?;
        let tip = if rewritten {
            git.repository.push()?;
            first.clone()
        } else {
            git.repository.publish("another", None)?
        };
        let status = wait_for_status(&back, what, |s| s["git"]["refused"]["id"] == *tip)?;
        assert_eq!(status["git"]["refused"]["reason"], "rollback", "{status:#}");
        assert_eq!(status["policy"]["commit"], second, "{what}");
        assert_eq!(status["health"]["ok"], false, "{what}");
        git.expect(Expect::Denied)?;
    }
    // Nor does a restart forget which one was in force.
    back.kill()?;
    back.launch()?;
    back.wait_ready()?;
    let status = wait_for_status(&back, "restart", |s| s["git"]["refused"].is_object())?;
    assert_eq!(status["policy"]["commit"], second);
    let refused = back.ask(&["fetch"])?;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let answer: Value = back.ask_json(&["fetch", "--allow-rollback"])?;
    assert_eq!(answer["changed"], true, "{answer}");
    git.expect(Expect::Open)?;
    let status: Value = back.ask_json(&["status"])?;
    assert!(status["git"]["refused"].is_null(), "{status:#}");
    assert_eq!(back.metric("enforcer_git_commit_refused", &[])?, 0);
    Ok(())
}

#[test]
fn a_bad_tree_keeps_the_last_good_commit() -> Result<()> {
    let git = GitScene::new()?;
    let first = git.policy(&closed())?;
    let mut back = git.daemon(&["--git-poll", "1s"])?;
    back.wait_for_commit(&first)?;
    git.policy("kind: [SegmentPolicy\n")?;
    let bad = |s: &Value| s["refused"]["problem"]["code"] == "bad-policy";
    wait_for_status(&back, "bad YAML", bad)?;
    for restart in [false, true] {
        if restart {
            back.kill()?;
            back.launch()?;
            back.wait_ready()?;
        }
        let status = wait_for_status(&back, "bad YAML", bad)?;
        assert_eq!(status["policy"]["commit"], first, "{status:#}");
        assert_eq!(status["git"]["commit"]["id"], first, "{status:#}");
        git.expect(Expect::Denied)?;
    }
    // A path that is a link is refused before anything is checked out.
    std::fs::remove_file(git.repository.work().join("policies/policy.yaml"))?;
    std::os::unix::fs::symlink(
        "/etc/passwd",
        git.repository.work().join("policies/policy.yaml"),
    )?;
    git.repository.publish("a link", None)?;
    let status = wait_for_status(&back, "a link", |s| s["git"]["refused"].is_object())?;
    assert_eq!(status["git"]["refused"]["reason"], "tree", "{status:#}");
    std::fs::remove_file(git.repository.work().join("policies/policy.yaml"))?;
    let last = git.policy(OPEN)?;
    back.wait_for_commit(&last)?;
    git.expect(Expect::Open)
}

#[test]
fn a_daemon_starts_without_its_remote() -> Result<()> {
    let mut git = GitScene::new()?;
    let first = git.policy(&closed())?;
    let mut back = git.daemon(&["--git-poll", "1s"])?;
    back.wait_for_commit(&first)?;
    let port = git.server.as_ref().context("server")?.port();
    git.server = None;
    back.stop()?;
    // As after a reboot: nothing is pinned.
    back.detach()?;
    git.expect(Expect::Open)?;
    back.launch()?;
    back.wait_ready()?;
    git.expect(Expect::Denied)?;
    let status = wait_for_status(&back, "away", |s| s["git"]["failure"].is_object())?;
    assert_eq!(status["policy"]["commit"], first);
    assert_eq!(status["git"]["commit"]["id"], first);
    assert_eq!(
        status["git"]["failure"]["cause"], "unreachable",
        "{status:#}"
    );
    assert!(status["git"]["seen"].is_string(), "{status:#}");
    let reasons = status["health"]["reasons"].to_string();
    assert!(reasons.contains("has not been seen since"), "{reasons}");
    assert!(
        back.metric(
            "enforcer_git_fetch_failures_total",
            &["cause=\"unreachable\""]
        )? > 0
    );
    // And follows it when it is back.
    let place = git.scene.shop.back.place("/system")?;
    let manner = Manner {
        port,
        ..Manner::default()
    };
    git.server = Some(GitServer::start(&place, &git.repository, manner)?);
    let second = git.policy(OPEN)?;
    back.wait_for_commit(&second)?;
    git.expect(Expect::Open)?;
    wait_for_status(&back, "back", |s| s["git"]["failure"].is_null())?;
    Ok(())
}

#[test]
fn a_first_start_without_a_remote_waits_for_it() -> Result<()> {
    let git = GitScene::new()?;
    let mut options = git.options(&["--git-poll", "1s"])?;
    options.policies = format!("git+file://{}#:policies", git.repository.bare().display()).into();
    // The branch that the remote calls its own has no commit yet.
    let back = Daemon::start(&git.scene.lab, options)?;
    let status: Value = back.ask_json(&["status"])?;
    assert_eq!(status["git"]["failure"]["cause"], "not-found", "{status:#}");
    assert_eq!(status["health"]["ok"], false);
    git.expect(Expect::Open)?;
    let first = git.policy(&closed())?;
    back.wait_for_commit(&first)?;
    git.expect(Expect::Denied)
}
