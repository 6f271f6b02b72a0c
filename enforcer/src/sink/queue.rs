//! The bounded queue before a sink, and the thread behind it.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{Entry, Sink};

/// Records that wait for a sink unless the daemon says otherwise: more than an interval's counts
/// at ten thousand new denied flows a second. A record takes about 1 KiB.
pub const DEFAULT_QUEUE: usize = 16_384;

/// Records that are taken before they are handed over in one piece.
const BATCH: u64 = 256;

/// Bytes that a sink may hold.
const MOST_PENDING: usize = 4 << 20;

/// Pauses between attempts.
const RETRY: [Duration; 5] = [
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
];

/// Why a record did not get through a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DropCause {
    /// The sink works, but not as fast as records come.
    QueueFull,
    /// The sink fails (a full disk, say) and the queue is full.
    SinkFailing,
    /// The daemon stopped before the sink had taken it, or the sink's thread is gone.
    Closed,
}

impl DropCause {
    /// Every value.
    pub const ALL: [Self; 3] = [Self::QueueFull, Self::SinkFailing, Self::Closed];

    /// As in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::QueueFull => "queue-full",
            Self::SinkFailing => "sink-failing",
            Self::Closed => "closed",
        }
    }
}

/// What became of a sink's records.
#[derive(Debug)]
pub struct SinkStats {
    name: &'static str,
    written: AtomicU64,
    errors: AtomicU64,
    failing: AtomicBool,
    dropped: [AtomicU64; DropCause::ALL.len()],
}

impl SinkStats {
    fn new(name: &'static str) -> Arc<Self> {
        Arc::new(Self {
            name,
            written: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            dropped: Default::default(),
        })
    }

    /// Name of the sink.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Records handed over.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Attempts that failed.
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// Whether the last attempt failed.
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Records lost.
    pub fn dropped(&self, cause: DropCause) -> u64 {
        self.dropped[cause as usize].load(Ordering::Relaxed)
    }

    fn count_dropped(&self, cause: DropCause, records: u64) {
        self.dropped[cause as usize].fetch_add(records, Ordering::Relaxed);
    }
}

/// The way into a sink.
#[derive(Debug)]
pub struct SinkQueue {
    sender: Option<Arc<SyncSender<Entry>>>,
    stats: Arc<SinkStats>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl SinkQueue {
    /// Starts the thread of a sink. Up to `length` records wait.
    pub fn start(
        name: &'static str,
        sink: impl Sink + 'static,
        length: usize,
    ) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel(length);
        let stats = SinkStats::new(name);
        let stop = Arc::new(AtomicBool::new(false));
        let worker = Worker {
            sink,
            receiver,
            stats: Arc::clone(&stats),
            stop: Arc::clone(&stop),
            taken: 0,
            failures: 0,
        };
        let thread = std::thread::Builder::new()
            .name(format!("sink-{name}"))
            .spawn(move || worker.run())?;
        Ok(Self {
            sender: Some(Arc::new(sender)),
            stats,
            stop,
            thread: Some(thread),
        })
    }

    /// Offers a record. Never blocks: what finds no room is dropped and counted.
    pub fn offer(&self, record: impl Into<Entry>) {
        let Some(sender) = &self.sender else { return };
        offer(sender, &self.stats, record.into());
    }

    /// Another way in, which does not keep the sink from ending.
    pub fn inlet(&self) -> SinkInlet {
        SinkInlet {
            sender: self.sender.as_ref().map(Arc::downgrade).unwrap_or_default(),
            stats: Arc::clone(&self.stats),
        }
    }

    /// What became of the records.
    pub fn stats(&self) -> &Arc<SinkStats> {
        &self.stats
    }

    /// Ends the sink: what waits is handed over, for at most `patience`. Blocks so long.
    pub fn close(mut self, patience: Duration) {
        self.sender = None;
        let Some(thread) = self.thread.take() else {
            return;
        };
        let end = Instant::now() + patience;
        while !thread.is_finished() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.stop.store(true, Ordering::Relaxed);
        if thread.is_finished() {
            // A panic in there has been reported by the panic hook.
            let _ = thread.join();
        } else {
            tracing::warn!(
                sink = self.stats.name,
                "the sink did not end in time; records may be lost"
            );
        }
    }
}

/// A way into a sink that somebody else owns.
#[derive(Clone, Debug)]
pub struct SinkInlet {
    sender: Weak<SyncSender<Entry>>,
    stats: Arc<SinkStats>,
}

impl SinkInlet {
    /// As [`SinkQueue::offer`]; what comes after the sink's end is counted as such.
    pub fn offer(&self, record: impl Into<Entry>) {
        match self.sender.upgrade() {
            Some(sender) => offer(&sender, &self.stats, record.into()),
            None => self.stats.count_dropped(DropCause::Closed, 1),
        }
    }
}

fn offer(sender: &SyncSender<Entry>, stats: &SinkStats, record: Entry) {
    let cause = match sender.try_send(record) {
        Ok(()) => return,
        Err(TrySendError::Full(_)) if stats.is_failing() => DropCause::SinkFailing,
        Err(TrySendError::Full(_)) => DropCause::QueueFull,
        Err(TrySendError::Disconnected(_)) => DropCause::Closed,
    };
    stats.count_dropped(cause, 1);
}

struct Worker<S> {
    sink: S,
    receiver: Receiver<Entry>,
    stats: Arc<SinkStats>,
    stop: Arc<AtomicBool>,
    /// Records that the sink holds and has not handed over.
    taken: u64,
    /// Attempts that failed, one after the other.
    failures: usize,
}

impl<S: Sink> Worker<S> {
    fn run(mut self) {
        while let Ok(record) = self.receiver.recv() {
            self.take(&record);
            let mut ended = false;
            while !ended && self.taken < BATCH && self.sink.pending() < MOST_PENDING {
                match self.receiver.try_recv() {
                    Ok(record) => self.take(&record),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => ended = true,
                }
            }
            if !self.hand_over() {
                break;
            }
        }
        let unread = self.receiver.try_iter().count() as u64;
        self.stats
            .count_dropped(DropCause::Closed, self.taken + unread);
    }

    fn take(&mut self, record: &Entry) {
        self.sink.take(record);
        self.taken += 1;
    }

    /// Tries until it succeeds; `false` if told to stop.
    fn hand_over(&mut self) -> bool {
        loop {
            match self.sink.flush() {
                Ok(()) => {
                    self.succeed();
                    return true;
                }
                Err(error) => self.fail(&error),
            }
            if !self.pause() {
                return false;
            }
        }
    }

    fn succeed(&mut self) {
        self.stats.written.fetch_add(self.taken, Ordering::Relaxed);
        self.taken = 0;
        if self.failures > 0 {
            self.failures = 0;
            self.stats.failing.store(false, Ordering::Relaxed);
            tracing::info!(sink = self.stats.name, "the sink works again");
        }
    }

    fn fail(&mut self, error: &super::SinkError) {
        // Once, not at every attempt; the metrics count them.
        if self.failures == 0 {
            let source = std::error::Error::source(error).map(ToString::to_string);
            tracing::error!(
                sink = self.stats.name,
                cause = source.as_deref(),
                "{error}; trying again, records wait"
            );
        }
        self.failures += 1;
        self.stats.errors.fetch_add(1, Ordering::Relaxed);
        self.stats.failing.store(true, Ordering::Relaxed);
    }

    /// Waits before the next attempt; `false` if told to stop.
    fn pause(&self) -> bool {
        let pause = RETRY[(self.failures - 1).min(RETRY.len() - 1)];
        let end = Instant::now() + pause;
        while Instant::now() < end {
            if self.stop.load(Ordering::Relaxed) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20).min(pause));
        }
        !self.stop.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex};

    use super::*;
    use crate::{
        identity::attest::journal::{EventKind, SecurityEvent},
        observe::{fixtures, record::FlowRecord},
        sink::SinkError,
    };

    /// Fails while it is shut, and hangs while it blocks.
    #[derive(Clone, Default)]
    struct Gate(Arc<(Mutex<GateState>, Condvar)>);

    #[derive(Default)]
    struct GateState {
        open: bool,
        blocks: bool,
        hangs: bool,
        taken: Vec<u64>,
        passed: Vec<u64>,
    }

    impl Gate {
        fn set(&self, open: bool, blocks: bool) {
            let mut state = self.0.0.lock().unwrap();
            (state.open, state.blocks) = (open, blocks);
            self.0.1.notify_all();
        }

        /// Whether its thread is in it; it takes nothing then.
        fn hangs(&self) -> bool {
            self.0.0.lock().unwrap().hangs
        }

        fn passed(&self) -> Vec<u64> {
            self.0.0.lock().unwrap().passed.clone()
        }
    }

    impl Sink for Gate {
        fn take(&mut self, record: &Entry) {
            let sequence = match record {
                Entry::Flow(record) => record.sequence,
                Entry::Security(event) => event.sequence,
            };
            self.0.0.lock().unwrap().taken.push(sequence);
        }

        fn flush(&mut self) -> Result<(), SinkError> {
            let (lock, changed) = &*self.0;
            let mut state = lock.lock().unwrap();
            while state.blocks {
                state.hangs = true;
                state = changed.wait(state).unwrap();
            }
            state.hangs = false;
            if !state.open {
                return Err(SinkError::new("shut", std::io::ErrorKind::Other.into()));
            }
            let taken = std::mem::take(&mut state.taken);
            state.passed.extend(taken);
            Ok(())
        }

        fn pending(&self) -> usize {
            0
        }
    }

    fn numbered(sequence: u64) -> Arc<FlowRecord> {
        Arc::new(FlowRecord {
            sequence,
            ..fixtures::record()
        })
    }

    fn wait_for(mut condition: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while !condition() {
            assert!(Instant::now() < end, "waited in vain");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_failing_sink_gets_everything_that_found_room() {
        let gate = Gate::default();
        let queue = SinkQueue::start("test", gate.clone(), 1_000).unwrap();
        (1..=100).for_each(|n| queue.offer(numbered(n)));
        wait_for(|| queue.stats().errors() > 0);
        assert!(queue.stats().is_failing() && gate.passed().is_empty());
        gate.set(true, false);
        wait_for(|| queue.stats().written() == 100);
        assert!(!queue.stats().is_failing());
        assert_eq!(gate.passed(), (1..=100).collect::<Vec<_>>());
    }

    #[test]
    fn offering_never_blocks_and_each_record_is_accounted_for() {
        for (blocks, cause) in [
            (true, DropCause::QueueFull),
            (false, DropCause::SinkFailing),
        ] {
            let gate = Gate::default();
            gate.set(false, blocks);
            let queue = SinkQueue::start("test", gate.clone(), 10).unwrap();
            queue.offer(numbered(0));
            wait_for(|| gate.hangs() || queue.stats().is_failing());
            (1..1_000).for_each(|n| queue.offer(numbered(n)));
            let stats = Arc::clone(queue.stats());
            assert_eq!(stats.dropped(cause), 999 - 10);
            gate.set(true, false);
            queue.close(Duration::from_secs(10));
            let dropped: u64 = DropCause::ALL.iter().map(|c| stats.dropped(*c)).sum();
            assert_eq!(stats.written() + dropped, 1_000);
            assert_eq!(gate.passed().len() as u64, stats.written());
        }
    }

    #[test]
    fn what_comes_by_an_inlet_is_accounted_for_and_does_not_keep_the_sink_open() {
        let gate = Gate::default();
        gate.set(false, true);
        let queue = SinkQueue::start("test", gate.clone(), 10).unwrap();
        queue.offer(numbered(0));
        wait_for(|| gate.hangs());
        let inlet = queue.inlet();
        let event = |sequence| {
            let event = SecurityEvent::new(EventKind::Refuse, "expired", "x");
            Arc::new(SecurityEvent { sequence, ..event })
        };
        (0..100).for_each(|n| inlet.offer(event(n)));
        let stats = Arc::clone(queue.stats());
        assert_eq!(stats.dropped(DropCause::QueueFull), 90);
        gate.set(true, false);
        let began = Instant::now();
        queue.close(Duration::from_mins(1));
        assert!(began.elapsed() < Duration::from_secs(30));
        assert_eq!(stats.written(), 1 + 10);
        assert_eq!(gate.passed().len(), 1 + 10);
        inlet.offer(event(100));
        assert_eq!(stats.dropped(DropCause::Closed), 1);
    }

    #[test]
    fn what_a_stop_leaves_behind_is_counted() {
        let gate = Gate::default();
        let queue = SinkQueue::start("test", gate, 100).unwrap();
        (0..50).for_each(|n| queue.offer(numbered(n)));
        let stats = Arc::clone(queue.stats());
        wait_for(|| stats.is_failing());
        queue.close(Duration::from_millis(50));
        wait_for(|| stats.dropped(DropCause::Closed) == 50);
    }
}
