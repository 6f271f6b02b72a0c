//! The registry of one host, and of tests: records in this process's own memory.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, ready},
    stream,
};
use tokio::sync::watch;

use super::{Change, Changes, Listing, Registry, RegistryError, Watch};

/// What nodes of this process share.
#[derive(Clone, Debug)]
pub struct Shared(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    records: BTreeMap<String, Vec<u8>>,
    /// Changes by revision, those that are still kept.
    kept: VecDeque<(i64, Change)>,
    revision: watch::Sender<i64>,
    /// Nodes that have a lease.
    leases: BTreeSet<String>,
}

impl Default for Shared {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State {
            records: BTreeMap::new(),
            kept: VecDeque::new(),
            revision: watch::channel(0).0,
            leases: BTreeSet::new(),
        })))
    }
}

impl Shared {
    /// The registry as a node sees it.
    pub fn of(&self, node: &str) -> MemoryRegistry {
        MemoryRegistry {
            node: node.to_owned(),
            shared: self.clone(),
        }
    }

    /// Writes a record under any name, as whoever has the registry's credentials can.
    pub fn put(&self, node: &str, record: Vec<u8>) {
        let mut state = self.lock();
        state.records.insert(node.to_owned(), record.clone());
        state.note(Change::Publish {
            node: node.to_owned(),
            record,
        });
    }

    /// Ends a node's lease.
    pub fn end_lease(&self, node: &str) {
        let mut state = self.lock();
        state.leases.remove(node);
        if state.records.remove(node).is_some() {
            state.note(Change::Remove {
                node: node.to_owned(),
            });
        }
    }

    /// Forgets the changes up to now.
    pub fn compact(&self) {
        self.lock().kept.clear();
    }

    /// A node's record.
    pub fn record(&self, node: &str) -> Option<Vec<u8>> {
        self.lock().records.get(node).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is made before the lock is given up, whatever panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn since(&self, after: i64) -> Result<Changes, RegistryError> {
        let state = self.lock();
        let revision = *state.revision.borrow();
        let oldest = state.kept.front().map_or(revision + 1, |(first, _)| *first);
        if after + 1 < oldest && after < revision {
            return Err(RegistryError::Compacted { after });
        }
        let later = state.kept.iter().filter(|(number, _)| *number > after);
        Ok(Changes {
            changes: later.map(|(_, change)| change.clone()).collect(),
            revision,
        })
    }
}

impl State {
    fn note(&mut self, change: Change) {
        let number = *self.revision.borrow() + 1;
        self.kept.push_back((number, change));
        self.revision.send_replace(number);
    }
}

/// See [`Shared::of`].
#[derive(Clone, Debug)]
pub struct MemoryRegistry {
    node: String,
    shared: Shared,
}

impl Registry for MemoryRegistry {
    fn publish(&self, record: Vec<u8>) -> BoxFuture<'_, Result<(), RegistryError>> {
        self.shared.put(&self.node, record);
        self.shared.lock().leases.insert(self.node.clone());
        ready(Ok(())).boxed()
    }

    fn renew(&self) -> BoxFuture<'_, Result<(), RegistryError>> {
        let held = self.shared.lock().leases.contains(&self.node);
        ready(held.then_some(()).ok_or(RegistryError::LeaseEnded)).boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Listing, RegistryError>> {
        let state = self.shared.lock();
        let records = state.records.iter();
        let listing = Listing {
            records: records.map(|(k, v)| (k.clone(), v.clone())).collect(),
            revision: *state.revision.borrow(),
        };
        ready(Ok(listing)).boxed()
    }

    fn watch(&self, after: i64) -> BoxFuture<'_, Result<Watch, RegistryError>> {
        let shared = self.shared.clone();
        let revision = shared.lock().revision.subscribe();
        let changes = stream::try_unfold(
            (shared, revision, after),
            async |(shared, mut revision, after)| {
                // The sender is in `shared`.
                let _ = revision.wait_for(|now| *now > after).await;
                let changes = shared.since(after)?;
                let after = changes.revision;
                Ok(Some((changes, (shared, revision, after))))
            },
        );
        ready(Ok(changes.boxed())).boxed()
    }

    fn place(&self) -> String {
        "memory of this process".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_watch_has_every_change_after_the_listing() {
        let shared = Shared::default();
        let (a, b) = (shared.of("a"), shared.of("b"));
        a.publish(vec![1]).await.unwrap();
        let listing = b.list().await.unwrap();
        assert_eq!(listing.records, [("a".to_owned(), vec![1])]);
        let mut watch = b.watch(listing.revision).await.unwrap();
        a.publish(vec![2]).await.unwrap();
        shared.end_lease("a");
        let mut seen = Vec::new();
        while seen.len() < 2 {
            seen.extend(watch.next().await.unwrap().unwrap().changes);
        }
        let node = "a".to_owned();
        let record = vec![2];
        assert_eq!(
            seen,
            [
                Change::Publish {
                    node: node.clone(),
                    record
                },
                Change::Remove { node }
            ]
        );
        assert_eq!(a.renew().await, Err(RegistryError::LeaseEnded));
    }

    #[tokio::test]
    async fn a_watch_from_before_what_is_kept_is_told_so() {
        let shared = Shared::default();
        let a = shared.of("a");
        a.publish(vec![1]).await.unwrap();
        a.publish(vec![2]).await.unwrap();
        shared.compact();
        let mut watch = a.watch(1).await.unwrap();
        let end = watch.next().await.unwrap();
        assert_eq!(end, Err(RegistryError::Compacted { after: 1 }));
        // At the present nothing is missed.
        let mut watch = a.watch(2).await.unwrap();
        a.publish(vec![3]).await.unwrap();
        assert_eq!(watch.next().await.unwrap().unwrap().changes.len(), 1);
    }
}
