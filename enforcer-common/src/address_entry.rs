//! Who is behind an address or a prefix.

use bytemuck::{Pod, Zeroable};

/// Value of the address and prefix tables.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct AddressEntry {
    /// Identity of whoever uses the address.
    pub identity: u32,
    /// Number of the interface endpoint on this node that owns the address, or 0.
    pub endpoint: u32,
    /// Bits of [`address_flag`].
    pub flags: u32,
}

/// Bits of [`AddressEntry::flags`].
pub mod address_flag {
    /// An address of this host itself: sockets tell more than the address does.
    pub const LOCAL: u32 = 1;
    /// Nobody's: policy names a prefix around the address, and no workload declares it. Whoever
    /// has no addresses of its own may use it as a source.
    pub const WORLD: u32 = 2;
    /// Workloads share it: who is the destination of a flow, its port may tell
    /// ([`crate::service_key::ServiceKey`]).
    pub const SHARED: u32 = 4;
    /// Of a workload behind an interface of this host whose packets come in by no uplink: one that
    /// does is not its own.
    pub const INSIDE: u32 = 8;
}

const _: () = assert!(size_of::<AddressEntry>() == 12);
