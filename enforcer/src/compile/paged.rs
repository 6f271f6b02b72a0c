//! Ordered tables that cost next to nothing to copy and little to change, however large they are:
//! trees of small pages, of which copies share those that are the same in them.

mod page;

use std::{collections::BTreeMap, fmt, ops::Index, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use self::page::{Entries, Page, Pages, apart};

/// An ordered table. Two with the same entries are equal, whatever their pages.
#[derive(Clone)]
pub struct Paged<K, V> {
    root: Arc<Page<K, V>>,
}

impl<K, V> Default for Paged<K, V> {
    fn default() -> Self {
        Self {
            root: Arc::new(Page::Entries(Vec::new())),
        }
    }
}

impl<K, V> Paged<K, V> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.root.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether one is an untouched copy of the other.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.root, &other.root)
    }

    /// Entries in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let mut entries = Entries::default();
        entries.begin(&self.root);
        entries
    }

    /// Keys in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// Values in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// The entry with the highest key.
    pub fn last(&self) -> Option<(&K, &V)> {
        let mut page = &self.root;
        loop {
            match &**page {
                Page::Entries(entries) => return entries.last().map(|(key, value)| (key, value)),
                Page::Pages(pages) => page = &pages.below.last()?.1,
            }
        }
    }
}

impl<K: Ord, V> Paged<K, V> {
    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        let mut page = &self.root;
        loop {
            match &**page {
                Page::Entries(entries) => {
                    let at = entries.binary_search_by(|(other, _)| other.cmp(key)).ok()?;
                    return Some(&entries[at].1);
                }
                Page::Pages(pages) => page = pages.towards(key),
            }
        }
    }

    /// Whether a key has a value.
    pub fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// The entries from one key to another, both included.
    pub fn between<'a>(
        &'a self,
        first: &K,
        last: &'a K,
    ) -> impl Iterator<Item = (&'a K, &'a V)> + use<'a, K, V> {
        let mut entries = Entries::default();
        entries.begin_at(&self.root, first);
        entries.take_while(move |(key, _)| *key <= last)
    }

    /// How many keys are below one.
    pub fn len_below(&self, key: &K) -> usize {
        let mut len = 0;
        let mut page = &self.root;
        loop {
            match &**page {
                Page::Entries(entries) => {
                    return len + entries.partition_point(|(other, _)| other < key);
                }
                Page::Pages(pages) => {
                    let at = pages.at(key);
                    let before = pages.below[..at].iter();
                    len += before.map(|(_, page)| page.len()).sum::<usize>();
                    page = &pages.below[at].1;
                }
            }
        }
    }

    /// Those of which `other` has not the key, in order: looks into no page that both have.
    pub fn missing_in<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (&'a K, &'a V)> {
        self.apart_from(other)
            .filter(|(key, _)| !other.contains_key(key))
    }

    /// The entries in pages that `other` has not, in order: all that `other` has not, and some
    /// more.
    pub fn apart_from<'a>(
        &'a self,
        other: &Self,
    ) -> impl Iterator<Item = (&'a K, &'a V)> + use<'a, K, V> {
        let mut pages = Vec::new();
        apart(&self.root, &other.root, &mut pages);
        let entries = pages.into_iter().flatten();
        entries.map(|(key, value)| (key, value))
    }
}

impl<K: Ord + Clone, V: Clone> Paged<K, V> {
    /// Gives a key a value, and returns the former one.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let (former, rest) = Arc::make_mut(&mut self.root).insert(key, value, true);
        if let Some(rest) = rest {
            let half = std::mem::take(self).root;
            let pages = [half, Arc::new(rest)];
            let below = pages.into_iter().filter_map(|page| {
                let first = page.first()?.clone();
                Some((first, page))
            });
            self.root = Arc::new(Page::Pages(Pages::of(below.collect())));
        }
        former
    }

    /// Takes a key's value away.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        // Nothing is copied for what is not there.
        if !self.contains_key(key) {
            return None;
        }
        let former = Arc::make_mut(&mut self.root).remove(key);
        while let Page::Pages(pages) = &*self.root {
            match pages.below.as_slice() {
                [] => *self = Self::default(),
                [(_, only)] => self.root = Arc::clone(only),
                _ => break,
            }
        }
        former
    }
}

impl<K: Ord, V: PartialEq> PartialEq for Paged<K, V> {
    fn eq(&self, other: &Self) -> bool {
        let mut apart = self.apart_from(other);
        self.len() == other.len() && apart.all(|(key, value)| other.get(key) == Some(value))
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

impl<K: Serialize, V: Serialize> Serialize for Paged<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de, K, V> Deserialize<'de> for Paged<K, V>
where
    K: Ord + Clone + Deserialize<'de>,
    V: Clone + Deserialize<'de>,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let entries = BTreeMap::<K, V>::deserialize(deserializer)?;
        Ok(entries.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::{page::WIDTH, *};

    /// Every page, with what must hold of it.
    fn pages<'a>(page: &'a Arc<Page<u32, u32>>, all: &mut Vec<&'a Arc<Page<u32, u32>>>) {
        all.push(page);
        assert!(page.width() <= WIDTH);
        if let Page::Pages(pages_below) = &**page {
            let below = &pages_below.below;
            assert!(!below.is_empty());
            assert_eq!(
                page.len(),
                below.iter().map(|(_, p)| p.len()).sum::<usize>()
            );
            for (first, page_below) in below {
                assert_eq!(page_below.height() + 1, page.height());
                assert_eq!(Some(first), page_below.first());
                pages(page_below, all);
            }
        }
    }

    #[test]
    fn it_says_what_an_ordered_map_says() {
        let (mut paged, mut map) = (Paged::default(), BTreeMap::new());
        // A generator with a full period (Numerical Recipes), so that keys repeat.
        let mut random = 1_u32;
        let mut copies = Vec::new();
        for turn in 0..20_000_u32 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let key = (random >> 8) % 3_000;
            // Fills, and is emptied again for the most part.
            let less = if turn < 12_000 { 3 } else { 10 };
            if random % 13 < less {
                assert_eq!(paged.remove(&key), map.remove(&key));
            } else {
                assert_eq!(paged.insert(key, turn), map.insert(key, turn));
            }
            if turn % 1_000 == 0 {
                copies.push((paged.clone(), map.clone()));
                pages(&paged.root, &mut Vec::new());
            }
        }
        copies.push((paged, map));
        for (paged, map) in &copies {
            assert_eq!(paged.len(), map.len());
            assert!(paged.iter().eq(map.iter()));
            assert_eq!(paged.last(), map.last_key_value());
            for key in (0..3_100).step_by(7) {
                assert_eq!(paged.get(&key), map.get(&key));
                assert_eq!(paged.len_below(&key), map.range(..key).count());
                let (from, to) = (key, key + 700);
                assert!(paged.between(&from, &to).eq(map.range(from..=to)));
            }
            let afresh: Paged<u32, u32> = map.iter().map(|(k, v)| (*k, *v)).collect();
            assert_eq!(afresh, *paged);
            for (other, other_map) in &copies {
                assert_eq!(paged == other, map == other_map);
                let missing = map.iter().filter(|(key, _)| !other_map.contains_key(key));
                assert!(paged.missing_in(other).eq(missing));
                let apart: BTreeMap<_, _> = paged.apart_from(other).collect();
                let mut different = map.iter().filter(|(k, v)| other_map.get(k) != Some(v));
                assert!(different.all(|(key, value)| apart.get(key) == Some(&value)));
            }
            let mut emptied = paged.clone();
            for key in map.keys() {
                emptied.remove(key);
            }
            assert!(emptied.is_empty() && emptied.get(&1).is_none());
            assert_eq!(emptied.root.height(), 0);
        }
    }

    #[test]
    fn a_copy_is_not_touched_and_shares_what_is_the_same() {
        const MANY: u32 = 100_000;
        let first: Paged<u32, u32> = (0..MANY).map(|n| (n * 2, n)).collect();
        let mut all = Vec::new();
        pages(&first.root, &mut all);
        // What comes in order fills its pages.
        assert!(all.len() < MANY as usize / (WIDTH - 2), "{}", all.len());
        let mut second = first.clone();
        assert!(second.is(&first));
        assert_eq!(second.insert(500, 7), Some(250));
        assert_eq!(second.insert(90_001, 7), None);
        assert_eq!(second.remove(&150_000), Some(75_000));
        assert_eq!(second.remove(&1), None);
        assert_eq!(first[&500], 250);
        assert!(first != second && !second.is(&first));
        assert!(second.missing_in(&first).eq([(&90_001, &7)]));
        assert!(first.missing_in(&second).eq([(&150_000, &75_000)]));
        assert!(second.apart_from(&first).count() <= 3 * WIDTH);
        assert!(first.apart_from(&second).count() <= 3 * WIDTH);
        let copied = {
            let mut now = Vec::new();
            pages(&second.root, &mut now);
            let kept = now
                .iter()
                .filter(|one| all.iter().any(|other| Arc::ptr_eq(one, other)));
            now.len() - kept.count()
        };
        // On three ways, one of which has a page more.
        assert!(copied <= 3 * (first.root.height() + 1) + 1, "{copied}");
    }

    #[test]
    fn what_is_taken_away_leaves_no_crumbs() {
        let mut table: Paged<u32, u32> = (0..10_000).map(|n| (n, n)).collect();
        for number in (0..10_000).filter(|n| n % 100 != 0) {
            table.remove(&number);
        }
        assert_eq!(table.len(), 100);
        let mut all = Vec::new();
        pages(&table.root, &mut all);
        assert!(all.len() < 60, "{}", all.len());
    }

    #[test]
    fn it_is_written_as_a_map() {
        let table: Paged<u32, bool> = [(700, true), (2, false)].into();
        let json = serde_json::to_string(&table).unwrap();
        assert_eq!(json, r#"{"2":false,"700":true}"#);
        let read: Paged<u32, bool> = serde_json::from_str(&json).unwrap();
        assert_eq!(read, table);
    }
}
