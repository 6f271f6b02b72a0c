//! Peers and ports of a rule as people read them.

use std::fmt;

use super::explanation::Mismatch;
use crate::policy::model::{LabelSelector, Peer, PortMatch, Rule};

/// Why a rule is not about a flow.
pub(super) fn in_words(mismatch: Mismatch, rule: &Rule) -> String {
    match mismatch {
        Mismatch::Peer => {
            let peers: Vec<_> = rule.peers.iter().map(PeerText).collect();
            format!("the peer is none of: {}", joined(&peers))
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

/// At most this many peers or ports of a rule are listed.
const LISTED: usize = 8;

fn joined(items: &[impl fmt::Display]) -> String {
    let mut texts: Vec<_> = items.iter().take(LISTED).map(ToString::to_string).collect();
    if items.len() > LISTED {
        texts.push(format!("and {} more", items.len() - LISTED));
    }
    texts.join("; ")
}

struct PeerText<'a>(&'a Peer);

impl fmt::Display for PeerText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Peer::Any => f.write_str("any"),
            Peer::Host => f.write_str("host"),
            Peer::World => f.write_str("world"),
            Peer::Workloads(LabelSelector {
                namespace,
                match_labels,
            }) => {
                f.write_str("workloads")?;
                for (i, (key, value)) in match_labels.iter().enumerate() {
                    f.write_str(if i == 0 { " with " } else { "," })?;
                    write!(f, "{key}={value}")?;
                }
                match namespace {
                    Some(namespace) => write!(f, " in namespace {namespace}"),
                    None => f.write_str(" in any namespace"),
                }
            }
            Peer::Cidr { prefix, except } => {
                write!(f, "{prefix}")?;
                for (i, prefix) in except.iter().enumerate() {
                    f.write_str(if i == 0 { " except " } else { "," })?;
                    write!(f, "{prefix}")?;
                }
                Ok(())
            }
        }
    }
}

struct PortText<'a>(&'a PortMatch);

impl fmt::Display for PortText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use enforcer_common::Protocol;
        let PortMatch {
            protocol,
            first,
            last,
        } = *self.0;
        let Some(protocol) = protocol else {
            return f.write_str("any");
        };
        let name = match protocol {
            Protocol::TCP => "tcp",
            Protocol::UDP => "udp",
            Protocol::SCTP => "sctp",
            Protocol::UDPLITE => "udplite",
            Protocol::ICMP => "icmp",
            Protocol::ICMPV6 => "icmpv6",
            _ => "",
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
        if name.is_empty() {
            write!(f, "protocol {protocol}")
        } else {
            f.write_str(name)
        }
    }
}
