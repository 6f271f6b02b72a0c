//! Lines for whoever debugs the programs, from slow paths only. They are there with the feature
//! `log`, which no default build has; without it every function here is nothing.
//!
//! Numbers are those of `enforcer_common`: [`enforcer_common::Reason`], [`enforcer_common::Loss`],
//! [`enforcer_common::flow_key::space`].
//!
//! Each line is a global function, with scalars as arguments: the verifier proves it once, and
//! what it needs of the stack is free again when it returns.

/// A frame or packet that is refused for itself (or only reported).
#[inline(always)]
pub fn malformed(ifindex: u32, space: u8, reason: u8) {
    #[cfg(feature = "log")]
    line::narrate_malformed(ifindex, u32::from(space), u32::from(reason));
    #[cfg(not(feature = "log"))]
    let _ = (ifindex, space, reason);
}

/// A packet where no endpoint is (any more): it passes without being judged.
#[inline(always)]
pub fn no_endpoint(ifindex: u32, cgroup: u64, space: u8) {
    #[cfg(feature = "log")]
    line::narrate_no_endpoint(ifindex, cgroup, u32::from(space));
    #[cfg(not(feature = "log"))]
    let _ = (ifindex, cgroup, space);
}

/// Something found no room, or was not reported: a [`enforcer_common::Loss`].
#[inline(always)]
pub fn loss(loss: u32) {
    #[cfg(feature = "log")]
    line::narrate_loss(loss);
    #[cfg(not(feature = "log"))]
    let _ = loss;
}

#[cfg(feature = "log")]
mod line {
    use aya_log_ebpf::{info, warn};

    #[unsafe(no_mangle)]
    #[inline(never)]
    pub extern "C" fn narrate_malformed(ifindex: u32, space: u32, reason: u32) -> u32 {
        info!(
            (),
            "malformed: interface {}, space {}, reason {}", ifindex, space, reason
        );
        0
    }

    #[unsafe(no_mangle)]
    #[inline(never)]
    pub extern "C" fn narrate_no_endpoint(ifindex: u32, cgroup: u64, space: u32) -> u32 {
        info!(
            (),
            "no endpoint: interface {}, cgroup {}, space {}", ifindex, cgroup, space
        );
        0
    }

    #[unsafe(no_mangle)]
    #[inline(never)]
    pub extern "C" fn narrate_loss(loss: u32) -> u32 {
        warn!((), "no room, or not reported: loss {}", loss);
        0
    }
}
