//! The pages of a table.

use std::{slice, sync::Arc};

/// Most entries of one page, and most pages below one: a change copies the pages on the way to
/// it.
pub(super) const WIDTH: usize = 16;

/// A part of a table, in order. Only the root may be empty.
#[derive(Clone)]
pub(super) enum Page<K, V> {
    Entries(Vec<(K, V)>),
    Pages(Pages<K, V>),
}

/// A page with its first key.
pub(super) type Below<K, V> = (K, Arc<Page<K, V>>);

#[derive(Clone)]
pub(super) struct Pages<K, V> {
    /// How many entries are below.
    pub len: usize,
    /// How many pages are on the way to an entry. All that are below are as high.
    pub height: usize,
    /// In order.
    pub below: Vec<Below<K, V>>,
}

impl<K, V> Page<K, V> {
    pub fn len(&self) -> usize {
        match self {
            Self::Entries(entries) => entries.len(),
            Self::Pages(pages) => pages.len,
        }
    }

    pub fn height(&self) -> usize {
        match self {
            Self::Entries(_) => 0,
            Self::Pages(pages) => pages.height,
        }
    }

    /// How many entries or pages are directly in it.
    pub fn width(&self) -> usize {
        match self {
            Self::Entries(entries) => entries.len(),
            Self::Pages(pages) => pages.below.len(),
        }
    }

    pub fn first(&self) -> Option<&K> {
        match self {
            Self::Entries(entries) => entries.first().map(|(key, _)| key),
            Self::Pages(pages) => pages.below.first().map(|(key, _)| key),
        }
    }
}

impl<K: Ord + Clone, V: Clone> Page<K, V> {
    /// Gives a key a value. Returns the former one, and what there was no room for: a page to
    /// come after this one. `at_end`: nothing comes after this one yet.
    pub fn insert(&mut self, key: K, value: V, at_end: bool) -> (Option<V>, Option<Self>) {
        match self {
            Self::Entries(entries) => {
                match entries.binary_search_by(|(other, _)| other.cmp(&key)) {
                    Ok(at) => (Some(std::mem::replace(&mut entries[at].1, value)), None),
                    Err(at) => {
                        let rest = put(entries, at, (key, value), at_end);
                        (None, rest.map(Self::Entries))
                    }
                }
            }
            Self::Pages(pages) => {
                let at = pages.at(&key);
                let last = at_end && at + 1 == pages.below.len();
                let (first, page) = &mut pages.below[at];
                if key < *first {
                    *first = key.clone();
                }
                let (former, rest) = Arc::make_mut(page).insert(key, value, last);
                pages.len += usize::from(former.is_none());
                let more = rest.and_then(|rest| Some((rest.first()?.clone(), Arc::new(rest))));
                let rest = more.and_then(|more| put(&mut pages.below, at + 1, more, at_end));
                let rest = rest.map(Pages::of);
                pages.len -= rest.as_ref().map_or(0, |rest| rest.len);
                (former, rest.map(Self::Pages))
            }
        }
    }

    pub fn remove(&mut self, key: &K) -> Option<V> {
        match self {
            Self::Entries(entries) => {
                let at = entries.binary_search_by(|(other, _)| other.cmp(key)).ok()?;
                Some(entries.remove(at).1)
            }
            Self::Pages(pages) => {
                let at = pages.at(key);
                let (first, page) = &mut pages.below[at];
                let page = Arc::make_mut(page);
                let former = page.remove(key)?;
                pages.len -= 1;
                match page.first() {
                    None => drop(pages.below.remove(at)),
                    Some(now) if now != first => *first = now.clone(),
                    Some(_) => {}
                }
                pages.join(at);
                pages.join(at.wrapping_sub(1));
                Some(former)
            }
        }
    }
}

impl<K, V> Pages<K, V> {
    pub fn of(below: Vec<Below<K, V>>) -> Self {
        let highest = below.iter().map(|(_, page)| page.height()).max();
        Self {
            len: below.iter().map(|(_, page)| page.len()).sum(),
            height: highest.unwrap_or_default() + 1,
            below,
        }
    }
}

impl<K: Ord, V> Pages<K, V> {
    /// Where the page is that a key is in, if it is in any.
    pub fn at(&self, key: &K) -> usize {
        let after = self.below.partition_point(|(first, _)| first <= key);
        after.saturating_sub(1)
    }

    pub fn towards(&self, key: &K) -> &Arc<Page<K, V>> {
        &self.below[self.at(key)].1
    }
}

impl<K: Clone, V: Clone> Pages<K, V> {
    /// Makes one of a page and the next, if there are two, and little is in them.
    fn join(&mut self, at: usize) {
        let [(_, one), (_, other), ..] = self.below.get_mut(at..).unwrap_or_default() else {
            return;
        };
        if one.width() + other.width() > WIDTH / 2 {
            return;
        }
        match (Arc::make_mut(one), &**other) {
            (Page::Entries(one), Page::Entries(other)) => one.extend_from_slice(other),
            (Page::Pages(one), Page::Pages(other)) => {
                one.len += other.len;
                one.below.extend_from_slice(&other.below);
            }
            // They are as high.
            _ => return,
        }
        self.below.remove(at + 1);
    }
}

/// Puts something into a list of at most [`WIDTH`]; returns the part that has no room any more.
/// What comes in order `at_end` fills its lists.
fn put<T>(list: &mut Vec<T>, at: usize, item: T, at_end: bool) -> Option<Vec<T>> {
    if list.len() < WIDTH {
        list.insert(at, item);
        return None;
    }
    let kept = if at_end && at == WIDTH {
        WIDTH
    } else {
        WIDTH / 2
    };
    let mut rest = list.split_off(kept);
    if at < kept {
        list.insert(at, item);
    } else {
        rest.insert(at - kept, item);
    }
    Some(rest)
}

/// Collects the lowest pages below one that a table has not of which this is the root.
pub(super) fn apart<'a, K: Ord, V>(
    page: &'a Arc<Page<K, V>>,
    root: &Arc<Page<K, V>>,
    found: &mut Vec<&'a [(K, V)]>,
) {
    let Some(first) = page.first() else {
        return;
    };
    let mut there = root;
    while let Page::Pages(pages) = &**there
        && pages.height > page.height()
    {
        there = pages.towards(first);
    }
    if Arc::ptr_eq(page, there) {
        return;
    }
    match &**page {
        Page::Entries(entries) => found.push(entries),
        Page::Pages(pages) => {
            for (_, below) in &pages.below {
                apart(below, root, found);
            }
        }
    }
}

/// A walk over the entries of a table.
pub(super) struct Entries<'a, K, V> {
    entries: slice::Iter<'a, (K, V)>,
    /// What comes after, of each page above.
    pages: Vec<slice::Iter<'a, Below<K, V>>>,
}

impl<K, V> Default for Entries<'_, K, V> {
    fn default() -> Self {
        Self {
            entries: [].iter(),
            pages: Vec::new(),
        }
    }
}

impl<'a, K, V> Entries<'a, K, V> {
    /// Goes to the first entry of a page.
    pub fn begin(&mut self, page: &'a Page<K, V>) {
        match page {
            Page::Entries(entries) => self.entries = entries.iter(),
            // They are gone through one after the other.
            Page::Pages(pages) => self.pages.push(pages.below.iter()),
        }
    }

    /// Goes to the first entry of a page whose key is not below one.
    pub fn begin_at(&mut self, mut page: &'a Page<K, V>, key: &K)
    where
        K: Ord,
    {
        while let Page::Pages(pages) = page {
            let at = pages.at(key);
            self.pages.push(pages.below[at + 1..].iter());
            page = &pages.below[at].1;
        }
        if let Page::Entries(entries) = page {
            let at = entries.partition_point(|(other, _)| other < key);
            self.entries = entries[at..].iter();
        }
    }
}

impl<'a, K, V> Iterator for Entries<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.entries.next() {
                return Some((key, value));
            }
            match self.pages.last_mut()?.next() {
                Some((_, page)) => self.begin(page),
                None => drop(self.pages.pop()),
            }
        }
    }
}
