//! Exact counters, per CPU.

use bytemuck::{Pod, Zeroable};

use crate::{flow_key::Direction, reason::Reason, verdict::Action};

/// Packets and bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Counter {
    /// Packets (for the socket hooks: calls).
    pub packets: u64,
    /// Bytes as the hook saw them.
    pub bytes: u64,
}

/// Index into the table of verdicts: reason, action, direction.
#[inline(always)]
pub const fn verdict_slot(reason: u8, action: Action, direction: Direction) -> u32 {
    (reason as u32 & 0x1f) << 3 | (action as u32) << 1 | direction as u32
}

/// Size of the table of verdicts.
pub const VERDICT_SLOTS: u32 = 32 << 3;

const _: () = assert!(Reason::COUNT <= 32);
