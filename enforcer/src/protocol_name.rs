//! The names of IP protocols, wherever they are read and written: in policies, flow records,
//! filters, questions and answers.

use enforcer_common::Protocol;

/// By name, as policies spell it, and as everything else does (IANA "Assigned Internet Protocol
/// Numbers").
const NAMES: [(&str, &str, u8); 12] = [
    ("TCP", "tcp", Protocol::TCP),
    ("UDP", "udp", Protocol::UDP),
    ("SCTP", "sctp", Protocol::SCTP),
    ("ICMP", "icmp", Protocol::ICMP),
    ("ICMPv6", "icmpv6", Protocol::ICMPV6),
    ("UDPLite", "udplite", Protocol::UDPLITE),
    ("IGMP", "igmp", 2),
    ("IPIP", "ipip", 4),
    ("GRE", "gre", 47),
    ("ESP", "esp", 50),
    ("OSPF", "ospf", 89),
    ("VRRP", "vrrp", 112),
];

/// The name as policies spell it, if the protocol has one.
pub fn spelling(number: u8) -> Option<&'static str> {
    let known = NAMES.iter().find(|(.., known)| *known == number);
    known.map(|(spelled, ..)| *spelled)
}

/// All names, as policies spell them.
pub fn spelled() -> impl Iterator<Item = &'static str> + Clone {
    NAMES.iter().map(|(spelled, ..)| *spelled)
}

/// The name in small letters, if the protocol has one.
pub fn name(number: u8) -> Option<&'static str> {
    let known = NAMES.iter().find(|(.., known)| *known == number);
    known.map(|(_, name, _)| *name)
}

/// The name in small letters, or else the number.
pub fn text(number: u8) -> String {
    name(number).map_or_else(|| number.to_string(), str::to_owned)
}

/// The number behind a name; case does not matter.
pub fn number(name: &str) -> Option<u8> {
    let known = NAMES
        .iter()
        .find(|(_, known, _)| known.eq_ignore_ascii_case(name));
    known.map(|(.., number)| *number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_to_its_number_and_back() {
        for (spelled, name, known) in NAMES {
            assert_eq!(spelled.to_ascii_lowercase(), name);
            assert_eq!(spelling(known), Some(spelled));
            assert_eq!(number(spelled), Some(known));
            assert_eq!(text(known), name);
        }
        assert_eq!(text(99), "99");
        assert_eq!(number("99"), None);
    }
}
