//! The reader of the kernel's ring buffer.

use std::io;

use aya::maps::{MapData, RingBuf};
use enforcer_common::event::Event;
use tokio::io::unix::AsyncFd;

use super::transient::Transients;

/// Reads events as the kernel sends them.
pub struct EventReader {
    ring: Option<RingBuf<MapData>>,
    ready: Option<AsyncFd<RingBuf<MapData>>>,
    malformed: u64,
    transients: Transients,
}

/// Events that one call hands over at most, so that a flood does not keep the task to itself.
const BATCH: usize = 1024;

impl std::fmt::Debug for EventReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventReader")
            .field("malformed", &self.malformed)
            .finish_non_exhaustive()
    }
}

impl EventReader {
    pub(super) fn new(ring: RingBuf<MapData>, transients: Transients) -> Self {
        Self {
            ring: Some(ring),
            ready: None,
            malformed: 0,
            transients,
        }
    }

    /// Waits for events and appends them to `out`; returns how many there were. Must be called
    /// within a tokio runtime.
    pub async fn next_batch(&mut self, out: &mut Vec<Event>) -> io::Result<usize> {
        if let Some(ring) = self.ring.take() {
            // SAFETY: the ring owns its descriptor and keeps it open while it is registered.
            let ready = unsafe { AsyncFd::register(ring) };
            self.ready = Some(ready.map_err(io::Error::from)?);
        }
        let Some(ready) = self.ready.as_mut() else {
            return Err(io::Error::other("the ring buffer could not be registered"));
        };
        loop {
            let mut guard = ready.readable_mut().await?;
            let before = out.len();
            let ring = guard.get_inner_mut();
            while out.len() - before < BATCH {
                let Some(item) = ring.next() else {
                    guard.clear_ready();
                    break;
                };
                match bytemuck::try_pod_read_unaligned::<Event>(&item) {
                    Ok(mut event) => {
                        event.peer = self.transients.settled(event.peer);
                        out.push(event);
                    }
                    Err(_) => self.malformed += 1,
                }
            }
            if out.len() > before {
                return Ok(out.len() - before);
            }
        }
    }

    /// Events of a size that this version does not know, since the last call.
    pub fn take_malformed(&mut self) -> u64 {
        std::mem::take(&mut self.malformed)
    }
}
