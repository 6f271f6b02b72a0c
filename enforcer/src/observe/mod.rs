//! From kernel events to flow records: decode, enrich, keep, hand on.

pub mod accounts;
pub mod clock;
pub mod commits;
pub mod context;
pub mod decode;
pub mod enrich;
pub mod filter;
pub mod history;
mod names_elsewhere;
pub mod names_here;
pub mod patterns;
pub mod pipeline;
pub mod process;
pub mod record;

#[cfg(test)]
pub(crate) mod fixtures;
