//! Numbers that outlive a compilation: of identities, rules, policy sets and port tables.
//!
//! The kernel knows these things by number only, and keeps some numbers for a while after an
//! image was replaced (in conntrack, in reports on their way). So a number goes on meaning the
//! same thing until [`Numbers::retire`] says that the kernel has forgotten it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::Hash,
    sync::Arc,
};

use enforcer_common::identity;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    bridge::TRANSIENT,
    image::{Identity, IdentitySubject, RuleDirection, RuleInfo},
    limits::CompileError,
};

/// Every number given out. The daemon keeps it in its state directory, as JSON.
///
/// - Sets and tables are numbered by content; identities by what policy sees of them. Their
///   numbers only ever rise.
/// - Rules are numbered by name, from 1, and retired numbers are used again, because the
///   kernel counts them in an array.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Numbers {
    serial: u64,
    identities: Space<Arc<Identity>>,
    rules: Space<Arc<RuleKey>>,
    rule_infos: BTreeMap<u32, Arc<RuleInfo>>,
    sets: Space<ContentDigest>,
    tables: Space<ContentDigest>,
}

/// The first 128 bits of the SHA-256 over a set's or table's content.
pub(super) type ContentDigest = [u8; 16];

/// What a rule number stands for, whatever the rule says.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct RuleKey {
    pub namespace: Option<String>,
    pub policy: String,
    pub rule: RuleName,
    pub direction: Option<RuleDirection>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RuleName {
    /// A rule by name; the number tells rules of one name apart.
    Rule(String, u32),
    /// The default deny of an isolating policy.
    Isolation,
    /// The node's default.
    Default,
    /// A blocked source, by its prefix.
    Blocked(String),
}

impl Numbers {
    /// Makes every number rise above these: what a kernel still holds of a daemon whose state
    /// was lost must not be given another meaning.
    pub fn start_above(&mut self, identity: u32, set: u32, table: u32) {
        self.identities.last = self.identities.last.max(identity);
        self.sets.last = self.sets.last.max(set);
        self.tables.last = self.tables.last.max(table);
    }

    /// Forgets what no compilation since that of image `serial` needed, that one included. To
    /// be called when that image has been in force long enough for the kernel to have
    /// forgotten its predecessors. Until then every image covers the identities of the earlier
    /// ones too, so that a peer whose identity changes is judged right under either number.
    pub fn retire(&mut self, serial: u64) {
        self.identities.retire(serial);
        self.sets.retire(serial);
        self.tables.retire(serial);
        let freed = self.rules.retire(serial);
        for number in &freed {
            self.rule_infos.remove(number);
        }
        self.rules.free.extend(freed);
    }

    /// Whether [`Numbers::retire`] would forget something.
    pub fn has_retirable(&self, serial: u64) -> bool {
        self.identities.has_unused(serial)
            || self.rules.has_unused(serial)
            || self.sets.has_unused(serial)
            || self.tables.has_unused(serial)
    }

    /// The serial of the next image.
    pub(super) fn begin(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    pub(super) fn identity(&mut self, identity: &Arc<Identity>) -> Result<u32, CompileError> {
        match identity.subject {
            IdentitySubject::Host if identity.prefixes.is_empty() => Ok(identity::HOST),
            IdentitySubject::World if identity.prefixes.is_empty() => Ok(identity::WORLD),
            _ => self
                .identities
                .number(identity, self.serial, identity::FIRST)
                .filter(|number| *number < TRANSIENT)
                .ok_or(CompileError::NumbersExhausted { what: "identities" }),
        }
    }

    /// Every identity that the kernel may hold, by number, without host and world as such.
    pub(super) fn live_identities(&self) -> BTreeMap<u32, Arc<Identity>> {
        let slots = self.identities.slots.iter();
        slots.map(|(id, slot)| (slot.number, id.clone())).collect()
    }

    pub(super) fn rule(
        &mut self,
        key: RuleKey,
        info: impl FnOnce() -> RuleInfo,
    ) -> Result<u32, CompileError> {
        let number = self
            .rules
            .number(&Arc::new(key), self.serial, 1)
            .ok_or(CompileError::NumbersExhausted { what: "rules" })?;
        self.rule_infos.insert(number, Arc::new(info()));
        Ok(number)
    }

    pub(super) fn live_rules(&self) -> &BTreeMap<u32, Arc<RuleInfo>> {
        &self.rule_infos
    }

    pub(super) fn set(&mut self, content: &ContentDigest) -> Result<u32, CompileError> {
        self.sets
            .number(content, self.serial, 1)
            .ok_or(CompileError::NumbersExhausted {
                what: "policy sets",
            })
    }

    pub(super) fn table(&mut self, content: &ContentDigest) -> Result<u32, CompileError> {
        self.tables
            .number(content, self.serial, 1)
            .ok_or(CompileError::NumbersExhausted {
                what: "port tables",
            })
    }
}

/// One space of numbers.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Space<K: Eq + Hash> {
    /// The highest number ever given.
    last: u32,
    /// Numbers below `last` to give first.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    free: BTreeSet<u32>,
    #[serde(
        bound(
            serialize = "K: Serialize",
            deserialize = "K: Deserialize<'de> + Eq + Hash"
        ),
        serialize_with = "write_slots",
        deserialize_with = "read_slots"
    )]
    slots: HashMap<K, Slot>,
}

impl<K: Eq + Hash> Default for Space<K> {
    fn default() -> Self {
        Self {
            last: 0,
            free: BTreeSet::new(),
            slots: HashMap::new(),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    number: u32,
    /// Serial of the last compilation that needed it.
    used: u64,
}

impl<K: Eq + Hash + Clone> Space<K> {
    /// `None` when there is no number left.
    fn number(&mut self, key: &K, serial: u64, first: u32) -> Option<u32> {
        if let Some(slot) = self.slots.get_mut(key) {
            slot.used = serial;
            return Some(slot.number);
        }
        let number = match self.free.pop_first() {
            Some(number) => number,
            None => self.last.checked_add(1)?.max(first),
        };
        self.last = self.last.max(number);
        let slot = Slot {
            number,
            used: serial,
        };
        self.slots.insert(key.clone(), slot);
        Some(number)
    }

    fn retire(&mut self, serial: u64) -> Vec<u32> {
        let unused = self.slots.extract_if(|_, slot| slot.used < serial);
        unused.map(|(_, slot)| slot.number).collect()
    }

    fn has_unused(&self, serial: u64) -> bool {
        self.slots.values().any(|slot| slot.used < serial)
    }
}

fn write_slots<K: Serialize, S: Serializer>(
    slots: &HashMap<K, Slot>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut list: Vec<_> = slots.iter().map(|(k, s)| (s.number, s.used, k)).collect();
    list.sort_unstable_by_key(|(number, ..)| *number);
    serializer.collect_seq(list)
}

fn read_slots<'de, K: Deserialize<'de> + Eq + Hash, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<HashMap<K, Slot>, D::Error> {
    let list = Vec::<(u32, u64, K)>::deserialize(deserializer)?;
    let slots = list.into_iter();
    Ok(slots
        .map(|(number, used, key)| (key, Slot { number, used }))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::model::{Mode, RuleAction};

    fn rule(numbers: &mut Numbers, name: &str) -> u32 {
        let key = RuleKey {
            namespace: None,
            policy: "p".to_owned(),
            rule: RuleName::Rule(name.to_owned(), 0),
            direction: Some(RuleDirection::Ingress),
        };
        let info = || RuleInfo {
            namespace: None,
            policy: "p".to_owned(),
            rule: name.to_owned(),
            tier: None,
            direction: Some(RuleDirection::Ingress),
            action: RuleAction::Deny,
            mode: Mode::Enforce,
            origin: None,
        };
        numbers.rule(key, info).expect("numbers are left")
    }

    #[test]
    fn rule_numbers_are_free_again_only_when_retired() {
        let mut numbers = Numbers::default();
        numbers.begin();
        assert_eq!(rule(&mut numbers, "a"), 1);
        let second = numbers.begin();
        assert_eq!(rule(&mut numbers, "b"), 2);
        assert!(numbers.has_retirable(second));
        numbers.retire(second);
        assert!(!numbers.has_retirable(second));
        assert_eq!(numbers.live_rules().len(), 1);
        assert_eq!(rule(&mut numbers, "c"), 1);
        assert_eq!(rule(&mut numbers, "b"), 2);
    }

    #[test]
    fn content_numbers_are_never_given_twice() {
        let mut numbers = Numbers::default();
        numbers.begin();
        numbers.start_above(0, 100, 7);
        assert_eq!(numbers.set(&[1; 16]), Ok(101));
        assert_eq!(numbers.table(&[1; 16]), Ok(8));
        let later = numbers.begin();
        numbers.retire(later);
        assert_eq!(numbers.set(&[1; 16]), Ok(102));
        numbers.start_above(0, u32::MAX, 0);
        assert_eq!(
            numbers.set(&[2; 16]),
            Err(CompileError::NumbersExhausted {
                what: "policy sets"
            })
        );
    }

    #[test]
    fn host_and_world_have_fixed_numbers() {
        let mut numbers = Numbers::default();
        let mut number = |subject, prefixes: &[&str]| {
            let prefixes = prefixes.iter().map(|p| p.parse().expect("a prefix"));
            let identity = Identity {
                subject,
                prefixes: prefixes.collect(),
            };
            numbers
                .identity(&Arc::new(identity))
                .expect("numbers are left")
        };
        assert_eq!(number(IdentitySubject::Host, &[]), identity::HOST);
        assert_eq!(number(IdentitySubject::World, &[]), identity::WORLD);
        assert_eq!(number(IdentitySubject::Host, &["::/0"]), identity::FIRST);
        assert_eq!(
            number(IdentitySubject::World, &["::/0"]),
            identity::FIRST + 1
        );
    }
}
