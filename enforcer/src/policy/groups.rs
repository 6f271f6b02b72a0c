//! Looks up the groups that policies and groups refer to.

use std::{collections::HashMap, sync::Arc};

use super::{
    described::GroupDocument,
    diagnostic::{Code, Collector, Position},
    model::{Group, Peer, Policy, Subject, WorkloadSelector},
    segment_policy::PolicyDocument,
    source::SourceFile,
};

/// How deep groups may refer to groups.
const DEEPEST: usize = 32;
/// Most peers of a group, those of the groups that it refers to included.
const MOST_PEERS: usize = 100_000;

type Key = (Option<String>, String);

/// All groups of a tree.
#[derive(Default)]
pub(super) struct Groups<'a> {
    documents: HashMap<Key, (&'a GroupDocument, &'a Arc<SourceFile>)>,
    /// What was looked up; `None` where it had an error, which was told.
    known: HashMap<Key, Option<Found>>,
    /// The way to the group that is being looked up.
    way: Vec<Key>,
}

#[derive(Clone)]
struct Found {
    group: Arc<Group>,
    peers: usize,
    depth: usize,
}

fn named((namespace, name): &Key) -> String {
    match namespace {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.clone(),
    }
}

impl<'a> Groups<'a> {
    /// Adds a group. Of two that have one name, which is an error, the first counts.
    pub(super) fn add(&mut self, document: &'a GroupDocument, file: &'a Arc<SourceFile>) {
        let key = (document.namespace.clone(), document.name.clone());
        self.documents.entry(key).or_insert((document, file));
    }

    /// Looks all of them up, for the errors that are in them.
    pub(super) fn check(&mut self, errors: &mut Collector) {
        let mut keys: Vec<_> = self.documents.keys().cloned().collect();
        keys.sort();
        for key in keys {
            self.find(&key, errors);
        }
    }

    /// The policy with the groups that it refers to in place. The same in memory if it refers
    /// to none.
    pub(super) fn fill(
        &mut self,
        document: &PolicyDocument,
        file: &Arc<SourceFile>,
        errors: &mut Collector,
    ) -> Arc<Policy> {
        if document.references.is_empty() && document.subject_group.is_none() {
            return document.policy.clone();
        }
        let mut policy = (*document.policy).clone();
        let own = policy.namespace.clone();
        let mut at = document.references.iter().copied();
        for rule in policy.rules.iter_mut().flatten().flatten() {
            for peer in &mut rule.peers {
                self.fill_peer(peer, own.as_deref(), &mut at, file, errors);
            }
        }
        if let Some((name, at)) = &document.subject_group
            && let Some(found) = self.look_up(own.as_deref(), name, *at, file, errors)
        {
            let mut selectors = Vec::new();
            match select(&found.group.peers, own.as_deref(), &mut selectors) {
                Ok(()) => policy.subject = Subject::Workloads(selectors),
                Err(why) => {
                    let message = format!("the group `{name}` cannot be selected: {why}");
                    let help = "select by a group of workloads, which `labels` and the like name";
                    errors.add(Code::BadGroup, file, *at, message, help);
                }
            }
        }
        Arc::new(policy)
    }

    fn fill_peer(
        &mut self,
        peer: &mut Peer,
        own: Option<&str>,
        at: &mut impl Iterator<Item = Position>,
        file: &Arc<SourceFile>,
        errors: &mut Collector,
    ) -> (usize, usize) {
        match peer {
            Peer::Assured { peer, .. } => self.fill_peer(peer, own, at, file, errors),
            Peer::Group(group) => {
                let at = at.next().unwrap_or(Position::START);
                let Some(found) = self.look_up(own, &group.name, at, file, errors) else {
                    return (0, 0);
                };
                *group = found.group;
                (found.peers, found.depth)
            }
            _ => (1, 0),
        }
    }

    /// A group by the name that somebody in namespace `own` calls it.
    fn look_up(
        &mut self,
        own: Option<&str>,
        name: &str,
        at: Position,
        file: &Arc<SourceFile>,
        errors: &mut Collector,
    ) -> Option<Found> {
        let near = (own.map(str::to_owned), name.to_owned());
        let far = (None, name.to_owned());
        let key = [near, far];
        let key = key.into_iter().find(|key| self.documents.contains_key(key));
        let Some(key) = key else {
            let of = match own {
                Some(own) => format!("in namespace `{own}`, and none without a namespace"),
                None => "without a namespace".to_owned(),
            };
            let message = format!("there is no group `{name}` {of}");
            let help = "correct the name, or write a document of `kind: Group`";
            errors.add(Code::UnknownGroup, file, at, message, help);
            return None;
        };
        if let Some(first) = self.way.iter().position(|on_the_way| *on_the_way == key) {
            let way: Vec<_> = self.way[first..].iter().chain([&key]).map(named).collect();
            let message = format!("a group that is in itself: {}", way.join(" → "));
            let help = "take one of these references away";
            errors.add(Code::GroupCycle, file, at, message, help);
            return None;
        }
        if self.way.len() >= DEEPEST {
            let message = format!("groups in groups, more than {DEEPEST} deep");
            let help = "name the peers themselves in fewer groups";
            errors.add(Code::TreeLimit, file, at, message, help);
            return None;
        }
        self.find(&key, errors)
    }

    fn find(&mut self, key: &Key, errors: &mut Collector) -> Option<Found> {
        if let Some(known) = self.known.get(key) {
            return known.clone();
        }
        let (document, file) = *self.documents.get(key)?;
        let mut peers = document.peers.clone()?;
        self.way.push(key.clone());
        let before = errors.count();
        let mut at = document.references.iter().copied();
        let (mut count, mut depth) = (0_usize, 0);
        for peer in &mut peers {
            let (more, deep) =
                self.fill_peer(peer, document.namespace.as_deref(), &mut at, file, errors);
            count = count.saturating_add(more);
            depth = depth.max(deep);
        }
        self.way.pop();
        if count > MOST_PEERS || depth >= DEEPEST {
            let message = format!("the group `{}` is too large", named(key));
            let help = format!("at most {MOST_PEERS} peers and {DEEPEST} groups in groups fit");
            errors.add(Code::TreeLimit, file, document.name_at, message, help);
        }
        let found = (errors.count() == before).then(|| Found {
            group: Arc::new(Group {
                namespace: document.namespace.clone(),
                name: document.name.clone(),
                peers,
            }),
            peers: count,
            depth: depth + 1,
        });
        self.known.insert(key.clone(), found.clone());
        found
    }
}

/// The selectors in the peers of a group, for a policy of namespace `own`.
fn select(
    peers: &[Peer],
    own: Option<&str>,
    selectors: &mut Vec<WorkloadSelector>,
) -> Result<(), String> {
    for peer in peers {
        match peer {
            Peer::Group(group) => select(&group.peers, own, selectors)?,
            Peer::Workloads(selector) => {
                let mut selector = selector.clone();
                if let Some(own) = own {
                    let namespace = selector.namespace.get_or_insert_with(|| own.to_owned());
                    if namespace != own {
                        return Err(format!(
                            "it names workloads of namespace `{namespace}`, and the policy is of \
                             `{own}`"
                        ));
                    }
                }
                selectors.push(selector);
            }
            _ => return Err("not all of its peers are selectors of workloads".to_owned()),
        }
    }
    Ok(())
}
