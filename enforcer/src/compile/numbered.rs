//! Tables by number that cost little to copy: copies share what is the same in them.

use std::{collections::BTreeMap, fmt, ops::Index, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Numbers of one page: a change copies one page.
const PAGE: u32 = 256;

/// A table by number. A copy costs a counter for each page of numbers.
#[derive(Clone)]
pub struct Numbered<T> {
    pages: BTreeMap<u32, Arc<BTreeMap<u32, T>>>,
    len: usize,
}

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Self {
            pages: BTreeMap::new(),
            len: 0,
        }
    }
}

impl<T> Numbered<T> {
    /// How many numbers have a value.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value of a number.
    pub fn get(&self, number: &u32) -> Option<&T> {
        self.pages.get(&(number / PAGE))?.get(number)
    }

    /// Whether a number has a value.
    pub fn contains_key(&self, number: &u32) -> bool {
        self.get(number).is_some()
    }

    /// Numbers and values, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&u32, &T)> {
        self.pages.values().flat_map(|page| page.iter())
    }

    /// Numbers, ascending.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &u32> {
        self.iter().map(|(number, _)| number)
    }

    /// Those that `other` has not, ascending: costs little where the two share most.
    pub fn missing_in<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (&'a u32, &'a T)> {
        let pages = self.pages.iter().filter(|(number, page)| {
            let same = other.pages.get(*number);
            !same.is_some_and(|same| Arc::ptr_eq(page, same))
        });
        pages
            .flat_map(|(_, page)| page.iter())
            .filter(|(number, _)| !other.contains_key(number))
    }
}

impl<T: Clone> Numbered<T> {
    /// Gives a number a value, and returns the former one.
    pub fn insert(&mut self, number: u32, value: T) -> Option<T> {
        let page = self.pages.entry(number / PAGE).or_default();
        let former = Arc::make_mut(page).insert(number, value);
        self.len += usize::from(former.is_none());
        former
    }

    /// Takes a number's value away.
    pub fn remove(&mut self, number: u32) -> Option<T> {
        let page = self.pages.get_mut(&(number / PAGE))?;
        let former = Arc::make_mut(page).remove(&number)?;
        if page.is_empty() {
            self.pages.remove(&(number / PAGE));
        }
        self.len -= 1;
        Some(former)
    }
}

impl<T: PartialEq> PartialEq for Numbered<T> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len
            && self.pages.len() == other.pages.len()
            && self
                .pages
                .iter()
                .zip(&other.pages)
                .all(|(a, b)| a.0 == b.0 && (Arc::ptr_eq(a.1, b.1) || a.1 == b.1))
    }
}

impl<T: fmt::Debug> fmt::Debug for Numbered<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<T> Index<&u32> for Numbered<T> {
    type Output = T;

    fn index(&self, number: &u32) -> &T {
        self.get(number).expect("the number has a value")
    }
}

impl<T: Clone> FromIterator<(u32, T)> for Numbered<T> {
    fn from_iter<I: IntoIterator<Item = (u32, T)>>(entries: I) -> Self {
        let mut table = Self::default();
        for (number, value) in entries {
            table.insert(number, value);
        }
        table
    }
}

impl<T: Serialize> Serialize for Numbered<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de, T: Clone + Deserialize<'de>> Deserialize<'de> for Numbered<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let entries = BTreeMap::<u32, T>::deserialize(deserializer)?;
        Ok(entries.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_not_touched_and_shares_what_is_the_same() {
        let first: Numbered<u32> = (0..10 * PAGE).map(|n| (n * 3, n)).collect();
        let mut second = first.clone();
        assert_eq!(second.insert(3, 70), Some(1));
        assert_eq!(second.insert(4, 71), None);
        assert_eq!(second.remove(3 * PAGE), Some(PAGE));
        assert_eq!(second.remove(1), None);
        assert_eq!(first[&3], 1);
        assert_eq!(
            (first.len(), second.len()),
            (10 * PAGE as usize, 10 * PAGE as usize)
        );
        assert_ne!(first, second);
        assert!(second.missing_in(&first).eq([(&4, &71)]));
        assert!(first.missing_in(&second).eq([(&(3 * PAGE), &PAGE)]));
        let again: Numbered<u32> = second.iter().map(|(n, v)| (*n, *v)).collect();
        assert_eq!(again, second);
        let kept = second
            .pages
            .iter()
            .filter(|(n, page)| Arc::ptr_eq(page, &first.pages[n]));
        assert_eq!(kept.count(), first.pages.len() - 2);
    }

    #[test]
    fn it_is_written_as_a_map() {
        let table: Numbered<bool> = [(700, true), (2, false)].into_iter().collect();
        let json = serde_json::to_string(&table).unwrap();
        assert_eq!(json, r#"{"2":false,"700":true}"#);
        assert_eq!(
            serde_json::from_str::<Numbered<bool>>(&json).unwrap(),
            table
        );
    }
}
