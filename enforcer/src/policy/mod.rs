//! From files to resolved policy.

pub mod model;
