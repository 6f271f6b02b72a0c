//! The lab, the reference model, and every test that needs a kernel.

pub mod lab;
pub mod probe;
