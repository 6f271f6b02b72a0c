//! What exists on this host: cgroups, interfaces, addresses, sockets. Watched live, published as
//! whole snapshots.

mod behind;
pub mod cgroups;
mod claims;
pub mod interfaces;
pub mod namespaces;
mod netlink;
pub mod place;
mod ports;
mod problem;
pub mod socket_owner;
pub mod sockets;
pub mod units;
mod unknown;
mod ways;

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use ipnet::IpNet;
use tokio::{
    sync::watch,
    task::{JoinError, JoinHandle},
    time::Instant,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::{
    cgroups::{CgroupError, CgroupTree},
    interfaces::{InterfaceError, LinkWatch, Links},
};
pub use self::{interfaces::Interface, ports::PortAddresses};

/// What to watch, and how patiently.
#[derive(Clone, Debug)]
pub struct InventorySettings {
    /// Directory in a cgroup v2 file system; `None`: the first cgroup v2 mount.
    pub cgroup_root: Option<PathBuf>,
    /// A burst of changes is over when nothing happened for this long.
    pub quiet: Duration,
    /// A burst is published after this long even if it goes on.
    pub at_most: Duration,
}

impl Default for InventorySettings {
    fn default() -> Self {
        Self {
            cgroup_root: None,
            quiet: Duration::from_millis(5),
            at_most: Duration::from_millis(50),
        }
    }
}

/// Everything that exists at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Path below the root, with a leading `/` (the root itself is `/`), to the inode number of
    /// the directory, which is the kernel's cgroup id. A cgroup that was made anew under an old
    /// path has another id.
    pub cgroups: BTreeMap<String, u64>,
    /// In the order of ifindex.
    pub interfaces: Vec<Interface>,
    /// Every address of this host, loopback included, sorted.
    pub host_addresses: Vec<IpAddr>,
    /// Names of the interfaces that default routes leave by: the uplinks, where the operator
    /// names none.
    pub default_route_interfaces: Vec<String>,
    /// See [`Links::direct_routes`].
    pub direct_routes: BTreeMap<IpNet, u32>,
    /// See [`Links::port_addresses`].
    pub port_addresses: PortAddresses,
    /// What an operator should know about the inventory itself, in sentences.
    pub notes: Vec<String>,
}

impl Snapshot {
    /// The interface of this name.
    pub fn interface(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|i| i.name == name)
    }

    /// The interfaces behind which an address is, if a direct route tells: that by which it
    /// leaves, or the ports of the bridge by which it leaves at whose other ends the address is.
    /// More than one only if several namespaces have it.
    pub fn interfaces_towards(&self, address: IpAddr) -> Vec<&Interface> {
        let longest = IpNet::from(address).prefix_len();
        let ifindex = (1..=longest).rev().find_map(|length| {
            let network = IpNet::new(address, length).ok()?.trunc();
            self.direct_routes.get(&network)
        });
        let Some(way) = ifindex.and_then(|ifindex| self.numbered(*ifindex)) else {
            return Vec::new();
        };
        if !ports::is_bridge(way) {
            return vec![way];
        }
        let ports = self.port_addresses.get(&address).into_iter().flatten();
        ports
            .filter_map(|port| self.numbered(*port))
            .filter(|port| port.controller == Some(way.ifindex))
            .collect()
    }

    fn numbered(&self, ifindex: u32) -> Option<&Interface> {
        self.interfaces.iter().find(|i| i.ifindex == ifindex)
    }
}

/// Why the inventory could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// Cgroups.
    #[error("cannot watch cgroups")]
    Cgroups(#[from] CgroupError),
    /// Interfaces.
    #[error("cannot watch network interfaces")]
    Interfaces(#[from] InterfaceError),
    /// A task panicked.
    #[error("a task of the inventory ended unexpectedly")]
    Task(#[from] JoinError),
}

/// Starts the inventory.
#[derive(Debug)]
pub struct Inventory;

impl Inventory {
    /// Reads everything once, then keeps watching in a task of its own. Interfaces are those of
    /// the calling thread's network namespace. The receiver holds a complete snapshot when this
    /// returns; when the inventory ends, for whatever reason, the receiver's `changed` fails and
    /// [`InventoryHandle::ended`] says why.
    pub async fn start(
        settings: InventorySettings,
    ) -> Result<(InventoryHandle, watch::Receiver<Arc<Snapshot>>), InventoryError> {
        // Before the first await: later this may be another thread, in another namespace.
        let link_watch = LinkWatch::open()?;
        let root = match &settings.cgroup_root {
            Some(root) => root.clone(),
            None => cgroups::default_root()?,
        };
        let tree = CgroupTree::open(&root)?;
        let links = link_watch.list().await?;
        let (snapshots, receiver) = watch::channel(Arc::new(snapshot(&tree, &links)));
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(
            settings,
            tree,
            link_watch,
            links,
            snapshots,
            stop.clone(),
        ));
        let handle = InventoryHandle {
            root,
            task,
            _stop: stop.drop_guard(),
        };
        Ok((handle, receiver))
    }
}

/// A running inventory; it ends with this value.
#[derive(Debug)]
pub struct InventoryHandle {
    root: PathBuf,
    task: JoinHandle<Result<(), InventoryError>>,
    _stop: DropGuard,
}

impl InventoryHandle {
    /// The cgroup root that is watched.
    pub fn cgroup_root(&self) -> &std::path::Path {
        &self.root
    }

    /// Waits until the inventory ends: with the reason, or with `Ok` when every receiver was
    /// dropped. Safe to cancel; not to be called again after it returned.
    pub async fn ended(&mut self) -> Result<(), InventoryError> {
        (&mut self.task).await?
    }
}

async fn run(
    settings: InventorySettings,
    mut tree: CgroupTree,
    link_watch: LinkWatch,
    links: Links,
    snapshots: watch::Sender<Arc<Snapshot>>,
    stop: CancellationToken,
) -> Result<(), InventoryError> {
    let (link_sender, mut links) = watch::channel(links);
    let mut link_task = AbortOnDrop(tokio::spawn(link_watch.run(link_sender)));
    let mut burst: Option<Burst> = None;
    loop {
        let due = burst.as_ref().map(|b| b.due(&settings));
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = snapshots.closed() => return Ok(()),
            changed = tree.changed() => {
                changed?;
                Burst::extend(&mut burst);
            }
            Ok(()) = links.changed() => Burst::extend(&mut burst),
            ended = &mut link_task.0 => {
                ended??;
                return Err(InterfaceError::Closed.into());
            }
            () = sleep_until(due) => {
                burst = None;
                let now = snapshot(&tree, &links.borrow_and_update());
                snapshots.send_if_modified(|known| {
                    let changed = **known != now;
                    if changed {
                        *known = Arc::new(now);
                    }
                    changed
                });
            }
        }
    }
}

fn snapshot(tree: &CgroupTree, links: &Links) -> Snapshot {
    Snapshot {
        cgroups: tree.cgroups(),
        interfaces: links.interfaces.clone(),
        host_addresses: links.host_addresses.clone(),
        default_route_interfaces: links.default_route_interfaces.clone(),
        direct_routes: links.direct_routes.clone(),
        port_addresses: links.port_addresses.clone(),
        notes: tree.note().into_iter().chain(links.note.clone()).collect(),
    }
}

/// Changes that are not published yet.
#[derive(Clone, Copy, Debug)]
struct Burst {
    first: Instant,
    last: Instant,
}

impl Burst {
    fn extend(burst: &mut Option<Self>) {
        let now = Instant::now();
        burst
            .get_or_insert(Self {
                first: now,
                last: now,
            })
            .last = now;
    }

    fn due(&self, settings: &InventorySettings) -> Instant {
        (self.last + settings.quiet).min(self.first + settings.at_most)
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// A task that does not outlive its owner.
struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
