//! The values of filters, as people write them: parsed, printed and matched.

use std::{fmt, net::IpAddr, ops::RangeInclusive, str::FromStr};

use enforcer_common::Reason;
use ipnet::IpNet;

use crate::{
    compile::image::RuleDirection,
    observe::{
        enrich::UNKNOWN_PROTOCOL,
        record::{FlowRecord, Side, SideKind, Verdict},
    },
    protocol_name,
};

/// `[NAMESPACE/]NAME`, or `host` for the host itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadPattern {
    pub(super) namespace: Option<String>,
    pub(super) name: String,
}

impl WorkloadPattern {
    pub(super) fn matches(&self, side: &Side) -> bool {
        match (&self.namespace, side.kind) {
            (None, SideKind::Host) => self.name == "host",
            (namespace, _) => {
                side.name.as_deref() == Some(&self.name)
                    && (namespace.is_none() || *namespace == side.namespace)
            }
        }
    }
}

impl FromStr for WorkloadPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (namespace, name) = split_namespace(text);
        if name.is_empty() || name.contains('/') || namespace == Some("") {
            return Err("write NAME or NAMESPACE/NAME".to_owned());
        }
        Ok(Self {
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
        })
    }
}

impl fmt::Display for WorkloadPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_namespace(f, self.namespace.as_deref())?;
        f.write_str(&self.name)
    }
}

/// `[NAMESPACE/]POLICY[:RULE]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulePattern {
    pub(super) namespace: Option<String>,
    pub(super) policy: String,
    pub(super) rule: Option<String>,
}

impl RulePattern {
    pub(super) fn matches(&self, record: &FlowRecord) -> bool {
        record.rule.as_ref().is_some_and(|rule| {
            rule.policy == self.policy
                && (self.namespace.is_none() || self.namespace == rule.namespace)
                && self.rule.as_ref().is_none_or(|name| *name == rule.name)
        })
    }
}

impl FromStr for RulePattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (policy, rule) = match text.split_once(':') {
            Some((policy, rule)) => (policy, Some(rule)),
            None => (text, None),
        };
        let (namespace, policy) = split_namespace(policy);
        if policy.is_empty() || policy.contains('/') || namespace == Some("") || rule == Some("") {
            return Err("write POLICY, NAMESPACE/POLICY or NAMESPACE/POLICY:RULE".to_owned());
        }
        Ok(Self {
            namespace: namespace.map(str::to_owned),
            policy: policy.to_owned(),
            rule: rule.map(str::to_owned),
        })
    }
}

impl fmt::Display for RulePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_namespace(f, self.namespace.as_deref())?;
        f.write_str(&self.policy)?;
        match &self.rule {
            Some(rule) => write!(f, ":{rule}"),
            None => Ok(()),
        }
    }
}

fn split_namespace(text: &str) -> (Option<&str>, &str) {
    match text.split_once('/') {
        Some((namespace, name)) => (Some(namespace), name),
        None => (None, text),
    }
}

fn write_namespace(f: &mut fmt::Formatter<'_>, namespace: Option<&str>) -> fmt::Result {
    match namespace {
        Some(namespace) => write!(f, "{namespace}/"),
        None => Ok(()),
    }
}

/// `KEY=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelPattern {
    pub(super) key: String,
    pub(super) value: String,
}

impl LabelPattern {
    pub(super) fn matches(&self, side: &Side) -> bool {
        side.labels.get(&self.key) == Some(&self.value)
    }
}

impl FromStr for LabelPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Self {
                key: key.to_owned(),
                value: value.to_owned(),
            }),
            _ => Err("write KEY=VALUE".to_owned()),
        }
    }
}

impl fmt::Display for LabelPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.key, self.value)
    }
}

impl FromStr for Verdict {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|v| v.name() == text);
        found.ok_or_else(|| "write allow, deny or audit".to_owned())
    }
}

/// A reason by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReasonName(pub Reason);

impl FromStr for ReasonName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Reason::ALL.iter().find(|r| r.name() == text);
        found.map(|r| Self(*r)).ok_or_else(|| {
            let names: Vec<&str> = Reason::ALL.iter().map(|r| r.name()).collect();
            format!("there are {}", names.join(", "))
        })
    }
}

impl fmt::Display for ReasonName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name())
    }
}

/// `PORT` or `FIRST-LAST`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRange(pub(super) RangeInclusive<u16>);

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let problem = || "write a port, or FIRST-LAST".to_owned();
        let first: u16 = first.parse().map_err(|_| problem())?;
        let last: u16 = last.parse().map_err(|_| problem())?;
        if first > last {
            return Err("the first port is larger than the last".to_owned());
        }
        Ok(Self(first..=last))
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.start() == self.0.end() {
            write!(f, "{}", self.0.start())
        } else {
            write!(f, "{}-{}", self.0.start(), self.0.end())
        }
    }
}

/// A protocol as records name it; a number is turned into the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtocolName(pub(super) String);

impl FromStr for ProtocolName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(number) = text.parse::<u8>() {
            return Ok(Self(protocol_name::text(number)));
        }
        let name = text.to_ascii_lowercase();
        if name == UNKNOWN_PROTOCOL || protocol_name::number(&name).is_some() {
            return Ok(Self(name));
        }
        let names: Vec<_> = protocol_name::spelled().collect();
        let names = names.join(", ").to_ascii_lowercase();
        Err(format!("write {names}, {UNKNOWN_PROTOCOL} or a number"))
    }
}

impl fmt::Display for ProtocolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a direction in records and filters.
pub const fn direction_name(direction: RuleDirection) -> &'static str {
    match direction {
        RuleDirection::Egress => "egress",
        RuleDirection::Ingress => "ingress",
    }
}

/// Parses `egress` or `ingress`.
pub fn parse_direction(text: &str) -> Result<RuleDirection, String> {
    [RuleDirection::Egress, RuleDirection::Ingress]
        .into_iter()
        .find(|d| direction_name(*d) == text)
        .ok_or_else(|| "write egress or ingress".to_owned())
}

/// Parses a network or a single address.
pub fn parse_network(text: &str) -> Result<IpNet, String> {
    let network = match text.parse::<IpAddr>() {
        Ok(address) => Some(IpNet::from(address)),
        Err(_) => text.parse().ok(),
    };
    network.ok_or_else(|| "write an address or a network, like 10.0.0.0/8".to_owned())
}
