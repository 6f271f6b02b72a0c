//! Kernels to test under: Debian's cloud images, unpacked below the target directory.

use std::{fs, os::unix::fs::symlink, path::PathBuf};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::{setup::apt::Suite, step, workspace};

/// The package of every suite that depends on the suite's newest cloud kernel.
const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// A kernel line, and the Debian suite that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Release {
    /// Debian 12's: no TCX.
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13's.
    #[value(name = "6.12")]
    V6_12,
}

impl Release {
    const fn suite(self) -> &'static str {
        match self {
            Self::V6_1 => "bookworm",
            Self::V6_12 => "trixie",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }
}

/// An unpacked kernel.
pub struct Kernel {
    /// As `uname -r` says under it.
    pub version: String,
    /// The compressed image.
    pub image: PathBuf,
    /// What `/lib/modules` lies below.
    pub root: PathBuf,
}

impl Kernel {
    /// The modules of this kernel.
    pub fn modules(&self) -> PathBuf {
        self.root.join("lib/modules").join(&self.version)
    }
}

/// Makes sure that the kernel is there; what was downloaded before is used again.
pub fn ensure(release: Release) -> Result<Kernel> {
    let root = workspace::target().join("kernels").join(release.name());
    if let Ok(kernel) = find(release, root.clone()) {
        return Ok(kernel);
    }
    download(release, &root).with_context(|| {
        format!(
            "no kernel {} to test under. Do: unpack such a kernel's package (dpkg-deb -x) into {}",
            release.name(),
            root.display()
        )
    })?;
    find(release, root)
}

fn find(release: Release, root: PathBuf) -> Result<Kernel> {
    let modules = root.join("lib/modules");
    let version = fs::read_dir(&modules)
        .with_context(|| format!("cannot read {}", modules.display()))?
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().into_string().ok())
        .find(|name| name.starts_with(&format!("{}.", release.name())))
        .with_context(|| format!("{} has no modules of {}", modules.display(), release.name()))?;
    let image = root.join("boot").join(format!("vmlinuz-{version}"));
    if !image.is_file() || !modules.join(&version).join("modules.dep").is_file() {
        bail!("{} is incomplete", root.display());
    }
    Ok(Kernel {
        version,
        image,
        root,
    })
}

fn download(release: Release, root: &PathBuf) -> Result<()> {
    let state = workspace::target()
        .join("kernels")
        .join(format!("apt-{}", release.suite()));
    let suite = Suite::fetch(release.suite(), state)?;
    let package = suite.dependency(META_PACKAGE, &format!("linux-image-{}.", release.name()))?;
    if root.exists() {
        fs::remove_dir_all(root)?;
    }
    suite.unpack(&package, root)?;
    // Newer packages have only usr/lib, as the merged file system has.
    if !root.join("lib").exists() {
        symlink("usr/lib", root.join("lib"))?;
    }
    let version = package.trim_start_matches("linux-image-");
    step::output(
        workspace::command("depmod")
            .arg("-b")
            .arg(root)
            .arg(version),
    )
    .map(drop)
}
