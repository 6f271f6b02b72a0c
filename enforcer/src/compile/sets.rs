//! Policy sets: what one list of policies says of every peer.

mod cause;
mod class;
mod entry;
mod lines;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use enforcer_common::{Direction, identity, policy_key::PolicyEntry};
use sha2::{Digest, Sha256};

use self::{
    cause::Given,
    class::{Class, ROOT, refine, rules_of},
};
pub(super) use self::{
    cause::blocked,
    lines::{Contents, Line, Lines, number_of},
};
use super::{
    Work,
    limits::CompileError,
    numbers::{ContentDigest, Numbers},
    peers::PeerIndex,
    rules::{PolicyRules, Rulebook},
    tables::SetEntries,
    tiers::Ground,
};
use crate::policy::model::{Fallback, Mode, NodeSettings};

/// A set, and what it was made of.
#[derive(Debug)]
pub(super) struct KnownSet {
    policies: Vec<Arc<PolicyRules>>,
    /// The compilation that made it.
    serial: u64,
    number: u32,
    /// By peer, ascending, the wildcard first.
    entries: SetEntries,
    tables: Vec<u32>,
}

impl KnownSet {
    /// The number of the set.
    pub fn number(&self) -> u32 {
        self.number
    }
}

/// What sets are made with, and what they leave. Kept from one compilation to the next.
#[derive(Debug)]
pub(super) struct Workshop {
    pub node: NodeSettings,
    pub mode: Mode,
    /// Of the last compilation.
    pub serial: u64,
    pub contents: Contents,
    class_of: Vec<u32>,
    pub work: Work,
}

impl Workshop {
    /// Nothing was made in it yet.
    pub fn new(node: NodeSettings, mode: Mode) -> Self {
        Self {
            node,
            mode,
            serial: 0,
            contents: Contents::default(),
            class_of: Vec::new(),
            work: Work::default(),
        }
    }

    /// A compilation begins.
    pub fn begin(&mut self, serial: u64) {
        self.serial = serial;
        self.work = Work::default();
    }

    /// For the sets of one direction of the compilation at work. `grown`: see
    /// [`SetBuilder::grown`].
    pub fn builder<'a>(
        &'a mut self,
        direction: Direction,
        grown: &'a HashSet<u64>,
        index: &'a PeerIndex,
        numbers: &'a mut Numbers,
    ) -> SetBuilder<'a> {
        SetBuilder {
            direction,
            index,
            node: &self.node,
            node_mode: self.mode,
            numbers,
            contents: &mut self.contents,
            grown,
            serial: self.serial,
            given: Given::default(),
            class_of: &mut self.class_of,
            work: &mut self.work,
        }
    }
}

/// Makes the sets of one direction.
pub(super) struct SetBuilder<'a> {
    pub direction: Direction,
    pub index: &'a PeerIndex,
    node: &'a NodeSettings,
    node_mode: Mode,
    pub numbers: &'a mut Numbers,
    pub contents: &'a mut Contents,
    /// Policies with a peer that matches more than in the last compilation.
    grown: &'a HashSet<u64>,
    /// Of this compilation.
    serial: u64,
    /// Numbers that rules, isolating policies and the default have in this compilation.
    given: Given,
    /// By position: the class of the peer in the set at work; [`ROOT`] between sets.
    class_of: &'a mut Vec<u32>,
    pub work: &'a mut Work,
}

impl SetBuilder<'_> {
    /// Whether a set is what it would be if it were made now.
    pub fn is_current(&self, set: &KnownSet) -> bool {
        let mut policies = set.policies.iter();
        set.serial == self.serial || !policies.any(|policy| self.grown.contains(&policy.id))
    }

    /// The set that these policies make. `former` is one that is like it, or was it.
    pub fn make(
        &mut self,
        says: Vec<Arc<PolicyRules>>,
        former: Option<&KnownSet>,
    ) -> Result<KnownSet, CompileError> {
        self.work.sets += 1;
        let book = Rulebook::new(&says);
        let default = self.default();
        let patched = match former {
            Some(former) => self.patched(former, &says, &book, default)?,
            None => None,
        };
        let entries = match patched {
            Some(entries) => entries,
            None => self.entries(&book, default)?,
        };
        Ok(KnownSet {
            serial: self.serial,
            number: self.numbers.set(&digest_of(&entries))?,
            tables: tables_of(&entries),
            entries: entries.into(),
            policies: says,
        })
    }

    /// Writes a set of these entries (by peer, ascending, the wildcard first), whose tables are
    /// written already, for somebody who has it until [`Contents::release`].
    pub fn hold(
        &mut self,
        entries: Vec<(u32, PolicyEntry)>,
    ) -> Result<Arc<KnownSet>, CompileError> {
        self.work.sets += 1;
        let number = self.numbers.set(&digest_of(&entries))?;
        let tables = tables_of(&entries);
        let written = self.contents.policies.part(number).cloned();
        let set = Arc::new(KnownSet {
            policies: Vec::new(),
            serial: self.serial,
            number,
            entries: written.unwrap_or_else(|| entries.into()),
            tables,
        });
        self.contents.hold(&set);
        Ok(set)
    }

    /// What holds where no policy selects.
    pub fn default(&self) -> Fallback {
        self.node.default[self.direction as usize]
    }

    /// What holds besides the rules where these policies select.
    pub fn ground(&self, book: &Rulebook<'_>, default: Fallback) -> Ground {
        let isolation = |enforced| {
            let isolating = (0..).zip(book.policies());
            let isolating = isolating.filter(|(_, policy)| policy.isolates(enforced));
            let first = isolating.min_by(|(_, one), (_, other)| {
                let rank = one.policy.isolation_rank();
                rank.cmp(&other.policy.isolation_rank())
            });
            first.map(|(place, _)| place)
        };
        Ground {
            isolation: isolation(false),
            enforced_isolation: isolation(true),
            default,
            mode: self.node_mode,
        }
    }

    /// The entries of a set of these policies by peer, made from those of a former one: only
    /// what is said of peers that the difference is about is found anew. `None` where the
    /// difference is about everybody or nearly.
    fn patched(
        &mut self,
        former: &KnownSet,
        says: &[Arc<PolicyRules>],
        book: &Rulebook<'_>,
        default: Fallback,
    ) -> Result<Option<Vec<(u32, PolicyEntry)>>, CompileError> {
        let index = self.index;
        let ids = |list: &[Arc<PolicyRules>]| list.iter().map(|p| p.id).collect::<HashSet<_>>();
        let (before, now) = (ids(&former.policies), ids(says));
        let gone = former.policies.iter().filter(|p| !now.contains(&p.id));
        let come = says.iter().filter(|p| !before.contains(&p.id));
        let different: Vec<_> = gone.chain(come).collect();
        if different.iter().any(|policy| policy.for_everybody)
            || !same_isolation(&former.policies, says)
        {
            return Ok(None);
        }
        let mut affected: Vec<u32> = different
            .iter()
            .flat_map(|policy| policy.peers())
            .flat_map(|peer| index.matching(peer))
            .copied()
            .collect();
        for policy in says.iter().filter(|p| self.grown.contains(&p.id)) {
            let grown = policy.peers().filter_map(|peer| index.grown().get(&peer));
            affected.extend(grown.flatten());
        }
        affected.sort_unstable();
        affected.dedup();
        if affected.len() > former.entries.len() / 2 {
            return Ok(None);
        }

        let mut matched: Vec<Vec<u32>> = vec![Vec::new(); affected.len()];
        let mut by_peer: HashMap<u32, Vec<usize>> = HashMap::new();
        for (at, position) in affected.iter().enumerate() {
            for peer in index.matched_by(*position) {
                by_peer.entry(peer).or_default().push(at);
            }
        }
        let mut for_everybody = Vec::new();
        for (number, rule) in book.rules() {
            let Some(peers) = &rule.peers else {
                for_everybody.push(number);
                continue;
            };
            for at in peers.iter().filter_map(|peer| by_peer.get(peer)).flatten() {
                // Another peer of the same rule may have matched already.
                if matched[*at].last() != Some(&number) {
                    matched[*at].push(number);
                }
            }
        }

        let ground = self.ground(book, default);
        let wildcard = self.entry(book, &for_everybody, &ground)?;
        if former.entries.first() != Some(&(identity::ANY, wildcard)) {
            return Ok(None);
        }
        let mut entries = Vec::with_capacity(former.entries.len() + affected.len());
        let mut kept = &former.entries[..];
        for (position, rules) in affected.iter().zip(matched) {
            let peer = index.identity(*position);
            let until = kept.partition_point(|(other, _)| *other < peer);
            entries.extend_from_slice(&kept[..until]);
            kept = &kept[until..];
            if let Some(((_, _), rest)) = kept.split_first().filter(|(e, _)| e.0 == peer) {
                kept = rest;
            }
            if rules.is_empty() {
                continue;
            }
            let mut rules = rules;
            rules.extend(&for_everybody);
            rules.sort_unstable();
            let entry = self.entry(book, &rules, &ground)?;
            if entry != wildcard {
                entries.push((peer, entry));
            }
        }
        entries.extend_from_slice(kept);
        Ok(Some(entries))
    }

    /// The entries of a set by peer, ascending, the wildcard first.
    fn entries(
        &mut self,
        book: &Rulebook<'_>,
        default: Fallback,
    ) -> Result<Vec<(u32, PolicyEntry)>, CompileError> {
        let index = self.index;
        let ground = self.ground(book, default);
        let mut for_everybody = Vec::new();
        let mut classes = vec![Class::root()];
        let mut touched = Vec::new();
        self.class_of.resize(index.len(), ROOT);
        for (number, rule) in book.rules() {
            let Some(peers) = &rule.peers else {
                for_everybody.push(number);
                continue;
            };
            for position in peers.iter().flat_map(|peer| index.matching(*peer)) {
                let class = &mut self.class_of[*position as usize];
                let new = refine(&mut classes, *class, number);
                if *class == ROOT {
                    touched.push(*position);
                }
                *class = new;
            }
        }

        let wildcard = self.entry(book, &for_everybody, &ground)?;
        let mut entries = vec![(identity::ANY, wildcard)];
        let mut by_class: Vec<Option<PolicyEntry>> = vec![None; classes.len()];
        // By position, which is by identity number.
        touched.sort_unstable();
        for position in touched {
            let class = std::mem::replace(&mut self.class_of[position as usize], ROOT);
            let entry = if let Some(entry) = by_class[class as usize] {
                entry
            } else {
                let rules = rules_of(&classes, class, &for_everybody);
                *by_class[class as usize].insert(self.entry(book, &rules, &ground)?)
            };
            if entry != wildcard {
                entries.push((index.identity(position), entry));
            }
        }
        Ok(entries)
    }
}

/// Whether two lists of policies isolate by the same ones, which default denies are named after,
/// and which say the same of themselves: entries that are kept do not tell it again.
fn same_isolation(one: &[Arc<PolicyRules>], other: &[Arc<PolicyRules>]) -> bool {
    [false, true].into_iter().all(|enforced| {
        let [one, other] = [one, other].map(|list| {
            let isolating = list.iter().filter(|policy| policy.isolates(enforced));
            let first = isolating.min_by_key(|policy| policy.policy.isolation_rank());
            first.map(|rules| {
                let policy = &rules.policy;
                let says = (&policy.origin, &policy.accountability, rules.mode);
                (policy.isolation_rank(), says)
            })
        });
        one == other
    })
}

/// The port tables of a set.
fn tables_of(entries: &[(u32, PolicyEntry)]) -> Vec<u32> {
    let mut tables = HashSet::new();
    let mut last = 0;
    for (_, entry) in entries {
        if entry.table != last {
            last = entry.table;
            tables.insert(last);
        }
    }
    let mut tables: Vec<u32> = tables.into_iter().filter(|table| *table != 0).collect();
    tables.sort_unstable();
    tables
}

fn digest_of(entries: &[(u32, PolicyEntry)]) -> ContentDigest {
    /// Entries that are handed over together.
    const TOGETHER: usize = 256;
    let mut digest = Sha256::new();
    let mut bytes = Vec::with_capacity(TOGETHER * size_of::<(u32, PolicyEntry)>());
    for some in entries.chunks(TOGETHER) {
        bytes.clear();
        for (peer, entry) in some {
            bytes.extend_from_slice(bytemuck::bytes_of(peer));
            bytes.extend_from_slice(bytemuck::bytes_of(entry));
        }
        digest.update(&bytes);
    }
    shortened(digest)
}

fn shortened(digest: Sha256) -> ContentDigest {
    let mut short = ContentDigest::default();
    for (to, from) in short.iter_mut().zip(digest.finalize()) {
        *to = from;
    }
    short
}
