//! A git repository as the source of policy.
//!
//! The `git` program fetches (it knows ssh, TLS, credentials and proxies) into a bare mirror in
//! the state directory, under an environment of our own. A new commit is looked at in this
//! order: does it follow the one in force ([`judge`]), is it signed as demanded ([`signature`]),
//! can its tree be read ([`listing`]). Only then is it checked out beside the old one, and a
//! link swapped ([`checkout`]); from there on it is a policy tree like any other.
//!
//! What outsiders have a say in is read by [`remote`], [`listing`], [`commit_object`],
//! [`signature`] and [`program::classify`]; all of them take any bytes.

pub mod checkout;
pub mod commit_object;
mod confinement;
pub mod follow;
pub mod judge;
pub mod known;
pub mod listing;
pub mod mirror;
pub mod program;
pub mod remote;
pub mod settings;
pub mod signature;
pub mod signers;
pub mod webhook;
