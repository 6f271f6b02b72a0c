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
        // SAFETY: copied at once; only user space writes, and sets in use are never rewritten.
        unsafe { POLICIES.get(key) }.copied()
    }

    #[inline(always)]
    fn port(&self, key: &PortKey) -> Option<Decision> {
        // SAFETY: as above.
        unsafe { PORTS.get(key) }.copied()
    }
}

/// The verdict. One copy of the code for all programs and address families.
#[inline(never)]
pub fn decide(judge: &Judge, decision: &mut Decision) -> u32 {
    *decision = judge.decide(&Maps);
    0
}
