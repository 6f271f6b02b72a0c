//! What is read from the kernel while it enforces: events, denied flows, flows past their time.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    cause::chain,
    datapath::EventReader,
    kernel_handle::KernelHandle,
    observe::{clock, pipeline::Pipeline},
    reconcile::{in_force::InForce, sweep::BrokenFlow},
};

/// How long records wait for the names of what they are about.
const NAMES_PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at the table of denied flows.
const DRAIN_INTERVAL: Duration = Duration::from_secs(1);
/// Between two collections of flows that are past their time.
const EXPIRE_INTERVAL: Duration = Duration::from_secs(5);
/// How long sinks may take at the end.
const LAST_RECORDS: Duration = Duration::from_secs(3);

/// Events of the ring buffer and the table of denied flows become records.
pub(super) async fn read_events(
    kernel: KernelHandle,
    mut events: EventReader,
    mut pipeline: Pipeline,
    broken: mpsc::Sender<BrokenFlow>,
    mut in_force: watch::Receiver<Arc<InForce>>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    // What a former run left in force has gone on denying. Its numbers have names once the
    // policy is loaded; until then the kernel keeps the counts.
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        _ = in_force.wait_for(|now| now.ready) => {}
        () = tokio::time::sleep(NAMES_PATIENCE) => {}
    }
    drop(in_force);
    let mut drain = interval(DRAIN_INTERVAL);
    drain.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            read = events.next_batch(&mut batch) => {
                read.context("cannot read the kernel's events")?;
                for flow in batch.iter().filter_map(BrokenFlow::from_event) {
                    let _ = broken.try_send(flow);
                }
                pipeline.events(&batch);
                batch.clear();
            }
            _ = drain.tick() => {
                pipeline = drain_denied(&kernel, pipeline).await?;
                pipeline.malformed(events.take_malformed());
            }
        }
    }
    let pipeline = drain_denied(&kernel, pipeline).await?;
    tokio::task::spawn_blocking(move || pipeline.close(LAST_RECORDS)).await?;
    Ok(())
}

async fn drain_denied(kernel: &KernelHandle, mut pipeline: Pipeline) -> anyhow::Result<Pipeline> {
    let kernel = kernel.clone();
    let (pipeline, drained) = tokio::task::spawn_blocking(move || {
        let began = clock::monotonic();
        let drained = kernel.drain_denied().map(|denied| {
            pipeline.denied(began, &denied);
        });
        (pipeline, drained)
    })
    .await?;
    // The counts stay in the kernel for the next time.
    if let Err(error) = drained {
        warn!(
            error = chain(&error),
            "cannot read the table of denied flows"
        );
    }
    Ok(pipeline)
}

/// Removes flows that are past their time.
pub(super) async fn expire_flows(
    kernel: KernelHandle,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut tick = interval(EXPIRE_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = tick.tick() => {}
        }
        let kernel = kernel.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || kernel.expire_flows()).await? {
            warn!(
                error = chain(&error),
                "cannot collect flows that are past their time"
            );
        }
    }
}
