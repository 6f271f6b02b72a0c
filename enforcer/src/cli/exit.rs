//! What the exit codes of `enforcer` mean.

use std::process::ExitCode;

/// How a command ended. The numbers are part of the command line's interface
/// (docs/operations.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, or the answer is yes.
    Done = 0,
    /// Refused or failed, or the answer is no (`check` found errors, a test
    /// failed, `explain` says deny).
    Refuse = 1,
    /// The command line is wrong. (clap uses the same number.)
    Usage = 2,
    /// The daemon cannot be reached at its control socket.
    Unreachable = 3,
    /// What was waited for did not come in time.
    Timeout = 4,
    /// Two things are not the same: `diff` found a difference, `simulate` a flow that passed
    /// and would be denied.
    Differ = 5,
    /// Done, but not all of it: `import` left something out, or it means something else now.
    Partial = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
