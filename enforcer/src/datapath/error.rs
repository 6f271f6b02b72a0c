//! What can go wrong between user space and the kernel.

use std::{io, path::PathBuf};

use thiserror::Error;

use super::table::TableError;

/// The datapath cannot be opened, read or removed.
#[derive(Debug, Error)]
pub enum DatapathError {
    /// Another daemon holds the pins.
    #[error(
        "{path} is in use by another enforcer; stop that one, or give this one its own --pin-dir"
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The directory is not on a bpffs.
    #[error(
        "{path} is not on a bpffs; mount one (`mount -t bpf bpf /sys/fs/bpf`) or choose another \
         --pin-dir"
    )]
    NotBpffs {
        /// The directory.
        path: PathBuf,
    },
    /// A file operation.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The object with the programs.
    #[error(
        "cannot load the kernel programs; they need Linux 5.15 or later, CAP_BPF and CAP_NET_ADMIN"
    )]
    Load(#[source] Box<aya::EbpfError>),
    /// One program.
    #[error("the kernel refuses the program {name}")]
    Program {
        /// Its name.
        name: &'static str,
        /// Why.
        source: Box<aya::programs::ProgramError>,
    },
    /// Attaching.
    #[error("cannot attach {name} to {target}")]
    Attach {
        /// The program.
        name: &'static str,
        /// The interface or cgroup.
        target: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A map that the object should have.
    #[error("the object with the kernel programs has no {name}: it was built from other source")]
    Missing {
        /// The map or program.
        name: &'static str,
    },
    /// A map operation.
    #[error(transparent)]
    Table(#[from] TableError),
}

/// A change was refused; what was in force before still is.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// More than fits.
    #[error("{needed} {what}, but there is room for {capacity}; raise {setting}")]
    TooMany {
        /// What.
        what: &'static str,
        /// How many.
        needed: usize,
        /// How many fit.
        capacity: usize,
        /// The setting to raise.
        setting: &'static str,
    },
    /// A map operation.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Attaching to an interface.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
}
