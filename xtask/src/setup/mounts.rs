//! The two pseudo file systems that enforcement needs: bpffs for pins, cgroup v2 for endpoints.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, bail};

use crate::{step, workspace};

/// Where bpffs belongs on every Linux host.
const BPFFS: &str = "/sys/fs/bpf";

/// Makes sure that bpffs is mounted.
pub fn ensure_bpffs() -> Result<()> {
    if mounted("bpf")?
        .iter()
        .any(|place| place.as_os_str() == BPFFS)
    {
        return Ok(());
    }
    if !workspace::is_root() {
        bail!("not mounted at {BPFFS}; do, as root: mount -t bpf bpf {BPFFS}");
    }
    step::output(workspace::command("mount").args(["-t", "bpf", "bpf", BPFFS]))
        .map(drop)
        .with_context(|| {
            format!("`mount -t bpf bpf {BPFFS}` failed; does the kernel have CONFIG_BPF_SYSCALL?")
        })
}

/// The root of the cgroup v2 tree; `/sys/fs/cgroup` on most hosts, a folder below it where
/// version 1 is in use beside it.
pub fn find_cgroup2() -> Result<PathBuf> {
    mounted("cgroup2")?.into_iter().next().context(
        "no cgroup2 file system is mounted; do, as root: \
         mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified",
    )
}

/// Mount points of a kind of file system, in the order of the kernel's list.
fn mounted(kind: &str) -> Result<Vec<PathBuf>> {
    let table =
        fs::read_to_string("/proc/self/mountinfo").context("cannot read the mount table")?;
    Ok(mounts_of(kind, &table))
}

/// Format: proc_pid_mountinfo(5). The optional fields vary in number and end with a lone `-`.
fn mounts_of(kind: &str, table: &str) -> Vec<PathBuf> {
    table
        .lines()
        .filter_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            (after.split(' ').next() == Some(kind))
                .then(|| before.split(' ').nth(4).map(PathBuf::from))
                .flatten()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_mounts_with_and_without_optional_fields() {
        let table = "\
25 1 0:23 / /sys rw,nosuid - sysfs sysfs rw
36 25 0:31 / /sys/fs/cgroup/unified rw shared:9 master:3 - cgroup2 cgroup2 rw
37 25 0:32 / /sys/fs/bpf rw - bpf bpf rw,mode=700
";
        assert_eq!(
            mounts_of("cgroup2", table),
            [PathBuf::from("/sys/fs/cgroup/unified")]
        );
        assert_eq!(mounts_of("bpf", table), [PathBuf::from("/sys/fs/bpf")]);
        assert!(mounts_of("cgroup", table).is_empty());
    }
}
