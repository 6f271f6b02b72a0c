//! Ends open TCP connections that the policy in force denies, so that their owners see them die
//! at once and not at their next packet.
//!
//! Enforcement does not depend on it: the kernel judges every open flow again after a change.
//! So whatever is in doubt here (who opened it, who the peer is) is left to the kernel. The host
//! endpoint is left to it altogether, because only the packet shows whether a connection leaves
//! by an uplink; its connections end when the kernel reports that it broke one.

mod broken_flow;
mod condemned;

use std::{collections::HashSet, os::unix::fs::MetadataExt, sync::Arc, time::Duration};

use enforcer_common::Direction;
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

pub use self::broken_flow::BrokenFlow;
pub(crate) use self::condemned::CgroupEndpoints;
use self::{
    broken_flow::matching,
    condemned::{condemned_cgroup_sockets, condemned_interface_sockets, is_restricted},
};
use super::in_force::InForce;
use crate::{
    api::status::{EndpointStatus, PlaceKind},
    cause::chain,
    inventory::{
        namespaces::NamespaceFinder,
        sockets::{Destroyed, Protocol, Socket, SocketTable},
    },
};

/// Who opened a connection, as the kernel programs saw it.
pub trait Openers: Send + Sync {
    /// `None`: they have not seen it.
    fn opener(&self, endpoint: &EndpointStatus, socket: &Socket) -> Option<Direction>;
}

/// After a change, what was being opened meanwhile is looked for once more.
const SECOND_LOOK: Duration = Duration::from_millis(400);
/// Between two passes, so that a busy host is not spent on them.
const PAUSE: Duration = Duration::from_millis(100);

/// Sweeps after every change and after every broken flow, until `stop`.
pub async fn run(
    mut in_force: watch::Receiver<Arc<InForce>>,
    mut broken: mpsc::Receiver<BrokenFlow>,
    openers: Arc<dyn Openers>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut swept = 0;
    let mut again = false;
    loop {
        let mut flows = HashSet::new();
        tokio::select! {
            // At the end, inputs end after `stop`.
            biased;
            () = stop.cancelled() => return Ok(()),
            changed = in_force.changed() => changed?,
            flow = broken.recv() => flows.extend(flow),
            () = sleep(SECOND_LOOK), if again => {}
        }
        while let Ok(flow) = broken.try_recv() {
            flows.insert(flow);
        }
        let now = in_force.borrow_and_update().clone();
        let changed = now.generation != swept;
        if !changed && !again && flows.is_empty() {
            continue;
        }
        let look = match (changed, again) {
            (true, _) => Look::First,
            (false, true) => Look::Second,
            (false, false) => Look::None,
        };
        again = changed;
        swept = now.generation;
        let openers = openers.clone();
        tokio::task::spawn_blocking(move || sweep(&now, &*openers, look, &flows)).await?;
        sleep(PAUSE).await;
    }
}

/// One pass: what the image denies, and what the kernel has broken.
fn sweep(now: &InForce, openers: &dyn Openers, look: Look, broken: &HashSet<BrokenFlow>) {
    let judge_all = look != Look::None;
    let mut ended = 0;
    let places = CgroupEndpoints::new(now);
    if (judge_all && places.restrict(&now.image)) || !broken.is_empty() {
        match SocketTable::here() {
            Ok(table) => {
                ended += end(table, |sockets| {
                    let mut found = matching(sockets, broken);
                    if judge_all {
                        found.extend(condemned_cgroup_sockets(
                            now, openers, &places, look, sockets,
                        ));
                    }
                    found
                });
            }
            Err(error) => warn!(
                error = chain(&error),
                "cannot look for connections that policy denies"
            ),
        }
    }
    let interfaces: Vec<_> = now
        .endpoints
        .iter()
        .filter(|e| e.kind == PlaceKind::Interface)
        .filter(|e| {
            judge_all && is_restricted(&now.image, e) || broken.iter().any(|b| b.endpoint == e.id)
        })
        .collect();
    if !interfaces.is_empty() {
        ended += sweep_interfaces(now, openers, judge_all, &interfaces, broken);
    }
    if ended > 0 {
        info!(connections = ended, "ended connections that policy denies");
    }
}

fn sweep_interfaces(
    now: &InForce,
    openers: &dyn Openers,
    judge_all: bool,
    endpoints: &[&EndpointStatus],
    broken: &HashSet<BrokenFlow>,
) -> usize {
    let mut finder = match NamespaceFinder::here() {
        Ok(finder) => finder,
        Err(error) => {
            warn!(
                error = chain(&error),
                "cannot look into the namespaces of workloads"
            );
            return 0;
        }
    };
    let own = std::fs::metadata("/proc/self/ns/net").map(|m| (m.dev(), m.ino()));
    let mut ended = 0;
    for endpoint in endpoints {
        let ifindex = u32::try_from(endpoint.place_number).unwrap_or(0);
        let namespace = match finder.of_peer(ifindex) {
            Ok(Some(namespace)) => std::fs::File::from(namespace),
            Ok(None) => continue,
            Err(error) => {
                debug!(
                    interface = endpoint.place,
                    error = chain(&error),
                    "cannot find the workload's namespace"
                );
                continue;
            }
        };
        // An interface whose other end is here shows nothing of whose sockets these are.
        let is_own = namespace
            .metadata()
            .ok()
            .zip(own.as_ref().ok())
            .is_none_or(|(m, own)| (m.dev(), m.ino()) == *own);
        if is_own {
            continue;
        }
        match SocketTable::of_namespace(&namespace) {
            Ok(table) => {
                ended += end(table, |sockets| {
                    let mut found = matching(sockets, broken);
                    if judge_all {
                        found.extend(condemned_interface_sockets(now, openers, endpoint, sockets));
                    }
                    found
                });
            }
            Err(error) => {
                debug!(
                    interface = endpoint.place,
                    error = chain(&error),
                    "cannot list the workload's sockets"
                );
            }
        }
    }
    ended
}

/// Lists, chooses, destroys. Returns how many died.
fn end(mut table: SocketTable, choose: impl FnOnce(&[Socket]) -> Vec<Socket>) -> usize {
    let sockets = match table.list(Protocol::Tcp) {
        Ok(sockets) => sockets,
        Err(error) => {
            warn!(
                error = chain(&error),
                "cannot look for connections that policy denies"
            );
            return 0;
        }
    };
    let mut ended = 0;
    for socket in choose(&sockets) {
        match table.destroy(&socket) {
            Ok(Destroyed::Now) => {
                info!(local = %socket.local, remote = %socket.remote, "ended a connection that policy denies");
                ended += 1;
            }
            Ok(Destroyed::Before) => {}
            Err(error) => {
                warn!(
                    error = chain(&error),
                    "cannot end a connection that policy denies; its packets are dropped"
                );
            }
        }
    }
    ended
}

/// Whether every open connection is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// Only what the kernel has broken is ended.
    None,
    /// Just after a change.
    First,
    /// A while later: a cgroup that the snapshot does not have by now is outside the cgroup
    /// root, not new.
    Second,
}
