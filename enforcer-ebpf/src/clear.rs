//! Clearing memory without `memset`: a call to that is a loop over bytes, and a function more on
//! the stack.

/// Writes `words` zero words.
///
/// # Safety
///
/// There is room for them at `start`, aligned to words.
#[inline(always)]
pub unsafe fn zero(start: *mut u32, words: usize) {
    let mut index = 0;
    while index < words {
        // SAFETY: by the caller's promise. Volatile, so that the loop stays what it is.
        unsafe { start.add(index).write_volatile(0) };
        index += 1;
    }
}
