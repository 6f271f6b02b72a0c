//! The verdict on a new flow, written once.
//!
//! All precedence between rules, tiers and modes was resolved by the compiler; what is left
//! is a fixed number of look-ups: the peer's entry (or the wildcard's), then one port entry
//! for each prefix length that the entry's table has.

use bytemuck::{Pod, Zeroable};

use crate::{
    identity,
    policy_key::{ALLOW_ALL, OWN_RULE, PolicyEntry, PolicyKey, PortKey},
    reason::Reason,
};

/// What happens to a flow.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// Let through.
    Allow = 0,
    /// Dropped.
    Deny = 1,
    /// Would have been dropped; let through and reported.
    Audit = 2,
}

impl Action {
    /// From the byte that maps and events carry. An unknown byte denies.
    #[inline(always)]
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Allow,
            2 => Self::Audit,
            _ => Self::Deny,
        }
    }
}

/// An action and who is to answer for it. The value of the port table.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct Decision {
    /// Number of the rule that decided; 0 where [`Reason`] alone says why.
    pub rule: u32,
    /// An [`Action`].
    pub action: u8,
    /// A [`Reason`].
    pub reason: u8,
    /// Bits of [`decision_flag`].
    pub flags: u8,
    /// Always 0.
    pub pad: u8,
}

/// Bits of [`Decision::flags`].
pub mod decision_flag {
    /// Report the flow although it is allowed.
    pub const LOG: u8 = 1;
}

const _: () = assert!(size_of::<Decision>() == 8);

impl Decision {
    /// A decision without flags.
    #[inline(always)]
    pub const fn new(action: Action, reason: Reason, rule: u32) -> Self {
        Self {
            rule,
            action: action as u8,
            reason: reason as u8,
            flags: 0,
            pad: 0,
        }
    }

    /// The action.
    #[inline(always)]
    pub const fn action(self) -> Action {
        Action::from_byte(self.action)
    }

    /// Whether the packet passes.
    #[inline(always)]
    pub const fn passes(self) -> bool {
        !matches!(self.action(), Action::Deny)
    }

    /// The same decision on an endpoint or node in audit mode.
    #[inline(always)]
    #[must_use]
    pub const fn audited(self, audit: bool) -> Self {
        if audit && matches!(self.action(), Action::Deny) {
            Self {
                action: Action::Audit as u8,
                ..self
            }
        } else {
            self
        }
    }
}

/// Where compiled policy is looked up: kernel maps, or an image in user space.
pub trait PolicyLookup {
    /// The entry of the policy table.
    fn policy(&self, key: &PolicyKey) -> Option<PolicyEntry>;
    /// The entry of the port table.
    fn port(&self, key: &PortKey) -> Option<Decision>;
}

/// What is asked about a new flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judge {
    /// The endpoint's policy set in the flow's direction.
    pub set: u32,
    /// Identity of the peer.
    pub peer: u32,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port of the packet that opens the flow, or the ICMP type and code, or 0.
    pub port: u16,
}

impl Judge {
    /// The verdict. At most 2 + 17 look-ups, 2 or 3 for nearly every policy.
    #[inline(always)]
    pub fn decide(&self, lookup: &impl PolicyLookup) -> Decision {
        if self.set == ALLOW_ALL {
            return Decision::new(Action::Allow, Reason::Unrestricted, 0);
        }
        let mut key = PolicyKey {
            set: self.set,
            peer: self.peer,
        };
        let entry = if let Some(entry) = lookup.policy(&key) {
            entry
        } else {
            key.peer = identity::ANY;
            match lookup.policy(&key) {
                Some(entry) => entry,
                // Every set has a wildcard entry: a set without one was never written.
                None => return Decision::new(Action::Deny, Reason::NoPolicy, 0),
            }
        };
        if entry.lengths != 0 {
            let mut length = 17_u8;
            while length > 0 {
                length -= 1;
                if entry.lengths >> length & 1 == 1 {
                    let port = PortKey::covering(entry.table, self.protocol, self.port, length);
                    if let Some(mut decision) = lookup.port(&port) {
                        if decision.rule == OWN_RULE {
                            decision.rule = entry.rule;
                        }
                        return decision;
                    }
                }
            }
        }
        entry.decision
    }
}
