//! Ports of a rule of Cilium.

use enforcer_common::{Protocol, flow_key::icmp_port};

use super::Reader;
use crate::{
    policy::{
        is_port_name,
        model::{NamedPortMatch, PortMatch, PortRange},
    },
    tools::import::{field::Field, number},
};

/// Names of ICMP types, with those of IPv4 and IPv6.
const ICMP_TYPES: &[(&str, Option<u8>, Option<u8>)] = &[
    ("EchoReply", Some(0), Some(129)),
    ("DestinationUnreachable", Some(3), Some(1)),
    ("Redirect", Some(5), None),
    ("Echo", Some(8), None),
    ("EchoRequest", Some(8), Some(128)),
    ("RouterAdvertisement", Some(9), Some(134)),
    ("RouterSelection", Some(10), None),
    ("TimeExceeded", Some(11), Some(3)),
    ("ParameterProblem", Some(12), Some(4)),
    ("Timestamp", Some(13), None),
    ("TimestampReply", Some(14), None),
    ("Photuris", Some(40), None),
    ("ExtendedEchoRequest", Some(42), None),
    ("ExtendedEchoReply", Some(43), None),
    ("PacketTooBig", None, Some(2)),
    ("RouterSolicitation", None, Some(133)),
    ("NeighborSolicitation", None, Some(135)),
    ("NeighborAdvertisement", None, Some(136)),
    ("RedirectMessage", None, Some(137)),
];

impl Reader<'_, '_> {
    /// Ports of a rule; the inner `None` if it names none. The outer: nothing is left of them,
    /// and that was reported.
    #[expect(
        clippy::option_option,
        reason = "absence is said by one, what was left out by the other"
    )]
    pub(super) fn ports(&mut self, rule: &Field<'_>) -> Option<Option<Vec<PortMatch>>> {
        let to_ports = self.report.list(rule, "toPorts")?;
        let icmps = self.report.list(rule, "icmps")?;
        let mut ports = Vec::new();
        match (to_ports.as_slice(), icmps.as_slice()) {
            ([], []) => return Some(None),
            (items, []) => {
                for item in items {
                    ports.extend(self.port_rule(item).unwrap_or_default());
                }
            }
            ([], items) => {
                for item in items {
                    ports.extend(self.icmp_rule(item).unwrap_or_default());
                }
            }
            _ => {
                let message = "has both `toPorts` and `icmps`, which Cilium refuses";
                self.report.omit(rule, message, "write a rule for each");
            }
        }
        let mut seen = std::collections::BTreeSet::new();
        ports.retain(|port| seen.insert(port.clone()));
        (!ports.is_empty()).then_some(Some(ports))
    }

    fn port_rule(&mut self, item: &Field<'_>) -> Option<Vec<PortMatch>> {
        let known = [
            "ports",
            "rules",
            "listener",
            "terminatingTLS",
            "originatingTLS",
            "serverNames",
        ];
        if !self.report.knows(item, &known) {
            return None;
        }
        for key in [
            "listener",
            "terminatingTLS",
            "originatingTLS",
            "serverNames",
        ] {
            if let Some(field) = item.find(key) {
                self.report.omit(
                    &field,
                    "is about what is inside of connections",
                    "allow the ports alone, if whatever passes there may pass, and check the \
                     rest in a proxy",
                );
                return None;
            }
        }
        if let Some(field) = item.find("rules")
            && !allows_every_name(&field)
            && !field.entries().is_empty()
        {
            self.report.omit(
                &field,
                "allows some requests of a protocol only (layer 7)",
                "allow the ports alone, if every request may pass, and check requests in a proxy",
            );
            return None;
        }
        let items = self.report.list(item, "ports")?;
        if items.is_empty() {
            let help = "write `ports:`, or leave `toPorts` out for every port";
            self.report.omit(item, "names no ports", help);
            return None;
        }
        let ports = items.iter().filter_map(|item| self.port(item)).flatten();
        Some(ports.collect())
    }

    fn port(&mut self, item: &Field<'_>) -> Option<Vec<PortMatch>> {
        if !self.report.knows(item, &["port", "endPort", "protocol"]) {
            return None;
        }
        let word = item
            .text_of("protocol")
            .unwrap_or("ANY")
            .to_ascii_uppercase();
        let protocols: &[u8] = match word.as_str() {
            "TCP" => &[Protocol::TCP],
            "UDP" => &[Protocol::UDP],
            "SCTP" => &[Protocol::SCTP],
            "ANY" => &[Protocol::TCP, Protocol::UDP, Protocol::SCTP],
            _ => {
                let message = format!("the protocol `{word}` has no counterpart");
                let help = "write it as `{protocol: NUMBER}` among the ports of a rule";
                self.report.omit(item, message, help);
                return None;
            }
        };
        let port = item.text_of("port").unwrap_or("0");
        let end = item.find("endPort");
        let end_text = end.as_ref().and_then(Field::text).filter(|end| *end != "0");
        if is_port_name(&port.to_ascii_lowercase()) {
            if end_text.is_some() {
                self.report
                    .omit(item, "a range that begins with a name", "write numbers");
                return None;
            }
            let name = port.to_ascii_lowercase();
            let protocol = match protocols {
                [one] => Some(*one),
                _ => None,
            };
            return Some(vec![PortMatch::Named(NamedPortMatch { protocol, name })]);
        }
        let Some(first) = number::<u16>(port) else {
            let message = "is neither a port nor the name of one";
            self.report
                .omit(item, message, "write a number from 1 to 65535");
            return None;
        };
        let last = match end_text.map(number::<u16>) {
            None if first == 0 => u16::MAX,
            None => first,
            Some(Some(last)) if first != 0 && last >= first => last,
            Some(_) => {
                let help = "write the first port as `port`, the last one as `endPort`";
                self.report.omit(item, "is no range of ports", help);
                return None;
            }
        };
        if first == 0 && word == "ANY" {
            self.report.omit(
                item,
                "every port of any protocol: versions of Cilium differ in whether this means \
                 protocols without ports, too",
                "leave `toPorts` out for everything, or name the protocols",
            );
            return None;
        }
        let ranges = protocols.iter().map(|protocol| {
            PortMatch::Range(PortRange {
                protocol: Some(*protocol),
                first,
                last,
            })
        });
        Some(ranges.collect())
    }

    fn icmp_rule(&mut self, item: &Field<'_>) -> Option<Vec<PortMatch>> {
        if !self.report.knows(item, &["fields"]) {
            return None;
        }
        let items = self.report.list(item, "fields")?;
        Some(items.iter().filter_map(|item| self.icmp(item)).collect())
    }

    fn icmp(&mut self, item: &Field<'_>) -> Option<PortMatch> {
        if !self.report.knows(item, &["family", "type"]) {
            return None;
        }
        let protocol = match item.text_of("family") {
            None | Some("IPv4") => Protocol::ICMP,
            Some("IPv6") => Protocol::ICMPV6,
            Some(_) => {
                let help = "write `IPv4` or `IPv6`";
                self.report
                    .omit(item, "has a family that is not known", help);
                return None;
            }
        };
        let word = item.text_of("type").unwrap_or_default();
        let named = ICMP_TYPES.iter().find(|(name, ..)| *name == word);
        let kind = match named {
            Some((_, v4, _)) if protocol == Protocol::ICMP => *v4,
            Some((_, _, v6)) => *v6,
            None => number::<u8>(word),
        };
        let Some(kind) = kind else {
            let help = "write a number from 0 to 255";
            self.report
                .omit(item, "is no ICMP type that is known", help);
            return None;
        };
        Some(PortMatch::Range(PortRange {
            protocol: Some(protocol),
            first: icmp_port(kind, 0),
            last: icmp_port(kind, u8::MAX),
        }))
    }
}

/// Whether layer-7 rules let everything pass, as those that only make a proxy look at names.
fn allows_every_name(rules: &Field<'_>) -> bool {
    let entries = rules.entries();
    let [("dns", dns)] = entries.as_slice() else {
        return false;
    };
    let items = dns.items().unwrap_or_default();
    items.iter().any(|item| {
        let entries = item.entries();
        matches!(entries.as_slice(), [("matchPattern", pattern)] if pattern.text() == Some("*"))
    })
}
