//! Frames for test runs, byte by byte where a library would refuse to write them.

use std::net::IpAddr;

/// Ethernet header with this type.
pub fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    frame.extend(kind.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A whole frame of either family. Checksums are 0: no program asks for them.
pub fn ip(from: IpAddr, to: IpAddr, protocol: u8, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let [high, low] = length(20 + payload.len());
            let mut packet = vec![0x45, 0, high, low, 0, 0, 0, 0];
            packet.extend([hop_limit, protocol, 0, 0]);
            packet.extend(from.octets());
            packet.extend(to.octets());
            packet.extend(payload);
            ethernet(0x0800, &packet)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let [high, low] = length(payload.len());
            let mut packet = vec![0x60, 0, 0, 0, high, low];
            packet.extend([protocol, hop_limit]);
            packet.extend(from.octets());
            packet.extend(to.octets());
            packet.extend(payload);
            ethernet(0x86dd, &packet)
        }
        _ => panic!("two address families in one packet"),
    }
}

fn length(of: usize) -> [u8; 2] {
    u16::try_from(of)
        .expect("a payload that fits")
        .to_be_bytes()
}

/// A TCP header.
pub fn tcp(from: u16, to: u16, flags: u8) -> Vec<u8> {
    let mut header = [from.to_be_bytes(), to.to_be_bytes()].concat();
    header.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0, 0, 0, 0, 0]);
    header
}

/// A UDP datagram.
pub fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let length = length(8 + payload.len());
    let mut datagram = [from.to_be_bytes(), to.to_be_bytes(), length].concat();
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

/// An SCTP packet with one INIT chunk of no content.
pub fn sctp(from: u16, to: u16) -> Vec<u8> {
    let mut packet = [from.to_be_bytes(), to.to_be_bytes()].concat();
    packet.extend([0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 4]);
    packet
}

/// An ICMP or ICMPv6 message: type and code in one number, the identifier of an echo, and what
/// follows the header.
pub fn icmp(kind: u16, id: u16, payload: &[u8]) -> Vec<u8> {
    let mut message = kind.to_be_bytes().to_vec();
    message.extend([0, 0]);
    message.extend(id.to_be_bytes());
    message.extend([0, 1]);
    message.extend(payload);
    message
}
