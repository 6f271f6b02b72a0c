//! From a parsed packet to "passes" or "does not": conntrack first, then everything else.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH,
        BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as FibParams,
    },
    helpers::generated::bpf_fib_lookup,
};
use enforcer_common::{
    Action, Decision, Direction, Judge, Protocol, Reason,
    address_entry::address_flag,
    config::{Config, config_flag},
    conntrack::{FlowEntry, State, advance, flow_flag, infer_opener, tcp_flag},
    endpoint_entry::{EndpointEntry, endpoint_flag},
    event::event_flag,
    flow_key::{Addr6, FlowKey, FragmentEntry, FragmentKey, space},
    identity,
};

use crate::{
    clear::zero,
    family::{Family, V4, V6},
    narrate,
    parse::{
        OK, Packet, ethernet,
        frame::Skb,
        kind,
        plain::{self, Plain, Step},
        quoted::Quoted,
    },
    peer,
    report::{Facts, Report},
    table::{
        config::{config, is_failsafe},
        endpoints, flows, fragments, policy,
    },
};

/// Length of a frame's header without tags.
const HEADER: usize = ethernet::HEADER as usize;

/// The loopback device has this index in every network namespace.
const LOOPBACK: u32 = 1;

/// Where a packet is judged. Without holes, as [`Packet`].
#[repr(C)]
pub struct Place {
    /// Nanoseconds of the monotonic clock.
    pub now: u64,
    /// Cgroup of the endpoint, or 0.
    pub cgroup: u64,
    pub seconds: u32,
    /// Device of the packet.
    pub ifindex: u32,
    /// See [`space`].
    pub scope: u32,
    /// See [`space`].
    pub space: u8,
    /// A [`enforcer_common::event::Hook`].
    pub hook: u8,
    /// The way of the packet: a [`Direction`].
    pub direction: u8,
    /// 1: the verdict on this packet was reported by the socket hook.
    pub reported: u8,
    pub pad: [u8; 4],
}

const _: () = assert!(size_of::<Place>() == 40);

/// What the flow table says to a packet.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    /// It was not asked yet.
    Unasked,
    /// It belongs to an established, judged flow, and passes.
    Established,
    /// Its flow is to be judged anew.
    Stale,
    /// It has no flow.
    Unknown,
}

/// Looks the flow of a packet up: all that an established flow costs.
#[inline(always)]
fn known<F: Family>(
    config: &Config,
    packet: &Step,
    flow: &FlowKey<F::Addr>,
    direction: Direction,
    seconds: u32,
) -> Known {
    let Some(entry) = F::flow(flow) else {
        return Known::Unknown;
    };
    // SAFETY: a live map value. Other CPUs may change it too; every field stands alone.
    let entry = unsafe { &mut *entry };
    if entry.generation != config.generation
        || entry.flags & flow_flag::DENIED != 0
        || entry.is_expired(packet.protocol, seconds)
        || entry.is_reopened_by(direction, packet.protocol, packet.tcp_flags)
    {
        return Known::Stale;
    }
    touch(entry, packet.protocol, packet.tcp_flags, direction, seconds);
    Known::Established
}

/// Moves a flow on. Writes only what changes: a hot entry's cache line stays shared.
#[inline(always)]
fn touch(entry: &mut FlowEntry, protocol: u8, tcp_flags: u8, direction: Direction, seconds: u32) {
    let before = State::from_byte(entry.state);
    let opener = Direction::from_byte(entry.opener);
    let after = advance(before, opener, direction, protocol, tcp_flags);
    if after as u8 != before as u8 {
        entry.state = after as u8;
    }
    if entry.seen != seconds {
        entry.seen = seconds;
    }
}

/// Gives later fragments the ports of the first one. Returns 1, or [`MALFORMED`] plus a reason.
#[inline(never)]
fn reassemble<F: Family>(packet: &mut Packet<F>, place: &Place) -> u32 {
    let key = FragmentKey {
        source: F::mapped(&packet.source),
        destination: F::mapped(&packet.destination),
        identification: packet.identification,
        ifindex: place.ifindex,
        protocol: packet.protocol,
        direction: place.direction,
        pad: [0; 2],
    };
    if packet.kind == kind::FIRST_FRAGMENT {
        let entry = FragmentEntry {
            source_port: packet.source_port,
            destination_port: packet.destination_port,
            seen: place.seconds,
        };
        fragments::keep(&key, &entry);
        return 1;
    }
    let Some(first) = fragments::find(&key, place.seconds) else {
        return MALFORMED + Reason::FragmentUnknown as u32;
    };
    packet.source_port = first.source_port;
    packet.destination_port = first.destination_port;
    if packet.protocol == Protocol::TCP {
        packet.tcp_flags = tcp_flag::ACK;
    }
    1
}

/// A packet on its way through the pipeline. Without holes, as [`Packet`].
#[repr(C)]
pub struct Case<F: Family> {
    facts: Facts,
    packet: Packet<F>,
    notes: Notes,
}

/// What is found out on the way. Kept in the case's memory, of whose contents the verifier
/// remembers nothing: paths that differ only here are one path to it.
#[repr(C, align(4))]
struct Notes {
    /// 0 or 1 as [`Direction`]; 2: cannot be told.
    opener: u8,
    adopted: u8,
    /// One of [`past`].
    past: u8,
    /// A [`State`].
    state: u8,
    /// 1: the flow table has an entry.
    listed: u8,
    pad: [u8; 3],
}

/// What is known of a flow before its packet is judged.
mod past {
    /// Nothing: the packet opens it.
    pub const NONE: u8 = 0;
    /// It is open.
    pub const OPEN: u8 = 1;
    /// It was open and is denied since.
    pub const DENIED: u8 = 2;
    /// It may have been open before the endpoint was there. (Odd, as all that is open.)
    pub const BEFORE: u8 = 3;
    /// The packet is an ICMP error, and it quotes a flow that is open.
    pub const QUOTED: u8 = 4;
}

const _: () = assert!(size_of::<Case<V4>>() == 28 + 32 + 8);
const _: () = assert!(size_of::<Case<V6>>() == 28 + 56 + 8);

/// The slow way as a global function, for each family and kind of hook: the verifier proves
/// it once for any packet, and not for every path through the parser that leads to it.
pub trait Slow: Quoted + Plain + Report {
    /// Judges a case at a socket's hook (`at_socket`) or at an interface.
    fn judge(
        skb: Skb,
        place: &Place,
        case: &mut Case<Self>,
        flow: &FlowKey<Self::Addr>,
        at_socket: bool,
    ) -> u32;
}

macro_rules! global {
    ($family:ident, $at_interface:ident, $at_socket:ident) => {
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $at_interface(
            skb: *mut __sk_buff,
            place: *const Place,
            case: *mut Case<$family>,
            flow: *const FlowKey<<$family as Family>::Addr>,
        ) -> u32 {
            // SAFETY: the caller's own; the verifier wants the question to be asked.
            match unsafe { (place.as_ref(), case.as_mut(), flow.as_ref()) } {
                (Some(place), Some(case), Some(flow)) => {
                    judge::<$family, false>(Skb(skb), place, case, flow)
                }
                _ => 0,
            }
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $at_socket(
            skb: *mut __sk_buff,
            place: *const Place,
            case: *mut Case<$family>,
            flow: *const FlowKey<<$family as Family>::Addr>,
        ) -> u32 {
            // SAFETY: the caller's own; the verifier wants the question to be asked.
            match unsafe { (place.as_ref(), case.as_mut(), flow.as_ref()) } {
                (Some(place), Some(case), Some(flow)) => {
                    judge::<$family, true>(Skb(skb), place, case, flow)
                }
                _ => 0,
            }
        }

        impl Slow for $family {
            #[inline(always)]
            fn judge(
                skb: Skb,
                place: &Place,
                case: &mut Case<Self>,
                flow: &FlowKey<Self::Addr>,
                at_socket: bool,
            ) -> u32 {
                if at_socket {
                    $at_socket(skb.0, place, case, flow)
                } else {
                    $at_interface(skb.0, place, case, flow)
                }
            }
        }
    };
}

global!(V4, judge_interface4, judge_socket4);
global!(V6, judge_interface6, judge_socket6);

/// What [`enter`] returns for a packet that is refused for itself: this plus the [`Reason`].
pub const MALFORMED: u32 = 0x100;

/// Room for the key of a packet's flow, whichever its family: the stack has little.
pub type FlowRoom = MaybeUninit<FlowKey<Addr6>>;

/// Judges a packet whose IP header is at `offset`. Returns 0 (drop), 1 (pass), or
/// [`MALFORMED`] plus a reason.
///
/// `AT_SOCKET`: called at a socket's own hook.
///
/// A plain packet of an established flow passes here, in line: every call costs, and there are
/// processors on which every return costs dearly.
#[inline(always)]
pub fn enter<F: Slow, const AT_SOCKET: bool>(
    skb: Skb,
    config: &Config,
    place: &Place,
    offset: u32,
    room: &mut FlowRoom,
) -> u32 {
    // SAFETY: the room is that of the larger family's key, and keys are plain integers, written
    // before they are read.
    let flow = unsafe { &mut *room.as_mut_ptr().cast::<FlowKey<F::Addr>>() };
    let direction = Direction::from_byte(place.direction);
    let plain = if AT_SOCKET {
        plain::flow::<F, 0>(skb, place, direction, flow)
    } else if offset == ethernet::HEADER {
        plain::flow::<F, HEADER>(skb, place, direction, flow)
    } else {
        None
    };
    let asked = match plain {
        Some(step) => known::<F>(config, &step, flow, direction, place.seconds),
        None => Known::Unasked,
    };
    if asked == Known::Established {
        return 1;
    }
    walk::<F, AT_SOCKET>(skb, place, offset, asked, flow)
}

/// Reads a packet that was found to be plain. Returns 1. Never inlined: what it needs of the
/// stack is free again when the packet is judged.
#[inline(never)]
fn read_again<F: Slow, const AT_SOCKET: bool>(skb: Skb, packet: &mut Packet<F>) -> u32 {
    let plain = if AT_SOCKET {
        plain::packet::<F, 0>(skb, packet)
    } else {
        plain::packet::<F, HEADER>(skb, packet)
    };
    u32::from(plain)
}

/// Judges a packet that does not pass at once, with what the flow table said to it.
#[inline(never)]
fn walk<F: Slow, const AT_SOCKET: bool>(
    skb: Skb,
    place: &Place,
    offset: u32,
    asked: Known,
    flow: &mut FlowKey<F::Addr>,
) -> u32 {
    let Some(config) = config() else { return 1 };
    let mut case = MaybeUninit::<Case<F>>::uninit();
    // SAFETY: plain integers, zeroed before they are read: word by word, because a call to
    // `memset` would be a loop over bytes, and part by part, because an established packet
    // needs one part only.
    let case = unsafe {
        let case = case.assume_init_mut();
        zero((&raw mut case.packet).cast(), size_of::<Packet<F>>() / 4);
        case
    };
    if asked == Known::Unasked || read_again::<F, AT_SOCKET>(skb, &mut case.packet) == 0 {
        let parsed = F::parse(skb, offset, &mut case.packet);
        if parsed != OK {
            return MALFORMED + parsed;
        }
    }
    let direction = Direction::from_byte(place.direction);
    // At a socket datagrams are whole: not sent in pieces yet, or put together already.
    if !AT_SOCKET
        && (case.packet.kind == kind::FIRST_FRAGMENT || case.packet.kind == kind::LATER_FRAGMENT)
    {
        let code = reassemble(&mut case.packet, place);
        if code != 1 {
            return code;
        }
    }
    let mut known = asked;
    if known == Known::Unasked {
        case.packet
            .write_flow(place.space, place.scope, direction, flow);
        if case.packet.kind == kind::ICMP_ERROR {
            known = Known::Unknown;
        } else {
            let step = Step {
                protocol: case.packet.protocol,
                tcp_flags: case.packet.tcp_flags,
            };
            known = self::known::<F>(config, &step, flow, direction, place.seconds);
        }
    }
    if known == Known::Established {
        return 1;
    }
    if place.space == space::HOST {
        // The device numbers of another network are not ours: what a container's socket does
        // there can look as if it went through an uplink.
        let others = if AT_SOCKET {
            peer::is_elsewhere::<F>(config, &flow.local)
        } else {
            is_for_others::<F>(skb, config, place, &case.packet, flow)
        };
        if others == 1 {
            return 1;
        }
    }
    // SAFETY: exactly the two parts, which are words.
    unsafe {
        zero((&raw mut case.facts).cast(), size_of::<Facts>() / 4);
        zero((&raw mut case.notes).cast(), size_of::<Notes>() / 4);
    }
    note(&mut case.notes.listed, u8::from(known == Known::Stale));
    if case.packet.kind == kind::ICMP_ERROR && is_related::<F>(skb, place, &case.packet) == 1 {
        note(&mut case.notes.past, past::QUOTED);
    }
    let passes = F::judge(skb, place, case, flow, AT_SOCKET);
    if case.facts.tell != 0 {
        F::report(place, flow, &case.facts, false);
    }
    passes
}

/// Everything but the established case. Returns 1 when the packet passes, and leaves what is
/// to be reported in the case's facts.
#[inline(always)]
fn judge<F: Quoted, const AT_SOCKET: bool>(
    skb: Skb,
    place: &Place,
    case: &mut Case<F>,
    flow: &FlowKey<F::Addr>,
) -> u32 {
    let Some(config) = config() else { return 1 };
    let Case {
        facts,
        packet,
        notes,
    } = case;
    let direction = Direction::from_byte(place.direction);
    let endpoint = if place.space == space::CGROUP {
        endpoints::cgroup(place.cgroup)
    } else {
        endpoints::interface(place.ifindex)
    };
    // No endpoint (any more): not ours to judge.
    let Some(endpoint) = endpoint else {
        narrate::no_endpoint(place.ifindex, place.cgroup, place.space);
        return 1;
    };
    if is_infrastructure(packet, endpoint, place, direction) {
        return 1;
    }
    facts.direction = place.direction;
    facts.peer = identity::WORLD;
    facts.endpoint = endpoint.id;
    facts.length = packet.length;
    facts.tcp_flags = packet.tcp_flags;
    facts.port = packet.policy_port(direction, direction);
    let audit = endpoint.has(endpoint_flag::AUDIT);
    if place.space == space::INTERFACE
        && direction as u8 == Direction::Egress as u8
        && !is_own_source::<F>(config, &flow.local, endpoint)
    {
        facts.decision = Decision::new(Action::Deny, Reason::SourceGuard, 0).audited(audit);
        facts.tell = 1;
        return u32::from(audit);
    }

    if read(&notes.past) == past::QUOTED {
        return 1;
    }

    // What the flow's entry still tells: who opened it, and whether it was denied already.
    let inferred = opener_of::<F>(packet, flow, direction, endpoint, place.seconds);
    note(&mut notes.opener, inferred.map_or(2, |way| way as u8));
    note(&mut notes.adopted, u8::from(inferred.is_none()));
    note(&mut notes.past, past::NONE);
    note(&mut notes.state, State::New as u8);
    // A TCP connection from before the endpoint has no entry, and if it is denied, its end must
    // be told all the same.
    if packet.protocol == Protocol::TCP
        && place.seconds < endpoint.adopt_until
        && !packet.is_open_request()
    {
        note(&mut notes.past, past::BEFORE);
        note(&mut notes.state, State::Established as u8);
    }
    if read(&notes.listed) != 0
        && let Some(entry) = entry_of::<F>(flow)
    {
        if !entry.is_expired(packet.protocol, place.seconds)
            && !entry.is_reopened_by(direction, packet.protocol, packet.tcp_flags)
        {
            if entry.flags & flow_flag::DENIED != 0 && entry.generation == config.generation {
                let closed = entry.state == State::Closed as u8;
                if packet.is_reset() {
                    close(entry, place.seconds);
                    return 1;
                }
                // A reset whose number is not the next one expected, because what came before
                // it was dropped, is answered with an acknowledgement, and only the answer to
                // that ends the connection (RFC 5961, 3.2). An acknowledgement that comes while
                // the socket is still being taken down is lost, and what the peer then sends
                // again has to do; there is no socket any more that could take its data.
                let is_late = direction as u8 == Direction::Ingress as u8
                    && place.seconds.wrapping_sub(entry.seen) <= 1
                    && !packet.is_open_request();
                if closed && (packet.is_bare_ack() || is_late) {
                    return 1;
                }
                facts.decision = Decision {
                    rule: entry.rule,
                    action: Action::Deny as u8,
                    reason: entry.reason,
                    flags: 0,
                    pad: 0,
                };
                facts.peer = entry.peer;
                facts.direction = entry.opener;
                facts.port = packet.policy_port(direction, Direction::from_byte(entry.opener));
                facts.tell = 1;
                return 0;
            }
            let before = if entry.flags & flow_flag::DENIED == 0 {
                past::OPEN
            } else {
                past::DENIED
            };
            note(&mut notes.past, before);
            note(&mut notes.opener, entry.opener & 1);
            note(&mut notes.adopted, entry.flags & flow_flag::ADOPTED);
            note(&mut notes.state, entry.state);
        }
    }

    let known = peer::by_address::<F>(config, &flow.remote);
    facts.peer = known.identity;
    // Whatever two processes of one host say to each other goes through the loopback device:
    // a fact that no address can fake.
    let same_host = if AT_SOCKET {
        place.ifindex == LOOPBACK
    } else {
        place.space == space::INTERFACE && known.flags & address_flag::LOCAL != 0
    };
    if same_host {
        let proven = peer::by_socket::<F, AT_SOCKET>(skb, flow);
        if proven != 0 {
            facts.peer = proven;
        }
    }

    let unknown = read(&notes.opener) == 2;
    let mut way = if unknown {
        direction
    } else {
        Direction::from_byte(read(&notes.opener))
    };
    facts.decision = ask::<F>(endpoint, facts.peer, packet, direction, way);
    if unknown && facts.decision.action != Action::Allow as u8 {
        let other = ask::<F>(endpoint, facts.peer, packet, direction, way.reverse());
        if other.action == Action::Allow as u8 {
            facts.decision = other;
            way = way.reverse();
        }
    }
    note(&mut facts.direction, way as u8);
    let way = Direction::from_byte(read(&facts.direction));
    let was_open = read(&notes.past) & 1 != 0;
    facts.port = packet.policy_port(direction, way);
    if facts.decision.action == Action::Deny as u8
        && endpoint.has(endpoint_flag::HOST)
        && is_failsafe(packet.protocol, facts.port, way)
    {
        facts.decision = Decision::new(Action::Allow, Reason::Failsafe, 0);
    }
    facts.decision = facts.decision.audited(audit);
    facts.opens = u8::from(read(&notes.past) != past::OPEN);
    facts.tell = u8::from(place.reported == 0);

    let passes = facts.decision.passes();
    if !passes && was_open {
        facts.flags |= event_flag::BROKEN;
        facts.tell = 1;
    }
    if (packet.kind == kind::PLAIN || packet.kind == kind::FIRST_FRAGMENT) && (passes || was_open) {
        let mut flags = 0;
        if facts.decision.action == Action::Audit as u8 {
            flags |= flow_flag::AUDIT;
        }
        if read(&notes.adopted) != 0 {
            flags |= flow_flag::ADOPTED;
        }
        if !passes {
            flags |= flow_flag::DENIED;
        }
        let mut state = State::from_byte(read(&notes.state));
        if packet.protocol == Protocol::TCP && !packet.is_open_request() && !was_open {
            state = State::Established;
        }
        let entry = FlowEntry {
            generation: config.generation,
            seen: place.seconds,
            peer: facts.peer,
            rule: facts.decision.rule,
            endpoint: endpoint.id,
            opener: way as u8,
            state: advance(state, way, direction, packet.protocol, packet.tcp_flags) as u8,
            flags,
            reason: facts.decision.reason,
        };
        let kept = keep::<F>(flow, &entry) == 1;
        if !kept && passes && config.flags & config_flag::FULL_DENIES != 0 {
            facts.decision = Decision::new(Action::Deny, Reason::FlowTableFull, 0).audited(audit);
            facts.tell = 1;
        }
    }
    // Denied once more by a later generation.
    if !passes
        && read(&notes.past) == past::DENIED
        && let Some(entry) = entry_of::<F>(flow)
    {
        entry.generation = config.generation;
        entry.rule = facts.decision.rule;
        entry.reason = facts.decision.reason;
        if packet.is_reset() {
            close(entry, place.seconds);
        }
    }
    if packet.is_reset() && read(&notes.past) != past::NONE {
        return 1;
    }
    u32::from(facts.decision.passes())
}

/// A reset has passed on a denied connection. The time of the first one counts.
#[inline(always)]
fn close(entry: &mut FlowEntry, seconds: u32) {
    if entry.state != State::Closed as u8 {
        entry.state = State::Closed as u8;
        entry.seen = seconds;
    }
}

/// The entry of a flow. Map keys must be on a function's own stack (before Linux 6.2), and the
/// room for this one is free again afterwards; so with [`keep`].
#[inline(never)]
fn entry_of<F: Family>(flow: &FlowKey<F::Addr>) -> Option<&'static mut FlowEntry> {
    let key = FlowKey { ..*flow };
    // SAFETY: a live map value. Other CPUs may change it too; every field stands alone.
    F::flow(&key).map(|entry| unsafe { &mut *entry })
}

/// Keeps the entry of a flow. Returns 0 when there is no room.
#[inline(never)]
fn keep<F: Family>(flow: &FlowKey<F::Addr>, entry: &FlowEntry) -> u32 {
    let key = FlowKey { ..*flow };
    u32::from(F::keep(&key, entry))
}

/// Writes a note so that the compiler cannot carry its value on in a register.
#[inline(always)]
fn note(field: &mut u8, value: u8) {
    // SAFETY: a reference.
    unsafe { core::ptr::write_volatile(field, value) }
}

/// Reads a note anew.
#[inline(always)]
fn read(field: &u8) -> u8 {
    // SAFETY: a reference.
    unsafe { core::ptr::read_volatile(field) }
}

/// The compiled policy's answer for a flow that was opened the way `way`.
#[inline(always)]
fn ask<F: Family>(
    endpoint: &EndpointEntry,
    peer: u32,
    packet: &Packet<F>,
    direction: Direction,
    way: Direction,
) -> Decision {
    policy::decide(&Judge {
        set: endpoint.set(way),
        peer,
        protocol: packet.protocol,
        port: packet.policy_port(direction, way),
    })
}

/// Who opened the flow of a packet that has no entry. `None`: cannot be told.
#[inline(always)]
fn opener_of<F: Family>(
    packet: &Packet<F>,
    flow: &FlowKey<F::Addr>,
    direction: Direction,
    endpoint: &EndpointEntry,
    seconds: u32,
) -> Option<Direction> {
    if packet.protocol == Protocol::TCP {
        let flags = packet.tcp_flags & (tcp_flag::SYN | tcp_flag::ACK);
        if flags == tcp_flag::SYN {
            return Some(direction);
        }
        if flags == tcp_flag::SYN | tcp_flag::ACK {
            return Some(direction.reverse());
        }
        return infer_opener(flow.local_port, flow.remote_port);
    }
    if packet.kind == kind::ICMP_ERROR {
        return Some(direction);
    }
    // A request shows who asks.
    if packet.is_echo_request() {
        return Some(direction);
    }
    if seconds < endpoint.adopt_until && endpoint.has(endpoint_flag::ADOPTS_DATAGRAMS)
        || flows::is_full(seconds)
    {
        return infer_opener(flow.local_port, flow.remote_port);
    }
    Some(direction)
}

/// Whether an ICMP error is about a flow that is open here.
#[inline(never)]
fn is_related<F: Quoted>(skb: Skb, place: &Place, packet: &Packet<F>) -> u32 {
    let direction = Direction::from_byte(place.direction);
    let Some(quoted) = F::quoted(&skb, packet.transport, place.space, place.scope, direction)
    else {
        return 0;
    };
    let Some(entry) = F::flow(&quoted) else {
        return 0;
    };
    // SAFETY: as in `known`.
    let entry = unsafe { &*entry };
    let open =
        entry.flags & flow_flag::DENIED == 0 && !entry.is_expired(quoted.protocol, place.seconds);
    u32::from(open)
}

/// Whether a packet at an uplink is not for the host endpoint to judge here: it is only
/// forwarded, or it has a socket, whose own hooks judge it.
#[inline(never)]
fn is_for_others<F: Quoted>(
    skb: Skb,
    config: &Config,
    place: &Place,
    packet: &Packet<F>,
    flow: &FlowKey<F::Addr>,
) -> u32 {
    let at_sockets = config.flags & config_flag::SOCKETS_AT_TC == 0;
    if place.direction == Direction::Egress as u8 {
        // SAFETY: the context of the program.
        let (forwarded, socket) = unsafe {
            (
                (*skb.0).ingress_ifindex != 0,
                !(*skb.0).__bindgen_anon_2.sk.is_null(),
            )
        };
        return u32::from(forwarded || at_sockets && socket);
    }
    if at_sockets {
        if packet.kind == kind::ICMP_ERROR {
            if let Some(about) =
                F::quoted(&skb, packet.transport, space::HOST, 0, Direction::Ingress)
                && peer::has_receiver::<F>(skb, &about) == 1
            {
                return 1;
            }
        } else if peer::has_receiver::<F>(skb, flow) == 1 {
            return 1;
        }
    }
    is_forwarded::<F>(skb, place.ifindex, packet)
}

/// Whether a packet at an uplink is routed to elsewhere: 1 or 0.
#[inline(never)]
fn is_forwarded<F: Family>(skb: Skb, ifindex: u32, packet: &Packet<F>) -> u32 {
    let mut question = MaybeUninit::<FibParams>::uninit();
    // SAFETY: all bytes zero is a valid question, and it is whole words.
    let question = unsafe {
        zero(question.as_mut_ptr().cast(), size_of::<FibParams>() / 4);
        question.assume_init_mut()
    };
    question.family = F::AF;
    question.ifindex = ifindex;
    F::fib(question, &packet.source, &packet.destination);
    // SAFETY: the parameters are as large as said.
    let answer = unsafe {
        bpf_fib_lookup(
            skb.0.cast(),
            core::ptr::from_mut(question),
            size_of::<FibParams>() as i32,
            0,
        )
    };
    // What has a route to elsewhere is forwarded, with or without a known neighbour, or too
    // big for the next link; everything else is for this host, or for nobody.
    let forwarded = answer == i64::from(BPF_FIB_LKUP_RET_SUCCESS)
        || answer == i64::from(BPF_FIB_LKUP_RET_NO_NEIGH)
        || answer == i64::from(BPF_FIB_LKUP_RET_FRAG_NEEDED);
    u32::from(forwarded)
}

/// What every host needs before it can be asked who it is: neighbour discovery, multicast
/// listener discovery, and DHCP where it has no address yet.
#[inline(always)]
fn is_infrastructure<F: Family>(
    packet: &Packet<F>,
    endpoint: &EndpointEntry,
    place: &Place,
    direction: Direction,
) -> bool {
    let host = endpoint.has(endpoint_flag::HOST);
    if packet.protocol == Protocol::ICMPV6 {
        let message = packet.icmp >> 8;
        // Router advertisements and redirects come from routers, never from workloads.
        let from_router = message == 134 || message == 137;
        let forged = from_router
            && place.space == space::INTERFACE
            && direction as u8 == Direction::Egress as u8;
        // RFC 4861: a hop limit of 255 proves that the sender is on the link.
        return match message {
            133..=137 => packet.hop_limit == 255 && !forged,
            130..=132 | 143 => packet.hop_limit == 1,
            _ => false,
        };
    }
    if packet.protocol != Protocol::UDP {
        return false;
    }
    let (client, server) = match direction {
        Direction::Egress => (packet.source_port, packet.destination_port),
        Direction::Ingress => (packet.destination_port, packet.source_port),
    };
    let dhcp = client == 68 && server == 67;
    let dhcp6 = client == 546 && server == 547;
    if host {
        return dhcp || dhcp6;
    }
    // A workload may ask for an address, not carry data to a server of its choice. The offer
    // comes to the very address that is offered, if the client can take it there.
    (dhcp || dhcp6)
        && (direction as u8 == Direction::Ingress as u8
            || F::is_group(&packet.destination)
            || F::is_group(&packet.source)
            || (dhcp6 && F::is_link_local(&packet.source)))
}

/// Whether a source address is the workload's own.
#[inline(always)]
fn is_own_source<F: Family>(config: &Config, source: &F::Addr, endpoint: &EndpointEntry) -> bool {
    if F::VERSION == 6 && F::is_link_local(source) {
        return true;
    }
    let strict = endpoint.has(endpoint_flag::STRICT_SOURCE);
    let entry = peer::by_address::<F>(config, source);
    if entry.endpoint == endpoint.id {
        return true;
    }
    // Nobody's, or that of a workload of the same identity.
    !strict
        && entry.endpoint == 0
        && entry.flags & address_flag::LOCAL == 0
        && (entry.identity < identity::FIRST
            || entry.flags & address_flag::WORLD != 0
            || entry.identity == endpoint.identity)
}
