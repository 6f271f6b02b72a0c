//! The lab: network namespaces as hosts, cgroups as units, real daemons, real packets.
//!
//! Everything that a lab makes carries its [`Tag`], so that one function removes it: when the
//! lab is dropped, on a signal, and at the next start after a `kill -9`.

pub mod authority;
pub mod bridge;
pub mod cgroup;
pub mod cluster;
pub mod daemon;
pub mod etcd;
pub mod fleet;
pub mod frame;
pub mod git;
pub mod git_server;
pub mod machine;
pub mod mesh;
pub mod namespace;
pub mod pki;
pub mod place;
pub mod proof_scene;
pub mod provider;
pub mod scene;
pub mod shop;
pub mod shop_flows;
pub mod ssh;
pub mod systemd;
pub mod tag;
pub mod traffic;
pub mod tree;
pub mod truth;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};

pub use self::{
    daemon::{Daemon, DaemonOptions},
    namespace::Namespace,
    place::{Place, Process},
    proof_scene::ProofScene,
    scene::Scene,
    tag::Tag,
    traffic::{Expect, FlowProtocol, Outcome},
    tree::Tree,
};

/// How long to wait for what takes `time` on a real processor: an emulated one is slower.
pub fn patient(time: Duration) -> Duration {
    static IS_EMULATED: OnceLock<bool> = OnceLock::new();
    let emulated = *IS_EMULATED.get_or_init(|| {
        fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains("QEMU TCG"))
    });
    if emulated { time * 6 } else { time }
}

/// A lab. Dropping it removes all that carries its tag.
#[derive(Debug)]
pub struct Lab {
    tag: Tag,
    cgroups: PathBuf,
    keep: AtomicBool,
}

impl Lab {
    /// An empty lab. Removes what labs of dead processes left behind first.
    pub fn new() -> Result<Self> {
        anyhow::ensure!(
            nix::unistd::geteuid().is_root(),
            "the lab needs root: it makes network namespaces, cgroups and BPF pins"
        );
        tag::remove_stale()?;
        tag::remove_on_signals()?;
        let tag = Tag::fresh();
        let lab = Self {
            cgroups: cgroup::root()?.join(tag.as_str()),
            keep: AtomicBool::new(false),
            tag,
        };
        fs::create_dir_all(lab.folder()).context("making the lab's folder")?;
        cgroup::make(&lab.cgroups)?;
        Ok(lab)
    }

    /// The prefix of all names in this lab.
    pub fn tag(&self) -> &Tag {
        &self.tag
    }

    /// A folder for policies, state, sockets and logs.
    pub fn folder(&self) -> PathBuf {
        self.tag.folder()
    }

    /// The cgroup that all cgroups of this lab are in.
    pub fn cgroups(&self) -> &Path {
        &self.cgroups
    }

    /// Where pins of this lab go.
    pub fn pins(&self) -> PathBuf {
        self.tag.pins()
    }

    /// A new network namespace with loopback up.
    pub fn namespace(&self, name: &str) -> Result<Namespace> {
        Namespace::create(&self.tag, name)
    }

    /// A new cgroup below the lab's, by relative path.
    pub fn cgroup(&self, path: &str) -> Result<PathBuf> {
        let path = self.cgroups.join(path.trim_start_matches('/'));
        cgroup::make(&path)?;
        Ok(path)
    }

    /// Leaves everything in place when this value is dropped, until [`tag::remove_kept`].
    pub fn keep(&self) -> Result<()> {
        fs::write(self.tag.kept_marker(), "")?;
        self.keep.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        tag::give_way_to_signal();
        if self.keep.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = self.tag.remove() {
            eprintln!("lab {}: cannot clean up: {error:#}", self.tag);
        }
    }
}
