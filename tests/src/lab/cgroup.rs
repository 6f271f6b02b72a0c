//! Cgroups of the lab, below the cgroup v2 root wherever that is mounted.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

/// Mount point of cgroup v2, from `/proc/self/mountinfo`.
pub fn root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    mounts
        .lines()
        .find_map(|line| {
            // proc(5): ... (4) root (5) mount point ... " - " type source options
            let (left, right) = line.split_once(" - ")?;
            let mut fields = left.split(' ').skip(3);
            let (root, point) = (fields.next()?, fields.next()?);
            (right.starts_with("cgroup2 ") && root == "/").then(|| PathBuf::from(point))
        })
        .context("no cgroup v2 is mounted: mount -t cgroup2 none /sys/fs/cgroup")
}

/// Makes the cgroup and those above it.
pub fn make(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("making cgroup {}", path.display()))
}

/// Kills every process in the cgroup and below, and waits until they are gone.
pub fn kill_all(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    fs::write(path.join("cgroup.kill"), "1")
        .with_context(|| format!("killing all in {}", path.display()))?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while fs::read_to_string(path.join("cgroup.events"))?.contains("populated 1") {
        anyhow::ensure!(
            Instant::now() < deadline,
            "processes in {} do not die",
            path.display()
        );
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Removes the cgroup and those below it, with the processes and cgroups that appear meanwhile.
pub fn remove(path: &Path) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match remove_once(path) {
            // Killed processes leave the cgroup a moment after they stop running.
            Err(error) if error.kind() == ErrorKind::ResourceBusy && Instant::now() < deadline => {
                // It may be gone by now.
                let _ = fs::write(path.join("cgroup.kill"), "1");
                thread::sleep(Duration::from_millis(5));
            }
            done => return done.with_context(|| format!("removing cgroup {}", path.display())),
        }
    }
}

fn remove_once(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type()?.is_dir() {
            remove_once(&entry.path())?;
        }
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
