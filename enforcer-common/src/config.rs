//! What holds for the whole node. One entry, read by every program.

use bytemuck::{Pod, Zeroable};

/// Value of the configuration table.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Config {
    /// Generation of the policy in force. Raised after every change, so that every cached
    /// decision is judged again at its next packet.
    pub generation: u32,
    /// Bits of [`config_flag`].
    pub flags: u32,
    /// The moments ahead at which some endpoint's sets change by themselves, ascending, in
    /// nanoseconds since the host's start, sleep included (`CLOCK_BOOTTIME`); unused ones are
    /// zero and stand last.
    pub moments: [u64; MOMENTS],
    /// Nanoseconds that the host had slept until this was written: what the moments' clock is
    /// ahead of the monotonic one.
    pub slept: u64,
    /// Entries in the prefix tables, IPv4 and IPv6: an empty trie is not asked.
    pub prefixes: [u32; 2],
    /// Entries in the tables of blocked prefixes, IPv4 and IPv6.
    pub blocked: [u32; 2],
    /// First reports a second that each CPU may send.
    pub report_limit: u32,
    /// Refused packets a second that each CPU hands over to be answered.
    pub reject_limit: u32,
    /// Always 0.
    pub pad: u32,
    /// How many of `failsafe` are in use.
    pub failsafe_count: u32,
    /// Ports that are always open on the host endpoint.
    pub failsafe: [FailsafePort; FAILSAFE_PORTS],
}

impl Config {
    /// How many of the moments have passed at a time of their clock.
    #[inline(always)]
    pub const fn passed(&self, time: u64) -> u8 {
        let mut passed = 0_u8;
        while (passed as usize) < MOMENTS {
            let moment = self.moments[passed as usize];
            if moment == 0 || moment > time {
                break;
            }
            passed += 1;
        }
        passed
    }

    /// The last moment of those that have passed; 0 for none.
    #[inline(always)]
    pub const fn last_moment(&self, passed: u8) -> u64 {
        if passed == 0 {
            0
        } else {
            // Masked, because that is what the verifier understands.
            self.moments[(passed as usize - 1) & (MOMENTS - 1)]
        }
    }

    /// The generation of decisions: every moment that has passed raises it by one. A change
    /// raises it by more than there were moments, so that no two states ever have one generation.
    #[inline(always)]
    pub const fn generation_after(&self, passed: u8) -> u32 {
        self.generation.wrapping_add(passed as u32)
    }

    /// The generation after the next change; never 0, which means "none yet".
    pub fn next_generation(&self) -> u32 {
        let raised = self.generation_after(self.passed(u64::MAX));
        raised.wrapping_add(1).max(1)
    }
}

/// How many moments ahead the kernel knows: a power of two.
pub const MOMENTS: usize = 8;

const _: () = assert!(MOMENTS.is_power_of_two());

/// The largest number of failsafe ports.
pub const FAILSAFE_PORTS: usize = 16;

/// A port that is always open on the host endpoint.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct FailsafePort {
    /// Host byte order.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// A [`crate::Direction`]: ingress is a service of this host, egress one that it needs.
    pub direction: u8,
}

/// Bits of [`Config::flags`].
pub mod config_flag {
    /// Report allowed flows too.
    pub const REPORT_ALLOWED: u32 = 1;
    /// A full flow table refuses new flows. Without it they are judged packet by packet.
    pub const FULL_DENIES: u32 = 2;
    /// Frames, fragments and blocked sources that would be dropped are only reported,
    /// wherever no endpoint says so itself.
    pub const AUDIT: u32 = 4;
    /// A cgroup below [`crate::endpoint_entry::endpoint_flag::PENDING_CHILDREN`] that is not
    /// classified yet may not talk.
    pub const UNKNOWN_DENIES: u32 = 8;
    /// XDP is not attached: blocked sources are dropped at TC on the uplinks.
    pub const BLOCK_AT_TC: u32 = 16;
    /// The cgroup hooks are not attached: the host endpoint's sockets are judged at TC too.
    pub const SOCKETS_AT_TC: u32 = 32;
    /// The host endpoint has a policy: sockets of no workload are judged by it.
    pub const HOST_RESTRICTED: u32 = 64;
    /// Who opens a flow that is denied is told. Without it, denied packets are dropped in silence.
    pub const REJECT: u32 = 128;
    /// There are endpoints at interfaces. Their programs ask which cgroup a socket of this host
    /// belongs to, and are told by its storage: each socket has one from its first packet on.
    pub const ASKS_SOCKETS: u32 = 256;
}

const _: () = assert!(size_of::<Config>() == 48 + 8 * MOMENTS + 4 * FAILSAFE_PORTS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_moment_that_passes_is_a_generation_of_its_own() {
        let mut config: Config = Zeroable::zeroed();
        config.generation = 7;
        assert_eq!((config.passed(u64::MAX), config.last_moment(0)), (0, 0));
        assert_eq!(config.next_generation(), 8);
        config.moments[..2].copy_from_slice(&[100, 200]);
        let passed = [0, 99, 100, 199, 200, u64::MAX].map(|time| config.passed(time));
        assert_eq!(passed, [0, 0, 1, 1, 2, 2]);
        assert_eq!(
            passed.map(|n| config.generation_after(n)),
            [7, 7, 8, 8, 9, 9]
        );
        assert_eq!(
            passed.map(|n| config.last_moment(n)),
            [0, 0, 100, 100, 200, 200]
        );
        assert_eq!(config.next_generation(), 10);
        config.generation = u32::MAX - 2;
        assert_eq!(config.next_generation(), 1);
    }
}
