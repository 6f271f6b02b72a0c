//! Frames of every kind straight into the kernel programs: made by hand, cut at every byte, and
//! mutated at random.
//!
//! `ENFORCER_FRAMES` sets the number of random frames.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context, Result};
use enforcer::{
    compile::{self, Image, Inputs, Limits, Numbers, Subjects},
    datapath::desired::{DesiredEndpoint, EndpointPlace},
    policy::{self, model::Mode},
};
use enforcer_common::{
    Action,
    Direction::{self, Egress, Ingress},
    Protocol, Reason,
    conntrack::tcp_flag::{ACK, FIN, PSH, RST, SYN},
    flow_key::icmp_port,
};
use tests::{
    packet::{ethernet, icmp, ip, sctp, tcp, udp},
    test_run::{Bed, Hook, Loaded},
};

/// The link of the workload that may do nothing.
const CLOSED: usize = 0;
/// The link of the workload that may do anything.
const OPEN: usize = 1;

const POLICY: &str = "
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: closed, namespace: bed, labels: {app: closed}}
spec: {interface: w0}
---
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: open, namespace: bed, labels: {app: open}}
spec: {interface: w1}
---
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: nothing, namespace: bed}
spec:
  selector: {matchLabels: {app: closed}}
  egress: []
  ingress: []
---
apiVersion: enforcer.dev/v1alpha1
kind: Node
metadata: {name: bed}
spec: {mode: enforce}
";

/// The workload's address and a stranger's.
fn sides(v6: bool) -> (IpAddr, IpAddr) {
    if v6 {
        ("fd00::1".parse().unwrap(), "fd00::99".parse().unwrap())
    } else {
        (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 99]))
    }
}

/// A whole frame from or to the workload.
fn frame(v6: bool, way: Direction, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let (local, remote) = sides(v6);
    match way {
        Egress => ip(local, remote, protocol, 64, payload),
        Ingress => ip(remote, local, protocol, 64, payload),
    }
}

/// One transport payload of each kind.
fn payloads(v6: bool) -> Vec<(u8, Vec<u8>)> {
    let echo = if v6 { (58, 128) } else { (1, 8) };
    vec![
        (Protocol::TCP, tcp(40_000, 80, SYN)),
        (Protocol::UDP, udp(40_000, 53, b"")),
        (Protocol::SCTP, sctp(40_000, 80)[..12].to_vec()),
        (echo.0, icmp(icmp_port(echo.1, 0), 7, &[])),
    ]
}

fn put(loaded: &mut Loaded<'_>, links: &[u32]) -> Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("bed.yaml"), POLICY)?;
    let policy = policy::load(folder.path()).map_err(|errors| anyhow::anyhow!("{errors}"))?;
    let image = compile::compile(
        &Inputs {
            policy: &policy,
            mode: Mode::Enforce,
            host_addresses: &[],
            subjects: Subjects::All,
            limits: &Limits::NONE,
            in_force: None,
        },
        &mut Numbers::default(),
    )?;
    let endpoint = |link: usize, name: &str| endpoint(&image, links[link], link, name);
    let endpoints = vec![endpoint(CLOSED, "closed")?, endpoint(OPEN, "open")?];
    loaded.apply(image, endpoints, Vec::new())?;
    loaded.set_adopting(false)
}

fn endpoint(image: &Image, ifindex: u32, link: usize, name: &str) -> Result<DesiredEndpoint> {
    let known = image.workloads.iter().find(|(known, _)| known.name == name);
    Ok(DesiredEndpoint {
        id: 2 + u32::try_from(link)?,
        identity: *known.context("no such workload")?.1,
        place: EndpointPlace::Interface {
            ifindex,
            name: format!("w{link}"),
        },
        audit: false,
        // Both are used with the same addresses, which nobody declares.
        strict_source: false,
        addresses: Vec::new(),
    })
}

/// Packets denied so far, by reason.
fn denied(loaded: &Loaded<'_>) -> Result<BTreeMap<Reason, u64>> {
    let mut counts = BTreeMap::new();
    for (reason, action, _, counter) in loaded.datapath.verdict_counters()? {
        if action == Action::Deny {
            *counts.entry(reason).or_default() += counter.packets;
        }
    }
    Ok(counts)
}

/// What became of a frame: `None` if it passed, else the reason that was counted. Fails if it
/// was not counted exactly once.
fn fate(
    loaded: &mut Loaded<'_>,
    way: Direction,
    link: usize,
    frame: &[u8],
) -> Result<Option<Reason>> {
    let before = denied(loaded)?;
    let passes = loaded.passes(Hook::Workload(way), link, frame)?;
    let mut counted: Vec<Reason> = Vec::new();
    for (reason, count) in denied(loaded)? {
        let times = count - before.get(&reason).copied().unwrap_or(0);
        counted.extend((0..times).map(|_| reason));
    }
    match (passes, counted.as_slice()) {
        (true, []) => Ok(None),
        (false, [reason]) => Ok(Some(*reason)),
        _ => anyhow::bail!("passes: {passes}, counted: {counted:?}: {frame:02x?}"),
    }
}

/// All in one, because loading the programs takes longer than everything else.
#[test]
fn every_frame_meets_its_fate() -> Result<()> {
    let bed = Bed::new()?;
    let links = bed.links.clone();
    bed.enter(|loaded| {
        put(loaded, &links)?;
        a_frame_cut_anywhere_is_truncated(loaded)?;
        frames_made_by_hand(loaded)?;
        only_infrastructure_passes_isolation(loaded)?;
        errors_belong_to_the_flow_that_they_quote(loaded)?;
        random_frames(loaded)
    })?
}

/// The fewest bytes that a test run takes: a whole IP header behind Ethernet, if the frame says
/// so at once, else a byte. (Behind a tag every cut can be tried.)
fn least(frame: &[u8]) -> usize {
    match frame.get(12..14) {
        Some([0x08, 0x00]) => 34,
        Some([0x86, 0xdd]) => 54,
        _ => 15,
    }
}

fn a_frame_cut_anywhere_is_truncated(loaded: &mut Loaded<'_>) -> Result<()> {
    {
        for v6 in [false, true] {
            for way in [Egress, Ingress] {
                for (protocol, payload) in payloads(v6) {
                    let whole = frame(v6, way, protocol, &payload);
                    assert_eq!(fate(loaded, way, OPEN, &whole)?, None, "{whole:02x?}");
                    for length in least(&whole)..whole.len() {
                        let cut = &whole[..length];
                        let fate = fate(loaded, way, OPEN, cut)?;
                        assert_eq!(fate, Some(Reason::Truncated), "{cut:02x?}");
                    }
                    let tagged = tagged(&[0x8100], &whole);
                    for length in least(&tagged)..tagged.len() {
                        let cut = &tagged[..length];
                        let fate = fate(loaded, way, OPEN, cut)?;
                        assert_eq!(fate, Some(Reason::Truncated), "{cut:02x?}");
                    }
                    // The same with a length field that says so.
                    for length in 0..payload.len() {
                        let cut = frame(v6, way, protocol, &payload[..length]);
                        let fate = fate(loaded, way, OPEN, &cut)?;
                        let echo6 = protocol == Protocol::ICMPV6 && length >= 6;
                        let wanted = (!echo6).then_some(Reason::Truncated);
                        assert_eq!(fate, wanted, "{protocol} of {length}");
                    }
                }
            }
        }
        Ok(())
    }
}

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
    let word = offset / 8 | u16::from(more) << 13;
    whole[20..22].copy_from_slice(&word.to_be_bytes());
    whole
}

/// A frame behind VLAN tags.
fn tagged(kinds: &[u16], whole: &[u8]) -> Vec<u8> {
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
fn corpus() -> Vec<(&'static str, Vec<u8>, Option<Reason>)> {
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

fn frames_made_by_hand(loaded: &mut Loaded<'_>) -> Result<()> {
    {
        for (what, frame, wanted) in corpus() {
            assert_eq!(fate(loaded, Egress, OPEN, &frame)?, wanted, "{what}");
        }
        Ok(())
    }
}

/// What, which way, the frame, and whether it passes.
type Errand = (&'static str, Direction, Vec<u8>, bool);

/// Packets that the isolated workload may send and receive nevertheless, and some that are
/// nearly the same.
fn infrastructure() -> Result<Vec<Errand>> {
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

fn only_infrastructure_passes_isolation(loaded: &mut Loaded<'_>) -> Result<()> {
    {
        for (what, way, frame, passes) in infrastructure()? {
            let fate = fate(loaded, way, CLOSED, &frame)?;
            assert_eq!(fate.is_none(), passes, "{what}: {fate:?}");
        }
        Ok(())
    }
}

/// ICMP errors about a flow that is open get through to and from the workload; others do not.
fn errors_belong_to_the_flow_that_they_quote(loaded: &mut Loaded<'_>) -> Result<()> {
    {
        for v6 in [false, true] {
            let (local, remote) = sides(v6);
            let router: IpAddr = if v6 {
                "fd00::77".parse()?
            } else {
                "10.0.0.77".parse()?
            };
            let (protocol, too_big) = if v6 {
                (58, icmp_port(2, 0))
            } else {
                (1, icmp_port(3, 4))
            };
            let call = udp(40_000, 53, b"question");
            let sent = ip(local, remote, 17, 64, &call);
            let quoted = &sent[14..];
            let error =
                |from, to, quoted: &[u8]| ip(from, to, protocol, 64, &icmp(too_big, 0, quoted));
            // The isolated one sends nothing: nothing is known of what is quoted.
            for length in 0..=quoted.len() {
                let frame = error(router, local, &quoted[..length]);
                let fate = fate(loaded, Ingress, CLOSED, &frame)?;
                assert_eq!(fate, Some(Reason::Isolation), "{length}");
            }
            assert_eq!(fate(loaded, Egress, OPEN, &sent)?, None);
            assert_eq!(
                fate(loaded, Ingress, OPEN, &error(router, local, quoted))?,
                None
            );
            let answer = ip(remote, local, 17, 64, &udp(53, 40_000, b"answer"));
            assert_eq!(fate(loaded, Ingress, OPEN, &answer)?, None);
            assert_eq!(
                fate(loaded, Egress, OPEN, &error(local, remote, &answer[14..]))?,
                None
            );
        }
        Ok(())
    }
}

/// A small generator of numbers (xorshift64*): a failure prints the frame, so nothing better is
/// needed.
struct Numbers64(u64);

impl Numbers64 {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number).expect("31 bits") % end
    }

    fn byte(&mut self) -> u8 {
        // Edges more often than not.
        const EDGES: [u8; 12] = [0, 1, 6, 17, 44, 58, 60, 0x40, 0x45, 0x60, 0x80, 0xff];
        match self.below(2) {
            0 => EDGES[self.below(EDGES.len())],
            _ => u8::try_from(self.below(256)).expect("a byte"),
        }
    }
}

/// Changes bytes, cuts, grows, doubles pieces.
fn mutate(numbers: &mut Numbers64, seed: &[u8]) -> Vec<u8> {
    let mut frame = seed.to_vec();
    for _ in 0..=numbers.below(4) {
        // Headers are what matters: mutations are near the front.
        let reach = frame.len().min(14 + numbers.below(80) + 1);
        let at = numbers.below(reach);
        match numbers.below(8) {
            0 => frame.truncate(at.max(15)),
            1 => frame.extend(vec![numbers.byte(); numbers.below(64)]),
            2 => {
                let piece = frame[at..reach].to_vec();
                frame.splice(at..at, piece);
            }
            3 => {
                frame.drain(at..reach.min(at + 1 + numbers.below(8)));
            }
            _ => frame[at] = numbers.byte(),
        }
    }
    frame.resize(frame.len().clamp(15, 3000), 0);
    frame.resize(frame.len().max(least(&frame)), 0);
    frame
}

/// Whether a frame may pass the isolated workload, judged by as little of it as can be.
fn may_pass(way: Direction, frame: &[u8]) -> bool {
    let mut at = 12;
    let kind = |at: usize| {
        frame
            .get(at..at + 2)
            .map(|b| u16::from_be_bytes([b[0], b[1]]))
    };
    for _ in 0..2 {
        if matches!(kind(at), Some(0x8100 | 0x88a8)) {
            at += 4;
        }
    }
    let packet = &frame[(at + 2).min(frame.len())..];
    match kind(at) {
        Some(0x0800) => {
            let header = usize::from(packet[0] & 0xf) * 4;
            packet[9] == 17 && is_dhcp(way, &packet[header..], 68, 67)
        }
        Some(0x86dd) => {
            let hops = packet[7];
            // Somewhere behind the header there is such a message.
            let has =
                |wanted: &dyn Fn(&[u8]) -> bool| (40..packet.len()).any(|n| wanted(&packet[n..]));
            has(&|rest| is_dhcp(way, rest, 546, 547))
                || hops == 255 && has(&|rest| (133..=137).contains(&rest[0]))
                || hops == 1 && has(&|rest| [130, 131, 132, 143].contains(&rest[0]))
        }
        _ => true,
    }
}

fn is_dhcp(way: Direction, rest: &[u8], client: u16, server: u16) -> bool {
    let (from, to) = match way {
        Egress => (client, server),
        Ingress => (server, client),
    };
    rest.starts_with(&[from.to_be_bytes(), to.to_be_bytes()].concat())
}

/// Whatever comes: no program fails, what passes the isolated workload is infrastructure, and
/// the counters know of every frame that was dropped.
fn random_frames(loaded: &mut Loaded<'_>) -> Result<()> {
    let frames = match std::env::var("ENFORCER_FRAMES") {
        Ok(text) => text.parse()?,
        Err(_) => 60_000,
    };
    let mut seeds: Vec<Vec<u8>> = corpus().into_iter().map(|(_, frame, _)| frame).collect();
    seeds.extend(infrastructure()?.into_iter().map(|(_, _, frame, _)| frame));
    for v6 in [false, true] {
        for (protocol, payload) in payloads(v6) {
            seeds.push(frame(v6, Egress, protocol, &payload));
        }
    }
    let mut numbers = Numbers64(0x9e37_79b9_7f4a_7c15);
    let sum = |loaded: &Loaded<'_>| -> Result<u64> { Ok(denied(loaded)?.values().sum()) };
    let before = sum(loaded)?;
    let (mut dropped, mut passed) = (0, 0);
    for _ in 0..frames {
        let seed = numbers.below(seeds.len());
        let frame = mutate(&mut numbers, &seeds[seed]);
        let hook = Hook::ALL[numbers.below(Hook::ALL.len())];
        let link = numbers.below(2);
        let passes = loaded
            .passes(hook, link, &frame)
            .with_context(|| format!("{hook:?} {frame:02x?}"))?;
        dropped += u64::from(!passes);
        if let (Hook::Workload(way), CLOSED, true) = (hook, link, passes) {
            passed += 1;
            assert!(may_pass(way, &frame), "{way:?} {frame:02x?}");
        }
    }
    assert_eq!(sum(loaded)? - before, dropped);
    assert!(dropped > frames / 10 && passed > frames / 1000);
    Ok(())
}
