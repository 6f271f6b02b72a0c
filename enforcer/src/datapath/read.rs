//! Reading back: counters, denied flows, the flow tables, the pressure on the maps.

use std::{
    collections::HashMap,
    ffi::CString,
    net::{IpAddr, SocketAddr},
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::Path,
};

use bytemuck::{Pod, Zeroable};
use enforcer_common::{
    Action, Direction, Loss, Protocol, Reason,
    conntrack::FlowEntry,
    counter::{Counter, verdict_slot},
    denied_entry::{DeniedEntry, DeniedKey},
    flow_key::{Addr4, Addr6, FlowKey},
};

use super::{
    clock,
    error::DatapathError,
    object::Tables,
    pin,
    sys::{self, MapShape},
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

/// Which side opened a TCP connection, by its entry in the flow table. `place`: scope and space, as
/// in [`FlowKey`].
pub(super) fn opener(
    tables: &Tables,
    place: (u32, u8),
    local: SocketAddr,
    remote: SocketAddr,
) -> Result<Option<Direction>, TableError> {
    let ports = [local.port(), remote.port()];
    let entry = match (local.ip(), remote.ip()) {
        (IpAddr::V4(local), IpAddr::V4(remote)) => {
            let addresses = [local.octets(), remote.octets()];
            connection(&tables.flows4, place, addresses, ports)
        }
        (IpAddr::V6(local), IpAddr::V6(remote)) => {
            let addresses = [local.octets(), remote.octets()];
            connection(&tables.flows6, place, addresses, ports)
        }
        _ => Ok(None),
    };
    Ok(entry?.map(|entry| Direction::from_byte(entry.opener)))
}

/// The entry of a TCP connection.
fn connection<A>(
    table: &Table<FlowKey<A>, FlowEntry>,
    (scope, space): (u32, u8),
    [local, remote]: [A; 2],
    [local_port, remote_port]: [u16; 2],
) -> Result<Option<FlowEntry>, TableError>
where
    FlowKey<A>: Pod,
{
    table.get(&FlowKey {
        scope,
        local,
        remote,
        local_port,
        remote_port,
        protocol: Protocol::TCP,
        space,
        pad: 0,
    })
}

/// What was handed over of each denied flow, so that the next drain tells only what is new.
/// Pinned beside the other maps, so that the next daemon does not tell it again. Only user
/// space knows the map.
#[derive(Debug)]
pub(super) struct Drained {
    told: Table<DeniedKey, Told>,
    /// The same, without a call for each.
    seen: HashMap<DeniedKey, Told>,
}

/// What was told of an entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
struct Told {
    packets: u64,
    bytes: u64,
    /// [`DeniedEntry::first`] of the entry: another one that came after it counts from zero.
    first: u64,
}

/// A denied flow without a packet for this long is forgotten, in nanoseconds.
const IDLE: u64 = 10_000_000_000;

/// `BPF_MAP_TYPE_HASH` and `BPF_F_NO_PREALLOC` (`linux/bpf.h`).
const HASH: u32 = 1;
const NO_PREALLOC: u32 = 1;

impl Drained {
    /// Opens the map that is pinned at `path`, or makes it. `capacity`: that of the table of
    /// denied flows.
    pub fn open(path: &Path, capacity: u32) -> Result<Self, DatapathError> {
        let name = CString::new(path.as_os_str().as_bytes())
            .map_err(|error| pin::file("open", path)(error.into()))?;
        let map = match sys::object_get(&name) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                let map = sys::map_create(MapShape {
                    kind: HASH,
                    key: size_of::<DeniedKey>(),
                    value: size_of::<Told>(),
                    entries: capacity,
                    flags: NO_PREALLOC,
                    inner: None,
                })
                .map_err(pin::file("make the map", path))?;
                sys::object_pin(map.as_fd(), &name).map_err(pin::file("pin", path))?;
                map
            }
            found => found.map_err(pin::file("open", path))?,
        };
        let told = Table::new("TOLD", map, true);
        let mut seen = HashMap::new();
        told.for_each(|key, value| {
            seen.insert(key, value);
        })?;
        Ok(Self { told, seen })
    }

    /// The counts that were added since the last call. Idle flows are removed; what the kernel
    /// adds at that very moment is in the count that the removal returns.
    ///
    /// What is told is on record before it is returned: if the daemon dies before it has handed
    /// it on, it is lost, and never told twice.
    pub fn drain(&mut self, tables: &Tables) -> Result<Vec<(DeniedKey, DeniedEntry)>, TableError> {
        let now = clock::nanoseconds();
        let mut found = Vec::new();
        tables
            .denied
            .for_each(|key, entry| found.push((key, entry)))?;
        let mut seen = HashMap::with_capacity(found.len());
        let mut deltas = Vec::new();
        let mut news = Vec::new();
        for (key, mut entry) in found {
            let idle = now.saturating_sub(entry.last) > IDLE;
            if idle {
                match tables.denied.take(&key)? {
                    Some(last) => entry = last,
                    None => continue,
                }
            }
            let told = Told {
                packets: entry.packets,
                bytes: entry.bytes,
                first: entry.first,
            };
            let before = self.seen.get(&key).copied();
            deltas.extend(grown(entry, before).map(|delta| (key, delta)));
            if !idle {
                if before != Some(told) {
                    news.push((key, told));
                }
                seen.insert(key, told);
            }
        }
        let former = std::mem::replace(&mut self.seen, seen);
        let gone = former
            .into_keys()
            .filter(|key| !self.seen.contains_key(key));
        let gone: Vec<DeniedKey> = gone.collect();
        // The counts are known here in any case: a map that cannot be written is no reason not
        // to tell them.
        let recorded = (self.told.remove_all(&gone)).and_then(|()| self.told.set_all(&news));
        if let Err(error) = recorded {
            tracing::warn!(
                error = crate::cause::chain(&error),
                "after a restart some denied packets may be told again"
            );
        }
        Ok(deltas)
    }

    /// How many flows are being counted.
    pub fn len(&self) -> usize {
        self.seen.len()
    }
}

/// What an entry has grown by since `before`.
fn grown(entry: DeniedEntry, before: Option<Told>) -> Option<DeniedEntry> {
    let before = before
        .filter(|told| told.first == entry.first && told.packets <= entry.packets)
        .unwrap_or_default();
    let packets = entry.packets - before.packets;
    (packets > 0).then(|| DeniedEntry {
        packets,
        bytes: entry.bytes.saturating_sub(before.bytes),
        ..entry
    })
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
