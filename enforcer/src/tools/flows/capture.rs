//! Flows in packet captures (pcap and pcapng). Only headers are looked at.

use std::{
    collections::{HashMap, HashSet},
    io::Read,
    net::IpAddr,
    path::Path,
};

use enforcer_common::{Protocol, flow_key::icmp_port};
use etherparse::{EtherType, Ipv6ExtensionSlice, LaxNetSlice, LaxSlicedPacket};
use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapError, create_reader};
use time::OffsetDateTime;

use super::{Flows, FlowsError, PassedOver, Seen, Tally, Who};
use crate::{
    compile::image::RuleDirection,
    observe::{clock::rfc3339, record::Verdict},
};

/// Room for one packet: the largest snap length that tools write is 262,144.
const BUFFER_BYTES: usize = 1 << 20;

/// First bytes of captures: pcap in both byte orders, with micro- and nanoseconds, and pcapng.
const MAGIC: [[u8; 4]; 5] = [
    [0xa1, 0xb2, 0xc3, 0xd4],
    [0xd4, 0xc3, 0xb2, 0xa1],
    [0xa1, 0xb2, 0x3c, 0x4d],
    [0x4d, 0x3c, 0xb2, 0xa1],
    [0x0a, 0x0d, 0x0d, 0x0a],
];

/// Whether a file that begins so is a capture.
pub(super) fn is_capture(magic: &[u8]) -> bool {
    MAGIC.iter().any(|known| known == magic)
}

/// Reads every packet.
pub(super) fn read(
    input: impl Read + Send,
    path: &Path,
    strict: bool,
    flows: &mut Flows,
) -> Result<(), FlowsError> {
    let broken = |problem: String| FlowsError::Capture {
        path: path.to_owned(),
        problem,
    };
    let mut reader = create_reader(BUFFER_BYTES, input)
        .map_err(|error| broken(format!("no capture: {}", words(&error))))?;
    let mut interfaces: Vec<Interface> = Vec::new();
    let mut conversations = Conversations::default();
    let mut number = 0_u64;
    let mut stuck = false;
    loop {
        match reader.next() {
            Ok((used, block)) => {
                stuck = false;
                let packet = packet(&block, &mut interfaces);
                if let Some((link, data, time)) = packet {
                    number += 1;
                    let end = data.len().min(BUFFER_BYTES);
                    if let Err(why) = conversations.packet(link, &data[..end], time, flows) {
                        let what = format!("{}: packet {number}: {why}", path.display());
                        flows.refuse(what, strict)?;
                    }
                }
                reader.consume(used);
            }
            Err(PcapError::Eof) => break,
            Err(PcapError::Incomplete(_)) if !stuck => {
                stuck = true;
                reader
                    .refill()
                    .map_err(|error| broken(format!("cannot be read on: {}", words(&error))))?;
            }
            // What came until here counts: a capture that was cut off ends like this.
            Err(error) => {
                let what = format!(
                    "{}: after packet {number}: {}",
                    path.display(),
                    words(&error)
                );
                flows.refuse(what, strict)?;
                break;
            }
        }
    }
    conversations.into_flows(flows);
    Ok(())
}

fn words<I: std::fmt::Debug>(error: &PcapError<I>) -> &'static str {
    match error {
        PcapError::Eof | PcapError::Incomplete(_) | PcapError::UnexpectedEof => {
            "the file ends in the middle of a block"
        }
        PcapError::BufferTooSmall => "a block is larger than a capture's may be (1 MiB)",
        PcapError::ReadError => "the file cannot be read",
        _ => "a block is malformed",
    }
}

/// An interface of a capture.
struct Interface {
    link: Linktype,
    /// Seconds that are added to every time.
    offset: i64,
    /// Units of time in a second.
    resolution: u64,
}

/// The packet in a block, with its link type and time.
fn packet<'a>(
    block: &'a PcapBlockOwned<'_>,
    interfaces: &mut Vec<Interface>,
) -> Option<(Linktype, &'a [u8], Option<OffsetDateTime>)> {
    match block {
        PcapBlockOwned::LegacyHeader(header) => {
            let resolution = if header.is_nanosecond_precision() {
                1_000_000_000
            } else {
                1_000_000
            };
            *interfaces = vec![Interface {
                link: header.network,
                offset: 0,
                resolution,
            }];
            None
        }
        PcapBlockOwned::Legacy(packet) => {
            let interface = interfaces.first()?;
            let part = u64::from(packet.ts_usec);
            let nanoseconds = u128::from(part) * 1_000_000_000 / u128::from(interface.resolution);
            let time = u128::from(packet.ts_sec) * 1_000_000_000 + nanoseconds;
            Some((
                interface.link,
                packet.data,
                moment(i128::try_from(time).ok()?),
            ))
        }
        PcapBlockOwned::NG(Block::SectionHeader(_)) => {
            interfaces.clear();
            None
        }
        PcapBlockOwned::NG(Block::InterfaceDescription(description)) => {
            interfaces.push(Interface {
                link: description.linktype,
                offset: description.ts_offset(),
                resolution: description
                    .ts_resolution()
                    .filter(|r| *r > 0)
                    .unwrap_or(1_000_000),
            });
            None
        }
        PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
            let interface = interfaces.get(packet.if_id as usize)?;
            let ticks = i128::from(packet.ts_high) << 32 | i128::from(packet.ts_low);
            let time = ticks * 1_000_000_000 / i128::from(interface.resolution)
                + i128::from(interface.offset) * 1_000_000_000;
            let length = packet.data.len().min(packet.caplen as usize);
            Some((interface.link, &packet.data[..length], moment(time)))
        }
        PcapBlockOwned::NG(Block::SimplePacket(packet)) => {
            Some((interfaces.first()?.link, packet.data, None))
        }
        PcapBlockOwned::NG(_) => None,
    }
}

fn moment(nanoseconds: i128) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).ok()
}

/// Both ends of a flow, the one that opened it first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Tuple {
    protocol: u8,
    from: (IpAddr, u16),
    to: (IpAddr, u16),
}

impl Tuple {
    const fn reversed(self) -> Self {
        Self {
            from: self.to,
            to: self.from,
            ..self
        }
    }
}

/// Who opened which flow.
#[derive(Default)]
struct Conversations {
    opened: HashMap<Tuple, Tally>,
    /// Those of which the beginning is missing.
    headless: HashSet<Tuple>,
}

/// What a packet is to its flow.
enum Role {
    Opens,
    Answers,
    GoesOn,
    Accompanies,
}

impl Conversations {
    fn packet(
        &mut self,
        link: Linktype,
        data: &[u8],
        time: Option<OffsetDateTime>,
        flows: &mut Flows,
    ) -> Result<(), String> {
        let Some(sliced) = sliced(link, data)? else {
            flows.pass_over(PassedOver::NotIp, 1);
            return Ok(());
        };
        let (from, to, payload, is_later_fragment) = match &sliced.net {
            Some(LaxNetSlice::Ipv4(ip)) => {
                let header = ip.header();
                let later = header.fragments_offset().value() > 0;
                let (from, to) = (
                    header.source_addr().into(),
                    header.destination_addr().into(),
                );
                (from, to, ip.payload(), later)
            }
            Some(LaxNetSlice::Ipv6(ip)) => {
                let header = ip.header();
                let mut extensions = ip.extensions().clone().into_iter();
                let later = extensions.any(|extension| match extension {
                    Ipv6ExtensionSlice::Fragment(f) => f.fragment_offset().value() > 0,
                    _ => false,
                });
                let (from, to) = (
                    header.source_addr().into(),
                    header.destination_addr().into(),
                );
                (from, to, ip.payload(), later)
            }
            _ => {
                flows.pass_over(PassedOver::NotIp, 1);
                return Ok(());
            }
        };
        let protocol = payload.ip_number.0;
        if is_later_fragment {
            flows.pass_over(PassedOver::Accompanying, 1);
            return Ok(());
        }
        let (ports, role) = role(protocol, payload.payload).ok_or("it ends before its ports do")?;
        let tuple = Tuple {
            protocol,
            from: (from, ports.0),
            to: (to, ports.1),
        };
        self.belongs(tuple, &role, time, flows);
        Ok(())
    }

    fn belongs(
        &mut self,
        tuple: Tuple,
        role: &Role,
        time: Option<OffsetDateTime>,
        flows: &mut Flows,
    ) {
        let reversed = tuple.reversed();
        let opener = match role {
            Role::Accompanies => None,
            Role::Answers => Some(reversed),
            // ICMP's type and code are not the same both ways, and each way opens for itself.
            Role::GoesOn if self.opened.contains_key(&tuple) => Some(tuple),
            Role::GoesOn if self.opened.contains_key(&reversed) => {
                flows.pass_over(PassedOver::Accompanying, 1);
                return;
            }
            Role::GoesOn if tuple.protocol == Protocol::TCP => {
                if !self.headless.contains(&reversed) && self.headless.insert(tuple) {
                    flows.pass_over(PassedOver::BegunBefore, 1);
                }
                return;
            }
            Role::Opens | Role::GoesOn => Some(tuple),
        };
        let Some(opener) = opener else {
            flows.pass_over(PassedOver::Accompanying, 1);
            return;
        };
        let time = time.map(rfc3339).unwrap_or_default();
        let tally = self.opened.entry(opener).or_insert_with(|| Tally {
            records: 1,
            ..Tally::default()
        });
        tally.add(&Tally {
            records: 0,
            packets: u64::from(!matches!(role, Role::Answers)),
            first: time.clone(),
            last: time,
        });
    }

    /// Both sides of every flow. That it is in the capture means that it passed.
    fn into_flows(self, flows: &mut Flows) {
        for (tuple, tally) in self.opened {
            let sides = [
                (tuple.from.0, RuleDirection::Egress, tuple.to.0),
                (tuple.to.0, RuleDirection::Ingress, tuple.from.0),
            ];
            for (endpoint, direction, peer) in sides {
                let seen = Seen {
                    node: String::new(),
                    endpoint: Who::Address(endpoint),
                    direction,
                    peer: Who::Address(peer),
                    protocol: tuple.protocol,
                    port: tuple.to.1,
                    verdict: Verdict::Allow,
                };
                flows.see(seen, &tally, None);
            }
        }
    }
}

/// The packet's headers; `None` if its link carries something else.
fn sliced(link: Linktype, data: &[u8]) -> Result<Option<LaxSlicedPacket<'_>>, String> {
    // Numbers of EtherType that a "cooked" header has at an offset, before its end.
    let cooked = |at: usize, end: usize| {
        let protocol = data.get(at..at + 2).and_then(|bytes| bytes.try_into().ok());
        let (Some(protocol), Some(rest)) = (protocol, data.get(end..)) else {
            return Err("it ends before its link header does".to_owned());
        };
        let protocol = EtherType(u16::from_be_bytes(protocol));
        Ok(Some(LaxSlicedPacket::from_ether_type(protocol, rest)))
    };
    let ip = |data| {
        LaxSlicedPacket::from_ip(data)
            .map(Some)
            .map_err(|e| e.to_string())
    };
    match link {
        Linktype::ETHERNET => LaxSlicedPacket::from_ethernet(data)
            .map(Some)
            .map_err(|e| e.to_string()),
        Linktype::LINUX_SLL => cooked(14, 16),
        Linktype::LINUX_SLL2 => cooked(0, 20),
        Linktype::RAW | Linktype::IPV4 | Linktype::IPV6 | Linktype(12 | 14) => ip(data),
        Linktype::NULL | Linktype::LOOP => ip(data.get(4..).unwrap_or_default()),
        Linktype(other) => Err(format!(
            "link type {other} is not known: capture on Ethernet, `any` or a tunnel's interface"
        )),
    }
}

/// Ports (type and code as the second for ICMP) and what the packet is to its flow. `None`: it
/// is too short.
fn role(protocol: u8, payload: &[u8]) -> Option<((u16, u16), Role)> {
    let pair = |at: usize| {
        Some(u16::from_be_bytes([
            *payload.get(at)?,
            *payload.get(at + 1)?,
        ]))
    };
    match protocol {
        Protocol::TCP => {
            /// RFC 9293, 3.1.
            const SYN: u8 = 0x02;
            const ACK: u8 = 0x10;
            let flags = *payload.get(13)?;
            let role = match (flags & SYN != 0, flags & ACK != 0) {
                (true, false) => Role::Opens,
                (true, true) => Role::Answers,
                _ => Role::GoesOn,
            };
            Some(((pair(0)?, pair(2)?), role))
        }
        _ if Protocol::has_ports(protocol) => Some(((pair(0)?, pair(2)?), Role::GoesOn)),
        Protocol::ICMP | Protocol::ICMPV6 => {
            let (kind, code) = (*payload.first()?, *payload.get(1)?);
            let accompanies = if protocol == Protocol::ICMP {
                // Replies (RFC 792, RFC 950) and errors.
                matches!(kind, 0 | 3 | 4 | 5 | 11 | 12 | 14 | 16 | 18)
            } else {
                // Errors, echo reply, multicast listener and neighbour discovery (RFC 4443,
                // RFC 4861, RFC 3810).
                matches!(kind, 0..=127 | 129..=137 | 143)
            };
            let role = if accompanies {
                Role::Accompanies
            } else {
                Role::Opens
            };
            Some(((0, icmp_port(kind, code)), role))
        }
        _ => Some(((0, 0), Role::GoesOn)),
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    /// A pcap file with Ethernet frames, one a second.
    fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
        let mut file = 0xa1b2_c3d4_u32.to_le_bytes().to_vec();
        for (size, value) in [(2, 2_u32), (2, 4), (4, 0), (4, 0), (4, 65535), (4, 1)] {
            file.extend(&value.to_le_bytes()[..size]);
        }
        for (second, frame) in (1_700_000_000_u32..).zip(frames) {
            let length = u32::try_from(frame.len()).unwrap();
            for value in [second, 0, length, length] {
                file.extend(value.to_le_bytes());
            }
            file.extend(frame);
        }
        file
    }

    fn ip(from: u8, to: u8) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
        PacketBuilder::ethernet2([0; 6], [0; 6]).ipv4([10, 0, 0, from], [10, 0, 0, to], 64)
    }

    fn tcp(from: u8, to: u8, ports: (u16, u16), flags: &str) -> Vec<u8> {
        let mut step = ip(from, to).tcp(ports.0, ports.1, 1, 1000);
        if flags.contains('S') {
            step = step.syn();
        }
        if flags.contains('A') {
            step = step.ack(1);
        }
        let mut frame = Vec::new();
        step.write(&mut frame, &[]).unwrap();
        frame
    }

    fn udp(from: u8, to: u8, ports: (u16, u16)) -> Vec<u8> {
        let mut frame = Vec::new();
        ip(from, to)
            .udp(ports.0, ports.1)
            .write(&mut frame, b"x")
            .unwrap();
        frame
    }

    fn read_bytes(file: &[u8]) -> Flows {
        let mut flows = Flows::default();
        read(file, Path::new("f"), false, &mut flows).unwrap();
        flows
    }

    fn egress(flows: &Flows) -> Vec<(String, u8, u16, u64, u64)> {
        let egress = flows
            .seen
            .iter()
            .filter(|(s, _)| s.direction == RuleDirection::Egress);
        egress
            .map(|(seen, (tally, _))| {
                let text = format!("{:?} -> {:?}", seen.endpoint, seen.peer);
                (text, seen.protocol, seen.port, tally.records, tally.packets)
            })
            .collect()
    }

    #[test]
    fn a_flow_is_the_one_who_opens_it_and_replies_are_none() {
        let flows = read_bytes(&pcap(&[
            tcp(1, 2, (40000, 5432), "S"),
            tcp(2, 1, (5432, 40000), "SA"),
            tcp(1, 2, (40000, 5432), "A"),
            tcp(2, 1, (5432, 40000), "A"),
            tcp(1, 2, (40001, 5432), "S"),
            udp(1, 3, (5000, 53)),
            udp(3, 1, (53, 5000)),
            tcp(9, 8, (443, 50000), "A"),
            tcp(8, 9, (50000, 443), "A"),
        ]));
        let to = |last: u8| format!("Address(10.0.0.1) -> Address(10.0.0.{last})");
        assert_eq!(
            egress(&flows),
            [(to(2), 6, 5432, 2, 3), (to(3), 17, 53, 1, 1)]
        );
        assert_eq!(flows.seen.len(), 4);
        assert_eq!(flows.passed_over[&PassedOver::BegunBefore], 1);
        let (tally, _) = flows.seen.values().next().unwrap();
        assert_eq!(tally.first, "2023-11-14T22:13:20.000000Z");
    }

    #[test]
    fn an_echo_request_opens_and_its_reply_does_not() {
        let mut request = Vec::new();
        ip(1, 2)
            .icmpv4_echo_request(1, 1)
            .write(&mut request, &[])
            .unwrap();
        let mut reply = Vec::new();
        ip(2, 1)
            .icmpv4_echo_reply(1, 1)
            .write(&mut reply, &[])
            .unwrap();
        let flows = read_bytes(&pcap(&[request, reply]));
        assert_eq!(egress(&flows).len(), 1);
        assert_eq!(egress(&flows)[0].2, icmp_port(8, 0));
    }

    #[test]
    fn a_capture_that_is_cut_off_counts_until_there() {
        let file = pcap(&[udp(1, 3, (5000, 53)), udp(1, 4, (5000, 53))]);
        let flows = read_bytes(&file[..file.len() - 5]);
        assert_eq!(egress(&flows).len(), 1);
        assert_eq!(flows.bad.count, 1, "{:?}", flows.bad);
        for length in 24..file.len() {
            read_bytes(&file[..length]);
        }
    }

    #[test]
    fn headers_alone_are_enough() {
        let mut frame = tcp(1, 2, (40000, 5432), "S");
        frame.truncate(14 + 20 + 14);
        assert_eq!(egress(&read_bytes(&pcap(&[frame]))).len(), 1);
        let mut short = tcp(1, 2, (40000, 5432), "S");
        short.truncate(14 + 20 + 3);
        assert_eq!(read_bytes(&pcap(&[short])).bad.count, 1);
    }
}
