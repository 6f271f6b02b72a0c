//! Debian packages that builds, tests, benchmarks and other kernels use. Installed only when a program
//! that we need is missing, so that a machine which has it from elsewhere is left alone.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};

use super::Purpose;
use crate::{step, workspace};

/// Something that a feature needs, and the package that brings it.
struct Need {
    /// The first purpose that needs it.
    purpose: Purpose,
    /// The Debian package.
    package: &'static str,
    /// Any one of these present means that the need is met: a program's name, or a whole path.
    probes: &'static [&'static str],
}

const fn need(purpose: Purpose, package: &'static str, probes: &'static [&'static str]) -> Need {
    Need {
        purpose,
        package,
        probes,
    }
}

/// Where virtiofsd lives: Debian 12 (within qemu), Debian 13 and Ubuntu.
pub const VIRTIOFSD: &[&str] = &["/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"];

const NEEDS: &[Need] = &[
    // The build script of etcd-client reads the protocol's definition with it.
    need(Purpose::Build, "protobuf-compiler", &["protoc"]),
    // With the definitions that every protocol may use.
    need(
        Purpose::Build,
        "libprotobuf-dev",
        &["/usr/include/google/protobuf/descriptor.proto"],
    ),
    // The registry of a fleet, three members of it.
    need(Purpose::Test, "etcd-server", &["etcd"]),
    need(Purpose::Test, "etcd-client", &["etcdctl"]),
    need(Purpose::Bench, "etcd-server", &["etcd"]),
    // Namespaces, veths and addresses of the lab; ICMP from a real sender.
    need(Purpose::Test, "iproute2", &["ip"]),
    need(Purpose::Test, "iputils-ping", &["ping"]),
    // Clients of attestation that are not ours.
    need(Purpose::Test, "curl", &["curl"]),
    need(Purpose::Test, "openssl", &["openssl"]),
    // Fetches Envoy, which is one too.
    need(Purpose::Clients, "python3-pip", &["pip3", "pip"]),
    // `unit:` workloads against a real systemd.
    need(
        Purpose::Test,
        "systemd",
        &["/lib/systemd/systemd", "/usr/lib/systemd/systemd"],
    ),
    need(Purpose::Test, "util-linux", &["unshare"]),
    // libFuzzer is built from source.
    need(Purpose::Fuzz, "g++", &["c++"]),
    // Repositories of policies, a server before them, and signed commits.
    need(Purpose::Test, "git", &["git"]),
    need(Purpose::Test, "openssh-client", &["ssh-keygen"]),
    need(Purpose::Test, "gnupg", &["gpg"]),
    // A real ssh server without a service that would be started.
    need(Purpose::Test, "dropbear-bin", &["dropbear"]),
    // The peer that the benchmarks compare with.
    need(Purpose::Bench, "nftables", &["nft"]),
    need(Purpose::Bench, "iproute2", &["ip"]),
    need(Purpose::Kernel, "qemu-system-x86", &["qemu-system-x86_64"]),
    need(Purpose::Kernel, "busybox-static", &["/bin/busybox"]),
    need(Purpose::Kernel, "cpio", &["cpio"]),
    need(Purpose::Kernel, "kmod", &["depmod"]),
    need(Purpose::Kernel, "xz-utils", &["xz"]),
    need(Purpose::Kernel, "zstd", &["zstd"]),
    // On Debian 12 qemu brings it, and the package does not exist; so this comes last.
    need(Purpose::Kernel, "virtiofsd", VIRTIOFSD),
];

/// Makes sure of every program that the purposes need.
pub fn ensure(purposes: &[Purpose]) -> Result<()> {
    let wanted = || {
        NEEDS
            .iter()
            .filter(|need| purposes.contains(&need.purpose) && !is_met(need))
    };
    let (separate, mut together): (Vec<_>, Vec<_>) = wanted()
        .map(|need| need.package)
        .partition(|package| *package == "virtiofsd");
    together.sort_unstable();
    together.dedup();
    install(&together)?;
    // What another package has brought meanwhile is no longer wanted.
    if !separate.is_empty() && wanted().next().is_some() {
        install(&separate)?;
    }
    match wanted().map(|need| need.package).collect::<Vec<_>>() {
        still if still.is_empty() => Ok(()),
        still => bail!(
            "installed, but what we look for is not where it should be: {}",
            still.join(" ")
        ),
    }
}

fn is_met(need: &Need) -> bool {
    locate(need.probes).is_some()
}

/// Where packages are unpacked that cannot be installed without removing others.
pub fn private_root() -> PathBuf {
    workspace::tools().join("debian")
}

/// The first of these that is there, on the system or unpacked by us: a program's name, or a
/// whole path.
pub fn locate(probes: &[&str]) -> Option<PathBuf> {
    probes.iter().find_map(|probe| {
        if let Some(below_root) = probe.strip_prefix('/') {
            [PathBuf::from(probe), private_root().join(below_root)]
                .into_iter()
                .find(|path| path.is_file())
        } else {
            workspace::find_program(probe).or_else(|| {
                ["usr/bin", "usr/sbin", "bin", "sbin"]
                    .iter()
                    .map(|dir| private_root().join(dir).join(probe))
                    .find(|path| path.is_file())
            })
        }
    })
}

/// A command for a program that [`locate`] found, with the libraries that were unpacked with it.
///
/// # Errors
/// It is not there.
pub fn command(probes: &[&str]) -> Result<Command> {
    let program = locate(probes)
        .with_context(|| format!("{} is not on this machine", probes.join(" or ")))?;
    let mut command = workspace::command(&program);
    if program.starts_with(private_root()) {
        let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"]
            .map(|dir| private_root().join(dir));
        command.env("LD_LIBRARY_PATH", std::env::join_paths(libraries)?);
    }
    Ok(command)
}

fn install(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let advice = format!("do, as root: apt-get install {}", packages.join(" "));
    if workspace::find_program("apt-get").is_none() {
        bail!(
            "this machine has no apt-get; install what these Debian packages bring: {}",
            packages.join(" ")
        );
    }
    if !workspace::is_root() {
        bail!("not root; {advice}");
    }
    // Package lists may be missing or old; refreshed only if it does not work as they stand.
    if install_or_unpack(packages).is_err() {
        let mut update = workspace::command("apt-get");
        step::quietly("refreshing package lists", update.args(["-q", "update"]))
            .with_context(|| advice.clone())?;
        install_or_unpack(packages).with_context(|| advice)?;
    }
    Ok(())
}

/// Installs what can be installed without removing anything; unpacks the rest into a directory
/// of our own. A machine may hold a part of a newer version, as qemu-utils from backports.
fn install_or_unpack(packages: &[&str]) -> Result<()> {
    let mut peaceful = Vec::new();
    let mut blocked = Vec::new();
    for package in packages {
        let plan = Plan::of(&[package])?;
        if plan.removes {
            &mut blocked
        } else {
            &mut peaceful
        }
        .push(*package);
    }
    if !peaceful.is_empty() {
        let mut apt = apt_install_command(&["-q", "-y", "--no-remove"]);
        step::quietly(
            &format!("installing {}", peaceful.join(" ")),
            apt.args(&peaceful),
        )?;
    }
    if !blocked.is_empty() {
        unpack(&Plan::of(&blocked)?.installs, &blocked)?;
    }
    Ok(())
}

/// What apt would do.
struct Plan {
    installs: Vec<String>,
    removes: bool,
}

impl Plan {
    /// Simulates the installation; apt prints one line for each package, `Inst NAME …` or
    /// `Remv NAME …`.
    fn of(packages: &[&str]) -> Result<Self> {
        let simulated = step::output(apt_install_command(&["-q", "--simulate"]).args(packages))?;
        let second = |line: &str| line.split(' ').nth(1).map(str::to_owned);
        Ok(Self {
            installs: simulated
                .lines()
                .filter(|line| line.starts_with("Inst "))
                .filter_map(second)
                .collect(),
            removes: simulated.lines().any(|line| line.starts_with("Remv ")),
        })
    }
}

fn unpack(files_of: &[String], wanted: &[&str]) -> Result<()> {
    let download = private_root().join("download");
    fs::create_dir_all(&download)?;
    let mut apt = workspace::command("apt-get");
    // As the caller: apt's own user cannot write to our directory.
    apt.args(["-q", "-o", "APT::Sandbox::User=", "download"])
        .args(files_of)
        .current_dir(&download);
    step::quietly(
        &format!("downloading {} and libraries", wanted.join(" ")),
        &mut apt,
    )?;
    for entry in fs::read_dir(&download)? {
        let mut dpkg = workspace::command("dpkg-deb");
        dpkg.arg("-x").arg(entry?.path()).arg(private_root());
        step::output(&mut dpkg)?;
    }
    fs::remove_dir_all(&download)?;
    Ok(())
}

fn apt_install_command(options: &[&str]) -> Command {
    let mut apt = workspace::command("apt-get");
    apt.arg("install")
        .args(["--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"])
        .args(options)
        .env("DEBIAN_FRONTEND", "noninteractive");
    apt
}
