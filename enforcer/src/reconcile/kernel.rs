//! The kernel's side, as far as the loop needs it.

use std::error::Error;

use crate::datapath::desired::Desired;

/// What takes a desired state and makes it true, all or nothing.
pub trait Kernel: Send + 'static {
    /// Makes `desired` true. On an error what was true before still is.
    fn apply(&mut self, desired: &Desired) -> Result<Applied, Box<dyn Error + Send + Sync>>;
}

/// What became true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Policy generation in force.
    pub generation: u32,
    /// Whether anything was changed.
    pub changed: bool,
}
