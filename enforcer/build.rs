//! Builds the kernel programs from source and hands the object to the crate that embeds it.
//!
//! `ENFORCER_EBPF_OBJECT` names an object that was built before, for machines without
//! bpf-linker or rust-src.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let object = out.join("enforcer-ebpf");
    println!("cargo::rerun-if-env-changed=ENFORCER_EBPF_OBJECT");
    if let Some(prebuilt) = env::var_os("ENFORCER_EBPF_OBJECT") {
        println!("cargo::rerun-if-changed={}", Path::new(&prebuilt).display());
        if let Err(error) = fs::copy(&prebuilt, &object) {
            fail(&format!(
                "ENFORCER_EBPF_OBJECT={}: {error}",
                Path::new(&prebuilt).display()
            ));
        }
        return;
    }

    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let workspace = manifest.parent().expect("the crate is in the workspace");
    for source in ["enforcer-ebpf", "enforcer-common", "Cargo.lock"] {
        println!(
            "cargo::rerun-if-changed={}",
            workspace.join(source).display()
        );
    }
    let with_log = env::var_os("CARGO_FEATURE_EBPF_LOG").is_some();
    // One target directory for every profile of the host: target/ebpf, or target/ebpf-log.
    let target = out
        .ancestors()
        .nth(4)
        .map_or_else(|| out.clone(), Path::to_path_buf)
        .join(if with_log { "ebpf-log" } else { "ebpf" });
    let tools = workspace.join("target/tools/bin");
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(std::iter::once(tools).chain(env::split_paths(&path)))
        .expect("PATH came apart and goes together again");

    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(workspace)
        .args(["build", "--release", "--package", "enforcer-ebpf"])
        .args(["-Zbuild-std=core", "--target", "bpfel-unknown-none"])
        .arg("--target-dir")
        .arg(&target)
        .env("PATH", path)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", "-C debuginfo=2 -C link-arg=--btf");
    if with_log {
        cargo.args(["--features", "log"]);
    }
    // The host build's own settings must not reach the other target.
    for name in [
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTC",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "CARGO_BUILD_TARGET",
        "CARGO_TARGET_DIR",
    ] {
        cargo.env_remove(name);
    }
    match cargo.status() {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!(
            "building the kernel programs failed ({status}); `cargo xtask setup` installs what \
             they need: bpf-linker and the source of the core library"
        )),
        Err(error) => fail(&format!(
            "cannot run cargo for the kernel programs: {error}"
        )),
    }
    let built = target.join("bpfel-unknown-none/release/enforcer-ebpf");
    if let Err(error) = fs::copy(&built, &object) {
        fail(&format!("{}: {error}", built.display()));
    }
}

fn fail(message: &str) -> ! {
    println!("cargo::error={message}");
    std::process::exit(1);
}
