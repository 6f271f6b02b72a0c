//! What the loop can be asked for.

use tokio::sync::oneshot;

use crate::api::{
    problem::Problem,
    request::{ApplyAnswer, ApplyRequest, ConfirmAnswer},
};

/// Where the answer goes. The one who asked may have gone away.
pub type Reply<T> = oneshot::Sender<Result<T, Problem>>;

/// A wish.
#[derive(Debug)]
pub enum Command {
    /// Read the tree again, change the mode, start a trial.
    Apply(ApplyRequest, Reply<ApplyAnswer>),
    /// Keep what is on trial.
    Confirm(Reply<ConfirmAnswer>),
    /// Read the tree again, as the service manager asks for (SIGHUP).
    Reload,
    /// Read the tree again; answered when it is in force or refused.
    Refresh(oneshot::Sender<()>),
}
