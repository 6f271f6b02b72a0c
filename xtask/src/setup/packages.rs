//! Debian packages that tests, benchmarks and other kernels use. Installed only when a program
//! that we need is missing, so that a machine which has it from elsewhere is left alone.

use std::path::Path;

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
    // Namespaces, veths and addresses of the lab; ICMP from a real sender.
    need(Purpose::Test, "iproute2", &["ip"]),
    need(Purpose::Test, "iputils-ping", &["ping"]),
    // `unit:` workloads against a real systemd.
    need(
        Purpose::Test,
        "systemd",
        &["/lib/systemd/systemd", "/usr/lib/systemd/systemd"],
    ),
    need(Purpose::Test, "util-linux", &["unshare"]),
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
    need.probes.iter().any(|probe| {
        if probe.starts_with('/') {
            Path::new(probe).is_file()
        } else {
            workspace::find_program(probe).is_some()
        }
    })
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
    // Package lists may be missing or old; refreshed only if installing as it stands fails.
    if apt_install(packages).is_err() {
        step::quietly(
            "refreshing package lists",
            workspace::command("apt-get").args(["-q", "update"]),
        )
        .with_context(|| advice.clone())?;
        apt_install(packages).with_context(|| advice)?;
    }
    Ok(())
}

fn apt_install(packages: &[&str]) -> Result<()> {
    let mut apt = workspace::command("apt-get");
    apt.args(["-q", "-y", "--no-install-recommends", "--no-remove"])
        .args(["-o", "DPkg::Lock::Timeout=300", "install"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive");
    step::quietly(&format!("installing {}", packages.join(" ")), &mut apt)
}
