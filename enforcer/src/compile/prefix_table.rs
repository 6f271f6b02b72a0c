//! A set of prefixes that is asked which of its members contain another prefix.

use std::collections::{BTreeMap, HashMap};

use ipnet::IpNet;

/// Prefixes, host bits cleared, each with a value. Asking costs one look-up for each distinct
/// prefix length of the family, of which there are few, however many prefixes there are.
#[derive(Debug)]
pub(crate) struct PrefixTable<V> {
    entries: HashMap<IpNet, V>,
    /// How many prefixes of a length there are: IPv4, IPv6.
    lengths: [BTreeMap<u8, usize>; 2],
}

impl<V> Default for PrefixTable<V> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            lengths: [BTreeMap::new(), BTreeMap::new()],
        }
    }
}

impl<V> PrefixTable<V> {
    /// The value of a prefix, which is `value` where it is not there yet.
    pub fn add(&mut self, prefix: IpNet, value: V) -> &mut V {
        let prefix = prefix.trunc();
        self.entries.entry(prefix).or_insert_with(|| {
            let length = self.lengths[family(&prefix)].entry(prefix.prefix_len());
            *length.or_default() += 1;
            value
        })
    }

    /// Takes a prefix away.
    pub fn remove(&mut self, prefix: &IpNet) {
        if self.entries.remove(prefix).is_some() {
            let lengths = &mut self.lengths[family(prefix)];
            if let Some(left) = lengths.get_mut(&prefix.prefix_len()) {
                *left -= 1;
                if *left == 0 {
                    lengths.remove(&prefix.prefix_len());
                }
            }
        }
    }

    /// Whether a prefix is there.
    pub fn has(&self, prefix: &IpNet) -> bool {
        self.entries.contains_key(prefix)
    }

    /// The members that contain `prefix`, itself included, longest first.
    pub fn containing(&self, prefix: IpNet) -> impl Iterator<Item = (IpNet, &V)> {
        self.lengths[family(&prefix)]
            .range(..=prefix.prefix_len())
            .rev()
            .filter_map(move |(length, _)| {
                let wider = IpNet::new(prefix.addr(), *length).ok()?.trunc();
                self.entries.get(&wider).map(|value| (wider, value))
            })
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
        let mut table = PrefixTable::default();
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
        table.remove(&net("10.1.0.0/16"));
        table.remove(&net("10.1.0.0/16"));
        let found: Vec<_> = table.containing(net("10.2.1.0/24")).map(|f| *f.1).collect();
        assert_eq!(found, [2, 0, 4]);
        table.remove(&net("10.2.0.0/16"));
        assert_eq!(table.lengths[0].keys().collect::<Vec<_>>(), [&0, &8]);
    }
}
