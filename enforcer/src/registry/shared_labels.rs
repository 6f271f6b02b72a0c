//! Labels of a fleet, each once in memory however many workloads have them.

use std::collections::HashSet;

use crate::policy::model::Labels;

/// Looks for what is not in use any more begin when there are so many.
const FEW: usize = 1_024;

/// Labels that are in use, and at most as many that were.
#[derive(Debug, Default)]
pub(super) struct SharedLabels {
    known: HashSet<Labels>,
    /// At how many it is looked for those that nobody has any more.
    full: usize,
}

impl SharedLabels {
    /// The same labels, in memory where those are that were the first.
    pub fn share(&mut self, labels: Labels) -> Labels {
        if let Some(known) = self.known.get(&labels) {
            return known.clone();
        }
        if self.known.len() >= self.full {
            self.known.retain(Labels::is_shared);
            self.full = FEW.max(self.known.len() * 2);
        }
        self.known.insert(labels.clone());
        labels
    }

    /// Knows none any more.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(number: usize) -> Labels {
        Labels::from([("app".to_owned(), number.to_string())])
    }

    #[test]
    fn equal_labels_are_one_and_what_nobody_has_goes() {
        let mut shared = SharedLabels::default();
        let first = shared.share(labels(0));
        let again = shared.share(labels(0));
        assert!(std::ptr::eq(&raw const *first, &raw const *again));
        for number in 1..10 * FEW {
            shared.share(labels(number));
        }
        assert!(shared.known.len() <= FEW, "{}", shared.known.len());
        assert!(shared.known.contains(&first));
        // Those that somebody has stay, however many.
        let held: Vec<_> = (0..3 * FEW).map(|n| shared.share(labels(n))).collect();
        assert!(held.iter().all(|labels| shared.known.contains(labels)));
    }
}
