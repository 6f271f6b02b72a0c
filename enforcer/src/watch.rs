//! Watching a policy tree, whatever way it is changed: editors that rename, links that are
//! swapped (git-sync's work tree, a ConfigMap's `..data`), directories that go and return.
//!
//! Every directory of the tree is watched, and for every link on the way to it or in it the
//! directory that holds the link. Which these are is found anew after every burst of events.
//! A slow poll is the safety net for file systems that send no events and for full queues, and
//! sees that another commit was checked out that leaves the files as they are.

mod survey;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep_until},
};
use tracing::{debug, warn};

use self::survey::{Fingerprint, Names, Survey, WatchedDirectory};

/// How patient the watcher is.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// A change of one file is complete when nothing happened for this long.
    pub alone: Duration,
    /// A burst of changes is over when nothing happened for this long.
    pub quiet: Duration,
    /// A burst is announced after this long even if it goes on.
    pub at_most: Duration,
    /// Between looks at a tree that sends no events.
    pub poll: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            alone: Duration::from_millis(10),
            quiet: Duration::from_millis(50),
            at_most: Duration::from_millis(500),
            poll: Duration::from_secs(10),
        }
    }
}

/// A watched tree.
#[derive(Debug)]
pub struct TreeWatch {
    root: PathBuf,
    patience: Patience,
    watcher: RecommendedWatcher,
    events: mpsc::UnboundedReceiver<notify::Result<Event>>,
    watched: BTreeMap<PathBuf, WatchedDirectory>,
    fingerprint: Fingerprint,
}

/// Changes that come one after the other.
#[derive(Debug)]
struct Burst {
    first: Instant,
    last: Instant,
    /// The only file that changed, as far as is known.
    only: Option<PathBuf>,
    several: bool,
}

impl Burst {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            first: now,
            last: now,
            only: None,
            several: false,
        }
    }

    fn add(&mut self, paths: &[PathBuf]) {
        self.last = Instant::now();
        // An event that names nothing may be about everything.
        self.several |= paths.is_empty();
        for path in paths {
            // An editor's file for the new content is no policy yet.
            let name = path.file_name().unwrap_or_default();
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            match &self.only {
                None => self.only = Some(path.clone()),
                Some(only) => self.several |= only != path,
            }
        }
    }

    /// When it is over, if nothing follows.
    fn end(&self, patience: &Patience) -> Instant {
        // A link that is swapped changes more than itself.
        let alone = !self.several && self.only.as_ref().is_some_and(|only| only.is_file());
        let quiet = if alone {
            patience.alone
        } else {
            patience.quiet
        };
        (self.last + quiet).min(self.first + patience.at_most)
    }
}

/// Why watching failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch the policy tree {}", root.display())]
pub struct WatchError {
    root: PathBuf,
    source: notify::Error,
}

/// Surveys in a row: a tree that grows for longer is looked at again at its next event.
const MOST_SURVEYS: usize = 8;

impl TreeWatch {
    /// Starts watching; whatever changes from now on is announced by [`TreeWatch::run`].
    pub fn start(root: &Path, patience: Patience) -> Result<Self, WatchError> {
        let fail = |source| WatchError {
            root: root.to_owned(),
            source,
        };
        let absolute = std::path::absolute(root).map_err(|e| fail(e.into()))?;
        let (sender, events) = mpsc::unbounded_channel();
        // Unbounded, because the watcher's thread must not wait; it is drained at once.
        let watcher = notify::recommended_watcher(move |event| {
            let _ = sender.send(event);
        })
        .map_err(fail)?;
        let mut watch = Self {
            root: absolute,
            patience,
            watcher,
            events,
            watched: BTreeMap::new(),
            fingerprint: Fingerprint::default(),
        };
        // Again while it finds more: what came into a directory before it was watched.
        for _ in 0..MOST_SURVEYS {
            if !watch.rewatch(Survey::of(&watch.root)) {
                break;
            }
        }
        Ok(watch)
    }

    /// Announces every change, one a burst, until the watcher ends, which it does not.
    pub async fn run(mut self, changed: Arc<Notify>) -> io::Error {
        let mut burst: Option<Burst> = None;
        let mut poll = Instant::now() + self.patience.poll;
        loop {
            let due = burst
                .as_ref()
                .map_or(poll, |burst| burst.end(&self.patience));
            tokio::select! {
                event = self.events.recv() => match event {
                    None => return io::Error::other("the file watcher ended"),
                    Some(event) => if self.matters(&event) {
                        let burst = burst.get_or_insert_with(Burst::new);
                        burst.add(event.as_ref().map_or(&[], |event| &event.paths));
                    },
                },
                () = sleep_until(due) => {
                    // What is announced is read while it is looked at what to watch now.
                    let announced = burst.take().is_some();
                    if announced {
                        debug!(root = %self.root.display(), "the policy tree changed");
                        changed.notify_one();
                    }
                    let before = self.fingerprint;
                    let mut grown = false;
                    for _ in 0..MOST_SURVEYS {
                        let root = self.root.clone();
                        match tokio::task::spawn_blocking(move || Survey::of(&root)).await {
                            Ok(survey) => if self.rewatch(survey) { grown = true } else { break },
                            Err(error) => return error.into(),
                        }
                    }
                    // Into what was not watched, more may have come since it was read.
                    if grown || !announced && self.fingerprint != before {
                        debug!(root = %self.root.display(), "the policy tree changed");
                        changed.notify_one();
                    }
                    poll = Instant::now() + self.patience.poll;
                }
            }
        }
    }

    fn matters(&self, event: &notify::Result<Event>) -> bool {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                debug!(%error, "the file watcher reports an error");
                return true;
            }
        };
        if event.need_rescan() || event.paths.is_empty() {
            return true;
        }
        // Looking at a file is no change, and the enforcer looks at all of them.
        if matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write))
        {
            return false;
        }
        event.paths.iter().any(|path| {
            // About a watched directory itself, or about an entry of one.
            let own = self
                .watched
                .get(path)
                .is_some_and(|d| d.names == Names::All);
            let entry = path
                .parent()
                .and_then(|parent| self.watched.get(parent))
                .is_some_and(|d| match (&d.names, path.file_name()) {
                    (Names::All, _) => true,
                    (Names::Only(names), Some(name)) => names.contains(name),
                    (Names::Only(_), None) => false,
                });
            own || entry
        })
    }

    /// Watches what a survey found, and nothing else. Says whether there was something new.
    fn rewatch(&mut self, survey: Survey) -> bool {
        for (path, known) in &self.watched {
            if survey
                .directories
                .get(path)
                .is_none_or(|new| new.inode != known.inode)
            {
                // It fails where the kernel has already given up the watch with the directory.
                let _ = self.watcher.unwatch(path);
            }
        }
        let mut new = false;
        for (path, directory) in &survey.directories {
            if self
                .watched
                .get(path)
                .is_some_and(|known| known.inode == directory.inode)
            {
                continue;
            }
            new = true;
            if let Err(error) = self.watcher.watch(path, RecursiveMode::NonRecursive) {
                warn!(
                    path = %path.display(),
                    %error,
                    "cannot watch a directory of the policy tree: its changes are found within {} s",
                    self.patience.poll.as_secs()
                );
            }
        }
        self.watched = survey.directories;
        self.fingerprint = survey.fingerprint;
        new
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use tokio::time::timeout;

    use super::*;

    /// Events only: the poll never comes.
    const EVENTS: Patience = Patience {
        alone: Duration::from_millis(20),
        quiet: Duration::from_millis(20),
        at_most: Duration::from_millis(200),
        poll: Duration::from_hours(1),
    };

    struct Watched {
        changed: Arc<Notify>,
        task: tokio::task::JoinHandle<io::Error>,
    }

    impl Watched {
        fn start(path: &Path, patience: Patience) -> Self {
            let changed = Arc::new(Notify::new());
            let watch = TreeWatch::start(path, patience).unwrap();
            let task = tokio::spawn(watch.run(changed.clone()));
            Self { changed, task }
        }

        async fn expect_change(&self, what: &str) {
            timeout(Duration::from_secs(5), self.changed.notified())
                .await
                .unwrap_or_else(|_| panic!("not noticed: {what}"));
            // What belongs to the same burst may come a little later on a busy machine.
            while timeout(Duration::from_millis(100), self.changed.notified())
                .await
                .is_ok()
            {}
        }

        async fn expect_silence(&self, what: &str) {
            assert!(
                timeout(Duration::from_millis(300), self.changed.notified())
                    .await
                    .is_err(),
                "noticed: {what}"
            );
        }
    }

    impl Drop for Watched {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    #[tokio::test]
    async fn editors_write_rename_and_remove() {
        let root = tempfile::tempdir().unwrap();
        let tree = root.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let watched = Watched::start(&tree, EVENTS);
        fs::write(tree.join("a.yaml"), "1").unwrap();
        watched.expect_change("new file").await;
        fs::write(tree.join("a.yaml~"), "2").unwrap();
        fs::rename(tree.join("a.yaml~"), tree.join("a.yaml")).unwrap();
        watched.expect_change("rename over a file").await;
        fs::create_dir(tree.join("sub")).unwrap();
        watched.expect_change("new directory").await;
        fs::write(tree.join("sub/b.yaml"), "1").unwrap();
        watched.expect_change("file in a new directory").await;
        fs::remove_file(tree.join("a.yaml")).unwrap();
        watched.expect_change("removed file").await;
        fs::read(tree.join("sub/b.yaml")).unwrap();
        fs::write(root.path().join("other.yaml"), "1").unwrap();
        watched
            .expect_silence("reading, and a file beside the tree")
            .await;
    }

    #[tokio::test]
    async fn a_burst_is_one_change() {
        let root = tempfile::tempdir().unwrap();
        let patience = Patience {
            alone: Duration::from_millis(300),
            quiet: Duration::from_millis(300),
            at_most: Duration::from_secs(10),
            ..EVENTS
        };
        let watched = Watched::start(root.path(), patience);
        for n in 0..50 {
            fs::write(root.path().join(format!("{n}.yaml")), "1").unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        timeout(Duration::from_secs(5), watched.changed.notified())
            .await
            .unwrap();
        watched.expect_silence("the same burst again").await;
    }

    #[tokio::test]
    async fn a_config_map_swaps_its_data_link() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir(at("..one")).unwrap();
        fs::write(at("..one/shop.yaml"), "1").unwrap();
        symlink("..one", at("..data")).unwrap();
        symlink("..data/shop.yaml", at("shop.yaml")).unwrap();
        let watched = Watched::start(root.path(), EVENTS);
        for generation in ["..two", "..three"] {
            fs::create_dir(at(generation)).unwrap();
            fs::write(at(generation).join("shop.yaml"), "2").unwrap();
            symlink(generation, at("..data_tmp")).unwrap();
            fs::rename(at("..data_tmp"), at("..data")).unwrap();
            watched.expect_change(generation).await;
        }
    }

    #[tokio::test]
    async fn git_sync_swaps_the_root_itself() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for commit in ["worktrees/aaa", "worktrees/bbb"] {
            fs::create_dir_all(at(commit).join("policies")).unwrap();
            fs::write(at(commit).join("policies/a.yaml"), commit).unwrap();
        }
        symlink("worktrees/aaa", at("current")).unwrap();
        let watched = Watched::start(&at("current").join("policies"), EVENTS);
        symlink("worktrees/bbb", at("next")).unwrap();
        fs::rename(at("next"), at("current")).unwrap();
        watched.expect_change("swapped root").await;
        fs::write(at("worktrees/bbb/policies/a.yaml"), "x").unwrap();
        watched.expect_change("file behind the new root").await;
        fs::write(at("worktrees/aaa/policies/a.yaml"), "x").unwrap();
        watched.expect_silence("file behind the old root").await;
    }

    #[tokio::test]
    async fn a_tree_that_goes_and_returns() {
        let root = tempfile::tempdir().unwrap();
        let tree = root.path().join("etc/policies");
        let watched = Watched::start(&tree, EVENTS);
        fs::create_dir_all(&tree).unwrap();
        watched.expect_change("came into being").await;
        fs::write(tree.join("a.yaml"), "1").unwrap();
        watched.expect_change("file in it").await;
        fs::remove_dir_all(root.path().join("etc")).unwrap();
        watched.expect_change("gone").await;
        fs::create_dir_all(&tree).unwrap();
        watched.expect_change("back").await;
        fs::write(tree.join("a.yaml"), "2").unwrap();
        watched.expect_change("file in the new one").await;
    }

    #[tokio::test]
    async fn the_poll_finds_what_events_did_not_tell() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("a.yaml"), "1").unwrap();
        let patience = Patience {
            poll: Duration::from_millis(50),
            ..EVENTS
        };
        let mut watch = TreeWatch::start(root.path(), patience).unwrap();
        for path in watch.watched.keys() {
            watch.watcher.unwatch(path).unwrap();
        }
        while watch.events.try_recv().is_ok() {}
        let changed = Arc::new(Notify::new());
        let watched = Watched {
            changed: changed.clone(),
            task: tokio::spawn(watch.run(changed)),
        };
        watched.expect_silence("nothing changed").await;
        fs::write(root.path().join("a.yaml"), "22").unwrap();
        watched.expect_change("rewritten file").await;
    }

    #[tokio::test]
    async fn the_poll_finds_another_commit_of_the_same_files() {
        let root = tempfile::tempdir().unwrap();
        let tree = root.path().join("policies");
        fs::create_dir_all(root.path().join(".git")).unwrap();
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("a.yaml"), "1").unwrap();
        let commit = |digit: &str| fs::write(root.path().join(".git/HEAD"), digit.repeat(40));
        commit("a").unwrap();
        let patience = Patience {
            poll: Duration::from_millis(50),
            ..EVENTS
        };
        let watched = Watched::start(&tree, patience);
        watched.expect_silence("nothing changed").await;
        commit("b").unwrap();
        watched.expect_change("another commit").await;
    }
}
