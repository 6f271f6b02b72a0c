//! From the bytes of a kernel event, or of an entry of the table of denied flows, to values
//! that can only be meaningful. Whatever the programs cannot have written is refused.

use std::net::{IpAddr, Ipv6Addr};

use enforcer_common::{
    Action, Direction, Protocol, Reason,
    denied_entry::{DeniedEntry, DeniedKey},
    event::{Event, Hook, event_flag},
    flow_key::Addr6,
};

/// Why bytes are no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not the size of an event.
    #[error("{0} bytes, but an event has {size}", size = size_of::<Event>())]
    Size(usize),
    /// A field holds a value that it cannot have.
    #[error("{field} is {value}")]
    Field {
        /// The field's name.
        field: &'static str,
        /// Its value.
        value: u64,
    },
}

/// One verdict on one packet or call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// What the verdict was on.
    pub flow: Flow,
    /// Nanoseconds of the monotonic clock.
    pub time: u64,
    /// Port of the side that opened the flow.
    pub source_port: Option<u16>,
    /// Policy generation.
    pub generation: u32,
    /// Bytes of the packet; 0 at the socket hooks.
    pub length: u32,
    /// `None` where no TCP packet was seen.
    pub tcp_flags: Option<u8>,
    /// Where the verdict fell.
    pub hook: Hook,
    /// A policy change broke the flow.
    pub broken: bool,
    /// The table of denied flows counts this packet too, under this key.
    pub counted: Option<DeniedKey>,
    /// Who made the call, at the socket hooks.
    pub caller: Option<Caller>,
}

/// What sightings and counts have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Seen from the endpoint.
    pub direction: Direction,
    /// The verdict.
    pub action: Action,
    /// Why.
    pub reason: Reason,
    /// Number of the rule.
    pub rule: Option<u32>,
    /// Number of the endpoint.
    pub endpoint: Option<u32>,
    /// Identity of the peer; 0 where it was not looked up.
    pub peer: u32,
    /// `None` where it is unspecified or could not be read.
    pub local: Option<IpAddr>,
    /// As `local`.
    pub remote: Option<IpAddr>,
    /// IP protocol number; `None` where the frame does not tell.
    pub protocol: Option<u8>,
    /// The port that the flow is addressed to, for protocols that have ports.
    pub port: Option<u16>,
    /// ICMP or ICMPv6 type and code.
    pub icmp: Option<(u8, u8)>,
    /// Interface index.
    pub ifindex: Option<u32>,
    /// Cgroup id.
    pub cgroup: Option<u64>,
}

/// The process at a socket hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Process id.
    pub pid: u32,
    /// User id.
    pub uid: u32,
    /// Name of the thread.
    pub program: String,
}

/// A number of verdicts, all alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeniedCount {
    /// What the verdicts were on.
    pub flow: Flow,
    /// Nanoseconds of the monotonic clock at the last one.
    pub last: u64,
}

/// Decodes a record of the ring buffer.
pub fn event(bytes: &[u8]) -> Result<Event, DecodeError> {
    let event =
        bytemuck::try_pod_read_unaligned(bytes).map_err(|_| DecodeError::Size(bytes.len()))?;
    sighting(&event)?;
    Ok(event)
}

/// Decodes an event.
pub fn sighting(event: &Event) -> Result<Sighting, DecodeError> {
    const KNOWN_FLAGS: u8 = event_flag::BROKEN | event_flag::COUNTED;
    let hook = Hook::from_byte(event.hook).ok_or_else(|| field("hook", event.hook))?;
    if event.flags & !KNOWN_FLAGS != 0 {
        return Err(field("flags", event.flags));
    }
    if event.pad != 0 {
        return Err(field("pad", event.pad));
    }
    let (local, remote) = (address(event.local), address(event.remote));
    match event.family {
        // 0: a frame that is not IP, or that contradicts itself.
        0 | 6 => {}
        4 => {
            let is_4 = |a: Option<IpAddr>| a.is_none_or(|a| a.is_ipv4());
            if !is_4(local) || !is_4(remote) {
                return Err(field("family", event.family));
            }
        }
        other => return Err(field("family", other)),
    }
    let is_call = matches!(hook, Hook::Connect | Hook::Sendmsg);
    let (action, direction, reason) = verdict(event.action, event.direction, event.reason)?;
    let has_ports = Protocol::has_ports(event.protocol);
    let (to, from) = match direction {
        Direction::Egress => (event.remote_port, event.local_port),
        Direction::Ingress => (event.local_port, event.remote_port),
    };
    Ok(Sighting {
        flow: Flow {
            direction,
            action,
            reason,
            rule: some_number(event.rule),
            endpoint: some_number(event.endpoint),
            peer: event.peer,
            local,
            remote,
            protocol: protocol(event.protocol),
            port: has_ports.then_some(to),
            icmp: icmp(event.protocol, event.remote_port),
            ifindex: some_number(event.ifindex),
            cgroup: (event.cgroup != 0).then_some(event.cgroup),
        },
        time: event.time,
        // A socket that is not bound yet has none.
        source_port: (has_ports && from != 0).then_some(from),
        generation: event.generation,
        length: event.length,
        tcp_flags: (event.protocol == Protocol::TCP && !is_call).then_some(event.tcp_flags),
        hook,
        broken: event.flags & event_flag::BROKEN != 0,
        counted: (event.flags & event_flag::COUNTED != 0).then(|| denied_key(event)),
        caller: (event.pid != 0).then(|| Caller {
            pid: event.pid,
            uid: event.uid,
            program: program(&event.program),
        }),
    })
}

/// Decodes an entry of the table of denied flows.
pub fn denied(key: &DeniedKey, entry: &DeniedEntry) -> Result<DeniedCount, DecodeError> {
    let (action, direction, reason) = verdict(key.action, key.direction, key.reason)?;
    if action == Action::Allow {
        return Err(field("action", key.action));
    }
    if key.pad != [0; 2] {
        return Err(field("pad", u16::from_ne_bytes(key.pad)));
    }
    Ok(DeniedCount {
        flow: Flow {
            direction,
            action,
            reason,
            rule: some_number(key.rule),
            endpoint: some_number(key.endpoint),
            peer: entry.peer,
            local: address(key.local),
            remote: address(key.remote),
            protocol: protocol(key.protocol),
            port: Protocol::has_ports(key.protocol).then_some(key.port),
            icmp: icmp(key.protocol, key.port),
            ifindex: some_number(entry.ifindex),
            cgroup: (entry.cgroup != 0).then_some(entry.cgroup),
        },
        last: entry.last,
    })
}

/// The key under which the table of denied flows counts the event's packet.
fn denied_key(event: &Event) -> DeniedKey {
    let is_icmp = matches!(event.protocol, Protocol::ICMP | Protocol::ICMPV6);
    let port = match Direction::from_byte(event.direction) {
        Direction::Ingress if !is_icmp => event.local_port,
        _ => event.remote_port,
    };
    DeniedKey {
        local: event.local,
        remote: event.remote,
        endpoint: event.endpoint,
        rule: event.rule,
        port,
        protocol: event.protocol,
        direction: event.direction,
        reason: event.reason,
        action: event.action,
        pad: [0; 2],
    }
}

fn verdict(
    action: u8,
    direction: u8,
    reason: u8,
) -> Result<(Action, Direction, Reason), DecodeError> {
    if action > Action::Audit as u8 {
        return Err(field("action", action));
    }
    if direction > Direction::Ingress as u8 {
        return Err(field("direction", direction));
    }
    let reason = Reason::from_byte(reason).ok_or_else(|| field("reason", reason))?;
    Ok((
        Action::from_byte(action),
        Direction::from_byte(direction),
        reason,
    ))
}

fn field(field: &'static str, value: impl Into<u64>) -> DecodeError {
    DecodeError::Field {
        field,
        value: value.into(),
    }
}

fn some_number(number: u32) -> Option<u32> {
    (number != 0).then_some(number)
}

/// `None` for the unspecified addresses: a frame whose addresses could not be read, a socket
/// that is not bound yet, a host that has no address yet.
fn address(bytes: Addr6) -> Option<IpAddr> {
    let address = Ipv6Addr::from(bytes).to_canonical();
    (!address.is_unspecified()).then_some(address)
}

/// 0 is IPv6's hop-by-hop header, which is nobody's protocol: it stands for not known.
fn protocol(number: u8) -> Option<u8> {
    (number != 0).then_some(number)
}

fn icmp(protocol: u8, port: u16) -> Option<(u8, u8)> {
    let [kind, code] = port.to_be_bytes();
    matches!(protocol, Protocol::ICMP | Protocol::ICMPV6).then_some((kind, code))
}

fn program(bytes: &[u8; 16]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable;
    use proptest::prelude::*;

    use super::*;
    use crate::observe::fixtures;

    #[test]
    fn an_event_is_read_as_it_was_written() {
        let event = fixtures::event();
        let sighting = sighting(&event).unwrap();
        assert_eq!(sighting.flow.direction, Direction::Ingress);
        assert_eq!(sighting.flow.port, Some(5432));
        assert_eq!(sighting.source_port, Some(40_000));
        assert_eq!(sighting.flow.local, Some("10.77.22.2".parse().unwrap()));
        assert_eq!(sighting.tcp_flags, Some(2));
        assert_eq!(sighting.caller, None);
        let key = sighting.counted.unwrap();
        assert_eq!((key.port, key.rule, key.endpoint), (5432, 7, 2));
        let bytes = bytemuck::bytes_of(&event);
        assert_eq!(super::event(bytes), Ok(event));
        assert_eq!(super::event(&bytes[1..]), Err(DecodeError::Size(111)));
    }

    #[test]
    fn every_nonsense_is_refused() {
        let nonsense: [fn(&mut Event); 7] = [
            |e| e.hook = 5,
            |e| e.reason = 255,
            |e| e.action = 3,
            |e| e.direction = 2,
            |e| e.flags = 4,
            |e| e.family = 5,
            |e| e.pad = 1,
        ];
        for spoil in nonsense {
            let mut event = fixtures::event();
            spoil(&mut event);
            assert!(sighting(&event).is_err(), "{event:?}");
        }
        let mut event = fixtures::event();
        event.remote = [1; 16];
        assert_eq!(sighting(&event), Err(field("family", 4_u8)));
    }

    #[test]
    fn frames_without_addresses_have_none() {
        let event = Event {
            action: 1,
            reason: Reason::Truncated as u8,
            hook: Hook::Tc as u8,
            ..Event::zeroed()
        };
        let mut mapped = event;
        mapped.local = enforcer_common::flow_key::mapped([0; 4]);
        assert_eq!(sighting(&mapped).unwrap().flow.local, None);
        let flow = sighting(&event).unwrap().flow;
        assert_eq!((flow.local, flow.remote, flow.protocol), (None, None, None));
        assert_eq!(flow.port, None);
    }

    #[test]
    fn icmp_has_a_type_and_no_ports() {
        let event = Event {
            protocol: Protocol::ICMP,
            remote_port: 0x0801,
            ..fixtures::event()
        };
        let sighting = sighting(&event).unwrap();
        assert_eq!(sighting.flow.icmp, Some((8, 1)));
        assert_eq!((sighting.flow.port, sighting.source_port), (None, None));
        assert_eq!(sighting.counted.unwrap().port, 0x0801);
    }

    #[test]
    fn a_name_ends_where_it_ends() {
        assert_eq!(program(b"curl\0\0\0\0\0\0\0\0\0\0\0\0"), "curl");
        assert_eq!(program(b"sixteen-letters!"), "sixteen-letters!");
        assert_eq!(program(b"\xff\0ccccccccccccc\0"), "\u{fffd}");
    }

    proptest! {
        /// Whatever the bytes: no panic, and what is accepted means the same bytes.
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 100..124)) {
            if let Ok(event) = event(&bytes) {
                prop_assert_eq!(bytemuck::bytes_of(&event), bytes.as_slice());
            }
        }

        /// As above, with bytes that pass most checks.
        #[test]
        fn likely_bytes_are_read_or_refused(
            mut bytes in proptest::collection::vec(any::<u8>(), 112),
            small in proptest::collection::vec(0u8..20, 10),
        ) {
            bytes[84..86].copy_from_slice(&small[..2]);
            bytes[86..92].copy_from_slice(&small[2..8]);
            bytes[108..].fill(0);
            if let Ok(event) = event(&bytes) {
                let sighting = sighting(&event).unwrap();
                prop_assert_eq!(sighting.flow.direction as u8, event.direction);
                prop_assert_eq!(sighting.flow.action as u8, event.action);
                prop_assert_eq!(sighting.flow.reason as u8, event.reason);
                prop_assert_eq!(sighting.counted.is_some(), event.flags & 2 != 0);
            }
        }

        #[test]
        fn any_entry_is_read_or_refused(
            key in any::<[u8; size_of::<DeniedKey>()]>(),
            entry in any::<[u8; size_of::<DeniedEntry>()]>(),
        ) {
            let _ = denied(&bytemuck::cast(key), &bytemuck::cast(entry));
        }
    }
}
