//! A kernel map with typed keys and values.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use bytemuck::Pod;
use thiserror::Error;

use super::sys;

/// Entries that one batch call moves.
const BATCH: usize = 4096;

/// A map operation failed.
#[derive(Debug, Error)]
#[error("cannot {action} the kernel map {map}")]
pub struct TableError {
    map: &'static str,
    action: &'static str,
    source: io::Error,
}

impl TableError {
    /// As of a kernel that has had enough.
    #[cfg(test)]
    pub fn refused() -> Self {
        Self {
            map: "POLICIES",
            action: "write",
            source: io::Error::from_raw_os_error(libc::ENOMEM),
        }
    }

    /// Whether the map had no room.
    pub fn is_full(&self) -> bool {
        matches!(
            self.source.raw_os_error(),
            Some(libc::E2BIG | libc::ENOSPC | libc::ENOMEM)
        )
    }
}

/// A map whose memory the kernel states.
pub(super) trait Measured {
    /// Bytes, from `memlock` in the descriptor's `fdinfo`; 0 where it is not there.
    fn memory(&self) -> u64;
}

fn memory(fd: &OwnedFd) -> u64 {
    let path = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
    let Ok(text) = std::fs::read_to_string(path) else {
        return 0;
    };
    text.lines()
        .find_map(|line| line.strip_prefix("memlock:"))
        .and_then(|value| value.trim().parse().ok())
        .unwrap_or(0)
}

impl<K, V> Measured for Table<K, V> {
    fn memory(&self) -> u64 {
        memory(&self.fd)
    }
}

impl<V> Measured for PerCpuTable<V> {
    fn memory(&self) -> u64 {
        memory(&self.fd)
    }
}

/// A hash table or trie of the kernel.
#[derive(Debug)]
pub struct Table<K, V> {
    name: &'static str,
    fd: OwnedFd,
    batches: bool,
    types: PhantomData<fn(K) -> V>,
}

impl<K: Pod, V: Pod> Table<K, V> {
    /// Wraps a map whose key and value have the sizes of `K` and `V`.
    pub(super) fn new(name: &'static str, fd: OwnedFd, batches: bool) -> Self {
        Self {
            name,
            fd,
            batches,
            types: PhantomData,
        }
    }

    fn error(&self, action: &'static str) -> impl FnOnce(io::Error) -> TableError {
        let map = self.name;
        move |source| TableError {
            map,
            action,
            source,
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Result<Option<V>, TableError> {
        let mut value = V::zeroed();
        let found = sys::lookup(
            self.fd.as_fd(),
            bytemuck::bytes_of(key),
            bytemuck::bytes_of_mut(&mut value),
        )
        .map_err(self.error("read"))?;
        Ok(found.then_some(value))
    }

    /// Writes one entry, replacing the old value as a whole.
    pub fn set(&self, key: &K, value: &V) -> Result<(), TableError> {
        sys::update(
            self.fd.as_fd(),
            bytemuck::bytes_of(key),
            bytemuck::bytes_of(value),
        )
        .map_err(self.error("write"))
    }

    /// Removes one entry, if it is there.
    pub fn remove(&self, key: &K) -> Result<(), TableError> {
        sys::delete(self.fd.as_fd(), bytemuck::bytes_of(key))
            .map(drop)
            .map_err(self.error("remove from"))
    }

    /// Removes one entry and returns what it held at that moment.
    pub fn take(&self, key: &K) -> Result<Option<V>, TableError> {
        let mut value = V::zeroed();
        let found = sys::take(
            self.fd.as_fd(),
            bytemuck::bytes_of(key),
            bytemuck::bytes_of_mut(&mut value),
        )
        .map_err(self.error("take from"))?;
        Ok(found.then_some(value))
    }

    /// Writes many entries. After an error some may have been written.
    pub fn set_all(&self, entries: &[(K, V)]) -> Result<(), TableError> {
        if !self.batches {
            return entries.iter().try_for_each(|(k, v)| self.set(k, v));
        }
        for chunk in entries.chunks(BATCH) {
            let keys: Vec<K> = chunk.iter().map(|(key, _)| *key).collect();
            let values: Vec<V> = chunk.iter().map(|(_, value)| *value).collect();
            sys::update_batch(
                self.fd.as_fd(),
                bytemuck::cast_slice(&keys),
                bytemuck::cast_slice(&values),
                u32::try_from(chunk.len()).expect("a batch is small"),
            )
            .map_err(self.error("write"))?;
        }
        Ok(())
    }

    /// Removes many entries; those that are not there do not matter.
    pub fn remove_all(&self, keys: &[K]) -> Result<(), TableError> {
        if !self.batches {
            return keys.iter().try_for_each(|key| self.remove(key));
        }
        for chunk in keys.chunks(BATCH) {
            let mut rest = chunk;
            while !rest.is_empty() {
                let removed = sys::delete_batch(
                    self.fd.as_fd(),
                    bytemuck::cast_slice(rest),
                    u32::try_from(rest.len()).expect("a batch is small"),
                )
                .map_err(self.error("remove from"))?;
                // One that was missing stopped the batch: go on behind it.
                rest = rest.get(removed as usize + 1..).unwrap_or_default();
            }
        }
        Ok(())
    }

    /// Calls `visit` for every entry. Entries that the kernel adds or removes meanwhile may be
    /// missed or seen twice.
    pub fn for_each(&self, mut visit: impl FnMut(K, V)) -> Result<(), TableError> {
        if !self.batches {
            return self.walk(visit);
        }
        let mut cursor = Vec::new();
        let mut size = BATCH;
        let mut keys = vec![K::zeroed(); size];
        let mut values = vec![V::zeroed(); size];
        loop {
            let outcome = sys::lookup_batch(
                self.fd.as_fd(),
                &mut cursor,
                bytemuck::cast_slice_mut(&mut keys),
                bytemuck::cast_slice_mut(&mut values),
                u32::try_from(size).expect("a batch is small"),
            );
            let (read, more) = match outcome {
                Ok(outcome) => outcome,
                // One bucket holds more than fits: ask for more at once.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && size < 1 << 20 => {
                    size *= 4;
                    keys.resize(size, K::zeroed());
                    values.resize(size, V::zeroed());
                    continue;
                }
                Err(error) => return Err(self.error("read")(error)),
            };
            for (key, value) in keys.iter().zip(&values).take(read as usize) {
                visit(*key, *value);
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// [`Table::for_each`], key by key, for maps without batches.
    fn walk(&self, mut visit: impl FnMut(K, V)) -> Result<(), TableError> {
        let mut key: Option<K> = None;
        let mut next = K::zeroed();
        while sys::next_key(
            self.fd.as_fd(),
            key.as_ref().map(bytemuck::bytes_of),
            bytemuck::bytes_of_mut(&mut next),
        )
        .map_err(self.error("read"))?
        {
            if let Some(value) = self.get(&next)? {
                visit(next, value);
            }
            key = Some(next);
        }
        Ok(())
    }
}

/// An array with one value per CPU.
#[derive(Debug)]
pub struct PerCpuTable<V> {
    name: &'static str,
    fd: OwnedFd,
    cpus: usize,
    types: PhantomData<fn() -> V>,
}

impl<V: Pod> PerCpuTable<V> {
    /// Wraps a per-CPU array of `V`, whose size is a multiple of 8.
    pub(super) fn new(name: &'static str, fd: OwnedFd, cpus: usize) -> Self {
        Self {
            name,
            fd,
            cpus,
            types: PhantomData,
        }
    }

    /// The values of all possible CPUs at an index; empty past the end.
    pub fn get(&self, index: u32) -> Result<Vec<V>, TableError> {
        let mut values = vec![V::zeroed(); self.cpus];
        let found = sys::lookup(
            self.fd.as_fd(),
            &index.to_ne_bytes(),
            bytemuck::cast_slice_mut(&mut values),
        )
        .map_err(|source| TableError {
            map: self.name,
            action: "read",
            source,
        })?;
        if !found {
            values.clear();
        }
        Ok(values)
    }

    /// Sets the values of all CPUs at an index to zero.
    pub fn reset(&self, index: u32) -> Result<(), TableError> {
        let values = vec![V::zeroed(); self.cpus];
        sys::update(
            self.fd.as_fd(),
            &index.to_ne_bytes(),
            bytemuck::cast_slice(&values),
        )
        .map_err(|source| TableError {
            map: self.name,
            action: "reset",
            source,
        })
    }
}
