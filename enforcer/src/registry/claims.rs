//! Which nodes claim an address. One that several claim is nobody's, until only one does:
//! otherwise a node could take over another's peers by claiming its address.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use crate::identity::attest::journal::{EventKind, SecurityEvent, Subject};

/// Addresses that an event lists; more are only counted.
pub(super) const MOST_LISTED: usize = 16;

/// Names of nodes.
type Nodes = BTreeSet<Arc<str>>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// Addresses that one node claims: nearly all.
    by_one: HashMap<IpAddr, Arc<str>>,
    /// Addresses that several claim.
    by_several: BTreeMap<IpAddr, Nodes>,
    /// Who claimed an address when [`Claims::turns`] was last asked, of those where several
    /// claimed it in between.
    before: BTreeMap<IpAddr, Nodes>,
}

/// Addresses that came to be claimed by several nodes, or that are not any more; all of them for
/// the same nodes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Turn {
    before: Nodes,
    now: Nodes,
    addresses: Vec<IpAddr>,
}

impl Claims {
    /// Lets a node claim other addresses than before (both ascending). Returns the other nodes for
    /// which that makes a difference.
    pub fn change(&mut self, node: &Arc<str>, before: &[IpAddr], now: &[IpAddr]) -> Nodes {
        let mut concerned = Nodes::new();
        let lacks = |list: &[IpAddr], address: &IpAddr| list.binary_search(address).is_err();
        for address in before.iter().filter(|address| lacks(now, address)) {
            self.withdraw(node, *address, &mut concerned);
        }
        for address in now.iter().filter(|address| lacks(before, address)) {
            self.claim(node, *address, &mut concerned);
        }
        concerned
    }

    fn claim(&mut self, node: &Arc<str>, address: IpAddr, concerned: &mut Nodes) {
        if let Some(nodes) = self.by_several.get_mut(&address) {
            self.before.entry(address).or_insert_with(|| nodes.clone());
            concerned.extend(nodes.iter().cloned());
            nodes.insert(Arc::clone(node));
            return;
        }
        let Some(other) = self.by_one.insert(address, Arc::clone(node)) else {
            return;
        };
        self.by_one.remove(&address);
        let one = Nodes::from([Arc::clone(&other)]);
        self.before.entry(address).or_insert(one);
        concerned.insert(Arc::clone(&other));
        (self.by_several).insert(address, [other, Arc::clone(node)].into());
    }

    fn withdraw(&mut self, node: &Arc<str>, address: IpAddr, concerned: &mut Nodes) {
        let Some(nodes) = self.by_several.get_mut(&address) else {
            self.by_one.remove(&address);
            return;
        };
        self.before.entry(address).or_insert_with(|| nodes.clone());
        nodes.remove(node);
        concerned.extend(nodes.iter().cloned());
        if let (1, Some(last)) = (nodes.len(), nodes.first()) {
            self.by_one.insert(address, Arc::clone(last));
            self.by_several.remove(&address);
        }
    }

    /// Whether several nodes claim an address.
    pub fn is_contested(&self, address: &IpAddr) -> bool {
        self.by_several.contains_key(address)
    }

    /// Addresses that several nodes claim, and these nodes.
    pub fn contested(&self) -> impl Iterator<Item = (&IpAddr, &Nodes)> {
        self.by_several.iter()
    }

    /// What became of contested addresses since the last call, whatever happened in between.
    pub fn turns(&mut self) -> Vec<Turn> {
        let mut turns: BTreeMap<(Nodes, Nodes), Vec<IpAddr>> = BTreeMap::new();
        for (address, before) in std::mem::take(&mut self.before) {
            let now = match self.by_several.get(&address) {
                Some(nodes) => nodes.clone(),
                None => self.by_one.get(&address).cloned().into_iter().collect(),
            };
            let joined = now.len() > 1 && !now.is_subset(&before);
            let settled = before.len() > 1 && now.len() <= 1;
            if joined || settled {
                turns.entry((before, now)).or_default().push(address);
            }
        }
        let turns = turns.into_iter();
        let turn = |((before, now), addresses)| Turn {
            before,
            now,
            addresses,
        };
        turns.map(turn).collect()
    }

    /// Nobody claims anything any more.
    pub fn clear(&mut self) {
        for (address, nodes) in std::mem::take(&mut self.by_several) {
            self.before.entry(address).or_insert(nodes);
        }
        self.by_one.clear();
    }
}

impl Turn {
    /// For the journal.
    pub fn event(&self) -> SecurityEvent {
        let addresses = listed(&self.addresses);
        let (kind, reason, nodes, message) = if self.now.len() > 1 {
            let message = format!(
                "{addresses}: claimed by the nodes {}, and so nobody's until only one claims it",
                words(&self.now)
            );
            (EventKind::Contest, "claimed-by-several", &self.now, message)
        } else {
            let whose = match self.now.first() {
                Some(node) => format!("the node {node} alone claims it now"),
                None => "nobody claims it now".to_owned(),
            };
            let message = format!(
                "{addresses}: {whose}, after the nodes {} did",
                words(&self.before)
            );
            (EventKind::Settle, "claims-ended", &self.before, message)
        };
        let shown = self.addresses.iter().take(MOST_LISTED);
        SecurityEvent {
            kind: Subject::Fleet,
            nodes: nodes.iter().map(ToString::to_string).collect(),
            addresses: shown.copied().collect(),
            ..SecurityEvent::new(kind, reason, message)
        }
    }
}

fn words(nodes: &Nodes) -> String {
    let names: Vec<&str> = nodes.iter().map(|node| &**node).collect();
    match names.as_slice() {
        [others @ .., last] if !others.is_empty() => format!("{} and {last}", others.join(", ")),
        names => names.join(""),
    }
}

/// The first of them, and how many more there are.
pub(super) fn listed(addresses: &[IpAddr]) -> String {
    let shown = addresses.iter().take(MOST_LISTED).map(IpAddr::to_string);
    let shown = shown.collect::<Vec<_>>().join(", ");
    match addresses.len().saturating_sub(MOST_LISTED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    fn names(nodes: &Nodes) -> Vec<&str> {
        nodes.iter().map(|node| &**node).collect()
    }

    #[test]
    fn an_address_is_contested_from_the_second_claim_to_the_last_but_one() {
        let mut claims = Claims::default();
        let [a, b, c]: [Arc<str>; 3] = ["a", "b", "c"].map(Arc::from);
        let one = [address(1)];
        let two = [address(1), address(2)];
        assert!(claims.change(&a, &[], &two).is_empty());
        assert!(claims.turns().is_empty() && !claims.is_contested(&one[0]));
        assert_eq!(names(&claims.change(&b, &[], &one)), ["a"]);
        assert!(claims.is_contested(&one[0]) && !claims.is_contested(&two[1]));
        let events: Vec<_> = claims.turns().iter().map(Turn::event).collect();
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].event, EventKind::Contest);
        assert_eq!(events[0].nodes, ["a", "b"]);
        assert_eq!(events[0].addresses, one);
        // A third one is named, and its going is nothing new.
        assert_eq!(names(&claims.change(&c, &[], &one)), ["a", "b"]);
        assert_eq!(claims.turns()[0].event().nodes, ["a", "b", "c"]);
        claims.change(&c, &one, &[]);
        assert!(claims.turns().is_empty());
        assert_eq!(names(&claims.change(&a, &two, &[])), ["b"]);
        assert!(!claims.is_contested(&one[0]));
        let event = claims.turns()[0].event();
        assert_eq!(event.event, EventKind::Settle);
        assert_eq!(event.nodes, ["a", "b"]);
        assert!(
            event.message.contains("the node b alone"),
            "{}",
            event.message
        );
        claims.change(&b, &one, &[]);
        assert!(claims.by_one.is_empty() && claims.by_several.is_empty());
    }

    #[test]
    fn what_passes_between_two_looks_is_no_event() {
        let mut claims = Claims::default();
        let [a, b]: [Arc<str>; 2] = ["a", "b"].map(Arc::from);
        let one = [address(1)];
        claims.change(&a, &[], &one);
        // An address moves, and whoever has it now speaks first.
        claims.change(&b, &[], &one);
        claims.change(&a, &one, &[]);
        assert!(claims.turns().is_empty());
        claims.change(&a, &[], &one);
        assert_eq!(claims.turns().len(), 1);
        claims.clear();
        let event = claims.turns()[0].event();
        assert!(event.message.contains("nobody"), "{}", event.message);
    }

    #[test]
    fn one_event_tells_of_many_addresses() {
        let mut claims = Claims::default();
        let [a, b]: [Arc<str>; 2] = ["a", "b"].map(Arc::from);
        let all: Vec<IpAddr> = (0..100).map(address).collect();
        claims.change(&a, &[], &all);
        claims.change(&b, &[], &all);
        let turns = claims.turns();
        assert_eq!(turns.len(), 1);
        let event = turns[0].event();
        assert_eq!(event.addresses.len(), MOST_LISTED);
        assert!(event.message.contains("and 84 more"), "{}", event.message);
    }
}
