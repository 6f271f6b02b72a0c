//! What both sides of the kernel border share: the bytes of every map key, map value and
//! event, and the pure logic that decides verdicts and tracks connections.
//!
//! Nothing here allocates or needs `std`. A file whose name ends in `_key` or `_entry` is
//! bytes; `verdict` and `conntrack` are meaning, run unchanged by the kernel programs, by
//! `explain` and by the tests.
#![no_std]
#![deny(unsafe_code)]
#![expect(
    clippy::inline_always,
    clippy::match_same_arms,
    reason = "functions that are not inlined cost the kernel programs stack and verification; \
              tables of numbers are read by row"
)]

pub mod abi;
pub mod address_entry;
pub mod blocked_entry;
pub mod clock;
pub mod config;
pub mod conntrack;
pub mod counter;
pub mod denied_entry;
pub mod endpoint_entry;
pub mod event;
pub mod flow_key;
pub mod policy_key;
pub mod reason;
pub mod refused_packet;
pub mod service_key;
pub mod socket_entry;
pub mod verdict;

pub use flow_key::{Direction, Protocol};
pub use reason::{Loss, Reason};
pub use verdict::{Action, Decision, Judge, PolicyLookup};

/// Number of an identity on this node. Numbers below [`identity::FIRST`] are reserved.
pub mod identity {
    /// No identity: the wildcard peer in policy look-ups.
    pub const ANY: u32 = 0;
    /// A process of this host that belongs to no enrolled workload.
    pub const HOST: u32 = 1;
    /// An address that belongs to no known workload, prefix or host.
    pub const WORLD: u32 = 2;
    /// The first number given to a label set.
    pub const FIRST: u32 = 256;
}
