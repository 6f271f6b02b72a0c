//! From the kernel's monotonic clock to the time of day.

use nix::{
    sys::time::TimeSpec,
    time::{ClockId, clock_gettime},
};
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};

/// RFC 3339 in UTC with microseconds, always of the same length, so that it sorts.
const FORMAT: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

/// A moment as records show it.
pub fn rfc3339(moment: OffsetDateTime) -> String {
    moment
        .to_offset(time::UtcOffset::UTC)
        .format(&FORMAT)
        // The format asks for nothing that a moment could lack, and a `String` takes it all.
        .unwrap_or_default()
}

/// Nanoseconds of the monotonic clock, which events and counts are stamped with.
pub fn monotonic() -> u64 {
    nanoseconds(ClockId::CLOCK_MONOTONIC)
}

/// How the clocks stand to each other. Read anew for every batch: the time of day may be set,
/// and the clock since boot goes on while the machine sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Time of day less monotonic clock, nanoseconds since 1970.
    wall_offset: i128,
    /// Clock since boot less monotonic clock, nanoseconds.
    boot_offset: u64,
}

impl Clock {
    /// Reads the clocks.
    pub fn read() -> Self {
        let monotonic = monotonic();
        Self {
            wall_offset: OffsetDateTime::now_utc().unix_timestamp_nanos() - i128::from(monotonic),
            boot_offset: nanoseconds(ClockId::CLOCK_BOOTTIME).saturating_sub(monotonic),
        }
    }

    /// A clock that says `wall` at second 0 of the monotonic clock.
    pub fn fixed(wall: OffsetDateTime) -> Self {
        Self {
            wall_offset: wall.unix_timestamp_nanos(),
            boot_offset: 0,
        }
    }

    /// The time of day of a monotonic time in nanoseconds.
    pub fn wall(self, monotonic: u64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp_nanos(self.wall_offset + i128::from(monotonic))
            // Only a nonsensical event is that far away (beyond the year 9999).
            .unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }

    /// The clock since boot at a monotonic time, nanoseconds.
    pub fn since_boot(self, monotonic: u64) -> u64 {
        monotonic.saturating_add(self.boot_offset)
    }
}

fn nanoseconds(clock: ClockId) -> u64 {
    // Linux has had both clocks since 2.6.39; the call can fail only for want of a clock.
    let now = clock_gettime(clock).unwrap_or(TimeSpec::new(0, 0));
    let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn times_are_utc_and_sort_as_text() {
        let clock = Clock::fixed(datetime!(2026-01-02 03:04:05 UTC));
        assert_eq!(rfc3339(clock.wall(0)), "2026-01-02T03:04:05.000000Z");
        assert_eq!(
            rfc3339(clock.wall(1_000_001_999)),
            "2026-01-02T03:04:06.000001Z"
        );
        assert_eq!(rfc3339(clock.wall(u64::MAX)).len(), 27);
    }

    #[test]
    fn now_is_now() {
        let wall = Clock::read().wall(monotonic());
        let away = (OffsetDateTime::now_utc() - wall).abs();
        assert!(away < time::Duration::seconds(1), "{away}");
    }
}
