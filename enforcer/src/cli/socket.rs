//! Reaching the daemon from a command.

use std::{future::Future, io, path::PathBuf};

use clap::Args;

use crate::api::{DEFAULT_SOCKET, client::Client};

/// Where the daemon listens.
#[derive(Clone, Debug, Args)]
pub struct SocketArg {
    /// Control socket of the daemon.
    #[arg(
        long,
        value_name = "PATH",
        default_value = DEFAULT_SOCKET,
        env = "ENFORCER_SOCKET", hide_env_values = true
    )]
    pub socket: PathBuf,
}

impl SocketArg {
    /// A client for the daemon there.
    pub fn client(&self) -> Client {
        Client::new(&self.socket)
    }
}

/// Runs `future` to its end on this thread.
pub fn block_on<F: Future>(future: F) -> io::Result<F::Output> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(future))
}
