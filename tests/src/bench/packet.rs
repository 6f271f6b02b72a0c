//! Packets for test runs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::PacketBuilder;

/// Version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Version {
    /// Bytes of a flow key.
    pub const fn key_length(self) -> usize {
        match self {
            Self::V4 => 20,
            Self::V6 => 44,
        }
    }

    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// TCP, as a protocol number.
pub const TCP: u8 = 6;

/// What a TCP packet says.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Sender.
    pub source: IpAddr,
    /// Receiver.
    pub destination: IpAddr,
    /// Sender's port.
    pub source_port: u16,
    /// Receiver's port.
    pub destination_port: u16,
    /// Protocol number.
    pub protocol: u8,
    /// A request to open (SYN), or a packet in the middle (ACK).
    pub opens: bool,
}

impl Packet {
    /// The same connection's next packet: an acknowledgement.
    pub fn later(&self) -> Self {
        Self {
            opens: false,
            ..self.clone()
        }
    }

    /// The other side's answer.
    pub fn answer(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: self.protocol,
            opens: false,
        }
    }

    /// As an Ethernet frame with as much payload as fills the smallest one.
    pub fn frame(&self) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let ip = match (self.source, self.destination) {
            (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
            (from, to) => ethernet.ipv6(v6(from).octets(), v6(to).octets(), 64),
        };
        let mut tcp = ip.tcp(self.source_port, self.destination_port, 1, 65_000);
        tcp = if self.opens { tcp.syn() } else { tcp.ack(1) };
        let mut frame = Vec::new();
        tcp.write(&mut frame, &[0; 16])
            .expect("a vector takes everything");
        frame
    }

    pub(super) fn source4(&self) -> [u8; 4] {
        v4(self.source).octets()
    }

    pub(super) fn destination4(&self) -> [u8; 4] {
        v4(self.destination).octets()
    }

    pub(super) fn source6(&self) -> [u8; 16] {
        v6(self.source).octets()
    }

    pub(super) fn destination6(&self) -> [u8; 16] {
        v6(self.destination).octets()
    }
}

fn v4(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    }
}

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}
