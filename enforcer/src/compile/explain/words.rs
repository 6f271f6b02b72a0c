//! Peers and ports of a rule as people read them.

use std::fmt;

use enforcer_common::Protocol;

use super::explanation::Mismatch;
use crate::policy::model::{
    Assurance, LabelSelector, Moment, Peer, Policy, PortMatch, PortRange, Rule, Validity,
    WorkloadSelector,
};
use crate::protocol_name;

/// Why a rule of a policy is not about a flow now. `known`: how well the peer is known, where
/// that is all that is missing in it.
pub(super) fn in_words(
    mismatch: Mismatch,
    policy: &Policy,
    rule: &Rule,
    now: Moment,
    known: Option<Assurance>,
) -> String {
    match mismatch {
        Mismatch::Time => {
            let mut validities = [rule.validity, policy.validity].into_iter();
            let not_now = validities.find(|validity| !validity.holds(now));
            when(not_now.unwrap_or_default(), now)
        }
        Mismatch::Peer => {
            let peers: Vec<_> = rule.peers.iter().map(PeerText).collect();
            let peers = joined(&peers);
            match known {
                Some(known) => {
                    let known = known.name();
                    format!("the peer is known with assurance {known} only, not as any of: {peers}")
                }
                None => format!("the peer is none of: {peers}"),
            }
        }
        Mismatch::Protocol | Mismatch::Port => {
            let ports: Vec<_> = rule.ports.iter().map(PortText).collect();
            let what = if mismatch == Mismatch::Port {
                "port"
            } else {
                "protocol"
            };
            format!("the {what} is none of: {}", joined(&ports))
        }
    }
}

fn when(validity: Validity, now: Moment) -> String {
    match validity {
        Validity {
            from: Some(from), ..
        } if now < from => format!("it holds from {from} on"),
        Validity {
            until: Some(until), ..
        } => format!("it ended at {until}"),
        Validity { .. } => "it does not hold now".to_owned(),
    }
}

/// At most this many peers or ports of a rule are listed.
const LISTED: usize = 8;

fn joined(items: &[impl fmt::Display]) -> String {
    let mut texts: Vec<_> = items.iter().take(LISTED).map(ToString::to_string).collect();
    if items.len() > LISTED {
        texts.push(format!("and {} more", items.len() - LISTED));
    }
    texts.join("; ")
}

/// A peer of a rule, in words.
pub fn peer_in_words(peer: &Peer) -> String {
    PeerText(peer).to_string()
}

/// An entry of a rule's ports, in words.
pub fn ports_in_words(ports: &PortMatch) -> String {
    PortText(ports).to_string()
}

/// A peer.
struct PeerText<'a>(&'a Peer);

impl fmt::Display for PeerText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Peer::Any => f.write_str("any"),
            Peer::Host => f.write_str("host"),
            Peer::RemoteHost => f.write_str("remote host"),
            Peer::World => f.write_str("world"),
            Peer::Hosts(selector) => {
                f.write_str("hosts")?;
                labels(f, " with ", selector)
            }
            Peer::Workloads(selector) => workloads(f, selector),
            Peer::Cidr { prefix, except } => {
                write!(f, "{prefix}")?;
                for (i, prefix) in except.iter().enumerate() {
                    f.write_str(if i == 0 { " except " } else { "," })?;
                    write!(f, "{prefix}")?;
                }
                Ok(())
            }
            Peer::Group(group) => match &group.namespace {
                Some(namespace) => write!(f, "group {namespace}/{}", group.name),
                None => write!(f, "group {}", group.name),
            },
            Peer::Assured { at_least, peer } => {
                write!(
                    f,
                    "{} (assurance {} or better)",
                    PeerText(peer),
                    at_least.name()
                )
            }
        }
    }
}

fn workloads(f: &mut fmt::Formatter<'_>, selector: &WorkloadSelector) -> fmt::Result {
    let WorkloadSelector {
        namespace,
        namespace_labels,
        labels: own_labels,
        spiffe_id,
        service_account,
        unit,
    } = selector;
    f.write_str("workloads")?;
    labels(f, " with ", own_labels)?;
    if let Some(id) = spiffe_id {
        write!(f, " that are {id}")?;
    }
    if let Some(account) = service_account {
        write!(f, " of service account {account}")?;
    }
    if let Some(unit) = unit {
        write!(f, " in unit {unit}")?;
    }
    match namespace {
        Some(namespace) => write!(f, " in namespace {namespace}")?,
        None if namespace_labels.is_empty() => f.write_str(" in any namespace")?,
        None => f.write_str(" in namespaces")?,
    }
    labels(f, " with ", namespace_labels)
}

fn labels(f: &mut fmt::Formatter<'_>, lead: &str, selector: &LabelSelector) -> fmt::Result {
    let mut lead = Some(lead);
    for (key, value) in &selector.match_labels {
        write!(f, "{}{key}={value}", lead.take().unwrap_or(","))?;
    }
    for expression in &selector.expressions {
        let lead = lead.take().unwrap_or(",");
        write!(f, "{lead}{} {}", expression.key, expression.operator.name())?;
        for (i, value) in expression.values.iter().enumerate() {
            write!(f, "{}{value}", if i == 0 { " (" } else { ", " })?;
        }
        if !expression.values.is_empty() {
            f.write_str(")")?;
        }
    }
    Ok(())
}

/// What a rule says of protocol and port.
struct PortText<'a>(&'a PortMatch);

impl fmt::Display for PortText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            PortMatch::Range(range) => range_text(f, *range),
            PortMatch::Named(named) => match named.protocol {
                Some(number) => {
                    write!(f, "{}/", named.name)?;
                    protocol_text(f, number)
                }
                None => write!(f, "{} of any protocol", named.name),
            },
        }
    }
}

fn range_text(f: &mut fmt::Formatter<'_>, range: PortRange) -> fmt::Result {
    let PortRange {
        protocol,
        first,
        last,
    } = range;
    let Some(protocol) = protocol else {
        return f.write_str("any");
    };
    if first > 0 || last < u16::MAX {
        match protocol {
            Protocol::ICMP | Protocol::ICMPV6 => {
                let [kind, code] = first.to_be_bytes();
                write!(f, "{kind}")?;
                if first == last {
                    write!(f, ".{code}")?;
                }
            }
            _ if first == last => write!(f, "{first}")?,
            _ => write!(f, "{first}-{last}")?,
        }
        f.write_str("/")?;
    }
    protocol_text(f, protocol)
}

fn protocol_text(f: &mut fmt::Formatter<'_>, protocol: u8) -> fmt::Result {
    match protocol_name::name(protocol) {
        Some(name) => f.write_str(name),
        None => write!(f, "protocol {protocol}"),
    }
}
