//! Identity-based network segmentation for Linux, enforced in the kernel.
//!
//! The rooms, and the way data walks through them, are described in ARCHITECTURE.md.

pub mod api;
pub mod cause;
pub mod cli;
pub mod compile;
pub mod daemon;
pub mod datapath;
pub mod inventory;
pub mod kernel_handle;
pub mod lock_holder;
pub mod metrics;
pub mod narrator;
pub mod observe;
pub mod policy;
pub mod reconcile;
pub mod sd_notify;
pub mod settings;
pub mod sink;
pub mod state;
pub mod supervisor;
pub mod watch;
