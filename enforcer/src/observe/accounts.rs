//! Makes events and counts add up: a packet that an event has reported is in the table of
//! denied flows too, and must not be counted twice.
//!
//! Snapshots of the table and events of the ring buffer reach the daemon on two ways, so
//! either may be first:
//!
//! - The event is first: its packet becomes a *credit* of its key, which the key's next count
//!   is reduced by.
//! - The count is first: the event's packet was judged before the snapshot began, or not after
//!   the last packet that the snapshot had of its key. The event then stands for 0 packets,
//!   because the count has it.
//!
//! To stand for 0 packets is always safe, because what no event has taken the next count will
//! have; so where something is not known for certain, or does not fit into the bounds, an
//! event stands for 0. The sum over all records is what the kernel counted, whatever the order
//! of arrival. Packets are also events when they break an open flow, whether their entry is
//! new or not; nothing here depends on which packet of an entry an event is about.

use std::collections::HashMap;

use enforcer_common::denied_entry::{DeniedEntry, DeniedKey};

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Packets, or calls.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Most credits, and most keys whose last packet is remembered. Many times the first reports
/// of an interval at the default limit.
const CAPACITY: usize = 65_536;

/// Nanoseconds within which the time of an event and the beginning of a snapshot cannot be put
/// in order: the coarse clock's tick (at most 10 ms) and the time between the programs' count
/// and their event, with a lot to spare.
const SLACK: u64 = 200_000_000;

/// Snapshots after which a credit is void: its entry left the table before it was read, and
/// the event is all that is left of it.
const CREDIT_LIFE: u64 = 3;

/// See the module.
#[derive(Debug, Default)]
pub struct Accounts {
    credits: HashMap<DeniedKey, Credit>,
    /// Of keys that were active when the last snapshot was taken: the time of the last packet
    /// that it had. Times are nanoseconds of the monotonic clock.
    settled: HashMap<DeniedKey, u64>,
    /// The last packet of all keys that found no room there.
    settled_others: u64,
    snapshots: u64,
    /// When the last snapshot began.
    last_began: u64,
}

#[derive(Debug)]
struct Credit {
    amount: Amount,
    /// The snapshot before it.
    after: u64,
}

impl Accounts {
    /// Enters the event of a counted packet; returns what its record stands for.
    pub fn event(&mut self, key: &DeniedKey, time: u64, bytes: u64) -> Amount {
        let settled = self.settled.get(key).copied();
        if time <= settled.unwrap_or(self.settled_others) || time < self.undecided() {
            return Amount::default();
        }
        if self.credits.len() >= CAPACITY && !self.credits.contains_key(key) {
            return Amount::default();
        }
        let credit = self.credits.entry(*key).or_insert(Credit {
            amount: Amount::default(),
            after: 0,
        });
        credit.amount.packets += 1;
        credit.amount.bytes += bytes;
        credit.after = self.snapshots;
        Amount { packets: 1, bytes }
    }

    /// A snapshot was taken, from the moment `began` on (nanoseconds of the monotonic clock).
    /// Its entries follow.
    pub fn begin_snapshot(&mut self, began: u64) {
        self.snapshots += 1;
        self.last_began = began;
        let oldest = self.snapshots.saturating_sub(CREDIT_LIFE);
        self.credits.retain(|_, credit| credit.after >= oldest);
        let undecided = self.undecided();
        self.settled.retain(|_, last| *last >= undecided);
    }

    /// Enters what an entry has grown by; returns what its record stands for, if anything is
    /// left for one.
    pub fn count(&mut self, key: &DeniedKey, delta: &DeniedEntry) -> Option<Amount> {
        if delta.last >= self.undecided() {
            if self.settled.len() < CAPACITY || self.settled.contains_key(key) {
                self.settled.insert(*key, delta.last);
            } else {
                self.settled_others = self.settled_others.max(delta.last);
            }
        }
        let mut left = Amount {
            packets: delta.packets,
            bytes: delta.bytes,
        };
        if let Some(credit) = self.credits.get_mut(key) {
            let used = credit.amount.packets.min(left.packets);
            let bytes = credit.amount.bytes.min(left.bytes);
            left.packets -= used;
            left.bytes -= bytes;
            credit.amount.packets -= used;
            credit.amount.bytes -= bytes;
            if credit.amount.packets == 0 {
                self.credits.remove(key);
            }
        }
        (left.packets > 0).then_some(left)
    }

    /// Whatever was judged before is in the last snapshot for certain.
    fn undecided(&self) -> u64 {
        self.last_began.saturating_sub(SLACK)
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable;
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;

    fn key(port: u16) -> DeniedKey {
        DeniedKey {
            port,
            ..Zeroable::zeroed()
        }
    }

    fn delta(packets: u64, last: u64) -> DeniedEntry {
        DeniedEntry {
            packets,
            bytes: packets * 60,
            last,
            ..Zeroable::zeroed()
        }
    }

    #[test]
    fn an_event_before_its_count_reduces_it() {
        let mut accounts = Accounts::default();
        assert_eq!(accounts.event(&key(1), 10 * MS, 60).packets, 1);
        accounts.begin_snapshot(1_000 * MS);
        let left = accounts.count(&key(1), &delta(5, 10 * MS));
        assert_eq!(
            left,
            Some(Amount {
                packets: 4,
                bytes: 240
            })
        );
        accounts.begin_snapshot(2_000 * MS);
        let left = accounts.count(&key(1), &delta(3, 10 * MS)).unwrap();
        assert_eq!(left.packets, 3);
    }

    #[test]
    fn an_event_after_its_count_stands_for_nothing() {
        let mut accounts = Accounts::default();
        accounts.begin_snapshot(1_000 * MS);
        // Long before the snapshot, and just before it.
        for (port, time) in [(1, 10 * MS), (2, 999 * MS)] {
            let left = accounts.count(&key(port), &delta(1, time)).unwrap();
            assert_eq!(left.packets, 1);
            assert_eq!(accounts.event(&key(port), time, 60), Amount::default());
        }
        // Just before it, but not in it.
        assert_eq!(accounts.event(&key(3), 999 * MS, 60).packets, 1);
        accounts.begin_snapshot(2_000 * MS);
        assert_eq!(accounts.count(&key(3), &delta(1, 999 * MS)), None);
    }

    #[test]
    fn memory_is_bounded_and_the_sum_still_holds() {
        let mut accounts = Accounts::default();
        let keys: Vec<DeniedKey> = (0..)
            .take(CAPACITY + 10)
            .map(|rule| DeniedKey { rule, ..key(1) })
            .collect();
        let mut sum: u64 = keys.iter().map(|k| accounts.event(k, MS, 60).packets).sum();
        assert_eq!(accounts.credits.len(), CAPACITY);
        assert_eq!(sum, CAPACITY as u64);
        accounts.begin_snapshot(1_000 * MS);
        for k in &keys {
            let left = accounts.count(k, &delta(2, MS)).unwrap_or_default();
            sum += left.packets;
        }
        assert_eq!(sum, 2 * keys.len() as u64);
        for _ in 0..=CREDIT_LIFE {
            accounts.event(&key(9), u64::MAX, 1);
            accounts.begin_snapshot(2_000 * MS);
        }
        for i in 0..=CREDIT_LIFE {
            accounts.begin_snapshot((3_000 + i) * MS);
        }
        assert!(accounts.credits.is_empty() && accounts.settled.is_empty());
        // More keys than can be remembered: their late events stand for nothing.
        accounts.begin_snapshot(9_000 * MS);
        for k in &keys {
            accounts.count(k, &delta(1, 8_999 * MS));
        }
        assert_eq!(accounts.settled.len(), CAPACITY);
        for k in &keys {
            assert_eq!(accounts.event(k, 8_999 * MS, 60), Amount::default());
        }
    }

    #[test]
    fn an_event_about_a_later_packet_counts_once_too() {
        let mut accounts = Accounts::default();
        accounts.begin_snapshot(1_000 * MS);
        accounts.count(&key(1), &delta(7, 990 * MS));
        // In the snapshot, though the entry is old; and after it.
        assert_eq!(accounts.event(&key(1), 985 * MS, 60).packets, 0);
        assert_eq!(accounts.event(&key(1), 995 * MS, 60).packets, 1);
        accounts.begin_snapshot(2_000 * MS);
        let left = accounts.count(&key(1), &delta(3, 1_500 * MS)).unwrap();
        assert_eq!(left.packets, 2);
    }

    proptest! {
        /// A simulated kernel: entries appear, grow and are removed when idle; events are
        /// delayed across snapshots or lost. The records add up to the kernel's counts.
        #[test]
        fn records_add_up(steps in proptest::collection::vec((0u16..4, 0u8..10, 1u64..30), 1..300)) {
            struct Entry { total: u64, drained: u64, last: u64 }
            let mut accounts = Accounts::default();
            let mut table: HashMap<u16, Entry> = HashMap::new();
            let mut ring: Vec<(u16, u64)> = Vec::new();
            let (mut now, mut kernel, mut records) = (1_000 * MS, 0, 0);
            let snapshot = |table: &mut HashMap<u16, Entry>, accounts: &mut Accounts, now: u64| {
                let mut sum = 0;
                accounts.begin_snapshot(now);
                table.retain(|port, entry| {
                    let grown = entry.total - entry.drained;
                    if grown > 0 {
                        let left = accounts.count(&key(*port), &delta(grown, entry.last));
                        sum += left.unwrap_or_default().packets;
                    }
                    entry.drained = entry.total;
                    grown > 0
                });
                sum
            };
            for (port, action, pause) in steps {
                now += pause * MS;
                match action {
                    0 => {
                        now += 1_000 * MS;
                        records += snapshot(&mut table, &mut accounts, now);
                    }
                    // The daemon catches up with the events.
                    1..=3 => for (port, time) in ring.drain(..) {
                        records += accounts.event(&key(port), time, 60).packets;
                    },
                    _ => {
                        kernel += 1;
                        let entry = table.entry(port).or_insert(Entry { total: 0, drained: 0, last: 0 });
                        // The first packet has an event, one in six of them is lost; some later
                        // packets, which break open flows, have one, too.
                        if (entry.total == 0 && action != 4) || action == 5 {
                            ring.push((port, now));
                        }
                        entry.total += 1;
                        entry.last = now;
                    }
                }
            }
            for (port, time) in ring.drain(..) {
                records += accounts.event(&key(port), time, 60).packets;
            }
            records += snapshot(&mut table, &mut accounts, now + 10_000 * MS);
            prop_assert_eq!(records, kernel);
        }
    }
}
