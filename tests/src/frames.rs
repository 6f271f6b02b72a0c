//! Frames that a workload might send or receive: good ones, bad ones, and what becomes of them.

use std::net::{AddrParseError, IpAddr};

use enforcer_common::{
    Direction::{self, Egress, Ingress},
    Protocol, Reason,
    conntrack::tcp_flag::{ACK, FIN, PSH, RST, SYN},
    flow_key::icmp_port,
};

use crate::packet::{ethernet, icmp, ip, sctp, tcp, udp};

/// The workload's address and a stranger's.
pub fn sides(v6: bool) -> (IpAddr, IpAddr) {
    if v6 {
        ("fd00::1".parse().unwrap(), "fd00::99".parse().unwrap())
    } else {
        (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 99]))
    }
}

/// A whole frame from or to the workload.
pub fn frame(v6: bool, way: Direction, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let (local, remote) = sides(v6);
    match way {
        Egress => ip(local, remote, protocol, 64, payload),
        Ingress => ip(remote, local, protocol, 64, payload),
    }
}

/// One transport payload of each kind.
pub fn payloads(v6: bool) -> Vec<(u8, Vec<u8>)> {
    let echo = if v6 { (58, 128) } else { (1, 8) };
    vec![
        (Protocol::TCP, tcp(40_000, 80, SYN)),
        (Protocol::UDP, udp(40_000, 53, b"")),
        (Protocol::SCTP, sctp(40_000, 80)[..12].to_vec()),
        (echo.0, icmp(icmp_port(echo.1, 0), 7, &[])),
    ]
}

/// The fewest bytes that a test run takes: a whole IP header behind Ethernet, if the frame says
/// so at once, else a byte. (Behind a tag every cut can be tried.)
pub fn least(frame: &[u8]) -> usize {
    match frame.get(12..14) {
        Some([0x08, 0x00]) => 34,
        Some([0x86, 0xdd]) => 54,
        _ => 15,
    }
}

/// What it is, the frame, and what stops it.
pub type Bad = (&'static str, Vec<u8>, Option<Reason>);

/// An IPv6 packet with extension headers before a TCP segment.
fn chain(headers: &[(u8, Vec<u8>)], last: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, (_, body)) in headers.iter().enumerate() {
        let next = headers.get(index + 1).map_or(last, |(kind, _)| *kind);
        bytes.push(next);
        bytes.extend(body);
    }
    bytes.extend(payload);
    frame(
        true,
        Egress,
        headers.first().map_or(last, |(kind, _)| *kind),
        &bytes,
    )
}

/// The rest of an extension header of 8 bytes without content.
fn plain() -> Vec<u8> {
    vec![0, 1, 4, 0, 0, 0, 0]
}

/// The rest of a fragment header: offset in bytes, more to come.
fn fragment(offset: u16, more: bool) -> Vec<u8> {
    let [high, low] = (offset | u16::from(more)).to_be_bytes();
    vec![0, high, low, 0, 0, 0, 77]
}

/// An IPv4 packet as a fragment.
fn fragment4(id: u16, offset: u16, more: bool, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut whole = frame(false, Egress, protocol, payload);
    whole[18..20].copy_from_slice(&id.to_be_bytes());
    let word = (offset / 8) | (u16::from(more) << 13);
    whole[20..22].copy_from_slice(&word.to_be_bytes());
    whole
}

/// A frame behind VLAN tags.
pub fn tagged(kinds: &[u16], whole: &[u8]) -> Vec<u8> {
    let mut bytes = whole[..12].to_vec();
    for kind in kinds {
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 7]);
    }
    bytes.extend(&whole[12..]);
    bytes
}

/// A frame with one byte changed.
fn with(mut whole: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
    whole[at] = byte;
    whole
}

/// Frames from the workload that may do anything, in this order: what they are, and what stops
/// them.
pub fn corpus() -> Vec<Bad> {
    use Reason::{BadHeader, ExtensionHeaders, FragmentTiny, FragmentUnknown, Truncated};
    let syn = tcp(40_001, 80, SYN);
    let v4 = frame(false, Egress, 6, &syn);
    let flags = |flags| frame(false, Egress, 6, &tcp(40_002, 80, flags));
    let dest = || (Protocol::DESTINATION, plain());
    let long = |length: u8| {
        let mut body = vec![length];
        body.extend(vec![0; 6 + 8 * usize::from(length)]);
        (Protocol::DESTINATION, body)
    };
    let auth = (
        Protocol::AUTHENTICATION,
        vec![1, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1],
    );
    let mut options = frame(false, Egress, 6, &[&[1, 1, 1, 0], &syn[..]].concat());
    options[14] = 0x46;
    vec![
        ("an IHL of 4", with(v4.clone(), 14, 0x44), Some(BadHeader)),
        ("an IHL of 0", with(v4.clone(), 14, 0x40), Some(BadHeader)),
        (
            "version 5 as IPv4",
            with(v4.clone(), 14, 0x55),
            Some(BadHeader),
        ),
        (
            "an IHL beyond the packet",
            with(v4.clone(), 14, 0x4f),
            Some(BadHeader),
        ),
        (
            "total length below the header",
            with(v4.clone(), 17, 19),
            Some(BadHeader),
        ),
        (
            "total length of 0",
            with(v4.clone(), 17, 0),
            Some(BadHeader),
        ),
        (
            "total length beyond the frame",
            with(v4.clone(), 17, 41),
            Some(Truncated),
        ),
        ("IPv4 options", options, None),
        (
            "version 4 as IPv6",
            with(frame(true, Egress, 6, &syn), 14, 0x40),
            Some(BadHeader),
        ),
        (
            "payload length beyond the frame",
            with(frame(true, Egress, 6, &syn), 19, 21),
            Some(Truncated),
        ),
        (
            "payload length of 0",
            with(frame(true, Egress, 6, &syn), 19, 0),
            Some(Truncated),
        ),
        ("SYN and FIN", flags(SYN | FIN), Some(BadHeader)),
        ("SYN and RST", flags(SYN | RST), Some(BadHeader)),
        ("no flags", flags(0), Some(BadHeader)),
        ("only PSH and URG", flags(PSH | 32), Some(BadHeader)),
        (
            "SYN and FIN and ACK",
            flags(SYN | FIN | ACK),
            Some(BadHeader),
        ),
        ("SYN with ECN", flags(SYN | 0xc0), None),
        (
            "a data offset of 4",
            with(v4.clone(), 46, 0x40),
            Some(BadHeader),
        ),
        (
            "a data offset beyond the segment",
            with(v4.clone(), 46, 0x60),
            Some(Truncated),
        ),
        (
            "a UDP length of 7",
            with(frame(false, Egress, 17, &udp(1, 2, b"x")), 39, 7),
            Some(BadHeader),
        ),
        ("one extension header", chain(&[dest()], 6, &syn), None),
        (
            "hop-by-hop, routing, destination",
            chain(&[(0, plain()), (43, plain()), dest()], 6, &syn),
            None,
        ),
        (
            "six extension headers",
            chain(&vec![dest(); 6], 6, &syn),
            None,
        ),
        (
            "seven extension headers",
            chain(&vec![dest(); 7], 6, &syn),
            Some(ExtensionHeaders),
        ),
        (
            "sixty of them",
            chain(&vec![dest(); 60], 6, &syn),
            Some(ExtensionHeaders),
        ),
        ("a long one", chain(&[long(100)], 6, &syn), None),
        (
            "one longer than the packet",
            with(chain(&[long(3)], 6, &syn), 55, 200),
            Some(Truncated),
        ),
        (
            "one cut in the middle",
            frame(true, Egress, 60, &[6, 0, 1, 4]),
            Some(Truncated),
        ),
        (
            "one that names one that is not there",
            frame(true, Egress, 60, &[60, 0, 1, 4, 0, 0, 0, 0]),
            Some(Truncated),
        ),
        ("no next header", chain(&[dest()], 59, &[]), None),
        ("an authentication header", chain(&[auth], 6, &syn), None),
        (
            "a later IPv6 fragment of nothing",
            chain(&[(44, fragment(1480, false))], 17, &[0; 16]),
            Some(FragmentUnknown),
        ),
        (
            "a tiny first IPv6 fragment",
            chain(&[(44, fragment(0, true))], 6, &syn[..8]),
            Some(FragmentTiny),
        ),
        (
            "a first IPv6 fragment",
            chain(&[(44, fragment(0, true))], 17, &udp(9, 9, b"")),
            None,
        ),
        (
            "a later one",
            chain(&[(44, fragment(8, false))], 17, b"the rest"),
            None,
        ),
        (
            "an IPv6 fragment over a TCP header",
            chain(&[(44, fragment(8, false))], 6, &syn[8..]),
            Some(FragmentTiny),
        ),
        (
            "an atomic fragment",
            chain(&[(44, fragment(0, false))], 6, &syn),
            None,
        ),
        (
            "a later IPv4 fragment of nothing",
            fragment4(1, 1480, false, 17, &[0; 16]),
            Some(FragmentUnknown),
        ),
        (
            "a tiny first IPv4 fragment",
            fragment4(2, 0, true, 6, &syn[..16]),
            Some(FragmentTiny),
        ),
        (
            "its overlapping second",
            fragment4(2, 8, false, 6, &syn[8..]),
            Some(FragmentTiny),
        ),
        (
            "a first IPv4 fragment",
            fragment4(3, 0, true, 17, &udp(9, 9, b"12345678")),
            None,
        ),
        (
            "a later one of it",
            fragment4(3, 16, false, 17, b"the rest"),
            None,
        ),
        (
            "one of another protocol",
            fragment4(3, 24, false, 132, b"the rest"),
            Some(FragmentUnknown),
        ),
        ("a VLAN tag", tagged(&[0x8100], &v4), None),
        ("two", tagged(&[0x88a8, 0x8100], &v4), None),
        (
            "three",
            tagged(&[0x88a8, 0x8100, 0x8100], &v4),
            Some(ExtensionHeaders),
        ),
        (
            "SYN and FIN behind a tag",
            tagged(&[0x8100], &flags(SYN | FIN)),
            Some(BadHeader),
        ),
        (
            "SYN and FIN behind two",
            tagged(&[0x88a8, 0x8100], &flags(SYN | FIN)),
            Some(BadHeader),
        ),
        (
            "half a tag",
            tagged(&[0x8100], &v4)[..16].to_vec(),
            Some(Truncated),
        ),
        (
            "no IPv4 behind a tag",
            tagged(&[0x8100], &v4)[..18].to_vec(),
            Some(Truncated),
        ),
        (
            "padding behind the packet",
            [v4.clone(), vec![0xff; 40]].concat(),
            None,
        ),
        (
            "a large frame",
            frame(false, Egress, 17, &udp(1, 2, &[0; 2800])),
            None,
        ),
        ("ARP", ethernet(0x0806, &[0; 28]), None),
    ]
}

/// What, which way, the frame, and whether it passes.
pub type Errand = (&'static str, Direction, Vec<u8>, bool);

/// Packets that the isolated workload may send and receive nevertheless, and some that are
/// nearly the same.
pub fn infrastructure() -> Result<Vec<Errand>, AddrParseError> {
    let link_local: IpAddr = "fe80::1".parse()?;
    let (all_nodes, own6): (IpAddr, IpAddr) = ("ff02::1".parse()?, "fd00::1".parse()?);
    let (own4, zero): (IpAddr, IpAddr) = ("10.0.0.1".parse()?, "0.0.0.0".parse()?);
    let (broadcast, server): (IpAddr, IpAddr) = ("255.255.255.255".parse()?, "10.0.0.9".parse()?);
    let nd = |kind: u8| icmp(icmp_port(kind, 0), 0, &[0; 16]);
    let (ask, offer) = (udp(68, 67, b"dhcp"), udp(67, 68, b"dhcp"));
    Ok(vec![
        (
            "a neighbour solicitation",
            Egress,
            ip(link_local, all_nodes, 58, 255, &nd(135)),
            true,
        ),
        (
            "a neighbour advertisement",
            Ingress,
            ip(link_local, own6, 58, 255, &nd(136)),
            true,
        ),
        (
            "one from beyond a router",
            Ingress,
            ip(link_local, own6, 58, 254, &nd(136)),
            false,
        ),
        (
            "a router advertisement",
            Ingress,
            ip(link_local, all_nodes, 58, 255, &nd(134)),
            true,
        ),
        (
            "one by the workload",
            Egress,
            ip(link_local, all_nodes, 58, 255, &nd(134)),
            false,
        ),
        (
            "a redirect by the workload",
            Egress,
            ip(link_local, all_nodes, 58, 255, &nd(137)),
            false,
        ),
        (
            "a listener report",
            Egress,
            ip(link_local, all_nodes, 58, 1, &nd(143)),
            true,
        ),
        (
            "a call for an address",
            Egress,
            ip(zero, broadcast, 17, 64, &ask),
            true,
        ),
        (
            "an offer to everybody",
            Ingress,
            ip(server, broadcast, 17, 64, &offer),
            true,
        ),
        (
            "an offer to the address offered",
            Ingress,
            ip(server, own4, 17, 64, &offer),
            true,
        ),
        (
            "data to a chosen server",
            Egress,
            ip(own4, server, 17, 64, &ask),
            false,
        ),
        (
            "offers by the workload",
            Egress,
            ip(own4, broadcast, 17, 64, &offer),
            false,
        ),
        (
            "a call to the workload",
            Ingress,
            ip(server, own4, 17, 64, &ask),
            false,
        ),
        (
            "DHCPv6",
            Egress,
            ip(link_local, all_nodes, 17, 1, &udp(546, 547, b"dhcp")),
            true,
        ),
        (
            "an echo",
            Egress,
            ip(own6, link_local, 58, 255, &nd(128)),
            false,
        ),
        ("ARP", Egress, ethernet(0x0806, &[0; 28]), true),
    ])
}
