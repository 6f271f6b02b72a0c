//! A real systemd as PID 1 of private namespaces, on a network and a cgroup of the lab.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{Lab, Namespace, Place, place};

/// A running systemd. It ends with its lab, or when dropped.
#[derive(Debug)]
pub struct Systemd {
    /// `unshare`, the parent of PID 1.
    unshare: std::process::Child,
    pid: u32,
    namespace: Namespace,
    cgroup_root: PathBuf,
}

/// Makes a root of an overlay over this machine's own, with fresh /run, /tmp and /dev, and
/// becomes systemd there. `$1` is a folder for the overlay, `$2` one with programs of ours,
/// which is seen as /run/lab inside.
const SCRIPT: &str = r#"
set -eu
S=$1/overlay; P=$2
mkdir -p "$S"
mount -t tmpfs overlay "$S"
mkdir "$S/upper" "$S/work" "$S/root"
mount -t overlay -o "lowerdir=/,upperdir=$S/upper,workdir=$S/work" overlay "$S/root"
R=$S/root
: > "$R/etc/machine-id"
rm -f "$R/etc/fstab"
mount -t proc proc "$R/proc"
mount -t sysfs -o ro sysfs "$R/sys"
mount -t cgroup2 none "$R/sys/fs/cgroup"
mount -t bpf bpf "$R/sys/fs/bpf"
mount -t tmpfs tmpfs "$R/run"
mount -t tmpfs tmpfs "$R/tmp"
mkdir -p "$R/run/lab" "$R/run/systemd/system"
mount --bind "$P" "$R/run/lab"
# Settings of the whole kernel and modules are none of a test's business.
for unit in systemd-sysctl systemd-modules-load; do
    ln -s /dev/null "$R/run/systemd/system/$unit.service"
done
mount -t tmpfs -o mode=755 dev "$R/dev"
for node in null zero full random urandom tty; do
    touch "$R/dev/$node"
    mount --bind "/dev/$node" "$R/dev/$node"
done
mkdir -p "$R/dev/pts" "$R/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 pts "$R/dev/pts"
ln -sf pts/ptmx "$R/dev/ptmx"
mount -t tmpfs shm "$R/dev/shm"
ln -sf /proc/self/fd "$R/dev/fd"
hostname lab
cd "$R"
mkdir -p .old
pivot_root . .old
umount -l /.old
exec env -i container=lab PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system --log-target=console --log-level=notice --unit=basic.target
"#;

impl Systemd {
    /// Boots systemd on this network, with its units below `/NAME` of the lab's cgroups.
    pub fn boot(lab: &Lab, namespace: &Namespace, name: &str) -> Result<Self> {
        let cgroup_root = lab.cgroup(name)?;
        let folder = lab.folder().join(name);
        fs::create_dir_all(&folder)?;
        let programs = place::program("probe")?;
        let programs = programs.parent().context("a program in no folder")?;
        let place = Place::new("systemd", namespace, cgroup_root.clone())?;
        let log = fs::File::create(folder.join("console"))?;
        let mut command = place.command("unshare")?;
        command
            .args([
                "--cgroup",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--uts",
                "--ipc",
                "--propagation",
                "private",
            ])
            .args(["bash", "-c", SCRIPT, "bash"])
            .args([&folder, programs])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let unshare = command.spawn().context("starting unshare")?;
        let mut this = Self {
            pid: 0,
            unshare,
            namespace: namespace.clone(),
            cgroup_root,
        };
        let deadline = Instant::now() + Duration::from_mins(1);
        let console = || fs::read_to_string(folder.join("console")).unwrap_or_default();
        loop {
            if this.pid == 0 {
                this.pid = this.first_child().unwrap_or(0);
            } else if this
                .systemctl(&["is-active", "basic.target"])
                .is_ok_and(|answer| answer.status.success())
            {
                return Ok(this);
            }
            if let Some(status) = this.unshare.try_wait()? {
                anyhow::bail!("systemd ended with {status}:\n{}", console());
            }
            anyhow::ensure!(
                Instant::now() < deadline,
                "systemd does not come up:\n{}",
                console()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn first_child(&self) -> Option<u32> {
        let parent = self.unshare.id();
        fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))
            .ok()?
            .split_whitespace()
            .next()?
            .parse()
            .ok()
    }

    /// The root of its cgroup tree, seen from outside.
    pub fn cgroup_root(&self) -> &Path {
        &self.cgroup_root
    }

    /// A path inside, seen from outside.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.pid))
    }

    /// Runs a program inside.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<Output> {
        Command::new("nsenter")
            .args(["--target", &self.pid.to_string(), "--all", "--wd=/"])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .context("running nsenter")
    }

    /// Runs systemctl inside.
    pub fn systemctl(&self, arguments: &[&str]) -> Result<Output> {
        self.run("systemctl", arguments)
    }

    /// Runs systemctl inside; it must succeed. Gives its output.
    pub fn ensure(&self, arguments: &[&str]) -> Result<String> {
        let output = self.systemctl(arguments)?;
        anyhow::ensure!(
            output.status.success(),
            "systemctl {arguments:?}: {}{}",
            String::from_utf8_lossy(&output.stderr),
            self.journal()
        );
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// A property of a unit.
    pub fn property(&self, unit: &str, name: &str) -> Result<String> {
        self.ensure(&["show", "--value", "--property", name, unit])
    }

    /// What its units have written.
    pub fn journal(&self) -> String {
        self.run("journalctl", &["--no-pager", "--lines=60", "--quiet"])
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
            .unwrap_or_default()
    }

    /// Writes a unit and makes it known.
    pub fn write_unit(&self, name: &str, text: &str) -> Result<()> {
        fs::write(self.path("/run/systemd/system").join(name), text)?;
        self.ensure(&["daemon-reload"])?;
        Ok(())
    }

    /// The place of a unit's processes, as systemd says.
    pub fn unit_place(&self, unit: &str) -> Result<Place> {
        let cgroup = self.property(unit, "ControlGroup")?;
        anyhow::ensure!(!cgroup.is_empty(), "{unit} has no cgroup");
        Place::new(
            unit,
            &self.namespace,
            self.cgroup_root.join(cgroup.trim_start_matches('/')),
        )
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.journal());
        }
        // PID 1 and all that it started die with it.
        let _ = super::cgroup::kill_all(&self.cgroup_root);
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}
