//! Which cgroups may get a child that a pattern matches: where what is new must wait until it was
//! looked at.

use std::collections::{BTreeSet, HashSet};

use globset::GlobMatcher;

use super::{
    claims::{glob, has_wildcard},
    units::ancestors_and_self,
};

/// The directories on the way to what cgroup patterns match.
#[derive(Debug, Default)]
pub(super) struct Ways {
    /// Those that are spelled out, at any depth: looked up, however many patterns there are.
    exact: HashSet<String>,
    /// Those with a wildcard: one for all patterns that differ in the last component only.
    globs: Vec<Vec<Component>>,
}

#[derive(Debug)]
enum Component {
    Name(String),
    Glob(Box<GlobMatcher>),
    /// From here on anything may match: `**`, or a construct that spans components.
    Anything,
}

impl Ways {
    pub(super) fn new(patterns: &BTreeSet<String>) -> Self {
        let mut ways = Self::default();
        let mut with_wildcard = BTreeSet::new();
        for pattern in patterns {
            let (way, last) = pattern.rsplit_once('/').unwrap_or(("", pattern));
            if has_wildcard(way) || last.contains("**") {
                // The last component matters only for whether it can span several.
                let last = if last.contains("**") { "**" } else { "*" };
                with_wildcard.insert(format!("{way}/{last}"));
            } else if last.is_empty() {
                // The root is nobody's child.
            } else if way.is_empty() {
                ways.exact.insert("/".to_owned());
            } else {
                ways.exact
                    .extend(ancestors_and_self(way).map(str::to_owned));
            }
        }
        ways.globs = with_wildcard.iter().map(|w| components(w)).collect();
        ways
    }

    /// Whether a new child of `path` can match a pattern or lead to what does.
    pub(super) fn may_have_child(&self, path: &str) -> bool {
        self.exact.contains(path) || self.globs.iter().any(|way| leads_on(way, path))
    }
}

/// The components of a pattern before the last, up to the first that may be anything.
fn components(pattern: &str) -> Vec<Component> {
    let mut components = Vec::new();
    let mut names = pattern.split('/').skip(1).peekable();
    while let Some(name) = names.next() {
        let component = if !has_wildcard(name) {
            Component::Name(name.to_owned())
        } else if name.contains("**") {
            Component::Anything
        } else {
            match glob(name) {
                Ok(glob) => Component::Glob(Box::new(glob.compile_matcher())),
                Err(_) => Component::Anything,
            }
        };
        let anything = matches!(component, Component::Anything);
        if anything || names.peek().is_some() {
            components.push(component);
        }
        if anything {
            break;
        }
    }
    components
}

fn leads_on(way: &[Component], path: &str) -> bool {
    let mut names = path.split('/').filter(|n| !n.is_empty());
    for component in way {
        if let Component::Anything = component {
            return true;
        }
        let Some(name) = names.next() else {
            return true;
        };
        let matches = match component {
            Component::Name(wanted) => wanted == name,
            Component::Glob(glob) => glob.is_match(name),
            Component::Anything => true,
        };
        if !matches {
            return false;
        }
    }
    names.next().is_none()
}
