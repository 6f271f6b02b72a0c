//! When the wall clock is set.

use std::{future::pending, io, os::fd::OwnedFd};

use nix::{
    errno::Errno,
    sys::{
        time::TimeSpec,
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
    unistd::read,
};
use tokio::io::{Interest, unix::AsyncFd};
use tracing::warn;

/// Tells each time that the wall clock was set, also by waking from sleep.
#[derive(Debug)]
pub(super) struct ClockSteps(Option<AsyncFd<OwnedFd>>);

/// A second of the Unix epoch that no daemon lives to see, in the year 2255.
const NEVER: i64 = 9_000_000_000;

impl ClockSteps {
    /// Where the kernel cannot tell, nothing ever happens: the clock is looked at while a
    /// boundary is awaited anyway.
    pub fn new() -> Self {
        let timer = timer().inspect_err(|error| {
            warn!(
                %error,
                "that the clock is set is noticed late: the kernel does not tell of it"
            );
        });
        Self(timer.ok())
    }

    /// Waits for the next time.
    pub async fn next(&self) {
        let Some(timer) = &self.0 else {
            return pending().await;
        };
        loop {
            let Ok(mut ready) = timer.readable().await else {
                return pending().await;
            };
            // The read takes the news; the timer stays armed.
            let read = ready.try_io(|timer| match read(timer.get_ref(), &mut [0; 8]) {
                Err(Errno::EAGAIN) => Err(io::ErrorKind::WouldBlock.into()),
                _ => Ok(()),
            });
            if read.is_ok() {
                return;
            }
        }
    }
}

/// A timer that is cancelled when the clock is set, and stays armed.
fn timer() -> io::Result<AsyncFd<OwnedFd>> {
    let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
    let timer = TimerFd::new(ClockId::CLOCK_REALTIME, flags)?;
    timer.set(
        Expiration::OneShot(TimeSpec::new(NEVER, 0)),
        TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET,
    )?;
    in_reactor(timer.into())
}

#[expect(unsafe_code, reason = "the reactor takes descriptors on trust")]
fn in_reactor(timer: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: a timer's descriptor, which is this object's own and stays the same.
    let registered = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) };
    registered.map_err(Into::into)
}
