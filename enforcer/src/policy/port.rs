//! Protocols, ports and ICMP types.

use enforcer_common::{Protocol, flow_key::icmp_port};

use super::{
    diagnostic::{Code, closest, listed},
    document::{Node, Value},
    model::{NamedPortMatch, PortMatch, PortRange},
    name::is_port_name,
    reader::{Fields, Reader, Reported, quoted},
};
use crate::protocol_name;

const SHORTHANDS: &str = "`443/tcp`, `8000-8999/udp`, `icmp` or `8/icmp`";

/// For messages.
fn in_words(protocol: u8) -> String {
    protocol_name::spelling(protocol).map_or_else(|| format!("protocol {protocol}"), str::to_owned)
}

/// What may be written as a protocol, but for numbers.
fn words() -> impl Iterator<Item = &'static str> {
    protocol_name::spelled().chain(["any"])
}

/// A protocol by name or number.
fn protocol_number(text: &str) -> Option<u8> {
    let number = || decimal(text).and_then(|number| u8::try_from(number).ok());
    protocol_name::number(text).or_else(number)
}

/// The ports that stand for an ICMP type, with all its codes where none is written.
fn icmp_range(protocol: u8, kind: u8, code: Option<u8>) -> PortRange {
    PortRange {
        protocol: Some(protocol),
        first: icmp_port(kind, code.unwrap_or(0)),
        last: icmp_port(kind, code.unwrap_or(u8::MAX)),
    }
}

const fn is_icmp(protocol: u8) -> bool {
    matches!(protocol, Protocol::ICMP | Protocol::ICMPV6)
}

impl Reader<'_> {
    /// An item of `ports`.
    pub(super) fn port_match(&mut self, node: &Node) -> Option<PortMatch> {
        match self.named(node).ok()? {
            Some(named) => Some(PortMatch::Named(named)),
            None => self.range(node).map(PortMatch::Range),
        }
    }

    /// A port by name, if that is what is written.
    fn named(&mut self, node: &Node) -> Result<Option<NamedPortMatch>, Reported> {
        if let Value::Text(text) = &node.value {
            return match text.split_once('/') {
                Some((name, protocol)) if is_port_name(name) => {
                    self.protocol_last(node, name, protocol)?;
                    let protocol = self.protocol_word(node, protocol).ok_or(Reported)?;
                    self.with_ports(node, protocol).ok_or(Reported)?;
                    Ok(Some(NamedPortMatch {
                        protocol: Some(protocol),
                        name: name.to_owned(),
                    }))
                }
                _ => Ok(None),
            };
        }
        let Value::Map(entries) = &node.value else {
            return Ok(None);
        };
        let is_name = |(key, value): &(Node, Node)| match (&key.value, &value.value) {
            (Value::Text(key), Value::Text(value)) => key == "port" && is_port_name(value),
            _ => false,
        };
        if !entries.iter().any(is_name) {
            return Ok(None);
        }
        let known = &["protocol", "port", "endPort", "type", "code"];
        let fields = self.fields(node, "a port", known).ok_or(Reported)?;
        let port = fields.find("port").ok_or(Reported)?;
        for other in ["endPort", "type", "code"] {
            if let Some(at) = fields.key(other) {
                let message = format!("`{other}` with a port's name");
                self.error(
                    Code::BadPort,
                    at,
                    message,
                    "remove it, or write a number as `port`",
                );
                return Err(Reported);
            }
        }
        let protocol = match fields.find("protocol") {
            Some(node) => {
                let protocol = self.protocol(node)?;
                if let Some(protocol) = protocol {
                    self.with_ports(node, protocol).ok_or(Reported)?;
                }
                protocol
            }
            None => Some(Protocol::TCP),
        };
        Ok(Some(NamedPortMatch {
            protocol,
            name: self.port_name(port).ok_or(Reported)?,
        }))
    }

    /// The name of a port.
    pub(super) fn port_name(&mut self, node: &Node) -> Option<String> {
        let text = self.text(node, "a port's name")?;
        if is_port_name(text) {
            return Some(text.to_owned());
        }
        let message = format!("{} cannot be the name of a port", quoted(text));
        let help = "use a to z first, then also 0 to 9 and `-`, at most 15 characters, as in \
                    `http`";
        self.error(Code::BadName, node.at, message, help);
        None
    }

    fn range(&mut self, node: &Node) -> Option<PortRange> {
        if let Value::Text(text) = &node.value {
            return self.shorthand(node, text);
        }
        let known = &["protocol", "port", "endPort", "type", "code"];
        let fields = self.fields(node, "a port", known)?;
        // As in Kubernetes, a port without a protocol is one of TCP.
        let protocol = match fields.find("protocol") {
            Some(node) => self.protocol(node).ok()?,
            None if fields.find("type").is_some() || fields.find("code").is_some() => {
                let help = "write `protocol: ICMP` for IPv4 or `protocol: ICMPv6` for IPv6";
                self.error(
                    Code::MissingField,
                    node.at,
                    "an ICMP type needs `protocol`",
                    help,
                );
                return None;
            }
            None => Some(Protocol::TCP),
        };
        match protocol {
            Some(protocol) if is_icmp(protocol) => self.icmp(&fields, protocol),
            Some(protocol) => self.numbered(&fields, protocol),
            None => {
                let name = ["port", "endPort", "type", "code"];
                let found = name.into_iter().find(|name| fields.find(name).is_some());
                if let Some(name) = found {
                    let at = fields.key(name).unwrap_or(node.at);
                    let help = match name {
                        "type" | "code" => "write `protocol: ICMP` or `protocol: ICMPv6`",
                        _ => "write one entry for each protocol, as in `53/tcp` and `53/udp`",
                    };
                    let message = format!("`{name}` with `protocol: any`");
                    self.error(Code::PortProtocol, at, message, help);
                    return None;
                }
                Some(PortRange::ANY)
            }
        }
    }

    /// A protocol by name or number; `None` for any.
    fn protocol(&mut self, node: &Node) -> Result<Option<u8>, Reported> {
        let text = self.text(node, "`protocol`").ok_or(Reported)?;
        if text.eq_ignore_ascii_case("any") {
            return Ok(None);
        }
        self.protocol_word(node, text).map(Some).ok_or(Reported)
    }

    /// A protocol by name or number.
    pub(super) fn protocol_word(&mut self, node: &Node, text: &str) -> Option<u8> {
        if let Some(number) = protocol_number(text) {
            return Some(number);
        }
        let help = match closest(text, words()) {
            Some(meant) => format!("write `{meant}`"),
            None => format!("write {}, or a number from 0 to 255", listed(words())),
        };
        let message = format!("{} is not a protocol", quoted(text));
        self.error(Code::BadProtocol, node.at, message, help);
        None
    }

    fn numbered(&mut self, fields: &Fields<'_>, protocol: u8) -> Option<PortRange> {
        for name in ["type", "code"] {
            if let Some(at) = fields.key(name) {
                self.error(
                    Code::PortProtocol,
                    at,
                    format!("`{name}` with {}", in_words(protocol)),
                    "types and codes are for ICMP and ICMPv6; write `port` for others",
                );
                return None;
            }
        }
        let port = fields.find("port");
        let end = fields.find("endPort");
        if !Protocol::has_ports(protocol)
            && let Some(node) = port.or(end)
        {
            self.error(
                Code::PortProtocol,
                node.at,
                format!("{} has no ports", in_words(protocol)),
                "remove `port` and `endPort`, or choose TCP, UDP, SCTP or UDPLite",
            );
            return None;
        }
        let (first, last) = match (port, end) {
            (None, None) => (0, u16::MAX),
            (None, Some(end)) => {
                let help = "write `port` for the first one, or `port: \"8000-8999\"`";
                self.error(Code::MissingField, end.at, "`endPort` without `port`", help);
                return None;
            }
            (Some(port), None) => {
                let text = self.text(port, "`port`")?;
                self.port_range(port, text)?
            }
            (Some(port), Some(end)) => {
                let first = self.port_number(port)?;
                let last = self.port_number(end)?;
                self.ordered(end, first, last)?
            }
        };
        Some(PortRange {
            protocol: Some(protocol),
            first,
            last,
        })
    }

    fn icmp(&mut self, fields: &Fields<'_>, protocol: u8) -> Option<PortRange> {
        if let Some(node) = fields.find("port").or(fields.find("endPort")) {
            self.error(
                Code::PortProtocol,
                node.at,
                format!("{} has no ports", in_words(protocol)),
                "write `type`, and `code` where it matters: an echo request is type 8 in ICMP \
                 and 128 in ICMPv6",
            );
            return None;
        }
        let kind = match fields.find("type") {
            Some(node) => Some(self.byte(node, "`type`")?),
            None => None,
        };
        let code = match fields.find("code") {
            Some(node) => Some((self.byte(node, "`code`")?, node)),
            None => None,
        };
        match (kind, code) {
            (None, None) => Some(PortRange {
                protocol: Some(protocol),
                ..PortRange::ANY
            }),
            (None, Some((_, node))) => {
                let help = "write the `type` that the code belongs to";
                self.error(Code::MissingField, node.at, "`code` without `type`", help);
                None
            }
            (Some(kind), code) => Some(icmp_range(protocol, kind, code.map(|(code, _)| code))),
        }
    }

    fn byte(&mut self, node: &Node, what: &str) -> Option<u8> {
        let text = self.text(node, what)?;
        let number = decimal(text).and_then(|number| u8::try_from(number).ok());
        if number.is_none() {
            let message = format!("{what} cannot be {}", quoted(text));
            self.error(
                Code::BadIcmp,
                node.at,
                message,
                "write a number from 0 to 255",
            );
        }
        number
    }

    /// A single port.
    pub(super) fn port_number(&mut self, node: &Node) -> Option<u16> {
        let text = self.text(node, "a port")?;
        self.port_word(node, text)
    }

    fn port_word(&mut self, node: &Node, text: &str) -> Option<u16> {
        let number = decimal(text)
            .and_then(|number| u16::try_from(number).ok())
            .filter(|number| *number != 0);
        if number.is_none() {
            let help = "write a number from 1 to 65535; for every port leave `port` out";
            let message = format!("{} is not a port", quoted(text));
            self.error(Code::BadPort, node.at, message, help);
        }
        number
    }

    fn port_range(&mut self, node: &Node, text: &str) -> Option<(u16, u16)> {
        match text.split_once('-') {
            Some((first, last)) if !first.is_empty() && !last.is_empty() => {
                let first = self.port_word(node, first.trim())?;
                let last = self.port_word(node, last.trim())?;
                self.ordered(node, first, last)
            }
            _ => {
                let port = self.port_word(node, text)?;
                Some((port, port))
            }
        }
    }

    fn ordered(&mut self, node: &Node, first: u16, last: u16) -> Option<(u16, u16)> {
        if first <= last {
            return Some((first, last));
        }
        let message = format!("the range from {first} to {last} ends before it begins");
        let help = format!("write {last} first, then {first}");
        self.error(Code::ReversedRange, node.at, message, help);
        None
    }

    /// `443/tcp`, `8000-8999/udp`, `icmp`, `8/icmp`, `3.4/icmp`, `any`.
    fn shorthand(&mut self, node: &Node, text: &str) -> Option<PortRange> {
        if text.eq_ignore_ascii_case("any") {
            return Some(PortRange::ANY);
        }
        let Some((ports, protocol)) = text.split_once('/') else {
            if text
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'-')
            {
                let message = format!("{} does not say which protocol", quoted(text));
                let help =
                    format!("write {SHORTHANDS}; a protocol by its number as `{{protocol: 132}}`");
                self.error(Code::BadPort, node.at, message, help);
                return None;
            }
            if protocol_number(text).is_none()
                && is_port_name(text)
                && closest(text, words()).is_none()
            {
                let message = format!("{} is neither a protocol nor says which", quoted(text));
                let help = format!("for a port that workloads call so, write `{text}/tcp`");
                self.error(Code::BadPort, node.at, message, help);
                return None;
            }
            let protocol = self.protocol_word(node, text)?;
            return Some(PortRange {
                protocol: Some(protocol),
                ..PortRange::ANY
            });
        };
        self.protocol_last(node, ports, protocol).ok()?;
        let protocol = self.protocol_word(node, protocol)?;
        if is_icmp(protocol) {
            return self.icmp_word(node, protocol, ports);
        }
        if !Protocol::has_ports(protocol) {
            self.error(
                Code::PortProtocol,
                node.at,
                format!("{} has no ports", in_words(protocol)),
                format!("write {SHORTHANDS}"),
            );
            return None;
        }
        let (first, last) = self.port_range(node, ports)?;
        Some(PortRange {
            protocol: Some(protocol),
            first,
            last,
        })
    }

    /// Refuses `tcp/443` and `icmp/8`.
    fn protocol_last(&mut self, node: &Node, ports: &str, protocol: &str) -> Result<(), Reported> {
        let is_last = protocol_number(protocol).is_some_and(Protocol::has_ports)
            || protocol_name::number(protocol).is_some();
        if is_last || protocol_name::number(ports).is_none() {
            return Ok(());
        }
        let message = format!(
            "{} names the protocol first",
            quoted(&format!("{ports}/{protocol}"))
        );
        let help = format!("write `{protocol}/{ports}`");
        self.error(Code::BadPort, node.at, message, help);
        Err(Reported)
    }

    /// `8` or `3.4`: an ICMP type, with its code.
    fn icmp_word(&mut self, node: &Node, protocol: u8, text: &str) -> Option<PortRange> {
        let read = protocol_name::icmp_type(text);
        if read.is_none() {
            let message = format!("{} is not an ICMP type", quoted(text));
            let help = "write the type as in `8/icmp`, or type and code as in `3.4/icmp`";
            self.error(Code::BadIcmp, node.at, message, help);
        }
        read.map(|(kind, code)| icmp_range(protocol, kind, code))
    }

    /// A protocol that has ports.
    pub(super) fn port_protocol(&mut self, node: &Node) -> Option<u8> {
        let text = self.text(node, "`protocol`")?;
        let protocol = self.protocol_word(node, text)?;
        self.with_ports(node, protocol)
    }

    fn with_ports(&mut self, node: &Node, protocol: u8) -> Option<u8> {
        if Protocol::has_ports(protocol) {
            return Some(protocol);
        }
        let message = format!("{} has no ports", in_words(protocol));
        let help = "choose TCP, UDP, SCTP or UDPLite";
        self.error(Code::PortProtocol, node.at, message, help);
        None
    }
}

/// A number in plain decimal digits: no sign, no `0x`, no leading zero, which YAML parsers read
/// in more than one way.
pub(super) fn decimal(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit())
        && text.len() <= 9
        && (text.len() == 1 || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_numbers_are_numbers() {
        assert_eq!(decimal("0"), Some(0));
        assert_eq!(decimal("65536"), Some(65536));
        for bad in [
            "",
            "-1",
            "+1",
            "0x10",
            "010",
            "1.0",
            "1e3",
            "99999999999999999999",
            "1_000",
        ] {
            assert_eq!(decimal(bad), None, "{bad}");
        }
    }
}
