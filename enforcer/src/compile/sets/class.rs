//! Classes of peers that the rules tell apart.

use crate::compile::rules::count;

/// Peers of one class are matched by the same rules. A class is the one that it was before the
/// last rule, and that rule.
#[derive(Clone, Copy)]
pub(super) struct Class {
    parent: u32,
    rule: u32,
    /// The class that this one becomes by `next_rule`.
    next: u32,
    next_rule: u32,
}

impl Class {
    /// The class that all the others come from.
    pub const fn root() -> Self {
        Self {
            parent: ROOT,
            rule: NO_RULE,
            next: ROOT,
            next_rule: NO_RULE,
        }
    }
}

/// The class of peers that no rule matches by itself.
pub(super) const ROOT: u32 = 0;
const NO_RULE: u32 = u32::MAX;

/// The class that `class` becomes when `rule` matches too.
pub(super) fn refine(classes: &mut Vec<Class>, class: u32, rule: u32) -> u32 {
    let Class {
        rule: last,
        next,
        next_rule,
        ..
    } = classes[class as usize];
    if last == rule {
        // Another peer of the same rule matched already.
        return class;
    }
    if next_rule == rule {
        return next;
    }
    let new = count(classes.len());
    classes[class as usize].next = new;
    classes[class as usize].next_rule = rule;
    classes.push(Class {
        parent: class,
        rule,
        next: ROOT,
        next_rule: NO_RULE,
    });
    new
}

/// The rules that match a class of peers, ascending.
pub(super) fn rules_of(classes: &[Class], mut class: u32, for_everybody: &[u32]) -> Vec<u32> {
    let mut rules = for_everybody.to_vec();
    while class != ROOT {
        let Class { parent, rule, .. } = classes[class as usize];
        rules.push(rule);
        class = parent;
    }
    rules.sort_unstable();
    rules
}
