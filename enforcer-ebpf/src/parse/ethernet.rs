//! Ethernet and VLAN tags.

use enforcer_common::Reason;

use crate::parse::frame::{Frame, Skb};

/// What a frame carries.
pub enum Payload {
    /// IPv4 at this offset.
    Ip4(u32),
    /// IPv6 at this offset.
    Ip6(u32),
    /// Anything else (ARP, LLDP, …).
    Other,
}

/// Ether type of IPv4.
pub const IP4: u16 = 0x0800;
/// Ether type of IPv6.
pub const IP6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;

/// Length of the header without tags.
pub const HEADER: u32 = 14;

/// Finds the network header of a socket buffer, whose context knows the type of a frame
/// without tags (or with tags that the device took out).
#[inline(always)]
pub fn payload_of(skb: &Skb) -> Result<Payload, Reason> {
    // SAFETY: the context of the program.
    match u16::from_be(unsafe { (*skb.0).protocol } as u16) {
        IP4 => Ok(Payload::Ip4(HEADER)),
        IP6 => Ok(Payload::Ip6(HEADER)),
        VLAN | SERVICE_VLAN => payload(skb),
        _ => Ok(Payload::Other),
    }
}

/// Finds the network header behind at most two tags that the device left in the frame.
#[inline(always)]
pub fn payload(frame: &impl Frame) -> Result<Payload, Reason> {
    let mut offset = HEADER;
    let mut kind = u16::from_be_bytes(frame.load::<[u8; 2]>(12)?);
    let mut tags = 0;
    while tags < 2 && (kind == VLAN || kind == SERVICE_VLAN) {
        kind = u16::from_be_bytes(frame.load::<[u8; 2]>(offset + 2)?);
        offset += 4;
        tags += 1;
    }
    Ok(match kind {
        // What is behind more tags would pass unseen.
        VLAN | SERVICE_VLAN => return Err(Reason::ExtensionHeaders),
        IP4 => Payload::Ip4(offset),
        IP6 => Payload::Ip6(offset),
        _ => Payload::Other,
    })
}
