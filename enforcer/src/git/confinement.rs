//! Bounds of a program that reads what others sent, set before it starts.

use nix::sys::resource::{Resource, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};
use tokio::process::Command;

/// Memory of each process, in bytes: a remote that never stops sending must not use up what the
/// unit of the daemon may take.
const MEMORY: u64 = 512 << 20;

/// The program, and all that it starts, run without any capability, also as root: they may read
/// and write what is the user's own, and nothing else. Each takes at most [`MEMORY`].
pub(super) fn confine(command: &mut Command) {
    // SAFETY: between fork and exec only system calls are made, on values of the stack: nothing
    // is allocated, and no lock is taken that another thread may have held.
    unsafe {
        command.pre_exec(|| {
            // Without it, exec gives root all capabilities back.
            set_no_new_privs(true)?;
            set_capabilities(
                None,
                CapabilitySets {
                    effective: CapabilitySet::empty(),
                    permitted: CapabilitySet::empty(),
                    inheritable: CapabilitySet::empty(),
                },
            )?;
            setrlimit(Resource::RLIMIT_DATA, MEMORY, MEMORY)?;
            setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
            Ok(())
        });
    }
}

/// No file that the program writes becomes larger, in bytes.
pub(super) fn limit_files(command: &mut Command, bytes: u64) {
    // SAFETY: as above.
    unsafe {
        command.pre_exec(move || Ok(setrlimit(Resource::RLIMIT_FSIZE, bytes, bytes)?));
    }
}
