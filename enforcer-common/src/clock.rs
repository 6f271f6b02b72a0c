//! Seconds as the kernel programs count them.

/// Seconds of a monotonic time in nanoseconds. They are 2^30 ns long (1.07 s), because a shift
/// costs nothing and a division is the dearest instruction that a packet could meet.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "wraps after 146 years")]
pub const fn seconds(nanoseconds: u64) -> u32 {
    (nanoseconds >> 30) as u32
}
