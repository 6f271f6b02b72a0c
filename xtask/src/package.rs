//! `cargo xtask package`: one archive with everything that a host needs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{build, step, workspace};

/// What goes in beside the binary, by its path in the archive.
const FILES: &[(&str, &str)] = &[
    (
        "deploy/enforcer.service",
        "lib/systemd/system/enforcer.service",
    ),
    ("policies/examples", "share/enforcer/policies/examples"),
    ("policies/baseline", "share/enforcer/policies/baseline"),
    ("policies/kubernetes", "share/enforcer/policies/kubernetes"),
    ("policies/README.md", "share/enforcer/policies/README.md"),
    ("docs", "share/doc/enforcer/docs"),
    ("README.md", "share/doc/enforcer/README.md"),
    ("ARCHITECTURE.md", "share/doc/enforcer/ARCHITECTURE.md"),
    ("CHANGELOG.md", "share/doc/enforcer/CHANGELOG.md"),
    ("SECURITY.md", "share/doc/enforcer/SECURITY.md"),
    ("LICENSE-APACHE", "share/doc/enforcer/LICENSE-APACHE"),
    ("LICENSE-MIT", "share/doc/enforcer/LICENSE-MIT"),
];
/// Shells, and where each looks for completions.
const COMPLETIONS: &[(&str, &str)] = &[
    ("bash", "share/bash-completion/completions/enforcer"),
    ("zsh", "share/zsh/site-functions/_enforcer"),
    ("fish", "share/fish/vendor_completions.d/enforcer.fish"),
];

/// Builds and packs; prints the path of the archive.
pub fn run() -> Result<()> {
    let binary = build::run()?;
    let name = format!(
        "enforcer-{}-{}-linux",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH
    );
    let package = workspace::target().join("package");
    let tree = package.join(&name);
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    put(&binary, &tree.join("bin/enforcer"))?;
    let mut strip = workspace::command("strip");
    // What a backtrace needs stays; line tables would be most of the archive.
    step::output(strip.arg("--strip-debug").arg(tree.join("bin/enforcer")))?;
    for (from, to) in FILES {
        put(&workspace::root().join(from), &tree.join(to))?;
    }
    for (shell, to) in COMPLETIONS {
        let text = step::output(workspace::command(&binary).args(["completions", shell]))?;
        write(&tree.join(to), &text)?;
    }
    let manual = step::output(workspace::command(&binary).arg("man"))?;
    write(&tree.join("share/man/man8/enforcer.8"), &manual)?;

    let archive = package.join(format!("{name}.tar.xz"));
    let mut tar = workspace::command("tar");
    // The same input gives the same archive.
    tar.args([
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--mtime=@0",
        "-C",
    ])
    .arg(&package)
    .arg("-cJf")
    .arg(&archive)
    .arg(&name);
    step::quietly("packing", &mut tar)?;
    println!("{}", archive.display());
    Ok(())
}

/// Copies a file or a directory; what is named here must exist.
fn put(from: &Path, to: &Path) -> Result<()> {
    if !from.exists() {
        bail!(
            "{} is to be in the package, but does not exist",
            from.display()
        );
    }
    let parent: PathBuf = to.parent().context("a path inside the package")?.into();
    fs::create_dir_all(parent)?;
    step::output(workspace::command("cp").arg("-r").arg(from).arg(to)).map(drop)
}

fn write(to: &Path, text: &str) -> Result<()> {
    fs::create_dir_all(to.parent().context("a path inside the package")?)?;
    fs::write(to, format!("{text}\n")).with_context(|| format!("writing {}", to.display()))
}
