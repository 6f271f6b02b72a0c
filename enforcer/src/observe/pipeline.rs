//! The way of a record through the daemon: made, kept, handed to the sinks, counted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use enforcer_common::{
    denied_entry::{DeniedEntry, DeniedKey},
    event::Event,
};

use crate::{
    observe::{
        clock::Clock,
        context::NameBook,
        decode::DecodeError,
        enrich::Enricher,
        history::History,
        record::{FlowRecord, Verdict},
    },
    sink::SinkQueue,
};

/// Takes what the kernel reports. Nothing in here waits for anybody.
#[derive(Debug)]
pub struct Pipeline {
    enricher: Enricher,
    history: Arc<History>,
    sinks: Vec<SinkQueue>,
    stats: Arc<PipelineStats>,
}

/// What went through.
#[derive(Debug, Default)]
pub struct PipelineStats {
    records: [AtomicU64; Verdict::ALL.len()],
    refused: AtomicU64,
}

impl PipelineStats {
    /// Records made, by verdict.
    pub fn records(&self, verdict: Verdict) -> u64 {
        self.records[verdict as usize].load(Ordering::Relaxed)
    }

    /// Events and counts that made no sense.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

impl Pipeline {
    /// A pipeline that ends in `history` and `sinks`.
    pub fn new(names: Arc<NameBook>, history: Arc<History>, sinks: Vec<SinkQueue>) -> Self {
        Self {
            enricher: Enricher::new(names),
            history,
            sinks,
            stats: Arc::default(),
        }
    }

    /// [`FlowRecord::run`] of every record.
    pub fn run(&self) -> &str {
        self.enricher.run()
    }

    /// What went through.
    pub fn stats(&self) -> &Arc<PipelineStats> {
        &self.stats
    }

    /// Takes events of the ring buffer.
    pub fn events(&mut self, events: &[Event]) {
        self.enricher.set_clock(Clock::read());
        for event in events {
            match self.enricher.event(event) {
                Ok(record) => self.hand_on(record),
                Err(error) => self.refuse("event", &error),
            }
        }
    }

    /// Takes what the table of denied flows has grown by. `began` is
    /// [`crate::observe::clock::monotonic`] just before the table was read.
    pub fn denied(&mut self, began: u64, deltas: &[(DeniedKey, DeniedEntry)]) {
        self.enricher.set_clock(Clock::read());
        self.enricher.begin_snapshot(began);
        for (key, delta) in deltas {
            match self.enricher.count(key, delta) {
                Ok(Some(record)) => self.hand_on(record),
                Ok(None) => {}
                Err(error) => self.refuse("count", &error),
            }
        }
    }

    /// Counts events that could not even be read.
    pub fn malformed(&self, events: u64) {
        if events > 0 && self.stats.refused.fetch_add(events, Ordering::Relaxed) == 0 {
            tracing::error!(events, "the kernel sent events of another size");
        }
    }

    /// Ends the sinks, which may take as long as `patience` together. Blocks.
    pub fn close(self, patience: Duration) {
        let end = std::time::Instant::now() + patience;
        for sink in self.sinks {
            sink.close(end.saturating_duration_since(std::time::Instant::now()));
        }
    }

    fn hand_on(&self, record: FlowRecord) {
        self.stats.records[record.verdict as usize].fetch_add(1, Ordering::Relaxed);
        let record = Arc::new(record);
        for sink in &self.sinks {
            sink.offer(Arc::clone(&record));
        }
        self.history.push(record);
    }

    fn refuse(&self, what: &str, error: &DecodeError) {
        // Programs and daemon are of one build: this is a bug, and the first one tells all.
        if self.stats.refused.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::error!(%error, "the kernel sent an {what} that makes no sense");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        observe::{decode, filter::FlowQuery, fixtures},
        sink::stdout::StreamSink,
    };

    /// Counts bytes and lines.
    #[derive(Clone, Default)]
    struct Shared(Arc<std::sync::Mutex<Vec<u8>>>);

    impl std::io::Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn records_reach_history_and_sinks_and_add_up() {
        let history = History::new(100);
        let out = Shared::default();
        let sink = SinkQueue::start("test", StreamSink::new(out.clone()), 100).unwrap();
        let names = Arc::new(NameBook::new(fixtures::context()));
        let mut pipeline = Pipeline::new(names, Arc::clone(&history), vec![sink]);
        let stats = Arc::clone(pipeline.stats());
        let mut event = fixtures::event();
        event.time = crate::observe::clock::monotonic();
        let nonsense = Event { hook: 99, ..event };
        pipeline.events(&[event, nonsense]);
        let key = decode::sighting(&event).unwrap().counted.unwrap();
        let delta = DeniedEntry {
            packets: 5,
            bytes: 300,
            first: event.time,
            last: event.time,
            peer: event.peer,
            ifindex: 4,
            cgroup: 0,
            generation: 0,
            pad: 0,
        };
        pipeline.denied(crate::observe::clock::monotonic(), &[(key, delta)]);
        pipeline.malformed(0);
        assert_eq!(stats.refused(), 1);
        pipeline.malformed(2);
        pipeline.close(Duration::from_secs(10));
        assert_eq!(stats.records(Verdict::Deny), 2);
        assert_eq!(stats.refused(), 3);
        let kept = history.query(&FlowQuery::default());
        assert_eq!(kept.iter().map(|r| r.packets).sum::<u64>(), 5);
        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        let written: Vec<FlowRecord> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(written.len(), 2);
        assert!(written.iter().zip(&kept).all(|(a, b)| *a == **b));
    }
}
