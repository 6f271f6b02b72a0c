//! Takes the daemon's capabilities away from a program before it starts.

use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};
use tokio::process::Command;

/// The program, and all that it starts, run without any capability, also as root: they may read
/// and write what is the user's own, and nothing else.
pub(super) fn without_capabilities(command: &mut Command) {
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
            Ok(())
        });
    }
}
