//! One space of numbers, which are given, idle, and forgotten.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    hash::Hash,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Retired;

/// One space of numbers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Space<K: Eq + Hash> {
    /// The highest number ever given.
    pub last: u32,
    /// Numbers below `last` to give first.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub free: BTreeSet<u32>,
    #[serde(
        bound(
            serialize = "K: Serialize",
            deserialize = "K: Deserialize<'de> + Eq + Hash"
        ),
        serialize_with = "write_slots",
        deserialize_with = "read_slots"
    )]
    pub slots: HashMap<K, Slot>,
    /// What was numbered since the compilation began, and `last` before it.
    #[serde(skip, default = "nothing_given")]
    given: (u32, Vec<K>),
}

fn nothing_given<K>() -> (u32, Vec<K>) {
    (0, Vec::new())
}

impl<K: Eq + Hash> Default for Space<K> {
    fn default() -> Self {
        Self {
            last: 0,
            free: BTreeSet::new(),
            slots: HashMap::new(),
            given: nothing_given(),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub number: u32,
    /// No image has needed it since [`Numbers::retire`] was called.
    idle: bool,
}

impl<K: Eq + Hash + Clone> Space<K> {
    pub fn begin(&mut self) {
        self.given = (self.last, Vec::new());
    }

    pub fn gave(&self) -> bool {
        !self.given.1.is_empty()
    }

    /// Returns the numbers that have no meaning again.
    pub fn roll_back(&mut self) -> Vec<u32> {
        let (last, keys) = std::mem::take(&mut self.given);
        let slots = keys.iter().filter_map(|key| self.slots.remove(key));
        let numbers: Vec<u32> = slots.map(|slot| slot.number).collect();
        let reused = numbers.iter().filter(|number| **number <= last);
        self.free.extend(reused);
        self.last = last;
        numbers
    }

    /// `None` when there is no number left.
    pub fn number(&mut self, key: &K, first: u32) -> Option<u32> {
        if let Some(slot) = self.slots.get_mut(key) {
            slot.idle = false;
            return Some(slot.number);
        }
        let number = match self.free.pop_first() {
            Some(number) => number,
            None => self.last.checked_add(1)?.max(first),
        };
        self.last = self.last.max(number);
        let slot = Slot {
            number,
            idle: false,
        };
        self.slots.insert(key.clone(), slot);
        self.given.1.push(key.clone());
        Some(number)
    }

    /// Returns what is forgotten.
    pub fn retire(&mut self, used: &HashSet<u32>, retired: &mut Retired) -> Vec<u32> {
        let mut forgotten = Vec::new();
        self.slots.retain(|_, slot| {
            let idle = !used.contains(&slot.number);
            if idle && slot.idle {
                forgotten.push(slot.number);
                return false;
            }
            slot.idle = idle;
            retired.idle |= idle;
            true
        });
        retired.forgotten |= !forgotten.is_empty();
        forgotten
    }
}

fn write_slots<K: Serialize, S: Serializer>(
    slots: &HashMap<K, Slot>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut list: Vec<_> = slots.iter().map(|(k, s)| (s.number, s.idle, k)).collect();
    list.sort_unstable_by_key(|(number, ..)| *number);
    serializer.collect_seq(list)
}

fn read_slots<'de, K: Deserialize<'de> + Eq + Hash, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<HashMap<K, Slot>, D::Error> {
    let list = Vec::<(u32, bool, K)>::deserialize(deserializer)?;
    let slots = list.into_iter();
    Ok(slots
        .map(|(number, idle, key)| (key, Slot { number, idle }))
        .collect())
}
