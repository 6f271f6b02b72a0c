//! Who calls: from the process that connected to its cgroup or network namespace, and from there
//! to the endpoint and the workload that policy has there.
//!
//! A process is held by a descriptor (pidfd), so that what is read of it under its number is
//! its own. Of a process in an enrolled cgroup that decides; of any other one the network
//! namespace, if it is at the far end of an interface that is an endpoint.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use tokio::{io::unix::AsyncFd, net::UnixStream};

use super::pidfd;
use crate::{
    api::status::{EndpointStatus, PlaceKind},
    identity::attest::origin::{Origin, ancestors, origin},
    inventory::{cgroups, namespaces::NamespaceFinder},
    reconcile::in_force::InForce,
};

/// Why nobody knows who calls.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoCaller {
    /// The kernel does not say which process it is, or it has ended.
    #[error(
        "the process that connected has ended, or is not to be seen from the daemon's process \
         namespace"
    )]
    NoProcess,
    /// It is in no workload.
    #[error(
        "process {pid} (in {place}) is in no workload of this host: enroll it with a Workload \
         document that has its cgroup, unit or interface"
    )]
    Nobody {
        /// The process.
        pid: u32,
        /// Its cgroup.
        place: String,
    },
    /// The inventory does not know its cgroup yet.
    #[error("process {pid} is in cgroup {place}, of which the inventory has not heard yet")]
    Unknown {
        /// The process.
        pid: u32,
        /// Its cgroup.
        place: String,
    },
    /// Several workloads could be meant.
    #[error(
        "process {0} is in a network namespace that several workloads are behind: enroll it by \
         its cgroup"
    )]
    Several(u32),
}

impl NoCaller {
    /// As in metrics and events.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoProcess => "no-process",
            Self::Nobody { .. } | Self::Unknown { .. } => "no-endpoint",
            Self::Several(_) => "several-workloads",
        }
    }
}

/// The process at the other end of a connection.
#[derive(Debug)]
pub struct Caller {
    /// Its number, which is its own as long as it has not ended.
    pub pid: u32,
    process: AsyncFd<OwnedFd>,
}

impl Caller {
    /// Who connected.
    pub fn of(stream: &UnixStream) -> Result<Self, NoCaller> {
        let credentials = stream.peer_cred().map_err(|_| NoCaller::NoProcess)?;
        // 0 is a process that this one cannot see.
        let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok());
        let pid = pid.filter(|pid| *pid != 0).ok_or(NoCaller::NoProcess)?;
        let process = pidfd::of_peer(stream, pid).map_err(|_| NoCaller::NoProcess)?;
        let process = pidfd::watch(process).map_err(|_| NoCaller::NoProcess)?;
        Ok(Self { pid, process })
    }

    /// Waits for its end.
    pub async fn ended(&self) {
        // A process that cannot be watched is not served.
        let _ = self.process.readable().await;
    }
}

/// Finds out where processes are. For the network namespace in which it was made.
#[derive(Debug)]
pub struct Whereabouts {
    root: PathBuf,
    /// The root, as `/proc/PID/cgroup` writes it, without a slash at its end.
    prefix: String,
    namespaces: Mutex<NamespaceFinder>,
}

/// A process's cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupPlace {
    /// Below the cgroup root, with a leading `/`.
    pub path: String,
    /// The kernel's cgroup id.
    pub id: u64,
}

impl Whereabouts {
    /// Below a cgroup root, for the calling thread's network namespace.
    pub fn here(root: &Path) -> io::Result<Self> {
        let root = fs::canonicalize(root)?;
        let prefix = cgroups::path_in_hierarchy(&root)?;
        Ok(Self {
            prefix: prefix.trim_end_matches('/').to_owned(),
            root,
            namespaces: Mutex::new(NamespaceFinder::here()?),
        })
    }

    /// The cgroup of a process, where it is below the root.
    pub fn cgroup(&self, caller: &Caller) -> Result<Option<CgroupPlace>, NoCaller> {
        let text = fs::read_to_string(format!("/proc/{}/cgroup", caller.pid));
        // Read first and asked then: what was read is of the process that connected.
        if pidfd::has_ended(&caller.process) {
            return Err(NoCaller::NoProcess);
        }
        let text = text.map_err(|_| NoCaller::NoProcess)?;
        let below = text
            .lines()
            .find_map(|line| line.strip_prefix("0::"))
            .and_then(|path| path.strip_prefix(&self.prefix))
            .filter(|path| path.is_empty() || path.starts_with('/'));
        Ok(below.and_then(|below| {
            let directory = self.root.join(below.trim_start_matches('/'));
            Some(CgroupPlace {
                path: if below.is_empty() { "/" } else { below }.to_owned(),
                id: fs::metadata(directory).ok()?.ino(),
            })
        }))
    }

    /// The endpoint in which a process is.
    pub fn endpoint(&self, now: &InForce, caller: &Caller) -> Result<Origin, NoCaller> {
        let pid = caller.pid;
        let cgroup = self.cgroup(caller)?;
        if let Some(CgroupPlace { path, id }) = &cgroup {
            // A cgroup that was just made may be a workload of its own, which only the next
            // look at the host will show: those above it say nothing until then.
            if now.snapshot.cgroups.get(path) != Some(id) {
                let place = path.clone();
                return Err(NoCaller::Unknown { pid, place });
            }
            let endpoint = ancestors(path).find_map(|path| {
                let mut endpoints = now.endpoints.iter();
                endpoints.find(|e| e.kind == PlaceKind::Cgroup && e.place == path)
            });
            if let Some(found) = endpoint.and_then(|endpoint| origin(now, endpoint, None)) {
                return Ok(found);
            }
        }
        if let Some(endpoint) = self.behind_interface(now, caller)?
            && let Some(found) = origin(now, endpoint, None)
        {
            return Ok(found);
        }
        let place = cgroup.map_or_else(|| "another cgroup tree".to_owned(), |c| c.path);
        Err(NoCaller::Nobody { pid, place })
    }

    fn behind_interface<'n>(
        &self,
        now: &'n InForce,
        caller: &Caller,
    ) -> Result<Option<&'n EndpointStatus>, NoCaller> {
        let interfaces = now.snapshot.interfaces.iter();
        let far: Vec<_> = interfaces
            .filter_map(|i| Some((u64::from(i.ifindex), i.peer_netns?)))
            .collect();
        let is_far = |endpoint: &&EndpointStatus| {
            endpoint.kind == PlaceKind::Interface
                && far.iter().any(|(index, _)| *index == endpoint.place_number)
        };
        if !now.endpoints.iter().any(|endpoint| is_far(&endpoint)) {
            return Ok(None);
        }
        let namespace = File::open(format!("/proc/{}/ns/net", caller.pid));
        if pidfd::has_ended(&caller.process) {
            return Err(NoCaller::NoProcess);
        }
        let Ok(namespace) = namespace else {
            return Ok(None);
        };
        let number = self
            .namespaces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .number_of(namespace.as_fd());
        let Some(number) = number.ok().flatten() else {
            return Ok(None);
        };
        let leads_there = |endpoint: &&EndpointStatus| {
            endpoint.kind == PlaceKind::Interface && far.contains(&(endpoint.place_number, number))
        };
        let mut found = now.endpoints.iter().filter(leads_there);
        let first = found.next();
        let is_other = |e: &EndpointStatus| {
            first.is_some_and(|first| (&first.namespace, &first.name) != (&e.namespace, &e.name))
        };
        if found.any(is_other) {
            return Err(NoCaller::Several(caller.pid));
        }
        Ok(first)
    }
}
