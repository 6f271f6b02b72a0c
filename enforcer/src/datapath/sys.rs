//! The `bpf(2)` calls that aya does not offer: batches, look-up with removal, and the update
//! of a link in place. Every `unsafe` of the map layer is here.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

const MAP_CREATE: libc::c_long = 0;
const MAP_LOOKUP: libc::c_long = 1;
const MAP_UPDATE: libc::c_long = 2;
const MAP_DELETE: libc::c_long = 3;
const MAP_NEXT_KEY: libc::c_long = 4;
const OBJECT_PIN: libc::c_long = 6;
const MAP_LOOKUP_AND_DELETE: libc::c_long = 21;
const MAP_LOOKUP_BATCH: libc::c_long = 24;
const MAP_UPDATE_BATCH: libc::c_long = 26;
const MAP_DELETE_BATCH: libc::c_long = 27;
const LINK_UPDATE: libc::c_long = 29;
const LINK_DETACH: libc::c_long = 34;

/// `union bpf_attr`, the part for single elements (`linux/bpf.h`).
#[repr(C, align(8))]
#[derive(Default)]
struct ElementAttr {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The part for batches.
#[repr(C, align(8))]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// The part for link updates.
#[repr(C, align(8))]
#[derive(Default)]
struct LinkAttr {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

/// # Safety
///
/// The pointers in `attr` are valid for what the command reads and writes through them.
unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<()> {
    // SAFETY: the caller's promise.
    unsafe { bpf_code(command, attr) }.map(drop)
}

/// For commands that return a new descriptor.
///
/// # Safety
///
/// As [`bpf`].
unsafe fn bpf_descriptor<T>(command: libc::c_long, attr: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let code = unsafe { bpf_code(command, attr) }?;
    let descriptor = i32::try_from(code).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// # Safety
///
/// As [`bpf`].
unsafe fn bpf_code<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads as many bytes as `attr` has; the rest is the caller's promise.
    let code = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<T>(),
        )
    };
    if code < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(code)
}

fn fd(map: BorrowedFd<'_>) -> u32 {
    u32::try_from(map.as_raw_fd()).expect("an open descriptor is not negative")
}

/// Reads the value of `key` into `value`, which is as long as the map's value (for per-CPU
/// maps: the rounded value of every possible CPU). `false`: no such key.
pub(super) fn lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    element(MAP_LOOKUP, map, key, value)
}

/// As [`lookup`], and removes the entry.
pub(super) fn take(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    element(MAP_LOOKUP_AND_DELETE, map, key, value)
}

fn element(
    command: libc::c_long,
    map: BorrowedFd<'_>,
    key: &[u8],
    value: &mut [u8],
) -> io::Result<bool> {
    let mut attr = ElementAttr {
        map: fd(map),
        key: key.as_ptr() as u64,
        value: value.as_mut_ptr() as u64,
        ..ElementAttr::default()
    };
    // SAFETY: both slices are as long as the map's key and value, which `Table` sees to.
    match unsafe { bpf(command, &mut attr) } {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes one entry.
pub(super) fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    let mut attr = ElementAttr {
        map: fd(map),
        key: key.as_ptr() as u64,
        value: value.as_ptr() as u64,
        ..ElementAttr::default()
    };
    // SAFETY: as in `element`; the kernel only reads.
    unsafe { bpf(MAP_UPDATE, &mut attr) }
}

/// Removes one entry. `false`: it was not there.
pub(super) fn delete(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<bool> {
    let mut attr = ElementAttr {
        map: fd(map),
        key: key.as_ptr() as u64,
        ..ElementAttr::default()
    };
    // SAFETY: as in `element`; the kernel only reads.
    match unsafe { bpf(MAP_DELETE, &mut attr) } {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The key after `key` (the first one for `None`). `false`: there is none.
pub(super) fn next_key(
    map: BorrowedFd<'_>,
    key: Option<&[u8]>,
    next: &mut [u8],
) -> io::Result<bool> {
    let mut attr = ElementAttr {
        map: fd(map),
        key: key.map_or(0, |key| key.as_ptr() as u64),
        value: next.as_mut_ptr() as u64,
        ..ElementAttr::default()
    };
    // SAFETY: as in `element`; the next key is written where the value would be.
    match unsafe { bpf(MAP_NEXT_KEY, &mut attr) } {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes `count` entries. On an error the number of those that were written is lost to the
/// caller, who removes them all.
pub(super) fn update_batch(
    map: BorrowedFd<'_>,
    keys: &[u8],
    values: &[u8],
    count: u32,
) -> io::Result<()> {
    let mut attr = BatchAttr {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count,
        map: fd(map),
        ..BatchAttr::default()
    };
    // SAFETY: both slices hold `count` keys and values, which `Table` sees to.
    unsafe { bpf(MAP_UPDATE_BATCH, &mut attr) }
}

/// Removes up to `count` entries; stops at the first that is not there, and says how many were
/// removed before it.
pub(super) fn delete_batch(map: BorrowedFd<'_>, keys: &[u8], count: u32) -> io::Result<u32> {
    let mut attr = BatchAttr {
        keys: keys.as_ptr() as u64,
        count,
        map: fd(map),
        ..BatchAttr::default()
    };
    // SAFETY: the slice holds `count` keys.
    match unsafe { bpf(MAP_DELETE_BATCH, &mut attr) } {
        Ok(()) => Ok(count),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(attr.count),
        Err(error) => Err(error),
    }
}

/// Reads up to `count` entries from the position `cursor` on (empty: from the start). Returns
/// how many were read, and whether more may follow.
pub(super) fn lookup_batch(
    map: BorrowedFd<'_>,
    cursor: &mut Vec<u8>,
    keys: &mut [u8],
    values: &mut [u8],
    count: u32,
) -> io::Result<(u32, bool)> {
    // For hash tables the position is a bucket number of 4 bytes; a key's length is enough
    // for every kind of map.
    let mut next = [0_u8; 64];
    let mut attr = BatchAttr {
        in_batch: if cursor.is_empty() {
            0
        } else {
            cursor.as_ptr() as u64
        },
        out_batch: next.as_mut_ptr() as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count,
        map: fd(map),
        ..BatchAttr::default()
    };
    // SAFETY: both slices hold `count` keys and values; the positions are long enough.
    let more = match unsafe { bpf(MAP_LOOKUP_BATCH, &mut attr) } {
        Ok(()) => true,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => false,
        Err(error) => return Err(error),
    };
    cursor.clear();
    cursor.extend_from_slice(&next);
    Ok((attr.count, more))
}

/// Puts another program behind a link, in one step.
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkAttr {
        link: fd(link),
        program: fd(program),
        ..LinkAttr::default()
    };
    // SAFETY: no pointers.
    unsafe { bpf(LINK_UPDATE, &mut attr) }
}

/// Takes a link's program off its hook, before this returns.
pub(super) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkAttr {
        link: fd(link),
        ..LinkAttr::default()
    };
    // SAFETY: no pointers.
    unsafe { bpf(LINK_DETACH, &mut attr) }
}

/// The part for the creation of maps.
#[repr(C, align(8))]
#[derive(Default)]
struct CreateAttr {
    kind: u32,
    key: u32,
    value: u32,
    entries: u32,
    flags: u32,
    inner: u32,
}

/// What is made by [`map_create`].
#[derive(Clone, Copy, Debug)]
pub(super) struct MapShape<'a> {
    /// A `bpf_map_type`.
    pub kind: u32,
    /// Bytes of a key.
    pub key: usize,
    /// Bytes of a value.
    pub value: usize,
    /// Entries at most.
    pub entries: u32,
    /// `BPF_F_…`.
    pub flags: u32,
    /// What maps of a map of maps look like.
    pub inner: Option<BorrowedFd<'a>>,
}

/// Makes a map that no program knows.
pub(super) fn map_create(shape: MapShape<'_>) -> io::Result<OwnedFd> {
    let length = |bytes: usize| u32::try_from(bytes).map_err(io::Error::other);
    let mut attr = CreateAttr {
        kind: shape.kind,
        key: length(shape.key)?,
        value: length(shape.value)?,
        entries: shape.entries,
        flags: shape.flags,
        inner: shape.inner.map_or(0, fd),
    };
    // SAFETY: no pointers.
    unsafe { bpf_descriptor(MAP_CREATE, &mut attr) }
}

/// Pins an object.
pub(super) fn object_pin(object: BorrowedFd<'_>, path: &std::ffi::CStr) -> io::Result<()> {
    let mut attr = ObjectAttr {
        path: path.as_ptr() as u64,
        descriptor: fd(object),
        flags: 0,
    };
    // SAFETY: the path is a C string that outlives the call.
    unsafe { bpf(OBJECT_PIN, &mut attr) }
}

/// Opens a pinned object.
pub(super) fn object_get(path: &std::ffi::CStr) -> io::Result<OwnedFd> {
    let mut attr = ObjectAttr {
        path: path.as_ptr() as u64,
        ..ObjectAttr::default()
    };
    // SAFETY: the path is a C string that outlives the call.
    unsafe { bpf_descriptor(OBJECT_GET, &mut attr) }
}

const OBJECT_GET: libc::c_long = 7;

/// The part for pinned objects.
#[repr(C, align(8))]
#[derive(Default)]
struct ObjectAttr {
    path: u64,
    descriptor: u32,
    flags: u32,
}

/// The part for test runs.
#[cfg(test)]
#[repr(C, align(8))]
#[derive(Default)]
struct TestAttr {
    program: u32,
    returned: u32,
    data_length: u32,
    data_out_length: u32,
    data: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_lengths: [u32; 2],
    contexts: [u64; 2],
    flags: u32,
    cpu: u32,
}

/// Runs a program on a frame, once, and returns what it says. The frame is one of the loopback
/// interface of the thread's network namespace.
#[cfg(test)]
pub(super) fn test_run(program: BorrowedFd<'_>, frame: &[u8]) -> io::Result<u32> {
    let mut attr = TestAttr {
        program: fd(program),
        data_length: u32::try_from(frame.len()).map_err(io::Error::other)?,
        data: frame.as_ptr() as u64,
        repeat: 1,
        ..TestAttr::default()
    };
    // SAFETY: the kernel reads the frame, and writes nowhere but to the attributes.
    unsafe { bpf(10, &mut attr) }?;
    Ok(attr.returned)
}
