//! Checked reads from a packet buffer.

use core::{mem::MaybeUninit, ptr};

use aya_ebpf::{
    bindings::{__sk_buff, xdp_md},
    helpers::generated::bpf_skb_load_bytes,
};
use enforcer_common::Reason;

/// Plain bytes that may be read from any offset.
///
/// # Safety
///
/// Every bit pattern is a value.
pub unsafe trait Bytes: Copy {}

// SAFETY: integers.
unsafe impl Bytes for u8 {}
// SAFETY: integers.
unsafe impl Bytes for u16 {}
// SAFETY: integers.
unsafe impl Bytes for u32 {}
// SAFETY: integers.
unsafe impl<const N: usize> Bytes for [u8; N] {}

/// A packet buffer.
pub trait Frame {
    /// Bytes in all, paged ones included.
    fn len(&self) -> u32;
    /// Reads a value at an offset.
    fn load<T: Bytes>(&self, offset: u32) -> Result<T, Reason>;
}

/// Reads from the part of a buffer that is mapped.
///
/// # Safety
///
/// `data` and `end` are the context's packet pointers, read just now.
#[inline(always)]
unsafe fn direct<T: Bytes>(data: usize, end: usize, offset: u32) -> Option<T> {
    // The verifier follows a packet pointer plus a bounded scalar.
    if offset > 511 {
        return None;
    }
    let at = data + offset as usize;
    if at + size_of::<T>() > end {
        return None;
    }
    // SAFETY: checked against the end above.
    Some(unsafe { ptr::read_unaligned(at as *const T) })
}

/// A socket buffer.
#[derive(Clone, Copy)]
pub struct Skb(pub *mut __sk_buff);

impl Frame for Skb {
    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: the context of the program.
        unsafe { (*self.0).len }
    }

    #[inline(always)]
    fn load<T: Bytes>(&self, offset: u32) -> Result<T, Reason> {
        // SAFETY: the context of the program.
        let (data, end) = unsafe { ((*self.0).data as usize, (*self.0).data_end as usize) };
        // SAFETY: the packet pointers.
        if let Some(value) = unsafe { direct(data, end, offset) } {
            return Ok(value);
        }
        self.copy(offset)
    }
}

impl Skb {
    /// Reads through the helper: also what lies in pages.
    #[inline(always)]
    pub fn copy<T: Bytes>(&self, offset: u32) -> Result<T, Reason> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the buffer is as large as the length says; on success it is filled whole.
        unsafe {
            let code = bpf_skb_load_bytes(
                self.0.cast(),
                offset,
                value.as_mut_ptr().cast(),
                size_of::<T>() as u32,
            );
            if code == 0 {
                Ok(value.assume_init())
            } else {
                Err(Reason::Truncated)
            }
        }
    }
}

/// An XDP buffer.
#[derive(Clone, Copy)]
pub struct Xdp(pub *mut xdp_md);

impl Frame for Xdp {
    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: the context of the program.
        unsafe { (*self.0).data_end - (*self.0).data }
    }

    #[inline(always)]
    fn load<T: Bytes>(&self, offset: u32) -> Result<T, Reason> {
        // SAFETY: the context of the program.
        let (data, end) = unsafe { ((*self.0).data as usize, (*self.0).data_end as usize) };
        // SAFETY: the packet pointers.
        unsafe { direct(data, end, offset) }.ok_or(Reason::Truncated)
    }
}
