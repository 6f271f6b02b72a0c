//! Transient identities: which are free, and what those of late became.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::compile::bridge::TRANSIENT;

use super::{apply::free_transient, contents::Contents};

/// Shared by the datapath and the reader of events.
#[derive(Clone, Debug)]
pub(super) struct Transients(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    next: u32,
    becomes: BTreeMap<u32, u32>,
}

/// How many are remembered. A report that carries one is seconds old at most.
const KEPT: usize = 65_536;

impl Transients {
    /// Beside what the kernel holds.
    pub fn after(contents: &Contents) -> Self {
        Self(Arc::new(Mutex::new(State {
            next: free_transient(contents),
            becomes: BTreeMap::new(),
        })))
    }

    /// The first free one.
    pub fn next(&self) -> u32 {
        self.with(|state| state.next)
    }

    /// Remembers what some become. They are not free any more.
    pub fn add(&self, transients: &[(u32, u32)]) {
        self.with(|state| {
            state.becomes.extend(transients.iter().copied());
            if let Some(highest) = transients.iter().map(|(transient, _)| *transient).max() {
                // Begun again well before the end, so that one change has room.
                state.next = if highest < u32::MAX - (1 << 24) {
                    highest + 1
                } else {
                    TRANSIENT
                };
            }
            while state.becomes.len() > KEPT {
                state.becomes.pop_first();
            }
        });
    }

    /// The identity itself, or what a transient one became.
    pub fn settled(&self, identity: u32) -> u32 {
        if identity < TRANSIENT {
            return identity;
        }
        self.with(|state| state.becomes.get(&identity).copied())
            .unwrap_or(identity)
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_change_used_is_not_free_for_the_next() {
        let state = State {
            next: TRANSIENT,
            becomes: BTreeMap::new(),
        };
        let transients = Transients(Arc::new(Mutex::new(state)));
        // In no order, as they are found.
        transients.add(&[(TRANSIENT + 2, 300), (TRANSIENT, 301), (TRANSIENT + 1, 302)]);
        assert_eq!(transients.next(), TRANSIENT + 3);
        assert_eq!(transients.settled(TRANSIENT + 1), 302);
        transients.add(&[]);
        assert_eq!(transients.next(), TRANSIENT + 3);
        transients.add(&[(u32::MAX - 1, 303)]);
        assert_eq!(transients.next(), TRANSIENT);
    }
}
