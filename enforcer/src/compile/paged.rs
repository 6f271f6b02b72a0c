//! Ordered tables that cost little to copy, whatever their keys: copies share the pages that are
//! the same in them.

use std::{collections::HashSet, fmt, ops::Index, sync::Arc};

/// Most entries of one page: a change copies one page, and a copy costs a counter for each.
const PAGE: usize = 256;

/// An ordered table. Two with the same entries are equal, whatever their pages.
#[derive(Clone)]
pub struct Paged<K, V> {
    /// In order, none of them empty.
    pages: Vec<Arc<Vec<(K, V)>>>,
    len: usize,
}

impl<K, V> Default for Paged<K, V> {
    fn default() -> Self {
        Self {
            pages: Vec::new(),
            len: 0,
        }
    }
}

impl<K, V> Paged<K, V> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Entries in the order of their keys.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        let entries = self.pages.iter().flat_map(|page| page.iter());
        entries.map(|(key, value)| (key, value))
    }

    /// Keys in order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// Values in the order of their keys.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

impl<K: Ord, V> Paged<K, V> {
    /// The page that a key is in, if it is in any.
    fn page_of(&self, key: &K) -> usize {
        let after = self.pages.partition_point(|page| page[0].0 <= *key);
        after.saturating_sub(1)
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        let page = self.pages.get(self.page_of(key))?;
        let at = page.binary_search_by(|(other, _)| other.cmp(key)).ok()?;
        Some(&page[at].1)
    }

    /// Whether a key has a value.
    pub fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// The entries from one key to another, both included.
    pub fn between<'a>(
        &'a self,
        first: &'a K,
        last: &'a K,
    ) -> impl Iterator<Item = (&'a K, &'a V)> {
        let pages = self.pages.iter().skip(self.page_of(first));
        let entries = pages.flat_map(|page| {
            let start = page.partition_point(|(key, _)| key < first);
            page[start..].iter()
        });
        let entries = entries.take_while(move |(key, _)| key <= last);
        entries.map(|(key, value)| (key, value))
    }

    /// How many keys are below one: looks into one page.
    pub fn len_below(&self, key: &K) -> usize {
        let page = self.page_of(key);
        let before = self.pages[..page.min(self.pages.len())].iter();
        let within = self.pages.get(page);
        before.map(|page| page.len()).sum::<usize>()
            + within.map_or(0, |page| page.partition_point(|(other, _)| other < key))
    }

    /// Those of which `other` has not the key, in order: looks into no page that both have.
    pub fn missing_in<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (&'a K, &'a V)> {
        self.apart_from(other)
            .filter(|(key, _)| !other.contains_key(key))
    }

    /// The entries in pages that `other` has not, in order: all that `other` has not, and some
    /// more.
    pub fn apart_from<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (&'a K, &'a V)> {
        let pages: HashSet<_> = other.pages.iter().map(Arc::as_ptr).collect();
        let pages = (self.pages.iter()).filter(move |page| !pages.contains(&Arc::as_ptr(page)));
        let entries = pages.flat_map(|page| page.iter());
        entries.map(|(key, value)| (key, value))
    }
}

impl<K: Ord + Clone, V: Clone> Paged<K, V> {
    /// Gives a key a value, and returns the former one.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let number = self.page_of(&key);
        let Some(page) = self.pages.get_mut(number) else {
            self.pages.push(Arc::new(vec![(key, value)]));
            self.len = 1;
            return None;
        };
        let page = Arc::make_mut(page);
        match page.binary_search_by(|(other, _)| other.cmp(&key)) {
            Ok(at) => Some(std::mem::replace(&mut page[at].1, value)),
            Err(at) => {
                page.insert(at, (key, value));
                self.len += 1;
                if page.len() > PAGE {
                    // What comes in order fills its pages.
                    let at_end = at + 1 == page.len() && number + 1 == self.pages.len();
                    let page = Arc::make_mut(&mut self.pages[number]);
                    let rest = page.split_off(if at_end { PAGE } else { PAGE / 2 });
                    self.pages.insert(number + 1, Arc::new(rest));
                }
                None
            }
        }
    }

    /// Takes a key's value away.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let number = self.page_of(key);
        let page = self.pages.get_mut(number)?;
        let at = page.binary_search_by(|(other, _)| other.cmp(key)).ok()?;
        let page = Arc::make_mut(page);
        let (_, value) = page.remove(at);
        if page.is_empty() {
            self.pages.remove(number);
        }
        self.len -= 1;
        Some(value)
    }

    /// Values in the order of their keys, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        let entries = self.pages.iter_mut();
        let entries = entries.flat_map(|page| Arc::make_mut(page).iter_mut());
        entries.map(|(_, value)| value)
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for Paged<K, V> {
    fn eq(&self, other: &Self) -> bool {
        let mut pages = self.pages.iter().zip(&other.pages);
        self.len == other.len
            && (self.pages.len() == other.pages.len()
                && pages.all(|(one, other)| Arc::ptr_eq(one, other))
                || self.iter().eq(other.iter()))
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for Paged<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Ord, V> Index<&K> for Paged<K, V> {
    type Output = V;

    fn index(&self, key: &K) -> &V {
        self.get(key).expect("the key has a value")
    }
}

impl<K: Ord + Clone, V: Clone> Extend<(K, V)> for Paged<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for Paged<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut table = Self::default();
        table.extend(entries);
        table
    }
}

impl<K: Ord + Clone, V: Clone, const N: usize> From<[(K, V); N]> for Paged<K, V> {
    fn from(entries: [(K, V); N]) -> Self {
        entries.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn it_says_what_an_ordered_map_says() {
        let (mut paged, mut map) = (Paged::default(), BTreeMap::new());
        // A generator with a full period (Numerical Recipes), so that keys repeat.
        let mut random = 1_u32;
        for turn in 0..20_000_u32 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let key = (random >> 8) % 3_000;
            if turn % 3 == 2 {
                assert_eq!(paged.remove(&key), map.remove(&key));
            } else {
                assert_eq!(paged.insert(key, turn), map.insert(key, turn));
            }
        }
        assert_eq!(paged.len(), map.len());
        assert!(paged.iter().eq(map.iter()));
        assert!(paged.pages.iter().all(|page| !page.is_empty()));
        for key in (0..3_100).step_by(7) {
            assert_eq!(paged.get(&key), map.get(&key));
            assert_eq!(paged.len_below(&key), map.range(..key).count());
            let (from, to) = (key, key + 700);
            assert!(paged.between(&from, &to).eq(map.range(from..=to)));
        }
        let afresh: Paged<u32, u32> = map.iter().map(|(k, v)| (*k, *v)).collect();
        assert_eq!(afresh, paged);
        for key in map.keys() {
            paged.remove(key);
        }
        assert!(paged.is_empty() && paged.pages.is_empty() && paged.get(&1).is_none());
    }

    #[test]
    fn a_copy_is_not_touched_and_shares_what_is_the_same() {
        let first: Paged<u32, u32> = (0..100_000).map(|n| (n * 2, n)).collect();
        assert!(first.pages.len() < 400, "{}", first.pages.len());
        let mut second = first.clone();
        assert_eq!(second.insert(500, 7), Some(250));
        assert_eq!(second.insert(90_001, 7), None);
        assert_eq!(second.remove(&150_000), Some(75_000));
        assert_eq!(first[&500], 250);
        assert_ne!(first, second);
        assert!(second.missing_in(&first).eq([(&90_001, &7)]));
        assert!(first.missing_in(&second).eq([(&150_000, &75_000)]));
        assert!(second.apart_from(&first).count() <= 3 * PAGE);
    }
}
