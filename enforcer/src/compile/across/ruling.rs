//! What is said of every protocol and port, as a value that can be put together with another.

use enforcer_common::{
    Decision,
    policy_key::{OWN_RULE, PolicyEntry, PortKey},
};

/// One thing that holds where nothing else is said, and ranges of ports where something else is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ruling<O> {
    pub default: O,
    /// By protocol and range (both ends inclusive), ascending and disjoint; none says what
    /// `default` says.
    pub differing: Vec<(u8, u16, u16, O)>,
}

impl<O: Copy + Eq> Ruling<O> {
    /// The same everywhere.
    pub const fn everywhere(default: O) -> Self {
        Self {
            default,
            differing: Vec::new(),
        }
    }

    /// Of disjoint ranges in any order.
    pub fn new(default: O, mut ranges: Vec<(u8, u16, u16, O)>) -> Self {
        ranges.sort_unstable_by_key(|(protocol, first, ..)| (*protocol, *first));
        let mut ruling = Self::everywhere(default);
        for (protocol, first, last, said) in ranges {
            ruling.say(protocol, first, last, said);
        }
        ruling
    }

    /// What two rulings say together, port by port.
    pub fn with<P: Copy + Eq, R: Copy + Eq>(
        &self,
        other: &Ruling<P>,
        together: impl Fn(O, P) -> R,
    ) -> Ruling<R> {
        let mut both = Ruling::everywhere(together(self.default, other.default));
        let protocols = self.differing.iter().map(|(protocol, ..)| *protocol);
        let protocols = protocols.chain(other.differing.iter().map(|(protocol, ..)| *protocol));
        let mut protocols: Vec<u8> = protocols.collect();
        protocols.sort_unstable();
        protocols.dedup();
        for protocol in protocols {
            // Where a range begins, or what follows one.
            let mut starts = vec![0_u32];
            starts.extend(self.edges(protocol));
            starts.extend(other.edges(protocol));
            starts.sort_unstable();
            starts.dedup();
            starts.retain(|start| u16::try_from(*start).is_ok());
            for (index, start) in starts.iter().enumerate() {
                let end = starts.get(index + 1).map_or(1 << 16, |next| *next);
                // Ports are below 2^16.
                let port = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
                let (first, last) = (port(*start), port(end - 1));
                let said = together(self.at(protocol, first), other.at(protocol, first));
                both.say(protocol, first, last, said);
            }
        }
        both
    }

    /// What it says of a port.
    pub fn at(&self, protocol: u8, port: u16) -> O {
        let before = self
            .differing
            .partition_point(|(other, first, ..)| (*other, *first) <= (protocol, port));
        match before.checked_sub(1).map(|index| self.differing[index]) {
            Some((other, _, last, said)) if other == protocol && port <= last => said,
            _ => self.default,
        }
    }

    fn edges(&self, protocol: u8) -> impl Iterator<Item = u32> {
        let ranges = self.differing.iter().filter(move |r| r.0 == protocol);
        ranges.flat_map(|(_, first, last, _)| [u32::from(*first), u32::from(*last) + 1])
    }

    /// Adds what holds of the next ports.
    fn say(&mut self, protocol: u8, first: u16, last: u16, said: O) {
        if said == self.default {
            return;
        }
        match self.differing.last_mut() {
            Some(before)
                if before.0 == protocol
                    && before.3 == said
                    && u32::from(before.2) + 1 == u32::from(first) =>
            {
                before.2 = last;
            }
            _ => self.differing.push((protocol, first, last, said)),
        }
    }
}

impl Ruling<Decision> {
    /// What an entry says, with the entries of its port table, which are disjoint.
    pub fn of(entry: &PolicyEntry, table: Option<&[(PortKey, Decision)]>) -> Self {
        let ranges = table.unwrap_or_default().iter().map(|(key, decision)| {
            let below = u16::try_from(0xffff_u32 >> key.length).unwrap_or(u16::MAX);
            let mut decision = *decision;
            if decision.rule == OWN_RULE {
                decision.rule = entry.rule;
            }
            (key.protocol, key.port, key.port | below, decision)
        });
        Self::new(entry.decision, ranges.collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn ruling() -> impl Strategy<Value = Ruling<u8>> {
        let edges = vec((6_u8..9, prop_oneof![0_u16..9, 65_530..=u16::MAX]), 0..8);
        (0_u8..3, edges, vec(0_u8..3, 9)).prop_map(|(default, mut edges, said)| {
            edges.sort_unstable();
            edges.dedup();
            let ranges = edges.windows(2).zip(said).filter_map(|(pair, said)| {
                let [(protocol, first), (other, next)] = pair else {
                    return None;
                };
                (protocol == other).then(|| (*protocol, *first, next - 1, said))
            });
            Ruling::new(default, ranges.collect())
        })
    }

    proptest! {
        #[test]
        fn together_is_port_by_port(one in ruling(), other in ruling()) {
            let both = one.with(&other, |a, b| (a, b));
            for protocol in 5..10 {
                for port in (0..12).chain(65_520..=u16::MAX) {
                    let expected = (one.at(protocol, port), other.at(protocol, port));
                    prop_assert_eq!(both.at(protocol, port), expected);
                }
            }
            // In its one form: nothing that `default` says, nothing that could be joined.
            let again = Ruling::new(both.default, both.differing.clone());
            prop_assert_eq!(again, both);
        }
    }
}
