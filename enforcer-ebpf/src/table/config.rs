//! What holds for the whole node.

use aya_ebpf::{btf_maps::Array, helpers::generated::bpf_ktime_get_boot_ns, macros::btf_map};
use enforcer_common::{Direction, config::Config};

#[btf_map]
static CONFIG: Array<Config, 1> = Array::new();

/// The node's configuration.
#[inline(always)]
pub fn config() -> Option<&'static Config> {
    CONFIG.get(0)
}

/// How many of [`Config::moments`] have passed now. Where there are none, nobody pays for a clock.
#[inline(never)]
pub fn passed(config: &Config) -> u32 {
    if config.moments[0] == 0 {
        return 0;
    }
    // SAFETY: the helper has no preconditions.
    u32::from(config.passed(unsafe { bpf_ktime_get_boot_ns() }))
}

/// The generation now (nanoseconds of the monotonic clock). Where nothing is ahead it costs one
/// comparison. `again`: it was asked for the same flow within this second; then the monotonic
/// clock tells well enough whether the first moment has come, because the host has not slept.
#[inline(always)]
pub fn generation(config: &Config, now: u64, again: bool) -> u32 {
    if config.moments[0] == 0 || again && now.wrapping_add(config.slept) < config.moments[0] {
        return config.generation;
    }
    config.generation_after(passed(config) as u8)
}

/// Whether the port is one that no policy can close on the host endpoint: 1 or 0. A global
/// function (see [`crate::table::policy`]): the verifier walks the loop once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn failsafe_global(protocol: u32, port: u32, direction: u32) -> u32 {
    let Some(config) = config() else { return 0 };
    let mut index = 0;
    while index < config.failsafe.len() {
        let entry = &config.failsafe[index];
        if u32::from(entry.port) == port
            && u32::from(entry.protocol) == protocol
            && u32::from(entry.direction) == direction
            && (index as u32) < config.failsafe_count
        {
            return 1;
        }
        index += 1;
    }
    0
}

/// Whether the port is one that no policy can close on the host endpoint.
#[inline(always)]
pub fn is_failsafe(protocol: u8, port: u16, direction: Direction) -> bool {
    failsafe_global(u32::from(protocol), u32::from(port), direction as u32) == 1
}
