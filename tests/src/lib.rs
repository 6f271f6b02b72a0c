//! The lab, the reference model, and every test that needs a kernel.

pub mod bench;
pub mod demo;
pub mod frames;
pub mod fuzz;
pub mod generate;
pub mod lab;
pub mod model;
pub mod mutate;
pub mod packet;
pub mod probe;
pub mod test_run;
