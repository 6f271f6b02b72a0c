//! A set of prefixes that is asked which of its members contain another prefix.

use std::collections::{BTreeSet, HashMap};

use ipnet::IpNet;

/// Prefixes, host bits cleared, each with a value. Asking costs one look-up for each distinct
/// prefix length of the family, of which there are few, however many prefixes there are.
pub(super) struct PrefixTable<V> {
    entries: HashMap<IpNet, V>,
    /// Lengths in use: IPv4, IPv6.
    lengths: [BTreeSet<u8>; 2],
}

impl<V> PrefixTable<V> {
    pub fn new() -> Self {
        Self {
            entries: HashMap::new(),
            lengths: [BTreeSet::new(), BTreeSet::new()],
        }
    }

    /// Adds a prefix unless it is there: the first value stays.
    pub fn add(&mut self, prefix: IpNet, value: V) {
        let prefix = prefix.trunc();
        self.lengths[family(&prefix)].insert(prefix.prefix_len());
        self.entries.entry(prefix).or_insert(value);
    }

    /// The members that contain `prefix`, itself included, longest first.
    pub fn containing(&self, prefix: IpNet) -> impl Iterator<Item = (IpNet, &V)> {
        self.lengths[family(&prefix)]
            .range(..=prefix.prefix_len())
            .rev()
            .filter_map(move |length| {
                let wider = IpNet::new(prefix.addr(), *length).ok()?.trunc();
                self.entries.get(&wider).map(|value| (wider, value))
            })
    }

    pub fn keys(&self) -> impl Iterator<Item = &IpNet> {
        self.entries.keys()
    }
}

fn family(prefix: &IpNet) -> usize {
    usize::from(prefix.addr().is_ipv6())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("a prefix")
    }

    #[test]
    fn finds_every_wider_member_of_the_family_longest_first() {
        let mut table = PrefixTable::new();
        for (i, prefix) in [
            "10.0.0.0/8",
            "10.1.2.3/16",
            "10.2.0.0/16",
            "::/0",
            "0.0.0.0/0",
        ]
        .into_iter()
        .enumerate()
        {
            table.add(net(prefix), i);
        }
        let found: Vec<_> = table.containing(net("10.1.2.0/24")).collect();
        assert_eq!(
            found,
            [
                (net("10.1.0.0/16"), &1),
                (net("10.0.0.0/8"), &0),
                (net("0.0.0.0/0"), &4)
            ]
        );
        let found: Vec<_> = table.containing(net("10.0.0.0/8")).map(|f| f.0).collect();
        assert_eq!(found, [net("10.0.0.0/8"), net("0.0.0.0/0")]);
        assert_eq!(table.containing(net("2001:db8::1/128")).count(), 1);
    }
}
