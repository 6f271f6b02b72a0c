//! The kernel programs' clocks.

use nix::time::{ClockId, clock_gettime};

use crate::policy::model::Moment;

/// Nanoseconds of the monotonic clock, good to one tick (`bpf_ktime_get_coarse_ns`).
pub fn nanoseconds() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_or(0, |time| {
        let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
        let rest = u64::try_from(time.tv_nsec()).unwrap_or(0);
        seconds * 1_000_000_000 + rest
    })
}

/// Seconds of the same clock, as [`enforcer_common::clock::seconds`] counts them.
pub fn seconds() -> u32 {
    enforcer_common::clock::seconds(nanoseconds())
}

/// How the wall clock stands to the kernel's own, which nobody can set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WallClock {
    /// The beginning of the Unix epoch, in nanoseconds of `CLOCK_BOOTTIME`.
    pub epoch: i64,
    /// Nanoseconds by which that clock is ahead of `CLOCK_MONOTONIC`: the host's sleep.
    pub slept: u64,
}

/// Differences of this many nanoseconds are noise of the measurement.
const NOISE: u64 = 20_000_000;

impl WallClock {
    /// As the clocks stand now.
    pub fn now() -> Self {
        // The clocks are read one after the other: the quickest try is the best one.
        let tries = (0..5).map(|_| {
            let before = read(ClockId::CLOCK_BOOTTIME);
            let (wall, monotonic) = (
                read(ClockId::CLOCK_REALTIME),
                read(ClockId::CLOCK_MONOTONIC),
            );
            let after = read(ClockId::CLOCK_BOOTTIME);
            let middle = before.midpoint(after);
            let clock = Self {
                epoch: middle - wall,
                slept: u64::try_from(middle - monotonic).unwrap_or(0),
            };
            (after - before, clock)
        });
        tries
            .min_by_key(|(took, _)| *took)
            .map_or_else(Self::default, |(_, clock)| clock)
    }

    /// Whether the two differ by more than noise: the clock was set, or the host has slept.
    #[must_use]
    pub fn differs(self, other: Self) -> bool {
        self.epoch.abs_diff(other.epoch) > NOISE || self.slept.abs_diff(other.slept) > NOISE
    }

    /// When a moment comes, in nanoseconds of `CLOCK_BOOTTIME`; never 0, which stands for none.
    pub fn boot_time(self, moment: Moment) -> u64 {
        let time = moment.0.saturating_mul(1_000_000_000);
        u64::try_from(time.saturating_add(self.epoch)).map_or(1, |time| time.max(1))
    }
}

fn read(clock: ClockId) -> i64 {
    clock_gettime(clock).map_or(0, |time| time.tv_sec() * 1_000_000_000 + time.tv_nsec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_of_now_has_come_and_one_of_tomorrow_has_not() {
        let clock = WallClock::now();
        let boot = u64::try_from(read(ClockId::CLOCK_BOOTTIME)).unwrap();
        assert!(clock.boot_time(Moment::now()) <= boot);
        assert!(clock.boot_time(Moment(Moment::now().0 + 86_400)) > boot);
        assert_eq!(clock.boot_time(Moment(0)), 1);
        assert_eq!(clock.boot_time(Moment(i64::MIN)), 1);
    }

    #[test]
    fn only_a_step_is_a_difference() {
        let clock = WallClock {
            epoch: -1_000_000_000,
            slept: 0,
        };
        let with_epoch = |epoch| WallClock { epoch, ..clock };
        assert!(!clock.differs(with_epoch(-1_000_100_000)));
        assert!(clock.differs(with_epoch(-2_000_000_000)));
        assert!(clock.differs(WallClock {
            slept: 1_000_000_000,
            ..clock
        }));
    }
}
