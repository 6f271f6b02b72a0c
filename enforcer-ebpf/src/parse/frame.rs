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
// SAFETY: arrays of the above.
unsafe impl<T: Bytes, const N: usize> Bytes for [T; N] {}

/// A packet buffer.
pub trait Frame {
    /// Bytes in all, paged ones included.
    fn len(&self) -> u32;
    /// Reads a value at an offset.
    fn load<T: Bytes>(&self, offset: u32) -> Result<T, Reason>;
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
        self.copy(offset)
    }
}

impl Skb {
    /// Reads through the helper: whatever part of the packet lies in pages, and at offsets
    /// that the verifier could not follow in packet pointers.
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
        // Constant offsets only: the verifier follows a packet pointer plus a constant.
        let at = data + offset as usize;
        if at + size_of::<T>() > end {
            return Err(Reason::Truncated);
        }
        // SAFETY: checked against the end above.
        Ok(unsafe { ptr::read_unaligned(at as *const T) })
    }
}
