//! Compiled policy.

use aya_ebpf::{bindings::BPF_F_NO_PREALLOC, btf_maps::HashMap, macros::btf_map};
use enforcer_common::{
    Decision, Judge, PolicyLookup,
    policy_key::{PolicyEntry, PolicyKey, PortKey},
};

#[btf_map]
static POLICIES: HashMap<PolicyKey, PolicyEntry, 1024, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

#[btf_map]
static PORTS: HashMap<PortKey, Decision, 1024, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

struct Maps;

impl PolicyLookup for Maps {
    #[inline(always)]
    fn policy(&self, key: &PolicyKey) -> Option<PolicyEntry> {
        // SAFETY: copied at once; an update puts a new entry in the place of the old one, which
        // lives on until no program reads it (the map is not preallocated).
        unsafe { POLICIES.get(key) }.copied()
    }

    #[inline(always)]
    fn port(&self, key: &PortKey) -> Option<Decision> {
        // SAFETY: as above.
        unsafe { PORTS.get(key) }.copied()
    }
}

/// The verdict. A global function: the verifier proves it once, by itself, for any arguments,
/// and not again on every path that leads to a call. Scalars in, the bytes of a [`Decision`]
/// out.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn decide_global(set: u32, peer: u32, protocol: u32, port: u32) -> u64 {
    let judge = Judge {
        set,
        peer,
        protocol: protocol as u8,
        port: port as u16,
    };
    let decision = judge.decide(&Maps);
    u64::from(decision.rule)
        | u64::from(decision.action) << 32
        | u64::from(decision.reason) << 40
        | u64::from(decision.flags) << 48
}

/// The verdict.
#[inline(always)]
pub fn decide(judge: &Judge) -> Decision {
    let bits = decide_global(
        judge.set,
        judge.peer,
        u32::from(judge.protocol),
        u32::from(judge.port),
    );
    Decision {
        rule: bits as u32,
        action: (bits >> 32) as u8,
        reason: (bits >> 40) as u8,
        flags: (bits >> 48) as u8,
        pad: 0,
    }
}
