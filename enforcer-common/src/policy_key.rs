//! Compiled policy: a policy set by peer, and port tables that peers share.

use bytemuck::{Pod, Zeroable};

use crate::verdict::Decision;

/// The policy set of an endpoint and direction that no policy and no default restricts:
/// nothing is looked up.
pub const ALLOW_ALL: u32 = 0;

/// In the decisions of port tables: the rule is [`PolicyEntry::rule`]. So peers that are allowed
/// the same ports by rules of their own share one port table.
pub const OWN_RULE: u32 = u32::MAX;

/// Key of the policy table.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct PolicyKey {
    /// Number of the policy set. A set belongs to one direction.
    pub set: u32,
    /// Identity of the peer, or [`crate::identity::ANY`] for every identity that has no
    /// entry of its own in the set.
    pub peer: u32,
}

/// What a policy set says of one peer.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct PolicyEntry {
    /// For what the port table does not name.
    pub decision: Decision,
    /// Number of the port table; used only where `lengths` is not 0.
    pub table: u32,
    /// Bit n is set when the port table has entries of prefix length n (0 to 16). Entries of
    /// a table are disjoint, so at most one of the look-ups can hit.
    pub lengths: u32,
    /// The rule that the port table names by [`OWN_RULE`], or 0.
    pub rule: u32,
}

/// Key of the port table: the `length` leading bits of `port`, the others 0.
///
/// For ICMP and ICMPv6 the port is [`crate::flow_key::icmp_port`]: type alone is length 8.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct PortKey {
    /// Number of the port table.
    pub table: u32,
    /// IP protocol number.
    pub protocol: u8,
    /// Prefix length in bits, 0 (every port) to 16 (one port).
    pub length: u8,
    /// Host byte order, masked.
    pub port: u16,
}

impl PortKey {
    /// The key that covers `port` at prefix length `length` (at most 16).
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the lower half is what is wanted"
    )]
    pub const fn covering(table: u32, protocol: u8, port: u16, length: u8) -> Self {
        let mask = (0xffff_0000_u32 >> length) as u16;
        Self {
            table,
            protocol,
            length,
            port: port & mask,
        }
    }
}

const _: () = assert!(size_of::<PolicyKey>() == 8);
const _: () = assert!(size_of::<PolicyEntry>() == 20);
const _: () = assert!(size_of::<PortKey>() == 8);
