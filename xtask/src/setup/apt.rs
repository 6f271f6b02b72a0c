//! Debian's archive without touching the machine's own package state.
//!
//! The mirror's address always comes from the machine's configuration: it is the one that the
//! machine can reach.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{step, workspace};

/// Addresses of the Debian mirrors that this machine is configured with, each ending in `/`.
fn mirrors() -> Result<Vec<String>> {
    let listed = step::output(workspace::command("apt-get").args([
        "indextargets",
        "--format",
        "$(ORIGIN) $(REPO_URI)",
        "Created-By: Packages",
    ]))
    .context("this needs apt-get, to learn which Debian mirror the machine can reach")?;
    // The origin is known once lists were fetched. Where they never were, every one is tried.
    let all = || listed.lines().filter_map(|line| line.split_once(' '));
    let mut debian: Vec<&str> = all()
        .filter(|(origin, _)| *origin == "Debian")
        .map(|(_, uri)| uri)
        .collect();
    if debian.is_empty() {
        debian = all().map(|(_, uri)| uri).collect();
    }
    // In the order of the configuration: the main archive comes before the security updates.
    let mut seen = BTreeSet::new();
    debian.retain(|uri| seen.insert(*uri));
    if debian.is_empty() {
        bail!("no package mirror is in this machine's apt configuration");
    }
    Ok(debian
        .into_iter()
        .map(|uri| format!("{}/", uri.trim_end_matches('/')))
        .collect())
}

/// Downloads one file of the archive's pool and checks it against a pinned SHA-256.
///
/// # Errors
/// No mirror has it, or what came is not what was pinned.
pub fn download_from_pool(title: &str, path: &str, sha256: &str, to: &Path) -> Result<()> {
    let mut failures = Vec::new();
    for mirror in mirrors()? {
        let mut helper = workspace::command("/usr/lib/apt/apt-helper");
        helper
            // As the caller, not as apt's own user, who cannot write to our directory.
            .args(["-o", "APT::Sandbox::User=", "download-file"])
            .arg(format!("{mirror}{path}"))
            .arg(to)
            .arg(format!("SHA256:{sha256}"));
        match step::quietly(title, &mut helper) {
            Ok(()) => return Ok(()),
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    bail!(
        "no configured mirror gave {path} with SHA-256 {sha256}: {}",
        failures.join("; ")
    )
}

/// A private package state for one suite, signed as that suite is.
pub struct Suite {
    directory: PathBuf,
}

impl Suite {
    /// Fetches the package lists of a suite into `directory`.
    ///
    /// # Errors
    /// No configured mirror has the suite, or its signature cannot be verified.
    pub fn fetch(suite: &str, directory: PathBuf) -> Result<Self> {
        fs::create_dir_all(directory.join("lists/partial"))?;
        fs::create_dir_all(directory.join("cache/archives/partial"))?;
        let this = Self { directory };
        let mut failures = Vec::new();
        for mirror in mirrors()? {
            fs::write(
                this.directory.join("sources.list"),
                format!("deb {mirror} {suite} main\n"),
            )?;
            let mut update = this.apt("apt-get");
            update.args(["-q", "--error-on=any", "update"]);
            match step::quietly(&format!("fetching package lists of {suite}"), &mut update) {
                Ok(()) => return Ok(this),
                Err(error) => failures.push(format!("{error:#}")),
            }
        }
        bail!(
            "no configured mirror gave the suite {suite}: {}",
            failures.join("; ")
        )
    }

    /// The first package that `package` depends on whose name starts with `prefix`.
    ///
    /// # Errors
    /// There is none.
    pub fn dependency(&self, package: &str, prefix: &str) -> Result<String> {
        step::output(self.apt("apt-cache").args(["depends", package]))?
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .find(|name| name.starts_with(prefix))
            .map(str::to_owned)
            .with_context(|| format!("{package} depends on no {prefix}…"))
    }

    /// Downloads a package, checked through the suite's signature, and unpacks it into `into`.
    ///
    /// # Errors
    /// The download, the check or the unpacking fails.
    pub fn unpack(&self, package: &str, into: &Path) -> Result<()> {
        let download = self.directory.join("download");
        if download.exists() {
            fs::remove_dir_all(&download)?;
        }
        fs::create_dir_all(&download)?;
        let mut apt = self.apt("apt-get");
        apt.args(["-q", "download", package]).current_dir(&download);
        step::quietly(&format!("downloading {package}"), &mut apt)?;
        let deb = fs::read_dir(&download)?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .with_context(|| format!("apt-get download left no file of {package}"))?;
        fs::create_dir_all(into)?;
        let mut unpack = workspace::command("dpkg-deb");
        unpack.arg("-x").arg(&deb).arg(into);
        step::quietly(&format!("unpacking {package}"), &mut unpack)?;
        fs::remove_dir_all(&download)?;
        Ok(())
    }

    /// apt with this suite as its whole world.
    fn apt(&self, program: &str) -> Command {
        let mut apt = workspace::command(program);
        let place = |option: &str, below: &str| {
            format!("{option}={}", self.directory.join(below).display())
        };
        for setting in [
            place("Dir::Etc::sourcelist", "sources.list"),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            place("Dir::State::Lists", "lists"),
            place("Dir::Cache", "cache"),
            "APT::Sandbox::User=".to_owned(),
            "Acquire::Languages=none".to_owned(),
            // The graphical package centre's index is large and of no use here.
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
        ] {
            apt.arg("-o").arg(setting);
        }
        apt
    }
}
