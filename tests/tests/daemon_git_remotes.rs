//! Policy from git servers by HTTPS, and from servers that mean no good: only what the settings
//! trust is believed, and nothing that a server sends harms the daemon.

use std::{fs, path::PathBuf, process::Command, thread, time::Duration, time::Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::lab::{
    Daemon, Scene,
    authority::Authority,
    git::Repository,
    git_server::{Answer, GitServer, Manner},
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
/// `enforcer:token`, as HTTP's basic scheme has it.
const LOGIN: &str = "Basic ZW5mb3JjZXI6dG9rZW4=";

/// A host, and a repository with one commit.
struct RemoteScene {
    scene: Scene,
    repository: Repository,
    commit: String,
}

impl RemoteScene {
    fn new() -> Result<Self> {
        let scene = Scene::new(POLICY)?;
        let repository = Repository::create(&scene.lab)?;
        repository.write("workloads.yaml", SHOP_WORKLOADS)?;
        repository.write("policy.yaml", POLICY)?;
        let commit = repository.publish("first", None)?;
        Ok(Self {
            scene,
            repository,
            commit,
        })
    }

    fn serve(&self, manner: Manner) -> Result<GitServer> {
        let place = self.scene.shop.back.place("/system")?;
        GitServer::start(&place, &self.repository, manner)
    }

    /// A daemon that follows a server's repository.
    fn follow(&self, server: &GitServer, extra: &[&str]) -> Result<Daemon> {
        let policies = server.policies("#main");
        let mut options = self.scene.shop.back.daemon_options(&policies)?;
        options.extra = ["--git-poll", "1s"]
            .iter()
            .chain(extra)
            .map(|&text| text.to_owned())
            .collect();
        let mut daemon = Daemon::prepare(&self.scene.lab, options)?;
        // Without a first policy it is not ready.
        daemon.launch()?;
        Ok(daemon)
    }
}

/// Waits until a fetch failed, and returns the cause and what was said; nothing is in force.
fn failure(daemon: &Daemon) -> Result<(String, String)> {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        let status: Value = daemon.ask_json(&["status"]).unwrap_or_default();
        let failure = &status["git"]["failure"];
        if let (Some(cause), Some(message)) =
            (failure["cause"].as_str(), failure["message"].as_str())
        {
            assert!(status["policy"]["commit"].is_null(), "{status:#}");
            return Ok((cause.to_owned(), message.to_owned()));
        }
        ensure!(
            Instant::now() < deadline,
            "{:#}\n{}",
            status["git"],
            daemon.log()
        );
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn https_with_an_authority_and_a_token() -> Result<()> {
    let remote = RemoteScene::new()?;
    let folder = remote.scene.lab.folder();
    let mine = Authority::new(&folder.join("authority"))?;
    let other = Authority::new(&folder.join("stranger"))?;
    let server = remote.serve(Manner {
        tls: Some(mine.server("git", &["127.0.0.1".parse()?])?),
        login: Some(LOGIN.to_owned()),
        ..Manner::default()
    })?;
    let misnamed = remote.serve(Manner {
        tls: Some(mine.server("elsewhere", &["192.0.2.1".parse()?])?),
        ..Manner::default()
    })?;
    let credentials = |name: &str, password: &str| -> Result<String> {
        let path = folder.join(name);
        fs::write(
            &path,
            format!("https://enforcer:{password}@{}\n", server.host()),
        )?;
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&path, private)?;
        Ok(path.to_str().context("path")?.to_owned())
    };
    let (right, wrong) = (credentials("right", "token")?, credentials("wrong", "x")?);
    let text = |path: PathBuf| path.to_str().map(str::to_owned).context("path");
    let (root, stranger) = (text(mine.root())?, text(other.root())?);

    let authorities = ["--git-ca", &*root];
    let token = ["--git-credentials", &*right];
    for (what, server, flags) in [
        ("no authority", &server, token.to_vec()),
        (
            "another authority",
            &server,
            [&["--git-ca", &*stranger], &token[..]].concat(),
        ),
        ("another name", &misnamed, authorities.to_vec()),
        ("no token", &server, authorities.to_vec()),
        (
            "a wrong token",
            &server,
            [&authorities[..], &["--git-credentials", &*wrong]].concat(),
        ),
    ] {
        let mut daemon = remote.follow(server, &flags)?;
        let (cause, message) = failure(&daemon)?;
        assert_eq!(cause, "denied", "{what}: {message}");
        assert!(!message.contains("token"), "{what}: {message}");
        daemon.stop()?;
    }
    let daemon = remote.follow(&server, &[&authorities[..], &token].concat())?;
    daemon.wait_for_commit(&remote.commit)?;
    assert!(!daemon.log().contains("enforcer:token"), "{}", daemon.log());
    Ok(())
}

/// Whatever a server says instead of a repository is a failure with a cause, in bounded time and
/// memory, and the daemon goes on.
#[test]
fn servers_that_mean_no_good() -> Result<()> {
    let remote = RemoteScene::new()?;
    let authority = Authority::new(&remote.scene.lab.folder().join("authority"))?;
    let certificate = authority.server("git", &["127.0.0.1".parse()?])?;
    let root = authority.root();
    let root = root.to_str().context("path")?;
    let plain = remote.serve(Manner::default())?;
    let cases = [
        (Answer::Noise, "corrupt"),
        (Answer::Silence, "timeout"),
        (Answer::Endless, "too-large"),
        (Answer::Elsewhere(plain.url()), "denied"),
        (
            Answer::Elsewhere(format!("file://{}", remote.repository.bare().display())),
            "denied",
        ),
    ];
    for (answer, expected) in cases {
        let what = format!("{answer:?}");
        let server = remote.serve(Manner {
            tls: Some(certificate.clone()),
            answer,
            ..Manner::default()
        })?;
        let time = if what == "Silence" { "2s" } else { "50s" };
        let mut daemon = remote.follow(&server, &["--git-ca", root, "--git-timeout", time])?;
        let (cause, message) = failure(&daemon)?;
        assert_eq!(cause, expected, "{what}: {message}");
        assert!(server.asked() > 0, "{what}");
        daemon.stop()?;
    }
    assert_eq!(plain.asked(), 0, "HTTPS does not lead to HTTP");
    Ok(())
}

/// What is not to be on this disk is not, however fast it comes.
#[test]
fn repositories_that_are_too_large() -> Result<()> {
    let remote = RemoteScene::new()?;
    let server = remote.serve(Manner::default())?;
    let noise: Vec<u8> = {
        // Nothing that could be packed: a linear congruential generator.
        let mut state = 1_u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        };
        (0..8 << 20).map(|_| next()).collect()
    };
    fs::write(remote.repository.work().join("large.bin"), noise)?;
    let large = remote.repository.publish("large", None)?;
    let mut daemon = remote.follow(&server, &["--git-max-size", "4M"])?;
    let (cause, message) = failure(&daemon)?;
    assert_eq!(cause, "too-large", "{message}");
    assert!(message.contains("--git-max-size"), "{message}");
    daemon.stop()?;
    let daemon = remote.follow(&server, &["--git-max-size", "64M"])?;
    daemon.wait_for_commit(&large)
}

/// A tree that git itself would never write: an entry that leads out of the directory.
#[test]
fn objects_that_git_would_not_write() -> Result<()> {
    let remote = RemoteScene::new()?;
    let repository = &remote.repository;
    let server = remote.serve(Manner::default())?;
    let blob = repository.git(&["rev-parse", "HEAD:policy.yaml"])?;
    let mut tree = b"100644 ../policy.yaml\0".to_vec();
    let blob = blob.trim();
    for at in (0..blob.len()).step_by(2) {
        tree.push(u8::from_str_radix(&blob[at..at + 2], 16)?);
    }
    let raw = remote.scene.lab.folder().join("tree");
    fs::write(&raw, tree)?;
    let raw = raw.to_str().context("path")?;
    let tree = repository.git(&["hash-object", "-t", "tree", "--literally", "-w", raw])?;
    let commit = repository.git(&["commit-tree", "-m", "evil", "-p", "HEAD", tree.trim()])?;
    // Straight into the bare repository: a push would be checked.
    let objects = repository.work().join(".git/objects");
    let copied = Command::new("cp")
        .args(["-r", "--update"])
        .arg(format!("{}/.", objects.display()))
        .arg(repository.bare().join("objects"))
        .status()?;
    ensure!(copied.success(), "cannot copy the objects");
    fs::write(repository.bare().join("refs/heads/main"), &commit)?;
    let daemon = remote.follow(&server, &[])?;
    let (cause, message) = failure(&daemon)?;
    assert_eq!(cause, "corrupt", "{message}");
    // The daemon goes on: what is good again takes effect.
    fs::write(repository.bare().join("refs/heads/main"), &remote.commit)?;
    daemon.wait_for_commit(&remote.commit)
}
