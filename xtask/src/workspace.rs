//! Where things are: the root of the workspace, its target directory, the tools in it.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

/// The root of the workspace, known when this program was compiled.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies directly below the workspace root")
}

/// Cargo's target directory: `CARGO_TARGET_DIR`, else `target` below the root.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// Where set-up installs the tools that are built with cargo.
///
/// Always below the root, whatever the target directory: the build script of `enforcer` looks
/// for bpf-linker here.
pub fn tools() -> PathBuf {
    root().join("target/tools")
}

/// The search path with our own tools first and the system's administration programs last;
/// on Debian the latter are not on the path of an ordinary user.
pub fn search_path() -> OsString {
    let own = [tools().join("bin")];
    let inherited = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    let all = own
        .into_iter()
        .chain(env::split_paths(&inherited))
        .chain(system);
    env::join_paths(all).expect("a path that was split can be joined")
}

/// The full path of a program, if it is anywhere on [`search_path`].
pub fn find_program(name: &str) -> Option<PathBuf> {
    env::split_paths(&search_path())
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

/// A command that runs in the root of the workspace and finds our tools.
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root()).env("PATH", search_path());
    command
}

/// The cargo that started us.
pub fn cargo() -> Command {
    command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Whether this process runs as root: the owner of `/proc/self` is the effective user.
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}
