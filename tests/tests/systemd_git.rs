//! Policy from git by the service as it is deployed: what its unit takes away from the daemon is
//! nothing that git, ssh, ssh-keygen and gpg need.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::lab::{
    Expect, Place,
    authority::Authority,
    git::{Repository, SigningKey},
    git_server::{GitServer, Manner},
    machine::{Machine, POLICY, UNIT},
    ssh::SshServer,
};

/// `enforcer:token`, as HTTP's basic scheme has it.
const LOGIN: &str = "Basic ZW5mb3JjZXI6dG9rZW4=";
const HTTPS_PORT: u16 = 8443;
const SSH_PORT: u16 = 2200;

/// A machine whose service is to follow a repository.
struct Follower {
    machine: Machine,
    repository: Repository,
    /// Where its servers run.
    place: Place,
}

impl Follower {
    fn boot() -> Result<Self> {
        let machine = Machine::boot_with_web()?;
        machine.install()?;
        let secrets = machine.systemd.path("/etc/enforcer/git");
        fs::create_dir_all(&secrets)?;
        fs::set_permissions(&secrets, fs::Permissions::from_mode(0o700))?;
        Ok(Self {
            repository: Repository::create(&machine.lab)?,
            place: Place::new("git", &machine.namespace, machine.lab.cgroup("/git")?)?,
            machine,
        })
    }

    /// Writes a file that only root reads.
    fn keep(&self, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let file = self.machine.systemd.path(path);
        fs::write(&file, content).with_context(|| file.display().to_string())?;
        Ok(fs::set_permissions(
            file,
            fs::Permissions::from_mode(0o600),
        )?)
    }

    /// A commit that leaves one port of `web` open.
    fn publish(&self, open: u16, key: Option<&SigningKey>) -> Result<String> {
        let policy = POLICY.replace("8080/tcp", &format!("{open}/tcp"));
        self.repository.write("hosts/web.yaml", &policy)?;
        self.repository.publish("change", key)
    }

    /// Says which remote the service is to follow, as `systemctl edit enforcer` does.
    fn configure(&self, remote: &str, flags: &str) -> Result<()> {
        let systemd = &self.machine.systemd;
        let folder = systemd.path("/etc/systemd/system/enforcer.service.d");
        fs::create_dir_all(&folder)?;
        fs::write(
            folder.join("override.conf"),
            format!(
                "[Service]\nExecStart=\n\
                 ExecStart=/usr/bin/enforcer run --policies git+{remote}#main:hosts \\\n    \
                 --git-poll 1s --require-signed /etc/enforcer/signers {flags}\n"
            ),
        )?;
        systemd.ensure(&["daemon-reload"])?;
        Ok(())
    }

    fn status(&self) -> Result<Value> {
        let asked = ["--output", "json", "status"];
        let status = self.machine.systemd.run("enforcer", &asked)?;
        ensure!(status.status.success(), "{status:?}");
        Ok(serde_json::from_slice(&status.stdout)?)
    }

    fn wait_for_commit(&self, id: &str) -> Result<()> {
        self.machine.wait(&format!("the commit {id}"), || {
            Ok(self.status()?["policy"]["commit"] == id)
        })
    }

    /// One port of `web` is open, the other is not, and the service has left no process behind.
    fn expect_open(&self, port: u16) -> Result<()> {
        let other = if port == 8080 { 8081 } else { 8080 };
        self.machine.expect(port, Expect::Open)?;
        self.machine.expect(other, Expect::Denied)?;
        self.machine
            .wait("an end of git", || Ok(self.machine.daemon().is_ok()))
    }
}

#[test]
fn https_with_a_token_and_openpgp_signatures_from_a_boot_without_network_on() -> Result<()> {
    let follower = Follower::boot()?;
    let (machine, lab) = (&follower.machine, &follower.machine.lab);
    let ada = SigningKey::openpgp(lab, "ada")?;
    let first = follower.publish(8080, Some(&ada))?;
    let authority = Authority::new(&lab.folder().join("authority"))?;
    let host = format!("127.0.0.1:{HTTPS_PORT}");
    follower.keep("/etc/enforcer/signers", ada.allowed("")?)?;
    follower.keep("/etc/enforcer/git/ca.pem", fs::read(authority.root())?)?;
    follower.keep(
        "/etc/enforcer/git/credentials",
        format!("https://enforcer:token@{host}\n"),
    )?;
    let flags = "--git-ca /etc/enforcer/git/ca.pem --git-credentials /etc/enforcer/git/credentials";

    // Nobody serves yet: the service starts, says so, and has nothing to enforce.
    follower.configure(&format!("https://{host}/policy.git"), flags)?;
    machine.systemd.ensure(&["start", UNIT])?;
    let status = follower.status()?;
    assert_eq!(
        status["git"]["failure"]["cause"], "unreachable",
        "{status:#}"
    );
    machine.expect(8081, Expect::Open)?;

    let server = GitServer::start(
        &follower.place,
        &follower.repository,
        Manner {
            port: HTTPS_PORT,
            tls: Some(authority.server("git", &["127.0.0.1".parse()?])?),
            login: Some(LOGIN.to_owned()),
            ..Manner::default()
        },
    )?;
    follower.wait_for_commit(&first)?;
    follower.expect_open(8080)?;
    let signer = &follower.status()?["git"]["commit"]["signer"];
    assert_eq!(signer["kind"], "openpgp", "{signer}");

    let second = follower.publish(8081, Some(&ada))?;
    follower.wait_for_commit(&second)?;
    follower.expect_open(8081)?;

    let unsigned = follower.publish(8080, None)?;
    machine.wait("a refusal", || {
        Ok(follower.status()?["git"]["refused"]["id"] == unsigned)
    })?;
    follower.expect_open(8081)?;

    // The remote is away again: the commit that was accepted is enforced from the start.
    drop(server);
    machine.systemd.ensure(&["restart", UNIT])?;
    assert_eq!(follower.status()?["policy"]["commit"], second);
    follower.expect_open(8081)?;

    machine.systemd.ensure(&["stop", UNIT])?;
    assert_eq!(machine.systemd.property(UNIT, "Result")?, "success");
    let journal = machine.systemd.journal();
    assert!(!journal.contains("enforcer:token"), "{journal}");
    Ok(())
}

#[test]
fn ssh_with_a_deploy_key_and_ssh_signatures() -> Result<()> {
    let follower = Follower::boot()?;
    let (machine, lab) = (&follower.machine, &follower.machine.lab);
    let (ada, deploy) = (
        SigningKey::ssh(lab, "ada")?,
        SigningKey::ssh(lab, "deploy")?,
    );
    let SigningKey::Ssh(deploy) = &deploy else {
        anyhow::bail!("not an ssh key");
    };
    let first = follower.publish(8080, Some(&ada))?;
    let server = SshServer::start(
        lab,
        &follower.place,
        SSH_PORT,
        &deploy.with_extension("pub"),
    )?;
    follower.keep("/etc/enforcer/signers", ada.allowed("")?)?;
    follower.keep("/etc/enforcer/git/known_hosts", server.known_host())?;
    for path in ["/etc/enforcer/git/id_ed25519", "/root/id_ed25519"] {
        follower.keep(path, fs::read(deploy)?)?;
    }
    let remote = format!(
        "ssh://root@127.0.0.1:{SSH_PORT}{}",
        follower.repository.bare().display()
    );
    let configure = |key: &Path| {
        let known = "--git-known-hosts /etc/enforcer/git/known_hosts";
        follower.configure(&remote, &format!("{known} --git-ssh-key {}", key.display()))
    };

    // Homes are out of sight.
    configure("/root/id_ed25519".as_ref())?;
    let started = machine.systemd.systemctl(&["start", UNIT])?;
    assert!(!started.status.success(), "{started:?}");
    let journal = machine.systemd.journal();
    assert!(
        journal.contains("--git-ssh-key: cannot read /root/id_ed25519"),
        "{journal}"
    );

    configure("/etc/enforcer/git/id_ed25519".as_ref())?;
    machine.systemd.ensure(&["restart", UNIT])?;
    assert_eq!(follower.status()?["policy"]["commit"], first);
    follower.expect_open(8080)?;
    let signer = &follower.status()?["git"]["commit"]["signer"];
    assert_eq!(signer["kind"], "ssh", "{signer}");

    let second = follower.publish(8081, Some(&ada))?;
    let fetched = machine.systemd.run("enforcer", &["fetch"])?;
    assert!(fetched.status.success(), "{fetched:?}");
    assert_eq!(follower.status()?["policy"]["commit"], second);
    follower.expect_open(8081)?;
    Ok(())
}
