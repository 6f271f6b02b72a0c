//! Waiting until the kernel programs that are running now are through.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use super::{
    error::DatapathError,
    sys::{self, MapShape},
};

/// `BPF_MAP_TYPE_ARRAY` and `BPF_MAP_TYPE_ARRAY_OF_MAPS` (`linux/bpf.h`).
const ARRAY: u32 = 2;
const ARRAY_OF_MAPS: u32 = 12;

/// Waits for programs. The kernel promises that an update of a map of maps returns only after
/// every program that may still see the old content has ended (`maybe_wait_bpf_programs` in
/// `kernel/bpf/syscall.c`); that is all that this map is for.
#[derive(Debug)]
pub(super) struct Quiet {
    outer: OwnedFd,
    inner: OwnedFd,
}

impl Quiet {
    /// Makes the map.
    pub fn new() -> Result<Self, DatapathError> {
        Self::create().map_err(|source| DatapathError::File {
            action: "create",
            path: "the map of maps".into(),
            source,
        })
    }

    fn create() -> io::Result<Self> {
        let shape = MapShape {
            kind: ARRAY,
            key: 4,
            value: 4,
            entries: 1,
            flags: 0,
            inner: None,
        };
        let inner = sys::map_create(shape)?;
        let outer = sys::map_create(MapShape {
            kind: ARRAY_OF_MAPS,
            inner: Some(inner.as_fd()),
            ..shape
        })?;
        Ok(Self { outer, inner })
    }

    /// Returns after every program that runs now has ended: some milliseconds, without work.
    pub fn wait(&self) -> io::Result<()> {
        let key = 0_u32.to_ne_bytes();
        let value = self.inner.as_raw_fd().to_ne_bytes();
        sys::update(self.outer.as_fd(), &key, &value)
    }
}
