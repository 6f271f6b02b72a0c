//! Policy sets: what one list of policies says of every peer.

mod cause;
mod class;
mod entry;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use enforcer_common::{
    identity,
    policy_key::{ALLOW_ALL, PolicyEntry},
};
use sha2::{Digest, Sha256};

pub(super) use self::cause::blocked;
use self::class::{Class, ROOT, refine, rules_of};
use super::{
    image::Image,
    limits::CompileError,
    numbers::{ContentDigest, Numbers},
    peers::PeerIndex,
    rules::{PolicyRules, Rulebook},
    tables::{SetEntries, TableEntries},
    tiers::Ground,
};
use crate::policy::model::{Fallback, Mode, NodeSettings};

/// Compiles the sets of one direction into an image.
pub(super) struct SetBuilder<'a> {
    book: &'a Rulebook,
    index: &'a PeerIndex,
    node: &'a NodeSettings,
    node_mode: Mode,
    numbers: &'a mut Numbers,
    image: &'a mut Image,
    shelf: &'a mut SetShelf,
    /// Sets by the policies that they come from.
    done: HashMap<Vec<u64>, Arc<KnownSet>>,
    /// The book is that of a moment ahead.
    ahead: bool,
    /// The policies of every identity that has a set now.
    policies_of: HashMap<u32, Vec<u64>>,
    /// Policies with a peer that matches more than in the last compilation.
    grown: HashSet<u64>,
    /// Numbers of rules, isolating policies and the default; 0 where not given yet.
    rule_numbers: Vec<u32>,
    isolation_numbers: Vec<u32>,
    default_number: u32,
    /// By position: the class of the peer in the set at work; [`ROOT`] between sets.
    class_of: Vec<u32>,
}

/// The sets of the last compilation in one direction.
#[derive(Debug, Default)]
pub(super) struct SetShelf {
    sets: HashMap<Vec<u64>, Arc<KnownSet>>,
    policies_of: HashMap<u32, Vec<u64>>,
    tables: HashMap<u32, TableEntries>,
}

/// A set, and what it was made of.
#[derive(Debug)]
struct KnownSet {
    policies: Vec<Arc<PolicyRules>>,
    number: u32,
    /// By peer, ascending, the wildcard first.
    entries: SetEntries,
    tables: Vec<u32>,
}

impl<'a> SetBuilder<'a> {
    pub fn new(
        book: &'a Rulebook,
        index: &'a PeerIndex,
        node: &'a NodeSettings,
        node_mode: Mode,
        numbers: &'a mut Numbers,
        image: &'a mut Image,
        shelf: &'a mut SetShelf,
    ) -> Self {
        Self {
            book,
            index,
            node,
            node_mode,
            numbers,
            image,
            shelf,
            done: HashMap::new(),
            ahead: false,
            policies_of: HashMap::new(),
            grown: grown(book, index).collect(),
            rule_numbers: vec![0; book.len()],
            isolation_numbers: vec![0; book.policies.len()],
            default_number: 0,
            class_of: Vec::new(),
        }
    }

    /// Goes on with the book of a moment ahead: the sets that are the same are the same.
    pub fn turn(&mut self, book: &'a Rulebook) {
        self.ahead = true;
        self.grown.extend(grown(book, self.index));
        self.rule_numbers = vec![0; book.len()];
        self.isolation_numbers = vec![0; book.policies.len()];
        self.book = book;
    }

    /// The number of the set that the policies at these (ascending) indices make for an
    /// identity.
    pub fn set(&mut self, identity: u32, policies: &[u32]) -> Result<u32, CompileError> {
        let default = self.node.default[self.book.direction as usize];
        if policies.is_empty() && default == Fallback::Allow {
            return Ok(ALLOW_ALL);
        }
        let says = policies.iter();
        let says = says.map(|policy| &self.book.policies[*policy as usize].says);
        let ids: Vec<u64> = says.clone().map(|says| says.id).collect();
        if let Some(set) = self.done.get(&ids) {
            if !self.ahead {
                self.policies_of.insert(identity, ids);
            }
            return Ok(set.number);
        }
        let known = self.shelf.sets.get(&ids);
        let unchanged = known.filter(|_| !ids.iter().any(|id| self.grown.contains(id)));
        let set = if let Some(known) = unchanged {
            known.clone()
        } else {
            let (sets, policies_of) = if self.ahead {
                (&self.done, &self.policies_of)
            } else {
                (&self.shelf.sets, &self.shelf.policies_of)
            };
            let former = policies_of.get(&identity);
            let former = known.or_else(|| sets.get(former?)).cloned();
            let says: Vec<_> = says.cloned().collect();
            let patched = match former {
                Some(former) => self.patched(&former, &says, policies, default)?,
                None => None,
            };
            let entries = match patched {
                Some(entries) => entries,
                None => self.entries(policies, default)?,
            };
            Arc::new(KnownSet {
                policies: says,
                number: self.numbers.set(&digest_of(&entries))?,
                tables: tables_of(&entries),
                entries: entries.into(),
            })
        };
        self.image.policies.put(set.number, set.entries.clone());
        for table in &set.tables {
            let entries = self.shelf.tables[table].clone();
            self.image.ports.put(*table, entries);
        }
        let number = set.number;
        if !self.ahead {
            self.policies_of.insert(identity, ids.clone());
        }
        self.done.insert(ids, set);
        Ok(number)
    }

    /// Keeps what was made for the next compilation.
    pub fn finish(self) {
        let tables: HashSet<u32> = self
            .done
            .values()
            .flat_map(|s| &s.tables)
            .copied()
            .collect();
        self.shelf.tables.retain(|table, _| tables.contains(table));
        self.shelf.sets = self.done;
        self.shelf.policies_of = self.policies_of;
    }

    /// The image so far.
    pub fn image(&self) -> &Image {
        self.image
    }

    /// Writes a set of these entries (by peer, ascending, the wildcard first), whose tables are
    /// written already.
    pub fn put(&mut self, entries: Vec<(u32, PolicyEntry)>) -> Result<u32, CompileError> {
        let number = self.numbers.set(&digest_of(&entries))?;
        for table in tables_of(&entries) {
            if let Some(content) = self.shelf.tables.get(&table) {
                self.image.ports.put(table, content.clone());
            }
        }
        self.image.policies.put(number, entries.into());
        Ok(number)
    }

    /// What holds besides the rules where these policies select.
    pub fn ground(&self, policies: &[u32], default: Fallback) -> Ground {
        let says = |policy: &u32| &self.book.policies[*policy as usize].says;
        let isolation = |enforced| {
            let all = policies.iter().copied();
            let isolating = all.filter(|policy| says(policy).isolates(enforced));
            isolating.min_by(|one, other| {
                let rank = |policy| says(policy).policy.isolation_rank();
                rank(one).cmp(&rank(other))
            })
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
        policies: &[u32],
        default: Fallback,
    ) -> Result<Option<Vec<(u32, PolicyEntry)>>, CompileError> {
        let (book, index) = (self.book, self.index);
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
        let mut concerned = vec![false; index.peers()];
        let mut by_peer: HashMap<u32, Vec<usize>> = HashMap::new();
        for (at, position) in affected.iter().enumerate() {
            for peer in index.matched_by(*position) {
                concerned[peer as usize] = true;
                by_peer.entry(peer).or_default().push(at);
            }
        }
        let mut for_everybody = Vec::new();
        for policy in policies {
            let policy = &book.policies[*policy as usize];
            for (number, rule) in (policy.first..).zip(&policy.says.rules) {
                let Some(peers) = &rule.peers else {
                    for_everybody.push(number);
                    continue;
                };
                for peer in peers.iter().filter(|peer| concerned[**peer as usize]) {
                    for at in &by_peer[peer] {
                        // Another peer of the same rule may have matched already.
                        if matched[*at].last() != Some(&number) {
                            matched[*at].push(number);
                        }
                    }
                }
            }
        }

        let ground = self.ground(policies, default);
        let wildcard = self.entry(&for_everybody, &ground)?;
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
            let entry = self.entry(&rules, &ground)?;
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
        policies: &[u32],
        default: Fallback,
    ) -> Result<Vec<(u32, PolicyEntry)>, CompileError> {
        let (book, index) = (self.book, self.index);
        let ground = self.ground(policies, default);
        self.class_of.resize(index.len(), ROOT);

        let mut for_everybody = Vec::new();
        let mut classes = vec![Class::root()];
        let mut touched = Vec::new();
        for policy in policies {
            let policy = &book.policies[*policy as usize];
            for (number, rule) in (policy.first..).zip(&policy.says.rules) {
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
        }

        let wildcard = self.entry(&for_everybody, &ground)?;
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
                *by_class[class as usize].insert(self.entry(&rules, &ground)?)
            };
            if entry != wildcard {
                entries.push((index.identity(position), entry));
            }
        }
        Ok(entries)
    }
}

/// The policies of a book with a peer that matches more than in the last compilation.
fn grown(book: &Rulebook, index: &PeerIndex) -> impl Iterator<Item = u64> {
    let grown = index.grown();
    let has_grown = |says: &PolicyRules| says.peers().any(|peer| grown.contains_key(&peer));
    let policies = book.policies.iter().map(|policy| &*policy.says);
    let policies = policies.filter(move |says| !grown.is_empty() && has_grown(says));
    policies.map(|says| says.id)
}

/// Whether two lists of policies isolate by the same ones, which default denies are named after.
fn same_isolation(one: &[Arc<PolicyRules>], other: &[Arc<PolicyRules>]) -> bool {
    [false, true].into_iter().all(|enforced| {
        let [one, other] = [one, other].map(|list| {
            let isolating = list.iter().filter(|policy| policy.isolates(enforced));
            isolating.map(|policy| policy.policy.isolation_rank()).min()
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
