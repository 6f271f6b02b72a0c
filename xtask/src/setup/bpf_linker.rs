//! bpf-linker, which turns the compiler's bitcode into a BPF object.

use std::path::Path;

use anyhow::{Context, Result};

use crate::{step, workspace};

/// The newest version that can use the LLVM inside rustc; later ones need a separate LLVM 22,
/// which Debian 12 has not.
const VERSION: &str = "0.10.4";
/// The feature that names the LLVM of our compiler (`rustc -vV`, `LLVM version`).
const FEATURE: &str = "rust-llvm-22";

/// Makes sure of the right version, in `target/tools` or anywhere on the path.
pub fn ensure() -> Result<()> {
    let tools = workspace::tools();
    if is_right(&tools.join("bin/bpf-linker"))
        || workspace::find_program("bpf-linker").is_some_and(|found| is_right(&found))
    {
        return Ok(());
    }
    let mut install = workspace::cargo();
    install
        .args([
            "install",
            "bpf-linker",
            "--version",
            VERSION,
            "--locked",
            "--force",
        ])
        .args(["--no-default-features", "--features", FEATURE, "--root"])
        .arg(&tools);
    step::quietly("building bpf-linker (a minute or two)", &mut install).with_context(|| {
        format!(
            "version {VERSION} is neither on PATH nor could it be built from the crate registry"
        )
    })
}

fn is_right(program: &Path) -> bool {
    program.is_file()
        && step::output(workspace::command(program).arg("--version"))
            .is_ok_and(|line| line.split_whitespace().any(|word| word == VERSION))
}
