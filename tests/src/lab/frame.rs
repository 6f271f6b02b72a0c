//! Whole frames, for what no socket sends.

use std::net::IpAddr;

use anyhow::Result;
use etherparse::{
    EtherType, Ethernet2Header, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, TcpHeader,
    UdpHeader,
};

use super::Namespace;

/// Where frames of a host enter its link and who takes them next.
#[derive(Clone, Copy, Debug)]
pub struct Hop {
    /// Hardware address of the sender.
    pub source: [u8; 6],
    /// Hardware address of the next hop.
    pub destination: [u8; 6],
}

impl Hop {
    /// From one end of a cable to the other.
    pub fn between(from: (&Namespace, &str), to: (&Namespace, &str)) -> Result<Self> {
        Ok(Self {
            source: from.0.mac(from.1)?,
            destination: to.0.mac(to.1)?,
        })
    }

    /// A frame with this Ethernet type.
    pub fn frame(&self, ether_type: EtherType, payload: &[u8]) -> Vec<u8> {
        let header = Ethernet2Header {
            source: self.source,
            destination: self.destination,
            ether_type,
        };
        [&header.to_bytes()[..], payload].concat()
    }

    /// A frame with an IP packet of any protocol.
    pub fn ip(&self, from: IpAddr, to: IpAddr, protocol: IpNumber, payload: &[u8]) -> Vec<u8> {
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let length = u16::try_from(payload.len()).expect("a payload that fits");
                let header = Ipv4Header::new(length, 64, protocol, from.octets(), to.octets())
                    .expect("a payload that fits");
                self.v4(&header, payload)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let header = Ipv6Header {
                    traffic_class: 0,
                    flow_label: Ipv6FlowLabel::ZERO,
                    payload_length: u16::try_from(payload.len()).expect("a payload that fits"),
                    next_header: protocol,
                    hop_limit: 64,
                    source: from.octets(),
                    destination: to.octets(),
                };
                self.v6(&header, payload)
            }
            _ => panic!("two address families in one packet"),
        }
    }

    /// A frame with this IPv4 header; its checksum is made right.
    pub fn v4(&self, header: &Ipv4Header, payload: &[u8]) -> Vec<u8> {
        let mut header = header.clone();
        header.header_checksum = header.calc_header_checksum();
        self.frame(EtherType::IPV4, &[&header.to_bytes()[..], payload].concat())
    }

    /// A frame with this IPv6 header.
    pub fn v6(&self, header: &Ipv6Header, payload: &[u8]) -> Vec<u8> {
        self.frame(EtherType::IPV6, &[&header.to_bytes()[..], payload].concat())
    }

    /// A TCP segment.
    pub fn tcp(
        &self,
        from: (IpAddr, u16),
        to: (IpAddr, u16),
        flags: TcpFlags,
        payload: &[u8],
    ) -> Vec<u8> {
        let segment = tcp_segment(from, to, flags, payload);
        self.ip(from.0, to.0, IpNumber::TCP, &segment)
    }

    /// A UDP datagram.
    pub fn udp(&self, from: (IpAddr, u16), to: (IpAddr, u16), payload: &[u8]) -> Vec<u8> {
        let datagram = udp_datagram(from, to, payload);
        self.ip(from.0, to.0, IpNumber::UDP, &datagram)
    }
}

/// Flags and numbers of a TCP segment.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "they are bits of the header")]
pub struct TcpFlags {
    /// Open.
    pub syn: bool,
    /// The acknowledgement counts.
    pub ack: bool,
    /// End.
    pub fin: bool,
    /// Reset.
    pub rst: bool,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
}

/// A TCP segment with a right checksum.
pub fn tcp_segment(
    from: (IpAddr, u16),
    to: (IpAddr, u16),
    flags: TcpFlags,
    payload: &[u8],
) -> Vec<u8> {
    let mut header = TcpHeader::new(from.1, to.1, flags.sequence, 64_000);
    header.syn = flags.syn;
    header.ack = flags.ack;
    header.fin = flags.fin;
    header.rst = flags.rst;
    header.acknowledgment_number = flags.acknowledgement;
    header.checksum = match (from.0, to.0) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            header.calc_checksum_ipv4_raw(a.octets(), b.octets(), payload)
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            header.calc_checksum_ipv6_raw(a.octets(), b.octets(), payload)
        }
        _ => panic!("two address families in one packet"),
    }
    .expect("a payload that fits");
    [&header.to_bytes()[..], payload].concat()
}

/// A UDP datagram with a right checksum.
pub fn udp_datagram(from: (IpAddr, u16), to: (IpAddr, u16), payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("a payload that fits");
    let mut header = UdpHeader {
        source_port: from.1,
        destination_port: to.1,
        length,
        checksum: 0,
    };
    header.checksum = match (from.0, to.0) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            header.calc_checksum_ipv4_raw(a.octets(), b.octets(), payload)
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            header.calc_checksum_ipv6_raw(a.octets(), b.octets(), payload)
        }
        _ => panic!("two address families in one packet"),
    }
    .expect("a payload that fits");
    [&header.to_bytes()[..], payload].concat()
}
