//! The source of Rust's core library, from which the kernel programs' `core` is built.
//!
//! It must belong to exactly the compiler in use, so its place is that compiler's sysroot.
//! Ways, in this order: it is there; rustup adds it; Debian's package of the same version is
//! unpacked (not installed: it would conflict with rustup's files) and copied in.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use super::apt;
use crate::{step, workspace};

/// The compiler release that the Debian package below belongs to.
const VERSION: &str = "1.95.0";
/// The package, as it lies in the pool of every Debian mirror.
const PACKAGE: &str = "pool/main/r/rustc/rust-src_1.95.0+dfsg1-2~bpo13+1_all.deb";
/// Its SHA-256. The pin is what we trust: the file comes from a newer suite than the machine's
/// own, whose signature an older keyring need not know.
const SHA256: &str = "7b76db5b880a77f9e52975d2baa6209d2f76d2c9c2789515c3088cb960e2c83b";
/// The time that rustup gets; without a network it would retry for much longer.
const RUSTUP_SECONDS: &str = "90";

/// Makes sure that the source is in `sysroot`, by default that of the compiler in use.
pub fn ensure(sysroot: Option<PathBuf>) -> Result<()> {
    let sysroot = match sysroot {
        Some(dir) => dir,
        None => step::output(workspace::command("rustc").args(["--print", "sysroot"]))?.into(),
    };
    let library = sysroot.join("lib/rustlib/src/rust/library");
    if is_there(&library) {
        return Ok(());
    }
    let by_rustup = match add_by_rustup() {
        Ok(()) if is_there(&library) => return Ok(()),
        Ok(()) => format!(
            "rustup reported success, but {} is not there",
            library.display()
        ),
        Err(error) => format!("{error:#}"),
    };
    let by_debian = match copy_from_debian(&library) {
        Ok(()) => return Ok(()),
        Err(error) => format!("{error:#}"),
    };
    bail!(
        "not at {}; `rustup component add rust-src`: {by_rustup}; Debian package: {by_debian}. \
         Do: run `rustup component add rust-src` where rustup can download, or copy `library` of \
         the Rust {VERSION} source there",
        library.display()
    )
}

fn is_there(library: &Path) -> bool {
    library.join("core/src/lib.rs").is_file() && library.join("Cargo.lock").is_file()
}

fn add_by_rustup() -> Result<()> {
    if workspace::find_program("rustup").is_none() {
        bail!("rustup is not on this machine");
    }
    let mut rustup = workspace::command("timeout");
    rustup.args([RUSTUP_SECONDS, "rustup", "component", "add", "rust-src"]);
    step::quietly("adding rust-src with rustup", &mut rustup)
}

fn copy_from_debian(library: &Path) -> Result<()> {
    let rustc = step::output(workspace::command("rustc").arg("--version"))?;
    if rustc.split_whitespace().nth(1) != Some(VERSION) {
        bail!("the known package is for Rust {VERSION}, the compiler here is {rustc}");
    }
    let scratch = workspace::target().join("rust-src");
    fs::create_dir_all(&scratch)?;
    let deb = scratch.join("rust-src.deb");
    apt::download_from_pool("downloading rust-src (45 MB)", PACKAGE, SHA256, &deb)?;
    let mut unpack = workspace::command("dpkg-deb");
    unpack.arg("-x").arg(&deb).arg(&scratch);
    step::quietly("unpacking rust-src", &mut unpack)?;
    let source = scratch.join(format!("usr/src/rustc-{VERSION}/library"));
    // Copied beside its place and then renamed, so that no build ever sees half of it.
    let parent = library
        .parent()
        .context("the library has a parent directory")?;
    fs::create_dir_all(parent)
        .with_context(|| format!("{} cannot be written", parent.display()))?;
    let partial = parent.join(format!("library.partial-{}", std::process::id()));
    let mut copy = workspace::command("cp");
    copy.arg("-r").arg(&source).arg(&partial);
    step::quietly("copying rust-src into the sysroot", &mut copy)?;
    if library.exists() {
        fs::remove_dir_all(library)?;
    }
    fs::rename(&partial, library)?;
    fs::remove_dir_all(&scratch)?;
    Ok(())
}
