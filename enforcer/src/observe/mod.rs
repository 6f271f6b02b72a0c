//! From kernel events to flow records.

pub mod record;
