//! The maps, one file for each group that belongs together.

pub mod addresses;
pub mod clock;
pub mod config;
pub mod counters;
pub mod denied;
pub mod endpoints;
pub mod flows;
pub mod fragments;
pub mod policy;
pub mod refusals;
pub mod sockets;
