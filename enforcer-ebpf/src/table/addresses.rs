//! Who is behind an address, and which sources are blocked.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{HashMap, LpmTrie, lpm_trie::Key},
    macros::btf_map,
};
use enforcer_common::{
    address_entry::AddressEntry,
    blocked_entry::BlockedEntry,
    flow_key::{Addr4, Addr6},
    service_key::ServiceKey,
};

#[btf_map]
static ADDRESSES4: HashMap<Addr4, AddressEntry, 1024, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

#[btf_map]
static ADDRESSES6: HashMap<Addr6, AddressEntry, 1024, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

#[btf_map]
static PREFIXES4: LpmTrie<Addr4, AddressEntry, 1024> = LpmTrie::new();

#[btf_map]
static PREFIXES6: LpmTrie<Addr6, AddressEntry, 1024> = LpmTrie::new();

#[btf_map]
static SERVICES: HashMap<ServiceKey, u32, 1024, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

#[btf_map]
static BLOCKED4: LpmTrie<Addr4, BlockedEntry, 1024> = LpmTrie::new();

#[btf_map]
static BLOCKED6: LpmTrie<Addr6, BlockedEntry, 1024> = LpmTrie::new();

/// Exact match.
#[inline(always)]
pub fn address4(address: &Addr4) -> Option<AddressEntry> {
    // SAFETY: copied at once.
    unsafe { ADDRESSES4.get(address) }.copied()
}

/// Exact match.
#[inline(always)]
pub fn address6(address: &Addr6) -> Option<AddressEntry> {
    // SAFETY: copied at once.
    unsafe { ADDRESSES6.get(address) }.copied()
}

/// The identity behind a port of a shared address, or 0.
#[inline(always)]
pub fn service(key: &ServiceKey) -> u32 {
    // SAFETY: copied at once.
    unsafe { SERVICES.get(key) }.copied().unwrap_or(0)
}

/// Longest match.
#[inline(always)]
pub fn prefix4(address: &Addr4) -> Option<AddressEntry> {
    PREFIXES4.get(&Key::new(32, *address)).copied()
}

/// Longest match.
#[inline(always)]
pub fn prefix6(address: &Addr6) -> Option<AddressEntry> {
    PREFIXES6.get(&Key::new(128, *address)).copied()
}

/// Longest match.
#[inline(always)]
pub fn blocked4(address: &Addr4) -> Option<BlockedEntry> {
    BLOCKED4.get(&Key::new(32, *address)).copied()
}

/// Longest match.
#[inline(always)]
pub fn blocked6(address: &Addr6) -> Option<BlockedEntry> {
    BLOCKED6.get(&Key::new(128, *address)).copied()
}
