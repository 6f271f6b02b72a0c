//! Protocols, ports and networks, as the policies of Kubernetes write them.

use enforcer_common::Protocol;
use ipnet::IpNet;

use super::object::Located;
use crate::policy::{
    diagnostic::{Code, Position},
    reader::{Reader, quoted},
};

/// The protocols that policies of Kubernetes know.
pub(super) const PROTOCOLS: [(&str, u8); 3] = [
    ("TCP", Protocol::TCP),
    ("UDP", Protocol::UDP),
    ("SCTP", Protocol::SCTP),
];

impl Reader<'_> {
    /// A protocol, TCP where none is said.
    pub(super) fn transport(&mut self, protocol: Option<&Located<String>>) -> Option<u8> {
        match protocol {
            Some(written) => self.word(written, "`protocol`", &PROTOCOLS),
            None => Some(Protocol::TCP),
        }
    }

    /// A port by number.
    pub(super) fn number(&mut self, number: i32, at: Position) -> Option<u16> {
        if let Ok(port @ 1..) = u16::try_from(number) {
            return Some(port);
        }
        let message = format!("{number} is not a port");
        self.error(Code::BadPort, at, message, "write a number from 1 to 65535");
        None
    }

    /// The first and last of a range of ports.
    pub(super) fn first_and_last(
        &mut self,
        first: &Located<i32>,
        last: &Located<i32>,
    ) -> Option<(u16, u16)> {
        let numbers = [first, last].map(|port| self.number(port.value, port.at));
        let [Some(first), Some(end)] = numbers else {
            return None;
        };
        if first <= end {
            return Some((first, end));
        }
        let message = format!("the range from {first} to {end} ends before it begins");
        let help = format!("write {end} first, then {first}");
        self.error(Code::ReversedRange, last.at, message, help);
        None
    }

    /// The name of a port.
    pub(super) fn service_name(&mut self, name: &str, at: Position) -> Option<String> {
        if is_service_name(name) {
            return Some(name.to_owned());
        }
        let message = format!("{} is neither a port nor the name of one", quoted(name));
        let help = "write a number from 1 to 65535, or a name as containers have for ports: a to z, \
                    0 to 9 and `-` inside, with a letter, at most 15 characters";
        self.error(Code::BadPort, at, message, help);
        None
    }

    /// A network in CIDR notation. As in Kubernetes, bits beyond its length do not count.
    pub(super) fn block(&mut self, written: &Located<String>) -> Option<IpNet> {
        let text = &written.value;
        let Ok(network) = text.parse::<IpNet>() else {
            let help = match text.parse::<std::net::IpAddr>() {
                Ok(address) => format!("write `{}`", IpNet::from(address)),
                Err(_) => "write it as `10.0.0.0/8` or `fd00:1::/32`".to_owned(),
            };
            let message = format!("{} is not a network", quoted(text));
            self.error(Code::BadCidr, written.at, message, help);
            return None;
        };
        if let IpNet::V6(v6) = network
            && v6.prefix_len() >= 96
            && let Some(v4) = v6.addr().to_ipv4_mapped()
        {
            let message = format!("`{network}` is an IPv4 network in IPv6 form");
            let help = format!("write `{v4}/{}`", v6.prefix_len() - 96);
            self.error(Code::BadCidr, written.at, message, help);
            return None;
        }
        Some(network.trunc())
    }
}

/// A service name of IANA (RFC 6335, 5.1), as Kubernetes wants it in lower case. What is a number
/// to YAML, as `0x50`, is none.
fn is_service_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let number = ["0x", "0o", "0b"].into_iter().any(|prefix| {
        let digits = name.strip_prefix(prefix);
        digits.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
    });
    name.len() <= 15
        && name.bytes().all(inner)
        && name.bytes().any(|byte| byte.is_ascii_lowercase())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
        && !number
}

#[cfg(test)]
mod tests {
    use super::is_service_name;

    #[test]
    fn names_of_ports_are_those_of_containers() {
        for good in ["http", "web-1", "8080-tcp", "a"] {
            assert!(is_service_name(good), "{good}");
        }
        for bad in [
            "",
            "80",
            "HTTP",
            "-a",
            "a-",
            "a--b",
            "a_b",
            "0x50",
            "sixteen-letters-",
        ] {
            assert!(!is_service_name(bad), "{bad}");
        }
    }
}
