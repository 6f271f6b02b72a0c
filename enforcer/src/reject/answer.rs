//! From a refused packet to the answer that its sender gets. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use enforcer_common::{Protocol, conntrack::tcp_flag, refused_packet::RefusedPacket};
use etherparse::{
    Icmpv4Type, Icmpv6Type, PacketBuilder, PacketBuilderStep, icmpv4::DestUnreachableHeader,
    icmpv6::DestUnreachableCode,
};

/// A packet from the IP header on, and whom it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Who sent the refused packet.
    pub to: IpAddr,
    /// The packet.
    pub bytes: Vec<u8>,
}

/// As Linux's own.
const HOP_LIMIT: u8 = 64;

/// What the sender of a refused packet is told in the name of whom it was for: TCP by a reset,
/// everything else by "administratively prohibited" (RFC 792, RFC 1812; RFC 4443). `None`: the
/// packet is not what the kernel programs hand over.
pub fn answer(refused: &RefusedPacket) -> Option<Answer> {
    let kept = refused.bytes.get(..refused.kept.into())?;
    let (source, destination) = addresses(refused.family, kept)?;
    if refused.protocol == Protocol::TCP {
        return reset(refused, kept, source, destination);
    }
    let mut bytes = Vec::new();
    match (source, destination) {
        (IpAddr::V4(to), IpAddr::V4(from)) => {
            let header = DestUnreachableHeader::FilterProhibited;
            let error = Icmpv4Type::DestinationUnreachable(header);
            let packet = PacketBuilder::ipv4(from.octets(), to.octets(), HOP_LIMIT);
            packet.icmpv4(error).write(&mut bytes, kept).ok()?;
        }
        (IpAddr::V6(to), IpAddr::V6(from)) => {
            let error = Icmpv6Type::DestinationUnreachable(DestUnreachableCode::Prohibited);
            let packet = PacketBuilder::ipv6(from.octets(), to.octets(), HOP_LIMIT);
            packet.icmpv6(error).write(&mut bytes, kept).ok()?;
        }
        _ => return None,
    }
    Some(Answer { to: source, bytes })
}

/// Source and destination of an IP header.
fn addresses(family: u8, header: &[u8]) -> Option<(IpAddr, IpAddr)> {
    if family == 4 {
        let address = |at: usize| -> Option<IpAddr> {
            let octets: [u8; 4] = header.get(at..at + 4)?.try_into().ok()?;
            Some(Ipv4Addr::from(octets).into())
        };
        return Some((address(12)?, address(16)?));
    }
    let address = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 16] = header.get(at..at + 16)?.try_into().ok()?;
        Some(Ipv6Addr::from(octets).into())
    };
    Some((address(8)?, address(24)?))
}

/// The reset that a closed port would send (RFC 9293, 3.5.2).
fn reset(
    refused: &RefusedPacket,
    kept: &[u8],
    source: IpAddr,
    destination: IpAddr,
) -> Option<Answer> {
    let header = kept.get(refused.transport.into()..)?;
    let word = |at: usize| -> Option<u32> {
        let bytes: [u8; 4] = header.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_be_bytes(bytes))
    };
    let half = |at: usize| -> Option<u16> {
        let bytes: [u8; 2] = header.get(at..at + 2)?.try_into().ok()?;
        Some(u16::from_be_bytes(bytes))
    };
    let (from, to) = (half(2)?, half(0)?);
    let (sequence, acknowledged) = (word(4)?, word(8)?);
    let (length, flags) = (u32::from(*header.get(12)? >> 4) * 4, *header.get(13)?);
    let packet: PacketBuilderStep<_> = match (source, destination) {
        (IpAddr::V4(to), IpAddr::V4(from)) => {
            PacketBuilder::ipv4(from.octets(), to.octets(), HOP_LIMIT)
        }
        (IpAddr::V6(to), IpAddr::V6(from)) => {
            PacketBuilder::ipv6(from.octets(), to.octets(), HOP_LIMIT)
        }
        _ => return None,
    };
    let packet = if flags & tcp_flag::ACK != 0 {
        packet.tcp(from, to, acknowledged, 0).rst()
    } else {
        let data = refused
            .length
            .checked_sub(u32::from(refused.transport))?
            .checked_sub(length)?;
        let controls = (flags & (tcp_flag::SYN | tcp_flag::FIN)).count_ones();
        let next = sequence.wrapping_add(data).wrapping_add(controls);
        packet.tcp(from, to, 0, 0).rst().ack(next)
    };
    let mut bytes = Vec::new();
    packet.write(&mut bytes, &[]).ok()?;
    Some(Answer { to: source, bytes })
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable;
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::*;

    const CLIENT: [u8; 4] = [10, 0, 0, 1];
    const SERVER: [u8; 4] = [10, 0, 0, 2];

    fn refused(packet: &[u8], family: u8, protocol: u8) -> RefusedPacket {
        let mut refused = RefusedPacket::zeroed();
        let kept = packet.len().min(refused.bytes.len());
        refused.bytes[..kept].copy_from_slice(&packet[..kept]);
        refused.kept = u16::try_from(kept).unwrap();
        refused.length = u32::try_from(packet.len()).unwrap();
        refused.transport = if family == 4 { 20 } else { 40 };
        (refused.family, refused.protocol) = (family, protocol);
        refused
    }

    fn written(
        packet: etherparse::PacketBuilderStep<etherparse::TcpHeader>,
        data: &[u8],
    ) -> Vec<u8> {
        let mut bytes = Vec::new();
        packet.write(&mut bytes, data).unwrap();
        bytes
    }

    fn tcp(answer: &Answer) -> etherparse::TcpHeader {
        let sliced = SlicedPacket::from_ip(&answer.bytes).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else {
            panic!("{sliced:?}");
        };
        let header = tcp.to_header();
        match sliced.net {
            Some(NetSlice::Ipv4(ip)) => {
                assert_eq!(ip.header().source(), SERVER);
                let sum = header.calc_checksum_ipv4(&ip.header().to_header(), &[]);
                assert_eq!(sum.unwrap(), header.checksum);
            }
            Some(NetSlice::Ipv6(ip)) => {
                let sum = header.calc_checksum_ipv6(&ip.header().to_header(), &[]);
                assert_eq!(sum.unwrap(), header.checksum);
            }
            other => panic!("{other:?}"),
        }
        header
    }

    #[test]
    fn a_request_to_connect_is_reset_with_the_number_that_its_sender_awaits() {
        let packet = PacketBuilder::ipv4(CLIENT, SERVER, 64)
            .tcp(40_000, 80, 7, 512)
            .syn();
        let answer = answer(&refused(&written(packet, b"fast open"), 4, Protocol::TCP)).unwrap();
        assert_eq!(answer.to, IpAddr::from(CLIENT));
        let header = tcp(&answer);
        assert!(header.rst && header.ack && !header.syn);
        assert_eq!((header.source_port, header.destination_port), (80, 40_000));
        assert_eq!(
            (header.sequence_number, header.acknowledgment_number),
            (0, 7 + 1 + 9)
        );
    }

    #[test]
    fn what_acknowledges_is_reset_where_it_is() {
        let packet = PacketBuilder::ipv6([1; 16], [2; 16], 64);
        let packet = packet.tcp(40_000, 80, 7, 512).ack(99);
        let answer = answer(&refused(&written(packet, b"data"), 6, Protocol::TCP)).unwrap();
        assert_eq!(answer.to, IpAddr::from([1; 16]));
        let header = tcp(&answer);
        assert!(header.rst && !header.ack);
        assert_eq!(header.sequence_number, 99);
    }

    #[test]
    fn everything_else_is_told_by_an_error_that_quotes_it() {
        for (family, type_and_code, protocol) in [(4, [3, 13], 1), (6, [1, 1], 58)] {
            let mut packet = Vec::new();
            let data = vec![0x55; 600];
            if family == 4 {
                let builder = PacketBuilder::ipv4(CLIENT, SERVER, 64).udp(40_000, 53);
                builder.write(&mut packet, &data).unwrap();
            } else {
                let builder = PacketBuilder::ipv6([1; 16], [2; 16], 64).udp(40_000, 53);
                builder.write(&mut packet, &data).unwrap();
            }
            let answer = answer(&refused(&packet, family, Protocol::UDP)).unwrap();
            let header = if family == 4 { 20 } else { 40 };
            let place = if family == 4 { 9 } else { 6 };
            assert_eq!(answer.bytes[place], protocol);
            assert_eq!(answer.bytes[header..header + 2], type_and_code);
            assert_eq!(answer.bytes[header + 8..], packet[..128]);
        }
    }

    #[test]
    fn what_is_cut_short_gets_no_answer() {
        let packet = PacketBuilder::ipv4(CLIENT, SERVER, 64)
            .tcp(40_000, 80, 7, 512)
            .syn();
        let whole = written(packet, &[]);
        for length in 0..34 {
            let mut cut = refused(&whole, 4, Protocol::TCP);
            cut.kept = length;
            assert_eq!(answer(&cut), None, "{length}");
        }
        let mut wrong = refused(&whole, 4, Protocol::TCP);
        wrong.kept = u16::MAX;
        assert_eq!(answer(&wrong), None);
    }
}
