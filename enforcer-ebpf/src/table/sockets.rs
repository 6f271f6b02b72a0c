//! What is remembered with a socket.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::BPF_SK_STORAGE_GET_F_CREATE, btf_maps::SkStorage,
    helpers::generated::bpf_sk_storage_get, macros::btf_map,
};
use enforcer_common::{Loss, socket_entry::SocketEntry};

use crate::table::counters::lose;

#[btf_map]
static SOCKETS: SkStorage<SocketEntry> = SkStorage::new();

#[inline(always)]
fn map() -> *mut c_void {
    ptr::from_ref(&SOCKETS).cast_mut().cast()
}

/// The socket's entry, created when there is none. `None` (counted) without memory.
///
/// # Safety
///
/// `socket` is a socket pointer that the verifier knows and that is not null.
#[inline(always)]
pub unsafe fn of(socket: *mut c_void) -> Option<*mut SocketEntry> {
    // SAFETY: by the caller's promise.
    let entry = unsafe {
        bpf_sk_storage_get(
            map(),
            socket,
            ptr::null_mut(),
            u64::from(BPF_SK_STORAGE_GET_F_CREATE),
        )
    };
    if entry.is_null() {
        lose(Loss::SocketStorage);
        return None;
    }
    Some(entry.cast())
}

/// The socket's entry, if it has one.
///
/// # Safety
///
/// As [`of`].
#[inline(always)]
pub unsafe fn existing(socket: *mut c_void) -> Option<*mut SocketEntry> {
    // SAFETY: by the caller's promise.
    let entry = unsafe { bpf_sk_storage_get(map(), socket, ptr::null_mut(), 0) };
    (!entry.is_null()).then(|| entry.cast())
}
