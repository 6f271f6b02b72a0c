//! `denied: reject`: who is denied is told. The kernel programs hand over the packets that may be
//! answered; this room answers them, in the name of whom they were for. Without a daemon denied
//! packets are dropped in silence, as without this setting.

pub mod answer;
mod sender;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use anyhow::Context;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use self::{answer::answer, sender::Sender};
use crate::{
    cause::chain,
    datapath::{Refusals, clock},
};

/// A packet that waited longer, in nanoseconds, gets no answer: a former daemon left it.
const FRESH: u64 = 1_000_000_000;

/// What became of refused packets.
#[derive(Debug, Default)]
pub struct Answers {
    /// Answered.
    pub sent: AtomicU64,
    /// Not answered, because the answer could not be sent.
    pub failed: AtomicU64,
    /// Not answered, because it would have come too late.
    pub late: AtomicU64,
}

/// Answers refused packets until `stop`.
///
/// # Errors
/// When the kernel's ring cannot be read.
pub async fn run(
    mut refusals: Refusals,
    answers: Arc<Answers>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut sender = Sender::default();
    let mut batch = Vec::new();
    let mut has_failed = false;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            read = refusals.next_batch(&mut batch) => {
                read.context("cannot read the refused packets")?;
            }
        }
        let now = clock::nanoseconds();
        for refused in batch.drain(..) {
            if now.saturating_sub(refused.time) > FRESH {
                answers.late.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let Some(answer) = answer(&refused) else {
                answers.failed.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            match sender.send(&answer, refused.ifindex, &refusals) {
                Ok(()) => {
                    answers.sent.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    answers.failed.fetch_add(1, Ordering::Relaxed);
                    // Once: a route that is missing is missing for many packets.
                    if !has_failed {
                        warn!(
                            error = chain(&error),
                            to = %answer.to,
                            "a denied packet could not be answered"
                        );
                    }
                    has_failed = true;
                }
            }
        }
    }
}
