//! The probe: a small program that makes and takes traffic inside the lab and says in JSON
//! lines what became of it. Kept apart from the lab so that a test sees the system calls of an
//! ordinary program: a cgroup, a namespace, a process name, sockets.

pub mod churn;
pub mod flow;
pub mod hold;
pub mod link;
pub mod mesh;
pub mod sctp;
pub mod serve;
pub mod workload_api;

use std::io::Write;

use serde::Serialize;

/// Writes a value as one line to standard output. A reader that has gone is nobody's loss.
pub fn tell(value: &impl Serialize) {
    if let Ok(mut line) = serde_json::to_string(value) {
        line.push('\n');
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
    }
}

/// Name of an error number, as in errno(3).
pub fn errno_name(error: &std::io::Error) -> String {
    error.raw_os_error().map_or_else(
        || error.kind().to_string(),
        |number| format!("{:?}", nix::errno::Errno::from_raw(number)),
    )
}
