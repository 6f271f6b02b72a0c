//! Refused packets that are to be answered, and the sockets that may answer.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use aya::maps::{MapData, RingBuf};
use bytemuck::Zeroable;
use enforcer_common::{abi::map, refused_packet::RefusedPacket, socket_entry::SocketEntry};
use tokio::io::unix::AsyncFd;

use super::{error::DatapathError, pin, sys};

/// Reads refused packets as the kernel hands them over.
pub struct Refusals {
    ring: Option<RingBuf<MapData>>,
    ready: Option<AsyncFd<RingBuf<MapData>>>,
    sockets: OwnedFd,
}

/// Packets that one call hands over at most.
const BATCH: usize = 256;

impl std::fmt::Debug for Refusals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Refusals").finish_non_exhaustive()
    }
}

impl Refusals {
    /// `maps`: where the maps are pinned.
    pub(super) fn new(ring: RingBuf<MapData>, maps: &Path) -> Result<Self, DatapathError> {
        let path = maps.join(map::SOCKETS);
        let name = CString::new(path.as_os_str().as_bytes())
            .map_err(|error| pin::file("open", &path)(error.into()))?;
        Ok(Self {
            ring: Some(ring),
            ready: None,
            sockets: sys::object_get(&name).map_err(pin::file("open", &path))?,
        })
    }

    /// Lets what a socket sends pass unjudged: it answers what was refused.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn let_answer(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let entry = SocketEntry {
            answers: 1,
            ..SocketEntry::zeroed()
        };
        sys::update(
            self.sockets.as_fd(),
            &socket.as_raw_fd().to_ne_bytes(),
            bytemuck::bytes_of(&entry),
        )
    }

    /// Waits for packets and appends them to `out`. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// What the reactor says.
    pub async fn next_batch(&mut self, out: &mut Vec<RefusedPacket>) -> io::Result<()> {
        if let Some(ring) = self.ring.take() {
            // SAFETY: the ring owns its descriptor and keeps it open while it is registered.
            let ready = unsafe { AsyncFd::register(ring) };
            self.ready = Some(ready.map_err(io::Error::from)?);
        }
        let Some(ready) = self.ready.as_mut() else {
            return Err(io::Error::other("the ring buffer could not be registered"));
        };
        let before = out.len();
        while out.len() == before {
            let mut guard = ready.readable_mut().await?;
            let ring = guard.get_inner_mut();
            while out.len() - before < BATCH {
                let Some(item) = ring.next() else {
                    guard.clear_ready();
                    break;
                };
                out.extend(bytemuck::try_pod_read_unaligned::<RefusedPacket>(&item));
            }
        }
        Ok(())
    }
}
