//! From a context to the pipeline, and back to an action.

pub mod block;
pub mod call;
pub mod cgroup;
pub mod interface;
mod outright;
