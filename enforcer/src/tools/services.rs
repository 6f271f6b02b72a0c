//! Something that is known of every protocol and port.

use std::{collections::BTreeMap, fmt};

use enforcer_common::Protocol;

use crate::protocol_name;

/// A value for every protocol and port. Equal content is equal in form, too.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Services<T> {
    /// Of every protocol that is not in `protocols`.
    others: T,
    /// By protocol: first ports of stretches, ascending, the first of them 0. Neighbours
    /// differ, and no protocol is wholly as `others`.
    protocols: BTreeMap<u8, Vec<(u16, T)>>,
}

/// A stretch of ports, or every protocol that is not named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Service {
    /// `None`: every other one.
    pub protocol: Option<u8>,
    /// First port, or ICMP type and code.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

impl<T: Clone + PartialEq> Services<T> {
    /// The same for everything.
    pub fn all(value: T) -> Self {
        Self {
            others: value,
            protocols: BTreeMap::new(),
        }
    }

    /// Says what holds for a protocol: the values of stretches by their first port, ascending
    /// from 0.
    pub fn set(&mut self, protocol: u8, values: impl IntoIterator<Item = (u16, T)>) {
        let mut stretches: Vec<(u16, T)> = Vec::new();
        for (start, value) in values {
            if stretches.last().is_none_or(|(_, last)| *last != value) {
                stretches.push((start, value));
            }
        }
        if matches!(&stretches[..], [(_, value)] if *value == self.others) {
            self.protocols.remove(&protocol);
        } else {
            self.protocols.insert(protocol, stretches);
        }
    }

    /// What holds for a protocol and port.
    pub fn at(&self, protocol: u8, port: u16) -> &T {
        let Some(stretches) = self.protocols.get(&protocol) else {
            return &self.others;
        };
        let after = stretches.partition_point(|(start, _)| *start <= port);
        after
            .checked_sub(1)
            .map_or(&self.others, |i| &stretches[i].1)
    }

    /// Both together, everywhere.
    pub fn join<U: Clone + PartialEq, V: Clone + PartialEq>(
        &self,
        other: &Services<U>,
        both: impl Fn(&T, &U) -> V,
    ) -> Services<V> {
        let mut joined = Services::all(both(&self.others, &other.others));
        for protocol in self.protocols.keys().chain(other.protocols.keys()) {
            let mut starts: Vec<u16> = vec![0];
            starts.extend(
                self.protocols
                    .get(protocol)
                    .into_iter()
                    .flatten()
                    .map(|(s, _)| *s),
            );
            starts.extend(
                other
                    .protocols
                    .get(protocol)
                    .into_iter()
                    .flatten()
                    .map(|(s, _)| *s),
            );
            starts.sort_unstable();
            starts.dedup();
            let value = |port| both(self.at(*protocol, port), other.at(*protocol, port));
            joined.set(
                *protocol,
                starts.into_iter().map(|port| (port, value(port))),
            );
        }
        joined
    }

    /// Every value made another.
    pub fn map<V: Clone + PartialEq>(&self, other: impl Fn(&T) -> V) -> Services<V> {
        self.join(&Services::all(()), |value, ()| other(value))
    }

    /// Everything that there is, named protocols first.
    pub fn iter(&self) -> impl Iterator<Item = (Service, &T)> {
        let named = self.protocols.iter().flat_map(|(protocol, stretches)| {
            let next = stretches.iter().skip(1).map(|(start, _)| start - 1);
            let lasts = next.chain([u16::MAX]);
            stretches.iter().zip(lasts).map(|((first, value), last)| {
                let service = Service {
                    protocol: Some(*protocol),
                    first: *first,
                    last,
                };
                (service, value)
            })
        });
        let rest = Service {
            protocol: None,
            first: 0,
            last: u16::MAX,
        };
        named.chain([(rest, &self.others)])
    }

    /// The protocols that differ from the others.
    pub fn named(&self) -> impl Iterator<Item = u8> {
        self.protocols.keys().copied()
    }
}

/// As policies write it: `5432/tcp`, `8000-8999/udp`, `8.0/icmp`, `tcp`, `other` for every other
/// protocol.
impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(protocol) = self.protocol else {
            return f.write_str("other");
        };
        let name = protocol_name::text(protocol);
        // Without ports, the whole range is all there is.
        if (self.first, self.last) == (0, u16::MAX) {
            return f.write_str(&name);
        }
        if matches!(protocol, Protocol::ICMP | Protocol::ICMPV6) {
            return write!(f, "{}/{name}", IcmpRange(self.first, self.last));
        }
        // Port 0 is on no wire.
        let first = self.first.max(1).min(self.last);
        if first == self.last {
            write!(f, "{first}/{name}")
        } else {
            write!(f, "{first}-{}/{name}", self.last)
        }
    }
}

impl Service {
    /// As an item of a rule's `ports`.
    pub fn in_policy(&self) -> String {
        match self.protocol {
            None => "any".to_owned(),
            // A number alone would be a port.
            Some(number) if protocol_name::name(number).is_none() => {
                format!("{{protocol: {number}}}")
            }
            Some(_) => self.to_string(),
        }
    }
}

/// Types and codes of ICMP: `8`, `8.0`, `3.4-3.255`, `0-7`.
struct IcmpRange(u16, u16);

impl fmt::Display for IcmpRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first_type, first_code] = self.0.to_be_bytes();
        let [last_type, last_code] = self.1.to_be_bytes();
        if first_code == 0 && last_code == u8::MAX {
            write!(f, "{first_type}")?;
            if first_type != last_type {
                write!(f, "-{last_type}")?;
            }
            return Ok(());
        }
        write!(f, "{first_type}.{first_code}")?;
        if self.0 != self.1 {
            write!(f, "-{last_type}.{last_code}")?;
        }
        Ok(())
    }
}

/// Services in words. Of every other protocol, `besides` are those that are not meant.
pub fn in_words(services: &[Service], besides: &[u8]) -> String {
    let words = services.iter().map(|service| match service.protocol {
        None if besides.is_empty() => "every protocol".to_owned(),
        None => {
            let names = besides
                .iter()
                .map(|protocol| protocol_name::text(*protocol));
            let names: Vec<_> = names.collect();
            format!("every protocol but {}", names.join(", "))
        }
        Some(_) => service.to_string(),
    });
    words.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(protocol: u8, first: u16, last: u16) -> Services<bool> {
        let mut services = Services::all(false);
        let after = last.checked_add(1).map(|port| (port, false));
        let values = [(0, first == 0), (first, true)].into_iter().chain(after);
        services.set(protocol, values);
        services
    }

    #[test]
    fn joins_meet_at_every_edge() {
        let both = one(6, 80, 443).join(&one(6, 100, 65535), |a, b| (*a, *b));
        for (port, expected) in [
            (79, (false, false)),
            (80, (true, false)),
            (99, (true, false)),
            (100, (true, true)),
            (443, (true, true)),
            (444, (false, true)),
            (65535, (false, true)),
        ] {
            assert_eq!(*both.at(6, port), expected, "{port}");
        }
        assert_eq!(*both.at(17, 80), (false, false));
    }

    #[test]
    fn equal_content_is_equal() {
        let a = one(6, 80, 80).join(&one(17, 5, 9), |a, b| *a || *b);
        let b = one(17, 5, 9).join(&one(6, 80, 80), |a, b| *a || *b);
        assert_eq!(a, b);
        let none = one(6, 80, 80).map(|_| false);
        assert_eq!(none, Services::all(false));
        assert_eq!(none.named().count(), 0);
    }

    #[test]
    fn services_are_written_as_policies_write_them() {
        let text = |protocol, first, last| {
            let service = Service {
                protocol,
                first,
                last,
            };
            service.to_string()
        };
        assert_eq!(text(Some(6), 5432, 5432), "5432/tcp");
        assert_eq!(text(Some(6), 0, 79), "1-79/tcp");
        assert_eq!(text(Some(17), 0, u16::MAX), "udp");
        assert_eq!(text(Some(1), 0x0800, 0x0800), "8.0/icmp");
        assert_eq!(text(Some(58), 0x8000, 0x80ff), "128/icmpv6");
        assert_eq!(text(Some(1), 0x0304, 0x05ff), "3.4-5.255/icmp");
        assert_eq!(text(None, 0, u16::MAX), "other");
        assert_eq!(text(Some(47), 0, u16::MAX), "gre");
        assert_eq!(text(Some(99), 0, u16::MAX), "99");
    }
}
