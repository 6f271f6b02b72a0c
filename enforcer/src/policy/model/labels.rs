//! Labels.

use std::{collections::BTreeMap, fmt, ops::Deref, sync::Arc};

use serde::{Deserialize, Serialize};

/// Labels of a workload or demanded by a selector: values by key. A copy is the same in memory
/// until one of the two is changed: of a workload in a fleet, its peer, its identity and its
/// records, each has labels, and of many workloads they are the same.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Labels(Arc<BTreeMap<String, String>>);

impl Labels {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives a key a value, and returns the former one.
    pub fn insert(&mut self, key: String, value: String) -> Option<String> {
        Arc::make_mut(&mut self.0).insert(key, value)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keys and values, in the order of the keys.
    pub fn iter(&self) -> std::collections::btree_map::Iter<'_, String, String> {
        self.0.iter()
    }

    /// Whether there is a copy that is the same in memory.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl Deref for Labels {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<BTreeMap<String, String>> for Labels {
    fn from(labels: BTreeMap<String, String>) -> Self {
        Self(Arc::new(labels))
    }
}

impl<const N: usize> From<[(String, String); N]> for Labels {
    fn from(labels: [(String, String); N]) -> Self {
        BTreeMap::from(labels).into()
    }
}

impl FromIterator<(String, String)> for Labels {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(labels: I) -> Self {
        BTreeMap::from_iter(labels).into()
    }
}

impl<'l> IntoIterator for &'l Labels {
    type Item = (&'l String, &'l String);
    type IntoIter = std::collections::btree_map::Iter<'l, String, String>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_the_same_in_memory_until_it_is_changed() {
        let web = Labels::from([("app".to_owned(), "web".to_owned())]);
        assert!(!web.is_shared());
        let mut other = web.clone();
        assert!(Arc::ptr_eq(&web.0, &other.0) && web.is_shared());
        let former = other.insert("app".to_owned(), "db".to_owned());
        assert_eq!(former.as_deref(), Some("web"));
        assert_eq!((&*web["app"], &*other["app"]), ("web", "db"));
        assert!(!web.is_shared());
    }
}
