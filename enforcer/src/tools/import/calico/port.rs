//! Protocols and ports of a rule of Calico.

use enforcer_common::{Direction, Protocol, flow_key::icmp_port};

use super::Reader;
use crate::{
    policy::{
        is_port_name,
        model::{NamedPortMatch, PortMatch, PortRange},
    },
    tools::import::{field::Field, number},
};

impl Reader<'_, '_> {
    /// What a rule says of protocol and ports. `None`: left out.
    pub(super) fn ports(
        &mut self,
        rule: &Field<'_>,
        direction: Direction,
    ) -> Option<Vec<PortMatch>> {
        let protocol = match rule.find("protocol") {
            None => None,
            Some(field) => Some(self.protocol(&field)?),
        };
        if direction == Direction::Ingress
            && let Some(source) = rule.find("source")
        {
            for key in ["ports", "notPorts"] {
                if let Some(field) = source.find(key) {
                    let help = "leave it out if any port may be used there";
                    let message = "demands a port of the side that opens the flow";
                    self.report.omit(&field, message, help);
                    return None;
                }
            }
        }
        if let Some(field) = rule.find("icmp") {
            return self.icmp(&field, protocol);
        }
        let whole = PortRange {
            protocol,
            ..PortRange::ANY
        };
        let Some(destination) = rule.find("destination") else {
            return Some(vec![PortMatch::Range(whole)]);
        };
        let wanted = self.report.list(&destination, "ports")?;
        let unwanted = self.report.list(&destination, "notPorts")?;
        if wanted.is_empty() && unwanted.is_empty() {
            return Some(vec![PortMatch::Range(whole)]);
        }
        let Some(protocol) = protocol.filter(|protocol| Protocol::has_ports(*protocol)) else {
            let message = "has ports, and no protocol that has ports";
            self.report
                .omit(&destination, message, "write `protocol: TCP`");
            return None;
        };
        let mut not = Vec::new();
        for item in &unwanted {
            match self.port(item, protocol)? {
                PortMatch::Range(range) => not.push((range.first, range.last)),
                PortMatch::Named(_) => {
                    let help = "write the numbers that are meant";
                    self.report
                        .omit(item, "leaves out a port by its name", help);
                    return None;
                }
            }
        }
        let mut ports = Vec::new();
        if wanted.is_empty() {
            // No policy can name port 0.
            let first = 1;
            let last = u16::MAX;
            ports.push(PortMatch::Range(PortRange {
                protocol: Some(protocol),
                first,
                last,
            }));
        }
        for item in &wanted {
            ports.push(self.port(item, protocol)?);
        }
        if !not.is_empty() {
            if ports.iter().any(|port| matches!(port, PortMatch::Named(_))) {
                let help = "write the numbers that are meant";
                let message = "has ports by name, and others that are left out";
                self.report.omit(&destination, message, help);
                return None;
            }
            ports = without(&ports, &not);
        }
        (!ports.is_empty()).then_some(ports)
    }

    fn protocol(&mut self, field: &Field<'_>) -> Option<u8> {
        let text = self.report.text(field)?;
        let known = [
            ("TCP", Protocol::TCP),
            ("UDP", Protocol::UDP),
            ("SCTP", Protocol::SCTP),
            ("UDPLITE", Protocol::UDPLITE),
            ("ICMP", Protocol::ICMP),
            ("ICMPV6", Protocol::ICMPV6),
        ];
        let named = known
            .iter()
            .find(|(name, _)| text.eq_ignore_ascii_case(name));
        let protocol = named.map_or_else(|| number(text).filter(|n| *n != 0), |(_, n)| Some(*n));
        if protocol.is_none() {
            let help = "write `TCP`, `UDP`, `SCTP`, `UDPLite`, `ICMP`, `ICMPv6`, or its number";
            self.report
                .omit(field, "is no protocol that is known", help);
        }
        protocol
    }

    fn port(&mut self, item: &Field<'_>, protocol: u8) -> Option<PortMatch> {
        let text = self.report.text(item)?;
        let (first, last) = text.split_once(':').unwrap_or((text, text));
        if let (Some(first), Some(last)) = (number::<u16>(first), number::<u16>(last))
            && first <= last
            && last != 0
        {
            return Some(PortMatch::Range(PortRange {
                protocol: Some(protocol),
                // No policy can name port 0.
                first: first.max(1),
                last,
            }));
        }
        if is_port_name(text) {
            return Some(PortMatch::Named(NamedPortMatch {
                protocol: Some(protocol),
                name: text.to_owned(),
            }));
        }
        let help = "write a number, a range as in `8000:8999`, or a name";
        self.report.omit(item, "is no port that is known", help);
        None
    }

    fn icmp(&mut self, field: &Field<'_>, protocol: Option<u8>) -> Option<Vec<PortMatch>> {
        if !self.report.knows(field, &["type", "code"]) {
            return None;
        }
        let is_icmp = |protocol: &u8| matches!(*protocol, Protocol::ICMP | Protocol::ICMPV6);
        let Some(protocol) = protocol.filter(is_icmp) else {
            let help = "write `protocol: ICMP` or `protocol: ICMPv6`";
            self.report
                .omit(field, "has ICMP types, and another protocol", help);
            return None;
        };
        let byte = |name: &str| {
            field
                .find(name)
                .map(|field| field.text().and_then(number::<u8>))
        };
        let (first, last) = match (byte("type"), byte("code")) {
            (None, None) => (0, u16::MAX),
            (Some(Some(kind)), None) => (icmp_port(kind, 0), icmp_port(kind, u8::MAX)),
            (Some(Some(kind)), Some(Some(code))) => (icmp_port(kind, code), icmp_port(kind, code)),
            _ => {
                let help = "write numbers from 0 to 255, and a `type` beside a `code`";
                self.report.omit(field, "is no ICMP type and code", help);
                return None;
            }
        };
        Some(vec![PortMatch::Range(PortRange {
            protocol: Some(protocol),
            first,
            last,
        })])
    }
}

/// Ranges without others.
fn without(ports: &[PortMatch], not: &[(u16, u16)]) -> Vec<PortMatch> {
    let mut left: Vec<PortRange> = ports
        .iter()
        .filter_map(|port| match port {
            PortMatch::Range(range) => Some(*range),
            PortMatch::Named(_) => None,
        })
        .collect();
    for (first, last) in not {
        left = left
            .into_iter()
            .flat_map(|range| {
                let below = first.checked_sub(1).filter(|end| *end >= range.first);
                let below = below.map(|end| PortRange {
                    last: end.min(range.last),
                    ..range
                });
                let above = last.checked_add(1).filter(|begin| *begin <= range.last);
                let above = above.map(|begin| PortRange {
                    first: begin.max(range.first),
                    ..range
                });
                [below, above].into_iter().flatten()
            })
            .collect();
    }
    left.into_iter().map(PortMatch::Range).collect()
}
