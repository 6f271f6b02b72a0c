//! The latest records, in memory, and a live stream of new ones. Bounded, and nobody who
//! reads can hold up the one who writes.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use time::OffsetDateTime;
use tokio::sync::broadcast::{self, error::RecvError};

use crate::observe::{
    filter::FlowQuery,
    record::{FlowRecord, StreamLine},
};

/// Records that are kept unless the daemon says otherwise. A record takes about 1 KiB.
pub const DEFAULT_KEPT: usize = 10_000;

/// Records that a live reader may be behind.
const LIVE: usize = 8_192;

/// The latest records.
#[derive(Debug)]
pub struct History {
    records: Mutex<VecDeque<Arc<FlowRecord>>>,
    kept: usize,
    live: broadcast::Sender<Arc<FlowRecord>>,
    lagged: Arc<AtomicU64>,
}

impl History {
    /// Keeps so many records, at least one.
    pub fn new(kept: usize) -> Arc<Self> {
        Arc::new(Self {
            records: Mutex::default(),
            kept: kept.max(1),
            live: broadcast::Sender::new(LIVE),
            lagged: Arc::default(),
        })
    }

    /// Adds a record and wakes live readers.
    pub fn push(&self, record: Arc<FlowRecord>) {
        let mut records = self.lock();
        if records.len() >= self.kept {
            records.pop_front();
        }
        records.push_back(Arc::clone(&record));
        // Fails when nobody listens. Under the lock, so that `follow` misses none.
        let _ = self.live.send(record);
    }

    /// What is kept and fits the query, oldest first; of it the last
    /// [`FlowQuery::last`].
    pub fn query(&self, query: &FlowQuery) -> Vec<Arc<FlowRecord>> {
        let records: Vec<_> = self.lock().iter().cloned().collect();
        Self::select(&records, query, OffsetDateTime::now_utc())
    }

    /// As [`History::query`], and everything from then on: no record is missed or repeated in
    /// between.
    pub fn follow(&self, query: FlowQuery) -> Follower {
        let (records, live) = {
            let records = self.lock();
            let all: Vec<_> = records.iter().cloned().collect();
            (all, self.live.subscribe())
        };
        let past = Self::select(&records, &query, OffsetDateTime::now_utc());
        Follower {
            past: past.into(),
            live,
            lagged: Arc::clone(&self.lagged),
            query,
        }
    }

    /// Records that live readers were too slow for, all together.
    pub fn lagged(&self) -> u64 {
        self.lagged.load(Ordering::Relaxed)
    }

    /// Works on a copy: matching takes its time, and the pipeline must not wait for it.
    fn select(
        records: &[Arc<FlowRecord>],
        query: &FlowQuery,
        now: OffsetDateTime,
    ) -> Vec<Arc<FlowRecord>> {
        let oldest = query.oldest(now);
        let mut found: Vec<Arc<FlowRecord>> = records
            .iter()
            .rev()
            .filter(|r| oldest.as_ref().is_none_or(|oldest| r.time >= *oldest))
            .filter(|r| query.matches(r))
            .take(query.last.unwrap_or(usize::MAX))
            .cloned()
            .collect();
        found.reverse();
        found
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<FlowRecord>>> {
        // Nothing that can panic happens between two changes that belong together.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the past, then what comes.
#[derive(Debug)]
pub struct Follower {
    past: VecDeque<Arc<FlowRecord>>,
    live: broadcast::Receiver<Arc<FlowRecord>>,
    lagged: Arc<AtomicU64>,
    query: FlowQuery,
}

impl Follower {
    /// The next record that fits, or how many went by unread (whether they fit or not). `None`
    /// when the daemon stops. Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<StreamLine<Arc<FlowRecord>>> {
        if let Some(record) = self.past.pop_front() {
            return Some(StreamLine::Record(record));
        }
        loop {
            match self.live.recv().await {
                Ok(record) if self.query.matches(&record) => {
                    return Some(StreamLine::Record(record));
                }
                Ok(_) => {}
                Err(RecvError::Lagged(lost)) => {
                    self.lagged.fetch_add(lost, Ordering::Relaxed);
                    return Some(StreamLine::Lost { lost });
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::fixtures;

    fn numbered(sequence: u64) -> Arc<FlowRecord> {
        Arc::new(FlowRecord {
            sequence,
            ..fixtures::record()
        })
    }

    fn sequences(records: &[Arc<FlowRecord>]) -> Vec<u64> {
        records.iter().map(|r| r.sequence).collect()
    }

    #[test]
    fn the_oldest_go_and_the_last_are_found() {
        let history = History::new(3);
        (1..=5).for_each(|n| history.push(numbered(n)));
        let mut query = FlowQuery::default();
        assert_eq!(sequences(&history.query(&query)), [3, 4, 5]);
        query.last = Some(2);
        assert_eq!(sequences(&history.query(&query)), [4, 5]);
        query = FlowQuery::from_url_query("workload=nobody").unwrap();
        assert!(history.query(&query).is_empty());
    }

    #[test]
    fn since_leaves_out_what_is_older() {
        use crate::observe::clock::rfc3339;
        let history = History::new(10);
        let now = OffsetDateTime::now_utc();
        for (sequence, age) in [(1, 600), (2, 200), (3, 0)] {
            let mut record = FlowRecord::clone(&numbered(sequence));
            record.time = rfc3339(now - time::Duration::seconds(age));
            history.push(Arc::new(record));
        }
        let query = FlowQuery::from_url_query("since_milliseconds=300000").unwrap();
        assert_eq!(sequences(&history.query(&query)), [2, 3]);
    }

    #[tokio::test]
    async fn a_follower_gets_the_past_and_then_what_comes() {
        let history = History::new(10);
        history.push(numbered(1));
        let mut follower = history.follow(FlowQuery::default());
        history.push(numbered(2));
        for expected in 1..=2 {
            let line = follower.next().await.unwrap();
            assert_eq!(line, StreamLine::Record(numbered(expected)));
        }
        drop(history);
        assert_eq!(follower.next().await, None);
    }

    #[tokio::test]
    async fn a_slow_follower_is_told_what_it_missed() {
        let history = History::new(10);
        let mut follower = history.follow(FlowQuery::default());
        let pushed = LIVE as u64 + 100;
        (1..=pushed).for_each(|n| history.push(numbered(n)));
        let Some(StreamLine::Lost { lost }) = follower.next().await else {
            panic!("nothing lost")
        };
        assert_eq!(history.lagged(), lost);
        let Some(StreamLine::Record(next)) = follower.next().await else {
            panic!("no record")
        };
        assert_eq!(next.sequence, lost + 1);
    }

    #[test]
    fn a_loss_and_a_record_are_told_apart() {
        let lines = [
            StreamLine::Lost { lost: 3 },
            StreamLine::Record(fixtures::record()),
        ];
        for line in lines {
            let text = serde_json::to_string(&line).unwrap();
            assert_eq!(serde_json::from_str::<StreamLine>(&text).unwrap(), line);
        }
    }
}
