//! A real ssh server on the loopback of a place, which lets root in by a key of the lab.

use std::{
    fs,
    net::TcpStream,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{Lab, Place, patient};

/// A running server. It ends when it is dropped.
#[derive(Debug)]
pub struct SshServer {
    process: Child,
    port: u16,
    /// Public key of the host, as in `ssh-ed25519 AAAA…`.
    host_key: String,
}

impl SshServer {
    /// Starts dropbear, with a home of root of its own in which this public key is authorized.
    pub fn start(lab: &Lab, place: &Place, port: u16, authorized: &Path) -> Result<Self> {
        let folder = lab.folder().join("ssh");
        let home = folder.join("home");
        let mut private = fs::DirBuilder::new();
        private.recursive(true).mode(0o700);
        private.create(home.join(".ssh"))?;
        fs::copy(authorized, home.join(".ssh/authorized_keys"))?;
        let key = folder.join("host-key");
        let made = Command::new("dropbearkey")
            .args(["-t", "ed25519", "-f"])
            .arg(&key)
            .output()
            .context("running dropbearkey: `cargo xtask setup` installs it")?;
        let said = String::from_utf8(made.stdout)?;
        let host_key = said
            .lines()
            .find(|line| line.starts_with("ssh-ed25519 "))
            .context("dropbearkey tells no public key")?
            .to_owned();
        // Root's home is the lab's in this process's view of the file systems only.
        let script = "mount --bind \"$1\" \"$2\" && shift 2 && exec \"$@\"";
        let root = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(0))?;
        let root: PathBuf = root.context("root")?.dir;
        let mut command = place.command("/usr/bin/unshare")?;
        command
            .args(["--mount", "sh", "-c", script, "sh"])
            .args([&home, &root])
            .args([
                "dropbear",
                "-F",
                "-E",
                "-s",
                "-j",
                "-k",
                "-P",
                "/dev/null",
                "-r",
            ])
            .arg(&key)
            .args(["-p", &format!("127.0.0.1:{port}")])
            .stdin(Stdio::null())
            .stderr(fs::File::create(folder.join("log"))?);
        let server = Self {
            process: command.spawn().context("starting dropbear")?,
            port,
            host_key,
        };
        let deadline = Instant::now() + patient(Duration::from_secs(10));
        while place
            .enter(|| TcpStream::connect(("127.0.0.1", port)))?
            .is_err()
        {
            anyhow::ensure!(
                Instant::now() < deadline,
                "dropbear does not listen: {}",
                fs::read_to_string(folder.join("log")).unwrap_or_default()
            );
            thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// Its line in a file of known hosts.
    pub fn known_host(&self) -> String {
        let words: Vec<_> = self.host_key.split(' ').take(2).collect();
        format!("[127.0.0.1]:{} {}\n", self.port, words.join(" "))
    }
}

impl Drop for SshServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
