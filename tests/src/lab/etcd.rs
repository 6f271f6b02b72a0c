//! etcd with mutual TLS: some members on one address.

use std::{
    fs::{self, File},
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{
    Place,
    authority::{Authority, Files},
    patient,
};

/// The first client port; members count from it by tens, and their peers' ports are one above.
const FIRST_PORT: u16 = 2379;

/// A cluster. Dropping it kills its members.
pub struct Etcd {
    place: Place,
    address: IpAddr,
    folder: PathBuf,
    /// Signs the certificates of members and clients.
    pub authority: Authority,
    server: Files,
    members: Vec<Option<Child>>,
}

impl Etcd {
    /// Starts so many members at a place, on an address of it, and waits until they answer.
    pub fn start(place: Place, address: IpAddr, folder: &Path, members: usize) -> Result<Self> {
        let authority = Authority::new(&folder.join("tls"))?;
        let server = authority.server("etcd", &[address])?;
        let mut etcd = Self {
            place,
            address,
            folder: folder.to_owned(),
            authority,
            server,
            members: Vec::new(),
        };
        etcd.members.resize_with(members, || None);
        for member in 0..members {
            etcd.launch(member)?;
        }
        etcd.wait()?;
        Ok(etcd)
    }

    /// How clients reach the members.
    pub fn endpoints(&self) -> Vec<String> {
        (0..self.members.len()).map(|m| self.url(m, 0)).collect()
    }

    /// Kills a member with SIGKILL.
    pub fn kill(&mut self, member: usize) -> Result<()> {
        let mut child = self.members[member].take().context("it is down")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Starts a member.
    pub fn launch(&mut self, member: usize) -> Result<()> {
        let cluster: Vec<String> = (0..self.members.len())
            .map(|member| format!("m{member}={}", self.url(member, 1)))
            .collect();
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.join(format!("m{member}.log")))?;
        let mut command = self.place.command("etcd")?;
        command
            .args(["--name", &format!("m{member}")])
            .arg("--data-dir")
            .arg(self.folder.join(format!("m{member}")))
            .args(["--initial-cluster", &cluster.join(",")])
            .args(["--initial-cluster-token", "lab"])
            // A machine that is busy with tests is slow to answer.
            .args(["--heartbeat-interval", "300", "--election-timeout", "3000"])
            .args(["--client-cert-auth", "--peer-client-cert-auth"])
            .args(["--logger", "zap", "--log-level", "warn"]);
        for (flag, offset) in [
            ("--listen-client-urls", 0),
            ("--advertise-client-urls", 0),
            ("--listen-peer-urls", 1),
            ("--initial-advertise-peer-urls", 1),
        ] {
            command.args([flag, &self.url(member, offset)]);
        }
        for side in ["", "peer-"] {
            command
                .arg(format!("--{side}cert-file"))
                .arg(&self.server.certificate)
                .arg(format!("--{side}key-file"))
                .arg(&self.server.key)
                .arg(format!("--{side}trusted-ca-file"))
                .arg(self.authority.root());
        }
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command.spawn();
        self.members[member] = Some(child.context("starting etcd (package etcd-server)")?);
        Ok(())
    }

    /// Runs `etcdctl` as a client of this common name, which must succeed.
    pub fn ctl(&self, client: &str, arguments: &[&str]) -> Result<String> {
        let files = self.authority.client(client)?;
        let mut command = self.place.command("etcdctl")?;
        let output = command
            .env("ETCDCTL_API", "3")
            .arg("--endpoints")
            .arg(self.endpoints().join(","))
            .arg("--cacert")
            .arg(self.authority.root())
            .arg("--cert")
            .arg(&files.certificate)
            .arg("--key")
            .arg(&files.key)
            .args(arguments)
            .stdin(Stdio::null())
            .output()?;
        ensure!(
            output.status.success(),
            "etcdctl {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Waits until the members that run answer.
    pub fn wait(&self) -> Result<()> {
        let deadline = Instant::now() + patient(Duration::from_mins(1));
        loop {
            match self.ctl("root", &["get", "nothing"]) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    let log = fs::read_to_string(self.folder.join("m0.log")).unwrap_or_default();
                    return Err(error.context(log));
                }
                Err(_) => thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    fn url(&self, member: usize, offset: u16) -> String {
        let member = u16::try_from(member).unwrap_or_default();
        format!(
            "https://{}:{}",
            self.address,
            FIRST_PORT + member * 10 + offset
        )
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for child in self.members.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
