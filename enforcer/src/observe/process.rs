//! What `/proc` says of the process that made a refused call.

use std::path::{Path, PathBuf};

/// Reads facts about processes.
#[derive(Clone, Debug)]
pub struct Processes {
    proc: PathBuf,
    /// Nanoseconds of a tick of `/proc/PID/stat`.
    tick: u64,
}

impl Default for Processes {
    fn default() -> Self {
        Self::at("/proc")
    }
}

impl Processes {
    /// Reads below `proc`.
    pub fn at(proc: impl Into<PathBuf>) -> Self {
        let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK);
        // 100 on every architecture that Linux runs on today (USER_HZ).
        let ticks = ticks.ok().flatten().unwrap_or(100);
        Self {
            proc: proc.into(),
            tick: 1_000_000_000 / u64::try_from(ticks).unwrap_or(100).max(1),
        }
    }

    /// The executable of process `pid` as it was `since_boot` nanoseconds after boot. `None`
    /// if the process is gone, or its number belongs to a younger one. A process that has
    /// executed another program since shows that one.
    pub fn executable(&self, pid: u32, since_boot: u64) -> Option<String> {
        let directory = self.proc.join(pid.to_string());
        let executable = std::fs::read_link(directory.join("exe")).ok()?;
        // After the link: a number that was taken over in between is younger, too.
        let started = self.started(&directory)?;
        // The event's clock is coarse: its tick is at most 10 ms behind.
        let judged = since_boot + 10_000_000;
        (started <= judged).then(|| executable.to_string_lossy().into_owned())
    }

    /// When the process started, nanoseconds after boot, rounded down (proc(5), field 22).
    fn started(&self, directory: &Path) -> Option<u64> {
        let stat = std::fs::read_to_string(directory.join("stat")).ok()?;
        // The second field is the name in parentheses, which may hold anything.
        let (_, fields) = stat.rsplit_once(')')?;
        let ticks: u64 = fields.split_ascii_whitespace().nth(19)?.parse().ok()?;
        ticks.checked_mul(self.tick)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::clock::{Clock, monotonic};

    #[test]
    fn this_process_is_found_and_a_younger_one_is_not_taken_for_it() {
        let processes = Processes::default();
        let own = std::process::id();
        let now = Clock::read().since_boot(monotonic());
        let expected = std::env::current_exe().unwrap();
        assert_eq!(processes.executable(own, now).as_deref(), expected.to_str());
        assert_eq!(processes.executable(own, 0), None);
        assert_eq!(processes.executable(u32::MAX, now), None);
    }

    #[test]
    fn a_name_with_parentheses_does_not_mislead() {
        let proc = tempfile::tempdir().unwrap();
        let directory = proc.path().join("7");
        std::fs::create_dir(&directory).unwrap();
        std::os::unix::fs::symlink("/bin/x", directory.join("exe")).unwrap();
        let fields: Vec<String> = (3..=30).map(|n| (n * 100).to_string()).collect();
        let stat = format!("7 (a) 1 (b) {}", fields.join(" "));
        std::fs::write(directory.join("stat"), stat).unwrap();
        let processes = Processes::at(proc.path());
        // Field 22 is 2200 ticks of a hundredth of a second.
        let started = 2_200 * processes.tick;
        assert!(processes.executable(7, started).is_some());
        assert_eq!(processes.executable(7, started - 100_000_000), None);
    }
}
