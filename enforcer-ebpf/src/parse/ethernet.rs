//! Ethernet and VLAN tags.

use enforcer_common::Reason;

use crate::parse::frame::Frame;

/// What a frame carries.
pub enum Payload {
    /// IPv4 at this offset.
    Ip4(u32),
    /// IPv6 at this offset.
    Ip6(u32),
    /// Anything else (ARP, LLDP, …).
    Other,
}

const IP4: u16 = 0x0800;
const IP6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;

/// Finds the network header behind at most two tags that the device left in the frame.
#[inline(always)]
pub fn payload(frame: &impl Frame) -> Result<Payload, Reason> {
    let mut offset = 14;
    let mut kind = u16::from_be_bytes(frame.load::<[u8; 2]>(12)?);
    let mut tags = 0;
    while tags < 2 && (kind == VLAN || kind == SERVICE_VLAN) {
        kind = u16::from_be_bytes(frame.load::<[u8; 2]>(offset + 2)?);
        offset += 4;
        tags += 1;
    }
    Ok(match kind {
        IP4 => Payload::Ip4(offset),
        IP6 => Payload::Ip6(offset),
        _ => Payload::Other,
    })
}
