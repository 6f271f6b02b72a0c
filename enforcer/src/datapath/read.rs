//! Reading back: counters, denied flows, the flow tables, the pressure on the maps.

use std::collections::HashMap;

use bytemuck::Pod;
use enforcer_common::{
    Action, Direction, Loss, Reason,
    conntrack::FlowEntry,
    counter::{Counter, verdict_slot},
    denied_entry::{DeniedEntry, DeniedKey},
    flow_key::{Addr4, Addr6, FlowKey},
};

use super::{
    clock,
    object::Tables,
    table::{Table, TableError},
};

/// How full a map is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapPressure {
    /// Name.
    pub name: &'static str,
    /// Entries now (for the flow tables: at the last collection).
    pub entries: u64,
    /// Entries at most.
    pub capacity: u64,
    /// Kernel memory in bytes, as `fdinfo` gives it; 0 where it is not known.
    pub bytes: u64,
}

/// What a collection of the flow tables found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowTableStats {
    /// Entries that stay, IPv4 and IPv6.
    pub entries: [u64; 2],
    /// Entries that were removed.
    pub expired: u64,
}

/// Removes entries that are past their time.
pub(super) fn expire(tables: &Tables) -> Result<FlowTableStats, TableError> {
    let now = clock::seconds();
    let (kept4, gone4) = expire_table::<Addr4>(&tables.flows4, now)?;
    let (kept6, gone6) = expire_table::<Addr6>(&tables.flows6, now)?;
    Ok(FlowTableStats {
        entries: [kept4, kept6],
        expired: gone4 + gone6,
    })
}

fn expire_table<A>(table: &Table<FlowKey<A>, FlowEntry>, now: u32) -> Result<(u64, u64), TableError>
where
    FlowKey<A>: Pod,
{
    let mut expired = Vec::new();
    let mut kept = 0;
    table.for_each(|key, entry| {
        if entry.is_expired(key.protocol, now) {
            expired.push(key);
        } else {
            kept += 1;
        }
    })?;
    table.remove_all(&expired)?;
    Ok((kept, expired.len() as u64))
}

/// What was handed over of each denied flow, so that the next drain tells only what is new.
#[derive(Debug, Default)]
pub(super) struct Drained {
    seen: HashMap<DeniedKey, (u64, u64)>,
}

/// A denied flow without a packet for this long is forgotten, in nanoseconds.
const IDLE: u64 = 10_000_000_000;

impl Drained {
    /// The counts that were added since the last call. Idle flows are removed; what the kernel
    /// adds at that very moment is in the count that the removal returns.
    pub fn drain(&mut self, tables: &Tables) -> Result<Vec<(DeniedKey, DeniedEntry)>, TableError> {
        let now = clock::nanoseconds();
        let mut found = Vec::new();
        tables
            .denied
            .for_each(|key, entry| found.push((key, entry)))?;
        let mut deltas = Vec::new();
        for (key, mut entry) in found {
            if now.saturating_sub(entry.last) > IDLE {
                match tables.denied.take(&key)? {
                    Some(last) => entry = last,
                    None => continue,
                }
                self.tell(key, entry, &mut deltas);
                self.seen.remove(&key);
            } else {
                self.tell(key, entry, &mut deltas);
            }
        }
        Ok(deltas)
    }

    /// How many flows are being counted.
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    fn tell(
        &mut self,
        key: DeniedKey,
        entry: DeniedEntry,
        deltas: &mut Vec<(DeniedKey, DeniedEntry)>,
    ) {
        let before = self
            .seen
            .insert(key, (entry.packets, entry.bytes))
            .unwrap_or_default();
        // An entry that was removed and began anew counts from zero.
        let (packets, bytes) = if entry.packets >= before.0 {
            (
                entry.packets - before.0,
                entry.bytes.saturating_sub(before.1),
            )
        } else {
            (entry.packets, entry.bytes)
        };
        if packets > 0 {
            deltas.push((
                key,
                DeniedEntry {
                    packets,
                    bytes,
                    ..entry
                },
            ));
        }
    }
}

/// The sum over CPUs.
fn total(counters: &[Counter]) -> Counter {
    counters.iter().fold(Counter::default(), |sum, c| Counter {
        packets: sum.packets + c.packets,
        bytes: sum.bytes + c.bytes,
    })
}

/// Counters of the rules in `numbers` that decided anything.
pub(super) fn rules(
    tables: &Tables,
    numbers: impl Iterator<Item = u32>,
) -> Result<Vec<(u32, Counter)>, TableError> {
    let mut counters = Vec::new();
    for number in numbers {
        let counter = total(&tables.rules.get(number)?);
        if counter.packets > 0 {
            counters.push((number, counter));
        }
    }
    Ok(counters)
}

/// Counters by reason, action and direction, those that are not zero.
pub(super) fn verdicts(
    tables: &Tables,
) -> Result<Vec<(Reason, Action, Direction, Counter)>, TableError> {
    let mut counters = Vec::new();
    for reason in Reason::ALL {
        for action in [Action::Allow, Action::Deny, Action::Audit] {
            for direction in [Direction::Egress, Direction::Ingress] {
                let slot = verdict_slot(*reason as u8, action, direction);
                let counter = total(&tables.verdicts.get(slot)?);
                if counter.packets > 0 {
                    counters.push((*reason, action, direction, counter));
                }
            }
        }
    }
    Ok(counters)
}

/// What was not kept or not reported.
pub(super) fn losses(tables: &Tables) -> Result<Vec<(Loss, u64)>, TableError> {
    Loss::ALL
        .iter()
        .map(|loss| Ok((*loss, tables.losses.get(*loss as u32)?.iter().sum())))
        .collect()
}
