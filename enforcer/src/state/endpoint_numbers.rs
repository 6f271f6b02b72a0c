//! Numbers of endpoints: what kept its place keeps its number, across restarts too.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::datapath::desired::HOST_ENDPOINT;

/// Which endpoint: the workload and the name of its place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EndpointKey {
    /// Namespace of the workload.
    pub namespace: String,
    /// Name of the workload.
    pub name: String,
    /// Interface name, or cgroup path below the cgroup root, which starts with `/`.
    pub place: String,
}

/// Seconds for which a vanished endpoint keeps its number: longer than the kernel keeps the
/// flows of a place that is gone, but for established TCP, which dies with the place.
const GRACE_SECONDS: u64 = 600;

/// Every number in use or in its grace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointNumbers {
    last: u32,
    #[serde(with = "as_list")]
    numbers: BTreeMap<EndpointKey, Slot>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Slot {
    number: u32,
    /// Second of the Unix epoch when it was first seen to be gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gone: Option<u64>,
}

impl Default for EndpointNumbers {
    fn default() -> Self {
        Self {
            last: HOST_ENDPOINT,
            numbers: BTreeMap::new(),
        }
    }
}

impl EndpointNumbers {
    /// The number of an endpoint, given if need be. Numbers only rise, so none is used again
    /// before four thousand million endpoints have come and gone.
    pub fn number(&mut self, key: &EndpointKey) -> u32 {
        if let Some(slot) = self.numbers.get(key) {
            return slot.number;
        }
        self.last = self.last.wrapping_add(1).max(HOST_ENDPOINT + 1);
        let slot = Slot {
            number: self.last,
            gone: None,
        };
        self.numbers.insert(key.clone(), slot);
        slot.number
    }

    /// Notes which endpoints exist at `now` (seconds of the Unix epoch), and forgets those that
    /// are gone for long.
    pub fn retain(&mut self, present: &BTreeSet<EndpointKey>, now: u64) {
        self.numbers.retain(|key, slot| {
            if present.contains(key) {
                slot.gone = None;
                return true;
            }
            let since = *slot.gone.get_or_insert(now);
            now.saturating_sub(since) <= GRACE_SECONDS
        });
    }
}

/// JSON objects have strings for keys only.
mod as_list {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer};

    use super::{EndpointKey, Slot};

    pub fn serialize<S: Serializer>(
        numbers: &BTreeMap<EndpointKey, Slot>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(numbers)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<EndpointKey, Slot>, D::Error> {
        let list = Vec::<(EndpointKey, Slot)>::deserialize(deserializer)?;
        Ok(list.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(place: &str) -> EndpointKey {
        EndpointKey {
            namespace: "shop".into(),
            name: "web".into(),
            place: place.into(),
        }
    }

    #[test]
    fn what_comes_back_in_time_has_its_number_and_no_number_comes_twice() {
        let mut numbers = EndpointNumbers::default();
        let (a, b) = (numbers.number(&key("/a")), numbers.number(&key("/b")));
        assert_eq!((a, b), (2, 3));
        let only_b = BTreeSet::from([key("/b")]);
        numbers.retain(&only_b, 1_000);
        numbers.retain(&only_b, 1_000 + GRACE_SECONDS);
        assert_eq!(numbers.number(&key("/a")), 2);
        numbers.retain(&only_b, 1_001 + GRACE_SECONDS);
        assert_eq!(numbers.number(&key("/a")), 4);
        assert_eq!(numbers.number(&key("/b")), 3);
    }

    #[test]
    fn json_and_back() {
        let mut numbers = EndpointNumbers::default();
        numbers.number(&key("/a"));
        numbers.retain(&BTreeSet::new(), 7);
        let json = serde_json::to_string(&numbers).unwrap();
        assert_eq!(
            serde_json::from_str::<EndpointNumbers>(&json).unwrap(),
            numbers
        );
    }
}
