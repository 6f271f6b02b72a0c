//! A flow as a question: `shop/web -> shop/db:5432/tcp`.

use std::{fmt, net::IpAddr, str::FromStr};

use enforcer_common::{Protocol, flow_key::icmp_port};
use serde::{Deserialize, Serialize};

use crate::{
    compile::{
        explain::{Answer, ExplainError, Explainer, Explanation, Party},
        image::WorkloadName,
    },
    policy::model::Mode,
    protocol_name,
};

/// A new flow, described by who and where to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowQuestion {
    /// Who opens it: `NAMESPACE/NAME`, `host`, `world`, or an address.
    #[serde(with = "party_text")]
    pub from: Party,
    /// Who is addressed.
    #[serde(with = "party_text")]
    pub to: Party,
    /// Protocol and port.
    pub service: Service,
}

/// Protocol and port. In JSON and on the command line a string: `PORT/PROTOCOL`,
/// `TYPE[.CODE]/icmp`, or `*/PROTOCOL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Service {
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port; for ICMP and ICMPv6, [`icmp_port`]; else 0.
    pub port: u16,
}

/// What is wrong with a question.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    /// No arrow.
    #[error("`{0}` has no `->`: write for example `shop/web -> shop/db:5432/tcp`")]
    Arrow(String),
    /// A side is not understood.
    #[error("`{0}` is no party: write NAMESPACE/NAME, `host`, `world` or an address")]
    Party(String),
    /// The service is missing.
    #[error("`{0}` names no port: write for example `{0}:5432/tcp` or `{0}:8/icmp`")]
    NoService(String),
    /// The service is not understood.
    #[error(
        "`{0}` is no port and protocol: write for example `5432/tcp`, `53/udp`, `8/icmp`, `128/icmpv6` or `*/gre`"
    )]
    Service(String),
}

impl FromStr for FlowQuestion {
    type Err = QuestionError;

    fn from_str(text: &str) -> Result<Self, QuestionError> {
        let (from, to) = text
            .split_once("->")
            .ok_or_else(|| QuestionError::Arrow(text.to_owned()))?;
        let to = to.trim();
        let (party, service) = split_service(to)?;
        Ok(Self {
            from: parse_party(from.trim())?,
            to: parse_party(party)?,
            service: service.parse()?,
        })
    }
}

/// Splits `PARTY:SERVICE`; an IPv6 address stands in brackets.
fn split_service(text: &str) -> Result<(&str, &str), QuestionError> {
    let missing = || QuestionError::NoService(text.to_owned());
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest
            .split_once(']')
            .ok_or_else(|| QuestionError::Party(text.to_owned()))?;
        return Ok((address, rest.strip_prefix(':').ok_or_else(missing)?));
    }
    if text.parse::<IpAddr>().is_ok() {
        return Err(missing());
    }
    text.rsplit_once(':').ok_or_else(missing)
}

/// Reads a party: `NAMESPACE/NAME`, `host`, `world`, or an address.
pub fn parse_party(text: &str) -> Result<Party, QuestionError> {
    let bare = text
        .strip_prefix('[')
        .and_then(|t| t.strip_suffix(']'))
        .unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(Party::Address(address));
    }
    match text {
        "host" => return Ok(Party::Host),
        "world" => return Ok(Party::World),
        _ => {}
    }
    match text.split_once('/') {
        Some((namespace, name))
            if !namespace.is_empty() && !name.is_empty() && !name.contains(['/', ':']) =>
        {
            Ok(Party::Workload(WorkloadName {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            }))
        }
        _ => Err(QuestionError::Party(text.to_owned())),
    }
}

/// What decides about the flow, at each side that has an endpoint.
pub fn explain(
    explainer: &Explainer<'_>,
    question: &FlowQuestion,
) -> Result<Vec<Explanation>, ExplainError> {
    let Service { protocol, port } = question.service;
    let mut sides = explainer.flow(&question.from, &question.to, protocol, port)?;
    // A node in audit mode lets everything through, whatever a policy's own mode says.
    if explainer.mode == Mode::Audit {
        for side in &mut sides {
            if side.verdict == Answer::Deny {
                side.verdict = Answer::Audit;
            }
        }
    }
    Ok(sides)
}

impl FromStr for Service {
    type Err = QuestionError;

    fn from_str(text: &str) -> Result<Self, QuestionError> {
        let wrong = || QuestionError::Service(text.to_owned());
        let (port, protocol) = text.split_once('/').ok_or_else(wrong)?;
        let protocol = match protocol_name::number(protocol) {
            Some(number) => number,
            None => protocol.parse().map_err(|_| wrong())?,
        };
        let is_icmp = matches!(protocol, Protocol::ICMP | Protocol::ICMPV6);
        let port = match port {
            "*" if !Protocol::has_ports(protocol) && !is_icmp => 0,
            _ if is_icmp => {
                let (kind, code) = protocol_name::icmp_type(port).ok_or_else(wrong)?;
                icmp_port(kind, code.unwrap_or(0))
            }
            _ if Protocol::has_ports(protocol) => port.parse().map_err(|_| wrong())?,
            _ => return Err(wrong()),
        };
        Ok(Self { protocol, port })
    }
}

impl fmt::Display for FlowQuestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.to {
            Party::Address(IpAddr::V6(address)) => {
                write!(f, "{} -> [{address}]:{}", self.from, self.service)
            }
            to => write!(f, "{} -> {to}:{}", self.from, self.service),
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            Protocol::ICMP | Protocol::ICMPV6 => {
                let [kind, code] = self.port.to_be_bytes();
                write!(f, "{kind}.{code}/")?;
            }
            protocol if Protocol::has_ports(protocol) => write!(f, "{}/", self.port)?,
            _ => f.write_str("*/")?,
        }
        f.write_str(&protocol_name::text(self.protocol))
    }
}

impl TryFrom<String> for Service {
    type Error = QuestionError;

    fn try_from(text: String) -> Result<Self, QuestionError> {
        text.parse()
    }
}

impl From<Service> for String {
    fn from(service: Service) -> Self {
        service.to_string()
    }
}

/// A party as a string.
mod party_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::{Party, parse_party};

    pub fn serialize<S: Serializer>(party: &Party, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(party)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Party, D::Error> {
        parse_party(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for text in [
            "shop/web -> shop/db:5432/tcp",
            "host -> world:443/tcp",
            "10.0.0.1 -> [2001:db8::1]:53/udp",
            "shop/web -> 10.0.0.1:8.0/icmp",
            "shop/web -> host:*/gre",
            "shop/web -> host:*/99",
        ] {
            let question: FlowQuestion = text.parse().unwrap();
            assert_eq!(question.to_string(), text);
            let json = serde_json::to_string(&question).unwrap();
            assert_eq!(
                serde_json::from_str::<FlowQuestion>(&json).unwrap(),
                question
            );
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = |text: &str| text.parse::<FlowQuestion>().unwrap_err();
        assert!(matches!(
            error("shop/web shop/db:1/tcp"),
            QuestionError::Arrow(_)
        ));
        assert!(matches!(
            error("web -> shop/db:1/tcp"),
            QuestionError::Party(_)
        ));
        assert!(matches!(
            error("shop/web -> shop/db"),
            QuestionError::NoService(_)
        ));
        assert!(matches!(
            error("shop/web -> 2001:db8::1"),
            QuestionError::NoService(_)
        ));
        assert!(matches!(
            error("shop/web -> shop/db:tcp"),
            QuestionError::Service(_)
        ));
        assert!(matches!(
            error("shop/web -> shop/db:70000/tcp"),
            QuestionError::Service(_)
        ));
        assert!(matches!(
            error("shop/web -> shop/db:*/tcp"),
            QuestionError::Service(_)
        ));
        assert!(matches!(
            error("shop/web -> shop/db:80/gre"),
            QuestionError::Service(_)
        ));
    }
}
