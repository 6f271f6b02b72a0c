//! The names of IP protocols and types of ICMP, wherever they are read and written: in policies,
//! flow records, filters, questions and answers.

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

/// `8` or `3.4`: a type of ICMP or ICMPv6, with its code where one is written.
pub fn icmp_type(text: &str) -> Option<(u8, Option<u8>)> {
    let byte = |text: &str| {
        let plain = text.bytes().all(|byte| byte.is_ascii_digit())
            && (text.len() == 1 || !text.starts_with('0'));
        plain.then(|| text.parse().ok()).flatten()
    };
    Some(match text.split_once('.') {
        None => (byte(text)?, None),
        Some((kind, code)) => (byte(kind)?, Some(byte(code)?)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_icmp_have_a_code_or_none() {
        assert_eq!(icmp_type("8"), Some((8, None)));
        assert_eq!(icmp_type("3.255"), Some((3, Some(255))));
        for bad in [
            "", ".", "8.", ".4", "256", "08", "3.256", "+8", "8.-1", "3.4.5", "a",
        ] {
            assert_eq!(icmp_type(bad), None, "{bad}");
        }
    }

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
