//! Which services one group may use at another: both sides' rulings, found once for each set
//! and peer.

use std::{collections::HashMap, rc::Rc};

use enforcer_common::{Direction, policy_key::ALLOW_ALL};
use serde::{Deserialize, Serialize};

use super::{
    parties::Group,
    services::Services,
    tree::{Ruling, RulingView, Tree, in_direction},
};
use crate::compile::{explain::Answer, image::RuleDirection};

/// A side's rulings on every service, by number: equal numbers are equal rulings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SideId(usize);

/// Both sides of a pair of groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pair {
    /// Egress of the one that opens.
    pub egress: SideId,
    /// Ingress of the other.
    pub ingress: SideId,
}

/// The rulings of both sides on one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BothRulings {
    /// Egress of the one that opens.
    pub egress: Ruling,
    /// Ingress of the other.
    pub ingress: Ruling,
}

impl BothRulings {
    /// What becomes of the flow.
    pub fn verdict(&self) -> Answer {
        worse(self.egress.verdict, self.ingress.verdict)
    }
}

/// What is left where two sides judge.
pub fn worse(a: Answer, b: Answer) -> Answer {
    match (a, b) {
        (Answer::Deny, _) | (_, Answer::Deny) => Answer::Deny,
        (Answer::Audit, _) | (_, Answer::Audit) => Answer::Audit,
        _ => Answer::Allow,
    }
}

/// Both sides in words and names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BothView {
    /// What becomes of the flow: the worse of the two.
    pub verdict: Answer,
    /// Egress of the one that opens; absent where no endpoint judges it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<RulingView>,
    /// Ingress of the other; absent where no endpoint judges it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<RulingView>,
}

impl BothView {
    /// The sides that decide: the first that denies, or all if none does.
    pub fn deciding(&self) -> impl Iterator<Item = (RuleDirection, &RulingView)> {
        let sides = [
            (RuleDirection::Egress, &self.egress),
            (RuleDirection::Ingress, &self.ingress),
        ];
        let sides = sides
            .into_iter()
            .filter_map(|(direction, side)| Some((direction, side.as_ref()?)));
        let most = if self.verdict == Answer::Allow { 2 } else { 1 };
        sides
            .filter(|(_, side)| side.verdict == self.verdict)
            .take(most)
    }
}

/// Asks trees about pairs of groups.
pub struct Reach<'a> {
    trees: &'a [&'a Tree],
    /// By tree, set and peer.
    sides: HashMap<(usize, u32, u32), SideId>,
    known: Vec<Rc<Services<Ruling>>>,
    /// By position in `known`: the number of its verdicts alone.
    verdicts: Vec<usize>,
    by_content: HashMap<(usize, Rc<Services<Ruling>>), SideId>,
    by_verdicts: HashMap<Services<Answer>, usize>,
}

impl<'a> Reach<'a> {
    /// About the groups of these trees.
    pub fn new(trees: &'a [&'a Tree]) -> Self {
        Self {
            trees,
            sides: HashMap::new(),
            known: Vec::new(),
            verdicts: Vec::new(),
            by_content: HashMap::new(),
            by_verdicts: HashMap::new(),
        }
    }

    /// What a tree says of flows from one group to another.
    pub fn pair(&mut self, tree: usize, from: &Group, to: &Group) -> Pair {
        let (opens, serves) = (&from.in_trees[tree], &to.in_trees[tree]);
        Pair {
            egress: self.side(
                tree,
                in_direction(opens.sets, Direction::Egress),
                serves.peer,
            ),
            ingress: self.side(
                tree,
                in_direction(serves.sets, Direction::Ingress),
                opens.peer,
            ),
        }
    }

    fn side(&mut self, tree: usize, set: u32, peer: u32) -> SideId {
        let peer = if set == ALLOW_ALL { 0 } else { peer };
        if let Some(id) = self.sides.get(&(tree, set, peer)) {
            return *id;
        }
        let rulings = Rc::new(self.trees[tree].rulings(set, peer));
        let id = if let Some(id) = self.by_content.get(&(tree, rulings.clone())) {
            *id
        } else {
            let id = SideId(self.known.len());
            let next = self.by_verdicts.len();
            let verdicts = rulings.map(|ruling| ruling.verdict);
            self.verdicts
                .push(*self.by_verdicts.entry(verdicts).or_insert(next));
            self.known.push(rulings.clone());
            self.by_content.insert((tree, rulings), id);
            id
        };
        self.sides.insert((tree, set, peer), id);
        id
    }

    /// Whether the verdicts on both sides are surely the same.
    pub fn same_verdicts(&self, one: Pair, other: Pair) -> bool {
        let of = |id: SideId| self.verdicts[id.0];
        of(one.egress) == of(other.egress) && of(one.ingress) == of(other.ingress)
    }

    /// The rulings of a pair.
    pub fn rulings(&self, pair: Pair) -> Services<BothRulings> {
        let ingress = &self.known[pair.ingress.0];
        self.known[pair.egress.0].join(ingress, |egress, ingress| BothRulings {
            egress: *egress,
            ingress: *ingress,
        })
    }

    /// In words and names. What no endpoint judges is left out.
    pub fn view(&self, tree: usize, both: BothRulings, from: &Group, to: &Group) -> BothView {
        let judges = |group: &Group| group.in_trees[tree].sets.is_some();
        let view = |ruling| self.trees[tree].view(ruling);
        BothView {
            verdict: both.verdict(),
            egress: judges(from).then(|| view(both.egress)),
            ingress: judges(to).then(|| view(both.ingress)),
        }
    }
}
