//! Who is behind one port of an address that several workloads share.

use bytemuck::{Pod, Zeroable};

use crate::flow_key::Addr6;

/// Key of the service table. Its value is the identity of whoever listens there.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct ServiceKey {
    /// Network byte order; IPv4 as [`crate::flow_key::mapped`].
    pub address: Addr6,
    /// Host byte order.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Always 0.
    pub pad: u8,
}

const _: () = assert!(size_of::<ServiceKey>() == 20);
