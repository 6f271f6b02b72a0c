//! From a parsed packet to "passes" or "does not": conntrack first, then everything else.

mod exempt;
mod flow;
mod others;
mod reassembly;
pub mod refuse;
mod socket_flow;

use core::mem::MaybeUninit;

use aya_ebpf::bindings::__sk_buff;
use enforcer_common::{
    Action, Decision, Direction, Judge, Protocol, Reason,
    address_entry::address_flag,
    clock::seconds,
    config::{Config, config_flag},
    conntrack::{FlowEntry, State, advance, flow_flag},
    endpoint_entry::{EndpointEntry, endpoint_flag},
    event::event_flag,
    flow_key::{Addr6, FlowKey, space},
    identity,
    socket_entry::SocketEntry,
};

use crate::{
    again,
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
    pipeline::{
        exempt::{is_infrastructure, is_own_source, is_strayed},
        flow::{Known, close, entry_of, is_related, keep, known, known_apart, opener_of},
        others::is_for_others,
        reassembly::reassemble,
        refuse::{is_answer, offer, offer_again},
    },
    report::{Facts, Report},
    table::{
        config::{config, is_failsafe, passed},
        endpoints, policy,
    },
};

/// Length of a frame's header without tags.
pub const HEADER: usize = ethernet::HEADER as usize;

/// The loopback device has this index in every network namespace.
const LOOPBACK: u32 = 1;

/// Where a packet is judged. Without holes, as [`Packet`].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Place {
    /// Nanoseconds of the monotonic clock.
    pub now: u64,
    /// Cgroup of the endpoint, or 0.
    pub cgroup: u64,
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
    /// 1: no packet has arrived at the socket before.
    pub first: u32,
}

impl Place {
    /// Seconds of the monotonic clock.
    #[inline(always)]
    pub fn seconds(&self) -> u32 {
        seconds(self.now)
    }
}

const _: () = assert!(size_of::<Place>() == 32);

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
    /// How many of the moments ahead have passed.
    passed: u8,
    /// 1: the packet has the source of a workload inside, and came from outside.
    strayed: u8,
    pad: u8,
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

/// Where a packet is judged, and room for the key of its flow, whichever its family: the stack
/// has little.
///
/// The place is in memory with the key, and not in registers: of these there are so few that
/// they would be saved and loaded again around each look-up.
pub struct Room {
    flow: MaybeUninit<FlowKey<Addr6>>,
    pub place: Place,
}

impl Room {
    /// With room for a key.
    #[inline(always)]
    pub const fn new(place: Place) -> Self {
        Self {
            flow: MaybeUninit::uninit(),
            place,
        }
    }
}

/// Judges a packet whose IP header is at `offset`. Returns 0 (drop), 1 (pass), or
/// [`MALFORMED`] plus a reason.
///
/// `AT_SOCKET`: called at a socket's own hook, with what is remembered with the socket, if anything.
///
/// A plain packet of an established flow passes here, in line: every call costs, and there are
/// processors on which every return costs dearly.
#[inline(always)]
pub fn enter<F: Slow, const AT_SOCKET: bool>(
    skb: Skb,
    config: &Config,
    offset: u32,
    room: &mut Room,
    mut socket: Option<&mut SocketEntry>,
) -> u32 {
    let Room { flow, place } = room;
    // SAFETY: the room is that of the larger family's key, and keys are plain integers, written
    // before they are read.
    let flow = unsafe { &mut *flow.as_mut_ptr().cast::<FlowKey<F::Addr>>() };
    let direction = Direction::from_byte(place.direction);
    let plain = if AT_SOCKET {
        plain::flow::<F, 0>(skb, place, direction, flow)
    } else if offset == ethernet::HEADER {
        plain::flow::<F, HEADER>(skb, place, direction, flow)
    } else {
        None
    };
    let Some(step) = plain else {
        return walk::<F, AT_SOCKET>(skb, place, offset, Known::Unasked, flow);
    };
    // A request to open a connection opens one of its own, whatever the table has, so that its
    // denial is asked for first. A datagram may belong to what the other side began.
    let request = step.is_request();
    let mut asked = Known::Unknown;
    if !request {
        if let Some(socket) = &socket
            && socket_flow::has_passed::<F>(socket, config, step, flow, direction, place)
        {
            return 1;
        }
        asked = known::<F>(config, step, flow, direction, place);
        if asked == Known::Established {
            if let Some(socket) = &mut socket {
                socket_flow::look::<F>(socket, flow, place);
            }
            return 1;
        }
    }
    if asked == Known::Unknown && place.space != space::HOST {
        let denied = again::count::<F, AT_SOCKET>(skb, place, flow, step);
        if denied != 0 {
            if config.flags & config_flag::REJECT != 0 {
                let reason = (denied - 1) as u8;
                offer_again::<F, AT_SOCKET>(skb, place, flow, step.length(), reason);
            }
            return 0;
        }
    }
    if request {
        asked = known_apart::<F>(step, flow, place);
        if asked == Known::Established {
            return 1;
        }
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
    if !AT_SOCKET && is_answer(skb) == 1 {
        return 1;
    }
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
    note(&mut case.packet.start, offset as u8);
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
            let step = Step::new(case.packet.tcp_flags, case.packet.length);
            let Some(config) = config() else { return 1 };
            known = flow::known::<F>(config, step, flow, direction, place);
        }
    }
    if known == Known::Established {
        return 1;
    }
    if place.space == space::HOST {
        let Some(config) = config() else { return 1 };
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
    let strayed = is_strayed::<F, AT_SOCKET>(skb, place, flow);
    note(&mut case.notes.strayed, strayed as u8);
    let passes = F::judge(skb, place, case, flow, AT_SOCKET);
    if case.facts.tell != 0 {
        F::report(place, flow, &case.facts, false);
    }
    if case.facts.holds != 0 {
        again::remember::<F>(place, flow, &case.facts);
    }
    if passes == 0 {
        offer::<F>(skb, place, case);
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
    // Asked once: a set of before a moment under a generation of after it would stay for ever.
    note(&mut notes.passed, passed(config) as u8);
    let audit = endpoint.has(endpoint_flag::AUDIT);
    if read(&notes.strayed) != 0
        || place.space == space::INTERFACE
            && direction as u8 == Direction::Egress as u8
            && !is_own_source::<F>(config, &flow.local, endpoint)
    {
        facts.decision = Decision::new(Action::Deny, Reason::SourceGuard, 0).audited(audit);
        // Of a packet that strayed the flow may be the workload's own.
        if read(&notes.strayed) == 0 && again::holds(packet, endpoint, place, facts.port) {
            facts.holds = read(&notes.passed) + 1;
        }
        facts.tell = 1;
        return u32::from(audit);
    }

    if read(&notes.past) == past::QUOTED {
        return 1;
    }

    // What the flow's entry still tells: who opened it, and whether it was denied already.
    let inferred = opener_of::<F>(packet, flow, direction, endpoint, place.seconds());
    note(&mut notes.opener, inferred.map_or(2, |way| way as u8));
    note(&mut notes.adopted, u8::from(inferred.is_none()));
    note(&mut notes.past, past::NONE);
    note(&mut notes.state, State::New as u8);
    // A TCP connection from before the endpoint has no entry, and if it is denied, its end must
    // be told all the same.
    if packet.protocol == Protocol::TCP
        && place.seconds() < endpoint.adopt_until
        && !packet.is_open_request()
    {
        note(&mut notes.past, past::BEFORE);
        note(&mut notes.state, State::Established as u8);
    }
    if read(&notes.listed) != 0
        && let Some(entry) = entry_of::<F>(flow)
    {
        if !entry.is_expired(packet.protocol, place.seconds())
            && !entry.is_reopened_by(direction, packet.protocol, packet.tcp_flags)
        {
            if entry.flags & flow_flag::DENIED != 0 && entry.generation == generation(config, notes)
            {
                let closed = entry.state == State::Closed as u8;
                if packet.is_reset() {
                    close(entry, place.seconds());
                    return 1;
                }
                // A reset whose number is not the next one expected, because what came before
                // it was dropped, is answered with an acknowledgement, and only the answer to
                // that ends the connection (RFC 5961, 3.2). An acknowledgement that comes while
                // the socket is still being taken down is lost, and what the peer then sends
                // again has to do; there is no socket any more that could take its data.
                let is_late = direction as u8 == Direction::Ingress as u8
                    && place.seconds().wrapping_sub(entry.seen) <= 1
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

    // Who opens a flow has any port; who is asked for has one of its own.
    if known.flags & address_flag::SHARED != 0 && read(&notes.opener) != Direction::Ingress as u8 {
        let listener = peer::behind::<F>(&flow.remote, packet.protocol, flow.remote_port);
        if listener != 0 {
            facts.peer = listener;
        }
    }

    let unknown = read(&notes.opener) == 2;
    let mut way = if unknown {
        direction
    } else {
        Direction::from_byte(read(&notes.opener))
    };
    facts.decision = ask::<F>(endpoint, config, notes, facts.peer, packet, direction, way);
    if unknown && facts.decision.action != Action::Allow as u8 {
        let reverse = way.reverse();
        let other = ask::<F>(
            endpoint, config, notes, facts.peer, packet, direction, reverse,
        );
        if other.action == Action::Allow as u8 {
            facts.decision = other;
            way = reverse;
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
    if !passes
        && !same_host
        && read(&notes.past) == past::NONE
        && way as u8 == direction as u8
        && again::holds(packet, endpoint, place, facts.port)
    {
        note(&mut facts.holds, read(&notes.passed) + 1);
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
            generation: generation(config, notes),
            seen: place.seconds(),
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
        entry.generation = generation(config, notes);
        entry.rule = facts.decision.rule;
        entry.reason = facts.decision.reason;
        if packet.is_reset() {
            close(entry, place.seconds());
        }
    }
    if packet.is_reset() && read(&notes.past) != past::NONE {
        return 1;
    }
    u32::from(facts.decision.passes())
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

/// The generation of decisions that fall here.
#[inline(always)]
fn generation(config: &Config, notes: &Notes) -> u32 {
    config.generation_after(read(&notes.passed))
}

/// The compiled policy's answer for a flow that was opened the way `way`.
#[inline(always)]
fn ask<F: Family>(
    endpoint: &EndpointEntry,
    config: &Config,
    notes: &Notes,
    peer: u32,
    packet: &Packet<F>,
    direction: Direction,
    way: Direction,
) -> Decision {
    policy::decide(&Judge {
        set: endpoints::set_after(endpoint, way, config, read(&notes.passed)),
        peer,
        protocol: packet.protocol,
        port: packet.policy_port(direction, way),
    })
}
