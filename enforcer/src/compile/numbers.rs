//! Numbers that outlive a compilation: of identities, rules, policy sets and port tables.
//!
//! The kernel knows these things by number only, and keeps some numbers for a while after an
//! image was replaced (in conntrack, in reports on their way). So a number goes on meaning the
//! same thing until [`Numbers::retire`] says that the kernel has forgotten it.

mod space;

use std::{collections::HashSet, sync::Arc};

use enforcer_common::identity;
use serde::{Deserialize, Serialize};

use self::space::Space;
use super::{
    bridge::TRANSIENT,
    image::{Identity, IdentitySubject, Image, RuleDirection, RuleInfo},
    limits::CompileError,
    paged::Paged,
};
use crate::policy::model::PolicyKind;

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
    rule_infos: Paged<u32, Arc<RuleInfo>>,
    sets: Space<ContentDigest>,
    tables: Space<ContentDigest>,
    /// The identities by number: what `identities` says, the other way round.
    #[serde(skip)]
    known: Paged<u32, Arc<Identity>>,
    /// The way back to before the compilation that is under way.
    #[serde(skip)]
    infos_before: Vec<(u32, Option<Arc<RuleInfo>>)>,
}

/// The first 128 bits of the SHA-256 over a set's or table's content.
pub(super) type ContentDigest = [u8; 16];

/// What a rule number stands for, whatever the rule says.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct RuleKey {
    #[serde(default)]
    pub kind: PolicyKind,
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

    /// How far numbers have been given.
    pub fn given(&self) -> Given {
        Given {
            serial: self.serial,
            identity: self.identities.last,
            rule: self.rules.last,
            set: self.sets.last,
            table: self.tables.last,
        }
    }

    /// Whether the last compilation numbered something.
    pub fn gave(&self) -> bool {
        self.identities.gave() || self.rules.gave() || self.sets.gave() || self.tables.gave()
    }

    /// Goes on where numbers were `given` since, of which nothing else is known: none of them
    /// is given again.
    pub fn skip(&mut self, given: &Given) {
        if given.serial <= self.serial {
            return;
        }
        self.serial = given.serial;
        self.start_above(given.identity, given.set, given.table);
        self.rules.last = self.rules.last.max(given.rule);
        // Some of these may have been among them.
        self.rules.free.clear();
    }

    /// Forgets what neither `image` needs nor any image since the last call needed. To be called
    /// with the image in force, and so rarely that the kernel has forgotten by then what was
    /// replaced before the last call. Until then every image covers the identities of the
    /// earlier ones too, so that a peer whose identity changes is judged right under either
    /// number.
    pub fn retire(&mut self, image: &Image) -> Retired {
        let entries = image.policies.iter();
        let named = entries.flat_map(|(_, entry)| [entry.decision.rule, entry.rule]);
        let by_port = image.ports.iter().map(|(_, decision)| decision.rule);
        let mut rules: HashSet<u32> = named.chain(by_port).collect();
        rules.extend(image.blocked.values().map(|(rule, _)| *rule));
        let identities: HashSet<u32> = (image.addresses.values())
            .chain(image.prefixes.values())
            .chain(image.host_addresses.values())
            .chain(image.services.values())
            .chain(image.workloads.values())
            .chain(image.attested.values())
            .copied()
            .collect();
        let sets = image.policies.parts().map(|(set, _)| set).collect();
        let tables = image.ports.parts().map(|(table, _)| table).collect();

        let mut retired = Retired::default();
        for number in self.identities.retire(&identities, &mut retired) {
            self.known.remove(&number);
        }
        self.sets.retire(&sets, &mut retired);
        self.tables.retire(&tables, &mut retired);
        let freed = self.rules.retire(&rules, &mut retired);
        for number in &freed {
            self.rule_infos.remove(number);
        }
        self.rules.free.extend(freed);
        if retired.forgotten {
            // Not the numbers any more that anybody has seen.
            self.serial += 1;
        }
        retired
    }

    /// The serial of the last image.
    pub(super) fn serial(&self) -> u64 {
        self.serial
    }

    /// The serial of the next image.
    pub(super) fn begin(&mut self) -> u64 {
        if self.known.len() != self.identities.slots.len() {
            let slots = self.identities.slots.iter();
            self.known = slots.map(|(id, slot)| (slot.number, id.clone())).collect();
        }
        self.identities.begin();
        self.rules.begin();
        self.sets.begin();
        self.tables.begin();
        self.infos_before.clear();
        self.serial += 1;
        self.serial
    }

    /// Takes back every number given since [`Numbers::begin`].
    pub(super) fn roll_back(&mut self) {
        for number in self.identities.roll_back() {
            self.known.remove(&number);
        }
        self.rules.roll_back();
        self.sets.roll_back();
        self.tables.roll_back();
        while let Some((number, info)) = self.infos_before.pop() {
            match info {
                Some(info) => drop(self.rule_infos.insert(number, info)),
                None => drop(self.rule_infos.remove(&number)),
            }
        }
        self.serial -= 1;
    }

    pub(super) fn identity(&mut self, identity: &Arc<Identity>) -> Result<u32, CompileError> {
        match identity.subject {
            IdentitySubject::Host if identity.prefixes.is_empty() => Ok(identity::HOST),
            IdentitySubject::World if identity.prefixes.is_empty() => Ok(identity::WORLD),
            _ => {
                let number = (self.identities)
                    .number(identity, identity::FIRST)
                    .filter(|number| *number < TRANSIENT)
                    .ok_or(CompileError::NumbersExhausted { what: "identities" })?;
                if !self.known.contains_key(&number) {
                    self.known.insert(number, identity.clone());
                }
                Ok(number)
            }
        }
    }

    /// Every identity that the kernel may hold, by number, without host and world as such.
    pub(super) fn live_identities(&self) -> &Paged<u32, Arc<Identity>> {
        &self.known
    }

    pub(super) fn rule(
        &mut self,
        key: RuleKey,
        info: impl FnOnce() -> RuleInfo,
    ) -> Result<u32, CompileError> {
        let number = self
            .rules
            .number(&Arc::new(key), 1)
            .ok_or(CompileError::NumbersExhausted { what: "rules" })?;
        let info = info();
        if self
            .rule_infos
            .get(&number)
            .is_none_or(|known| **known != info)
        {
            let before = self.rule_infos.insert(number, Arc::new(info));
            self.infos_before.push((number, before));
        }
        Ok(number)
    }

    pub(super) fn live_rules(&self) -> &Paged<u32, Arc<RuleInfo>> {
        &self.rule_infos
    }

    pub(super) fn set(&mut self, content: &ContentDigest) -> Result<u32, CompileError> {
        self.sets
            .number(content, 1)
            .ok_or(CompileError::NumbersExhausted {
                what: "policy sets",
            })
    }

    pub(super) fn table(&mut self, content: &ContentDigest) -> Result<u32, CompileError> {
        self.tables
            .number(content, 1)
            .ok_or(CompileError::NumbersExhausted {
                what: "port tables",
            })
    }
}

/// How far numbers have been given: the last image's serial, and of each space the highest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    serial: u64,
    identity: u32,
    rule: u32,
    set: u32,
    table: u32,
}

/// What [`Numbers::retire`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retired {
    /// Numbers were forgotten: the next image has less in it.
    pub forgotten: bool,
    /// There are numbers that the next call may forget.
    pub idle: bool,
}

#[cfg(test)]
mod tests {
    use enforcer_common::{
        Action, Decision, Reason,
        policy_key::{PolicyEntry, PolicyKey},
    };

    use super::*;
    use crate::policy::model::{Accountability, Assurance, Mode, RuleAction};

    fn rule(numbers: &mut Numbers, name: &str) -> u32 {
        let key = RuleKey {
            kind: PolicyKind::default(),
            namespace: None,
            policy: "p".to_owned(),
            rule: RuleName::Rule(name.to_owned(), 0),
            direction: Some(RuleDirection::Ingress),
        };
        let info = || RuleInfo {
            kind: PolicyKind::default(),
            namespace: None,
            policy: "p".to_owned(),
            rule: name.to_owned(),
            tier: None,
            direction: Some(RuleDirection::Ingress),
            action: RuleAction::Deny,
            mode: Mode::Enforce,
            accountability: Accountability::default(),
            origin: None,
        };
        numbers.rule(key, info).expect("numbers are left")
    }

    fn image_with_rules(rules: &[u32]) -> Image {
        let entry = |rule| PolicyEntry {
            decision: Decision::new(Action::Deny, Reason::Rule, rule),
            table: 0,
            lengths: 0,
            rule: 0,
        };
        let key = |peer| PolicyKey { set: 1, peer };
        Image {
            policies: rules.iter().map(|n| (key(*n), entry(*n))).collect(),
            ..Image::default()
        }
    }

    #[test]
    fn rule_numbers_are_free_again_only_when_retired() {
        let mut numbers = Numbers::default();
        numbers.begin();
        assert_eq!(rule(&mut numbers, "a"), 1);
        numbers.begin();
        assert_eq!(rule(&mut numbers, "b"), 2);
        let image = image_with_rules(&[2]);
        let retired = numbers.retire(&image);
        assert!(retired.idle && !retired.forgotten);
        numbers.begin();
        assert_eq!(rule(&mut numbers, "c"), 3);
        let retired = numbers.retire(&image);
        // `c` came after the first call.
        assert!(retired.idle && retired.forgotten);
        assert!(numbers.live_rules().keys().eq(&[2, 3]));
        assert_eq!(rule(&mut numbers, "d"), 1);
        assert_eq!(rule(&mut numbers, "b"), 2);
        // Needed again just in time.
        assert_eq!(rule(&mut numbers, "c"), 3);
        numbers.retire(&image_with_rules(&[1, 2]));
        assert!(numbers.live_rules().keys().eq(&[1, 2, 3]));
    }

    #[test]
    fn a_compilation_that_failed_gave_no_numbers() {
        let mut numbers = Numbers::default();
        numbers.begin();
        rule(&mut numbers, "a");
        rule(&mut numbers, "b");
        let image = image_with_rules(&[2]);
        numbers.retire(&image);
        numbers.retire(&image);
        let before = serde_json::to_string(&numbers).unwrap();
        numbers.begin();
        assert_eq!(rule(&mut numbers, "c"), 1);
        assert_eq!(rule(&mut numbers, "d"), 3);
        numbers.set(&[1; 16]).unwrap();
        let identity = Identity {
            subject: IdentitySubject::World,
            prefixes: ["::/0".parse().unwrap()].into(),
            assurance: Assurance::Address,
        };
        numbers.identity(&Arc::new(identity)).unwrap();
        numbers.roll_back();
        assert_eq!(serde_json::to_string(&numbers).unwrap(), before);
        assert!(numbers.live_identities().is_empty());
    }

    #[test]
    fn content_numbers_are_never_given_twice() {
        let mut numbers = Numbers::default();
        numbers.begin();
        numbers.start_above(0, 100, 7);
        assert_eq!(numbers.set(&[1; 16]), Ok(101));
        assert_eq!(numbers.table(&[1; 16]), Ok(8));
        numbers.retire(&Image::default());
        assert!(numbers.retire(&Image::default()).forgotten);
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
                assurance: Assurance::Address,
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
