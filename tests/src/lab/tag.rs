//! The name that everything in a lab carries, and removal by that name.

use std::{
    fmt, fs,
    io::ErrorKind,
    os::fd::{AsRawFd, IntoRawFd},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use super::cgroup;

const PREFIX: &str = "enflab-";
const FOLDERS: &str = "/run/enforcer-lab";
const NAMESPACES: &str = "/run/netns";
const BPFFS: &str = "/sys/fs/bpf";

/// `enflab-PID-STARTTIME-NUMBER`: process id and start time together name one process for as
/// long as the machine runs, so that a dead lab is told from a living one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag(String);

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Tag {
    /// A tag that no other lab has.
    pub fn fresh() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self(format!("{}{number}", Self::prefix_of_this_process()))
    }

    fn prefix_of_this_process() -> String {
        let pid = std::process::id();
        let start = start_time(pid).unwrap_or(0);
        format!("{PREFIX}{pid}-{start}-")
    }

    /// The tag that a name begins with.
    fn of(name: &str) -> Option<Self> {
        let rest = name.strip_prefix(PREFIX)?;
        let mut parts = rest.splitn(4, '-');
        let (pid, start, number) = (parts.next()?, parts.next()?, parts.next()?);
        [pid, start, number]
            .iter()
            .all(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
            .then(|| Self(format!("{PREFIX}{pid}-{start}-{number}")))
    }

    fn is_alive(&self) -> bool {
        let mut parts = self.0[PREFIX.len()..].split('-');
        let pid = parts.next().and_then(|p| p.parse().ok());
        let start: Option<u64> = parts.next().and_then(|p| p.parse().ok());
        pid.is_some_and(|pid| start_time(pid) == start)
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Folder of the lab's files.
    pub fn folder(&self) -> PathBuf {
        PathBuf::from(FOLDERS).join(&self.0)
    }

    /// Folder of the lab's pins.
    pub fn pins(&self) -> PathBuf {
        PathBuf::from(BPFFS).join(&self.0)
    }

    pub(super) fn kept_marker(&self) -> PathBuf {
        self.folder().join("kept")
    }

    /// Kills the processes, then removes namespaces, pins, cgroups and files.
    pub fn remove(&self) -> Result<()> {
        let cgroups = cgroup::root()?.join(&self.0);
        cgroup::kill_all(&cgroups)?;
        for name in names_in(NAMESPACES) {
            if Self::of(&name).as_ref() == Some(self) {
                let output = Command::new("ip").args(["netns", "del", &name]).output()?;
                // Another run that starts now may remove the same leftovers.
                anyhow::ensure!(
                    output.status.success() || !Path::new(NAMESPACES).join(&name).exists(),
                    "cannot remove namespace {name}: {}",
                    String::from_utf8_lossy(&output.stderr)
                );
            }
        }
        remove_tree(&self.pins())?;
        cgroup::remove(&cgroups)?;
        remove_tree(&self.folder())
    }
}

fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn names_in(folder: impl Into<PathBuf>) -> Vec<String> {
    fs::read_dir(folder.into())
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect()
}

/// Every tag that has left a trace.
fn all_tags() -> Result<Vec<Tag>> {
    let folders = [
        PathBuf::from(FOLDERS),
        NAMESPACES.into(),
        BPFFS.into(),
        cgroup::root()?,
    ];
    let mut tags: Vec<Tag> = folders
        .into_iter()
        .flat_map(names_in)
        .filter_map(|name| Tag::of(&name))
        .collect();
    tags.sort();
    tags.dedup();
    Ok(tags)
}

/// Removes what labs of processes that are gone left behind, except what was to be kept.
pub fn remove_stale() -> Result<()> {
    fs::create_dir_all(FOLDERS)?;
    // One at a time: tests of several programs begin at once.
    let lock = Flock::lock(fs::File::open(FOLDERS)?, FlockArg::LockExclusive);
    let _lock = lock.map_err(|(_, error)| error)?;
    for tag in all_tags()? {
        if !tag.is_alive() && !tag.kept_marker().exists() {
            tag.remove()
                .with_context(|| format!("removing what an earlier run left behind ({tag})"))?;
        }
    }
    Ok(())
}

/// Removes the labs that [`super::Lab::keep`] left, and says which.
pub fn remove_kept() -> Result<Vec<Tag>> {
    let kept: Vec<Tag> = all_tags()?
        .into_iter()
        .filter(|tag| tag.kept_marker().exists())
        .collect();
    for tag in &kept {
        tag.remove()?;
    }
    Ok(kept)
}

/// Field 22 of `/proc/PID/stat`: start time in clock ticks since boot.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rsplit_once(')')?.1;
    let mut fields = after_name.split_whitespace();
    // A zombie keeps its start time although nothing of it runs.
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Labs that this process made and does not keep.
fn tags_of_this_process() -> Vec<Tag> {
    let own = Tag::prefix_of_this_process();
    (all_tags().unwrap_or_default().into_iter())
        .filter(|tag| tag.as_str().starts_with(&own) && !tag.kept_marker().exists())
        .collect()
}

static ENDING: AtomicBool = AtomicBool::new(false);

/// Does not return once a signal has come: the process is about to end, and what fails now
/// fails because of that.
pub(super) fn give_way_to_signal() {
    while ENDING.load(Ordering::Relaxed) {
        std::thread::park();
    }
}

static SIGNAL_PIPE: AtomicI32 = AtomicI32::new(-1);

extern "C" fn forward_signal(signal: libc::c_int) {
    let byte = [u8::try_from(signal).unwrap_or(0)];
    // SAFETY: write(2) is async-signal-safe and the buffer is one living byte.
    unsafe { libc::write(SIGNAL_PIPE.load(Ordering::Relaxed), byte.as_ptr().cast(), 1) };
}

/// On SIGINT, SIGTERM and SIGHUP removes the labs of this process and exits as the signal
/// would have made it.
pub(super) fn remove_on_signals() -> Result<()> {
    static ONCE: OnceLock<()> = OnceLock::new();
    if ONCE.set(()).is_err() {
        return Ok(());
    }
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    SIGNAL_PIPE.store(write.as_raw_fd(), Ordering::Relaxed);
    // The handler needs the descriptor for as long as the process lives.
    let _ = write.into_raw_fd();
    let action = SigAction::new(
        SigHandler::Handler(forward_signal),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler does nothing but write(2).
        unsafe { sigaction(signal, &action)? };
    }
    std::thread::spawn(move || {
        let mut byte = [0];
        while nix::unistd::read(&read, &mut byte) != Ok(1) {}
        ENDING.store(true, Ordering::Relaxed);
        // The other threads still run and may be making things: until nothing is left.
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            let own = tags_of_this_process();
            if own.is_empty() {
                break;
            }
            let failed: Vec<_> = own.iter().filter_map(|tag| tag.remove().err()).collect();
            if Instant::now() >= deadline {
                eprintln!("not removed: {own:?}: {failed:?}");
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        std::process::exit(128 + i32::from(byte[0]));
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_found_in_the_names_made_from_it() {
        let tag = Tag::fresh();
        assert_eq!(Tag::of(&format!("{tag}-front")), Some(tag.clone()));
        assert_eq!(Tag::of(tag.as_str()), Some(tag.clone()));
        assert_eq!(Tag::of("enflab-x-1-2"), None);
        assert_eq!(Tag::of("other"), None);
        assert!(tag.is_alive());
    }

    #[test]
    fn a_tag_of_another_start_time_is_dead() {
        let pid = std::process::id();
        assert!(!Tag(format!("{PREFIX}{pid}-1-1")).is_alive());
    }
}
