//! The cgroup v2 tree below a root, kept up to date with inotify.
//!
//! Every directory is watched. An event is only a hint that something happened to a name: the
//! directory is looked at anew, whatever the event said, so late, doubled and reordered events
//! do no harm. A directory is opened once, and its id, its watch and its children are all taken
//! through that one descriptor, the watch before the children: a directory that is deleted and
//! made anew under the same name cannot mix with its successor, and no child is missed.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsStr,
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io,
    ops::Bound,
    os::{
        fd::{AsFd, AsRawFd, RawFd},
        unix::{
            ffi::OsStrExt,
            fs::{MetadataExt, OpenOptionsExt},
        },
    },
    path::{Component, Path, PathBuf},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor},
};
use tokio::io::{Interest, unix::AsyncFd};
use tracing::{debug, warn};

/// `CGROUP2_SUPER_MAGIC` of linux/magic.h.
const CGROUP2_MAGIC: i64 = 0x6367_7270;

/// How often the root is looked at, and the whole tree where it cannot be watched in full.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// Why the cgroup tree cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No cgroup v2 file system.
    #[error("no cgroup v2 file system is mounted; mount one or name it with --cgroup-root")]
    NotMounted,
    /// Another file system.
    #[error("{} is not in a cgroup v2 file system; give --cgroup-root a directory that is", .0.display())]
    NotCgroup2(PathBuf),
    /// The root went away; the hooks that were attached to it went with it.
    #[error("the cgroup root {} was removed or replaced; start anew", .0.display())]
    RootGone(PathBuf),
    /// A system call on a path failed.
    #[error("cannot {what} {}", path.display())]
    Path {
        /// What was tried.
        what: &'static str,
        /// With which path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// inotify itself failed.
    #[error("cannot use inotify (see fs.inotify.max_user_instances)")]
    Inotify(#[source] io::Error),
}

/// The first cgroup v2 mount of this process, from `/proc/self/mountinfo`.
pub fn default_root() -> Result<PathBuf, CgroupError> {
    let path = Path::new("/proc/self/mountinfo");
    let mounts = fs::read(path).map_err(|source| path_error("read", path, source))?;
    cgroup2_mount(&mounts).ok_or(CgroupError::NotMounted)
}

/// The cgroup tree below a root.
#[derive(Debug)]
pub struct CgroupTree {
    root: PathBuf,
    inotify: AsyncFd<InotifyFd>,
    /// By path relative to the root; the root itself is the empty path.
    directories: BTreeMap<PathBuf, Directory>,
    watches: HashMap<WatchDescriptor, PathBuf>,
    /// Some directory could not be watched: fs.inotify.max_user_watches is used up.
    unwatched: bool,
    overflows: u64,
    next_check: tokio::time::Interval,
}

#[derive(Clone, Copy, Debug)]
struct Directory {
    id: u64,
    watch: Option<WatchDescriptor>,
}

impl CgroupTree {
    /// Starts watching and reads the whole tree. Must be called in a tokio runtime.
    pub fn open(root: &Path) -> Result<Self, CgroupError> {
        let file_system = nix::sys::statfs::statfs(root)
            .map_err(|e| path_error("open the cgroup root", root, e.into()))?;
        if file_system.filesystem_type().0 != CGROUP2_MAGIC {
            return Err(CgroupError::NotCgroup2(root.to_owned()));
        }
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .map_err(|e| CgroupError::Inotify(e.into()))?;
        let inotify = inotify_in_reactor(inotify).map_err(CgroupError::Inotify)?;
        let mut next_check = tokio::time::interval(CHECK_EVERY);
        next_check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut tree = Self {
            root: root.to_owned(),
            inotify,
            directories: BTreeMap::new(),
            watches: HashMap::new(),
            unwatched: false,
            overflows: 0,
            next_check,
        };
        tree.refresh(Path::new(""))?;
        if tree.directories.is_empty() {
            return Err(CgroupError::RootGone(root.to_owned()));
        }
        Ok(tree)
    }

    /// The root that paths are below.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Path below the root, with a leading `/` (the root itself is `/`), to cgroup id. Bytes of a
    /// name that are not UTF-8 are written `\xNN`.
    pub fn cgroups(&self) -> BTreeMap<String, u64> {
        self.directories
            .iter()
            .map(|(path, directory)| (display_path(path), directory.id))
            .collect()
    }

    /// What an operator should know, or nothing.
    pub fn note(&self) -> Option<String> {
        self.unwatched.then(|| {
            format!(
                "new cgroups are found only every {} s: raise fs.inotify.max_user_watches",
                CHECK_EVERY.as_secs()
            )
        })
    }

    /// How often the kernel's event queue overflowed; each time the tree was read anew.
    pub fn overflows(&self) -> u64 {
        self.overflows
    }

    /// Waits until the tree has changed. Safe to cancel.
    pub async fn changed(&mut self) -> Result<(), CgroupError> {
        loop {
            tokio::select! {
                guard = self.inotify.readable() => {
                    let mut guard = guard.map_err(CgroupError::Inotify)?;
                    let events = match guard.get_inner().0.read_events() {
                        Ok(events) => events,
                        Err(Errno::EAGAIN) => {
                            guard.clear_ready();
                            continue;
                        }
                        Err(Errno::EINTR) => continue,
                        Err(e) => return Err(CgroupError::Inotify(e.into())),
                    };
                    drop(guard);
                    if self.take(&events)? {
                        return Ok(());
                    }
                }
                _ = self.next_check.tick() => {
                    if self.check()? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Whether anything changed.
    fn take(&mut self, events: &[InotifyEvent]) -> Result<bool, CgroupError> {
        let mut changed = false;
        for event in events {
            if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                self.overflows += 1;
                debug!("cgroup events overflowed; reading the whole tree");
                changed |= self.rescan()?;
            } else if let (Some(parent), Some(name)) = (self.watches.get(&event.wd), &event.name) {
                let path = parent.join(name);
                changed |= self.refresh(&path)?;
            }
        }
        Ok(changed)
    }

    fn check(&mut self) -> Result<bool, CgroupError> {
        let known = self.directories.get(Path::new("")).map(|d| d.id);
        let found = fs::metadata(&self.root).ok().map(|m| m.ino());
        if known != found {
            return Err(CgroupError::RootGone(self.root.clone()));
        }
        if self.unwatched {
            self.rescan()
        } else {
            Ok(false)
        }
    }

    /// Reads the whole tree, keeping the watches that are still right.
    fn rescan(&mut self) -> Result<bool, CgroupError> {
        self.unwatched = false;
        let mut changed = false;
        let known: Vec<PathBuf> = self.directories.keys().cloned().collect();
        // Parents come before their children, so what is found below a new directory is known
        // when its turn comes, and what is removed with its parent is skipped.
        for path in known {
            if !self.directories.contains_key(&path) {
                continue;
            }
            changed |= self.refresh(&path)?;
            for child in self.children_on_disk(&path)? {
                if !self.directories.contains_key(&child) {
                    changed |= self.refresh(&child)?;
                }
            }
        }
        Ok(changed)
    }

    /// Makes the entry of `path`, and of everything below it where it is new, what is there now.
    /// Whether anything changed.
    fn refresh(&mut self, path: &Path) -> Result<bool, CgroupError> {
        let mut changed = false;
        let mut open = vec![path.to_owned()];
        while let Some(path) = open.pop() {
            let known = self.directories.get(&path).copied();
            let Some((file, id)) = self.open_directory(&path)? else {
                changed |= self.forget(&path);
                continue;
            };
            if let Some(known) = known {
                if known.id == id {
                    // Its children have a watch of their own that tells of them.
                    if known.watch.is_none() {
                        let watch = self.watch(&file, &path)?;
                        self.directories.insert(path, Directory { id, watch });
                    }
                    continue;
                }
                self.forget(&path);
            }
            let watch = self.watch(&file, &path)?;
            self.directories
                .insert(path.clone(), Directory { id, watch });
            changed = true;
            open.extend(self.children(&file, &path)?);
        }
        Ok(changed)
    }

    /// Opens a directory of the tree; `None` where there is none.
    fn open_directory(&self, path: &Path) -> Result<Option<(File, u64)>, CgroupError> {
        let full = self.root.join(path);
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(&full)
            .and_then(|file| {
                let id = file.metadata()?.ino();
                Ok((file, id))
            });
        match opened {
            Ok(opened) => Ok(Some(opened)),
            Err(e) if is_gone(&e) => Ok(None),
            Err(e) => Err(path_error("open", &full, e)),
        }
    }

    fn watch(&mut self, file: &File, path: &Path) -> Result<Option<WatchDescriptor>, CgroupError> {
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_ONLYDIR;
        let inotify = &self.inotify.get_ref().0;
        match inotify.add_watch(&descriptor_path(file), flags) {
            Ok(watch) => {
                self.watches.insert(watch, path.to_owned());
                Ok(Some(watch))
            }
            Err(Errno::ENOENT | Errno::ENODEV) => Ok(None),
            Err(Errno::ENOSPC) => {
                if !self.unwatched {
                    warn!("fs.inotify.max_user_watches is used up: cgroups are polled");
                }
                self.unwatched = true;
                Ok(None)
            }
            Err(e) => Err(path_error("watch", &self.root.join(path), e.into())),
        }
    }

    fn children(&self, file: &File, path: &Path) -> Result<Vec<PathBuf>, CgroupError> {
        let read = || -> io::Result<Vec<PathBuf>> {
            let mut children = Vec::new();
            for entry in fs::read_dir(descriptor_path(file))? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    children.push(path.join(entry.file_name()));
                }
            }
            Ok(children)
        };
        match read() {
            Ok(children) => Ok(children),
            Err(e) if is_gone(&e) => Ok(Vec::new()),
            Err(e) => Err(path_error("list", &self.root.join(path), e)),
        }
    }

    fn children_on_disk(&self, path: &Path) -> Result<Vec<PathBuf>, CgroupError> {
        match self.open_directory(path)? {
            Some((file, _)) => self.children(&file, path),
            None => Ok(Vec::new()),
        }
    }

    /// Removes a directory and everything below it. Whether there was one.
    fn forget(&mut self, path: &Path) -> bool {
        let gone: Vec<PathBuf> = self
            .directories
            .range::<Path, _>((Bound::Included(path), Bound::Unbounded))
            .map(|(p, _)| p)
            .take_while(|p| p.starts_with(path))
            .cloned()
            .collect();
        for path in &gone {
            let directory = self.directories.remove(path);
            if let Some(watch) = directory.and_then(|d| d.watch) {
                self.watches.remove(&watch);
                // Before Linux 6.15 the kernel keeps the watch of a removed cgroup, and the
                // memory of its directory with it, until told. It may also be gone already.
                let _ = self.inotify.get_ref().0.rm_watch(watch);
            }
        }
        !gone.is_empty()
    }
}

/// [`Inotify`] with the trait that [`AsyncFd`] asks for.
#[derive(Debug)]
struct InotifyFd(Inotify);

impl AsRawFd for InotifyFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

fn inotify_in_reactor(inotify: Inotify) -> io::Result<AsyncFd<InotifyFd>> {
    // SAFETY: `InotifyFd` owns its descriptor, never replaces it, and closes it only when it is
    // dropped, which the returned value, its owner, does after it has left the reactor.
    let registered =
        unsafe { AsyncFd::register_with_interest(InotifyFd(inotify), Interest::READABLE) };
    Ok(registered?)
}

/// A name for what a descriptor refers to, whatever happens to the path it was opened by.
fn descriptor_path(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn is_gone(e: &io::Error) -> bool {
    // ENODEV: what the cgroup file system says of a directory that is being removed.
    matches!(
        e.raw_os_error(),
        Some(libc::ENOENT | libc::ENODEV | libc::ENOTDIR)
    )
}

fn path_error(what: &'static str, path: &Path, source: io::Error) -> CgroupError {
    CgroupError::Path {
        what,
        path: path.to_owned(),
        source,
    }
}

fn display_path(path: &Path) -> String {
    let mut shown = String::new();
    for component in path.components() {
        if let Component::Normal(name) = component {
            shown.push('/');
            push_escaped(&mut shown, name);
        }
    }
    if shown.is_empty() {
        shown.push('/');
    }
    shown
}

fn push_escaped(shown: &mut String, name: &OsStr) {
    for chunk in name.as_bytes().utf8_chunks() {
        shown.push_str(chunk.valid());
        for byte in chunk.invalid() {
            write!(shown, "\\x{byte:02x}").expect("a String takes everything");
        }
    }
}

/// The mount point of the first cgroup2 line of a mountinfo file (proc_pid_mountinfo(5)).
fn cgroup2_mount(mountinfo: &[u8]) -> Option<PathBuf> {
    mountinfo.split(|b| *b == b'\n').find_map(|line| {
        let mut fields = line.split(|b| *b == b' ');
        let point = fields.nth(4)?;
        fields.find(|f| *f == b"-")?;
        (fields.next()? == b"cgroup2").then(|| unescape_octal(point))
    })
}

/// Where a directory of a cgroup v2 file system is in the hierarchy, as `/proc/PID/cgroup` writes
/// it for this process. The path must be absolute and without links.
pub fn path_in_hierarchy(directory: &Path) -> io::Result<String> {
    let mounts = fs::read("/proc/self/mountinfo")?;
    let found = mount_of(&mounts, directory);
    found.ok_or_else(|| {
        io::Error::other(format!("{} is in no cgroup v2 mount", directory.display()))
    })
}

/// A directory's path in the hierarchy, by the nearest cgroup2 mount above it.
fn mount_of(mountinfo: &[u8], directory: &Path) -> Option<String> {
    let mounts = mountinfo.split(|b| *b == b'\n').filter_map(|line| {
        let mut fields = line.split(|b| *b == b' ');
        let (root, point) = (fields.nth(3)?, fields.next()?);
        fields.find(|f| *f == b"-")?;
        let point = unescape_octal(point);
        (fields.next()? == b"cgroup2" && directory.starts_with(&point))
            .then(|| (unescape_octal(root), point))
    });
    // Of two at one point the later one covers the other.
    let (root, point) = mounts.max_by_key(|(_, point)| point.components().count())?;
    let below = directory.strip_prefix(point).ok()?;
    let path = root.join(below);
    let path = path.to_str()?.trim_end_matches('/');
    Some(if path.is_empty() { "/" } else { path }.to_owned())
}

/// Space, tab, newline and backslash are written `\ooo` in mountinfo.
fn unescape_octal(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        if let (
            b'\\',
            [
                a @ b'0'..=b'3',
                b @ b'0'..=b'7',
                c @ b'0'..=b'7',
                after @ ..,
            ],
        ) = (first, tail)
        {
            bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            rest = after;
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    PathBuf::from(OsStr::from_bytes(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_point_is_found_and_unescaped() {
        let mounts = b"30 22 0:26 / /sys rw - sysfs sysfs rw\n\
            40 30 0:37 / /sys/fs/cgroup/cpu rw shared:5 - cgroup cgroup rw,cpu\n\
            41 31 0:38 / /sys/fs/cg\\040v2 rw,relatime shared:9 master:1 - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup2_mount(mounts), Some(PathBuf::from("/sys/fs/cg v2")));
        assert_eq!(
            cgroup2_mount(b"30 22 0:26 / /sys rw - sysfs sysfs rw\n"),
            None
        );
        assert_eq!(cgroup2_mount(b""), None);
    }

    #[test]
    fn names_that_are_not_utf8_stay_distinct() {
        let path = Path::new("a").join(OsStr::from_bytes(b"x\xff\xfe"));
        assert_eq!(display_path(&path), "/a/x\\xff\\xfe");
        assert_eq!(display_path(Path::new("")), "/");
    }

    #[tokio::test]
    async fn another_file_system_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(
            CgroupTree::open(directory.path()),
            Err(CgroupError::NotCgroup2(_))
        ));
    }
}
