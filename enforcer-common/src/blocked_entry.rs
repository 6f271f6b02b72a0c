//! Sources that XDP drops before the kernel allocates anything.

use bytemuck::{Pod, Zeroable};

/// Value of the tables of blocked prefixes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct BlockedEntry {
    /// Number of the rule that blocks the prefix.
    pub rule: u32,
    /// 1: report and let through.
    pub audit: u32,
}
