//! Connection tracking: what a flow's entry says, and how packets move it.

use bytemuck::{Pod, Zeroable};

use crate::flow_key::{Direction, Protocol};

/// Value of the flow tables.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct FlowEntry {
    /// The policy generation that judged the flow. Any other one judges it again.
    pub generation: u32,
    /// Second of the monotonic clock when a packet last passed.
    pub seen: u32,
    /// Identity of the peer when the flow was judged.
    pub peer: u32,
    /// Number of the rule that decided.
    pub rule: u32,
    /// Number of the endpoint that the flow belongs to.
    pub endpoint: u32,
    /// The way of the packet that opened the flow: a [`Direction`].
    pub opener: u8,
    /// A [`State`].
    pub state: u8,
    /// Bits of [`flow_flag`].
    pub flags: u8,
    /// The [`crate::Reason`] of the decision.
    pub reason: u8,
}

const _: () = assert!(size_of::<FlowEntry>() == 24);

/// Bits of [`FlowEntry::flags`].
pub mod flow_flag {
    /// The flow would be denied if its policy or node were in enforce mode.
    pub const AUDIT: u8 = 1;
    /// Picked up in mid-stream: its opener was inferred.
    pub const ADOPTED: u8 = 4;
    /// A policy change denied it: only a reset may pass.
    pub const DENIED: u8 = 8;
}

/// State of a flow; decides how long it is kept without a packet.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Opened; nothing came back.
    New = 0,
    /// Packets went both ways.
    Established = 1,
    /// TCP: the opener has sent FIN.
    FinOpener = 2,
    /// TCP: the other side has sent FIN.
    FinOther = 3,
    /// TCP: both sides have sent FIN, or one has sent RST.
    Closed = 4,
}

impl State {
    /// From the byte that entries carry.
    #[inline(always)]
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::New,
            1 => Self::Established,
            2 => Self::FinOpener,
            3 => Self::FinOther,
            _ => Self::Closed,
        }
    }

    /// Seconds without a packet after which the entry is void. TCP as in
    /// `net/netfilter/nf_conntrack_proto_tcp.c`, but an established flow is kept for a day,
    /// because it can be picked up again in mid-stream; UDP and others as in netfilter.
    #[inline(always)]
    pub const fn timeout(self, protocol: u8) -> u32 {
        match (protocol, self) {
            (Protocol::TCP, Self::New) => 60,
            (Protocol::TCP, Self::Established) => 86_400,
            (Protocol::TCP, Self::FinOpener | Self::FinOther) => 120,
            (_, Self::Closed) => 10,
            (Protocol::SCTP, Self::Established) => 432,
            (Protocol::ICMP | Protocol::ICMPV6, _) => 30,
            (Protocol::UDP | Protocol::UDPLITE, Self::Established) => 120,
            (Protocol::UDP | Protocol::UDPLITE, _) => 30,
            (_, Self::Established) => 600,
            (_, _) => 60,
        }
    }
}

/// TCP flag bits, as they stand in the 14th byte of the header.
pub mod tcp_flag {
    /// No more data from the sender.
    pub const FIN: u8 = 1;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 2;
    /// Reset the connection.
    pub const RST: u8 = 4;
    /// Push.
    pub const PSH: u8 = 8;
    /// The acknowledgement field is significant.
    pub const ACK: u8 = 16;
}

/// Whether a TCP packet asks to open a connection.
#[inline(always)]
pub const fn is_open_request(flags: u8) -> bool {
    flags & (tcp_flag::SYN | tcp_flag::ACK | tcp_flag::RST | tcp_flag::FIN) == tcp_flag::SYN
}

/// Whether a packet neither opens nor ends a TCP connection. Other protocols have no flags.
#[inline(always)]
pub const fn is_within(flags: u8) -> bool {
    flags & (tcp_flag::SYN | tcp_flag::RST | tcp_flag::FIN) == 0
}

impl FlowEntry {
    /// Whether the entry is too old to count at second `now`.
    #[inline(always)]
    pub const fn is_expired(&self, protocol: u8, now: u32) -> bool {
        // The clocks of two CPUs may differ by one tick: a negative age is age 0.
        let age = now.wrapping_sub(self.seen);
        age < 0x8000_0000 && age > State::from_byte(self.state).timeout(protocol)
    }

    /// Whether the packet leaves the entry as it is: it comes in the second of the one before,
    /// and opens and ends nothing. Nearly all packets do, so that what they need is asked first:
    /// neither [`Self::is_expired`] nor [`Self::is_reopened_by`] holds then, and [`advance`]
    /// stays where it is.
    #[inline(always)]
    pub const fn is_unchanged_by(&self, direction: Direction, tcp_flags: u8, now: u32) -> bool {
        self.seen == now
            && is_within(tcp_flags)
            && (self.state != State::New as u8 || self.opener == direction as u8)
    }

    /// The ways ([`Direction::bit`]) of the packets that [`Self::is_unchanged_by`] speaks of: the
    /// first answer to what opened a flow moves it on.
    #[inline(always)]
    pub const fn unchanged_ways(&self) -> u8 {
        if self.state == State::New as u8 {
            Direction::from_byte(self.opener).bit()
        } else {
            Direction::BITS
        }
    }

    /// Whether a packet that opens a connection must be judged as a new flow although the
    /// entry exists: the old connection is over, or the other side now opens one.
    #[inline(always)]
    pub const fn is_reopened_by(&self, direction: Direction, protocol: u8, tcp_flags: u8) -> bool {
        if protocol != Protocol::TCP || !is_open_request(tcp_flags) {
            return false;
        }
        // A retransmitted SYN belongs to the flow that it opened.
        !(self.state == State::New as u8 && self.opener == direction as u8)
    }
}

/// The state after a packet.
#[inline(always)]
pub const fn advance(
    state: State,
    opener: Direction,
    direction: Direction,
    protocol: u8,
    tcp_flags: u8,
) -> State {
    let from_opener = opener as u8 == direction as u8;
    if protocol == Protocol::TCP {
        if tcp_flags & tcp_flag::RST != 0 {
            return State::Closed;
        }
        if tcp_flags & tcp_flag::FIN != 0 {
            return match (state, from_opener) {
                (State::Closed, _) | (State::FinOther, true) | (State::FinOpener, false) => {
                    State::Closed
                }
                (_, true) => State::FinOpener,
                (_, false) => State::FinOther,
            };
        }
    }
    match (state, from_opener) {
        (State::New, false) => State::Established,
        (state, _) => state,
    }
}

/// Who opened a flow whose beginning was not seen, judged by its ports: the side with the
/// ephemeral one. `None` when the ports do not tell; then either way's permission suffices.
///
/// 32768 is the lower end of Linux's `net.ipv4.ip_local_port_range`.
#[inline(always)]
pub const fn infer_opener(local_port: u16, remote_port: u16) -> Option<Direction> {
    match (local_port >= 32_768, remote_port >= 32_768) {
        (true, false) => Some(Direction::Egress),
        (false, true) => Some(Direction::Ingress),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{Egress, Ingress};

    #[test]
    fn what_leaves_an_entry_as_it_is_needs_no_other_question() {
        let mut unchanged = 0;
        for state in 0..=4 {
            for (opener, direction) in [
                (Egress, Egress),
                (Egress, Ingress),
                (Ingress, Egress),
                (Ingress, Ingress),
            ] {
                for flags in 0..64 {
                    for protocol in [Protocol::TCP, Protocol::UDP, Protocol::ICMP, Protocol::SCTP] {
                        let entry = FlowEntry {
                            seen: 7,
                            state,
                            opener: opener as u8,
                            ..Zeroable::zeroed()
                        };
                        let flags = if protocol == Protocol::TCP { flags } else { 0 };
                        assert_eq!(
                            entry.is_unchanged_by(direction, flags, 7),
                            is_within(flags) && entry.unchanged_ways() & direction.bit() != 0
                        );
                        if !entry.is_unchanged_by(direction, flags, 7) {
                            continue;
                        }
                        unchanged += 1;
                        assert!(!entry.is_unchanged_by(direction, flags, 8));
                        assert!(!entry.is_expired(protocol, 7));
                        assert!(!entry.is_reopened_by(direction, protocol, flags));
                        let before = State::from_byte(state);
                        let after = advance(before, opener, direction, protocol, flags);
                        assert_eq!(after, before);
                    }
                }
            }
        }
        assert!(unchanged > 0);
    }

    #[test]
    fn tcp_closes_after_both_fins_or_a_reset() {
        let tcp = Protocol::TCP;
        let s = advance(
            State::New,
            Egress,
            Ingress,
            tcp,
            tcp_flag::SYN | tcp_flag::ACK,
        );
        assert_eq!(s, State::Established);
        let s = advance(s, Egress, Ingress, tcp, tcp_flag::FIN | tcp_flag::ACK);
        assert_eq!(s, State::FinOther);
        assert_eq!(
            advance(s, Egress, Ingress, tcp, tcp_flag::FIN),
            State::FinOther
        );
        assert_eq!(
            advance(s, Egress, Egress, tcp, tcp_flag::FIN),
            State::Closed
        );
        assert_eq!(
            advance(State::Established, Egress, Egress, tcp, tcp_flag::RST),
            State::Closed
        );
    }

    #[test]
    fn only_a_retransmitted_syn_keeps_its_flow() {
        let mut entry: FlowEntry = Zeroable::zeroed();
        entry.opener = Ingress as u8;
        assert!(!entry.is_reopened_by(Ingress, Protocol::TCP, tcp_flag::SYN));
        assert!(entry.is_reopened_by(Egress, Protocol::TCP, tcp_flag::SYN));
        entry.state = State::Established as u8;
        assert!(entry.is_reopened_by(Ingress, Protocol::TCP, tcp_flag::SYN));
        assert!(!entry.is_reopened_by(Ingress, Protocol::TCP, tcp_flag::SYN | tcp_flag::ACK));
        assert!(!entry.is_reopened_by(Ingress, Protocol::UDP, tcp_flag::SYN));
    }

    #[test]
    fn expiry_survives_a_clock_that_steps_back() {
        let mut entry: FlowEntry = Zeroable::zeroed();
        entry.seen = 100;
        assert!(!entry.is_expired(Protocol::UDP, 99));
        assert!(!entry.is_expired(Protocol::UDP, 130));
        assert!(entry.is_expired(Protocol::UDP, 131));
    }
}
