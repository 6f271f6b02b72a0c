//! Where flow records and security events go when they leave the daemon. Each sink has a bounded
//! queue and a thread of its own: a carrier that is slow or broken costs records, counted by
//! cause, and never holds up anything else.

pub mod entry;
pub mod file;
pub mod lines;
pub mod queue;
pub mod stdout;

pub use entry::Entry;
pub use queue::{SinkInlet, SinkQueue, SinkStats};

/// Why records could not be handed over (yet).
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct SinkError {
    what: String,
    source: std::io::Error,
}

impl SinkError {
    /// `what` failed.
    pub fn new(what: impl Into<String>, source: std::io::Error) -> Self {
        Self {
            what: what.into(),
            source,
        }
    }
}

/// A carrier of records. It may block: it runs in a thread of its own.
pub trait Sink: Send {
    /// Takes a record over. It may be buffered until [`Sink::flush`]. Called once for each
    /// record, and only after a `flush` that succeeded if the one before failed.
    fn take(&mut self, record: &Entry);

    /// Hands over everything that was taken. After an error, what was not handed over is kept
    /// and the next call goes on with it.
    fn flush(&mut self) -> Result<(), SinkError>;

    /// Bytes that were taken and not handed over: the queue stops taking at a limit.
    fn pending(&self) -> usize;
}
