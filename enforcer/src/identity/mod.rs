//! Who somebody is, proven: X.509-SVIDs and what makes them believable, the embedded
//! certificate authority, the SPIFFE Workload API, and attestation, which binds a proof to the
//! endpoint that gave it.

pub mod attest;
pub mod binding;
pub mod bundle;
pub mod ca;
pub mod files;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod material;
pub mod refusal;
pub mod serial;
pub mod spiffe_id;
pub mod svid;
pub mod trust;
pub mod workload_api;
