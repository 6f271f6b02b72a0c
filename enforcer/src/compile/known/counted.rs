//! Numbers that are there more than once.

use std::collections::BTreeMap;

/// Numbers, and how often each is there.
#[derive(Debug, Default)]
pub(super) struct Counted(BTreeMap<u32, usize>);

impl Counted {
    /// Lets each number be there as often more, or less, as is said. Returns those that were not
    /// there, and those that are not there any more, ascending.
    pub fn change(&mut self, more: &BTreeMap<u32, isize>) -> Vec<u32> {
        let mut turned = Vec::new();
        for (number, more) in more {
            let before = self.0.remove(number).unwrap_or_default();
            let now = before.saturating_add_signed(*more);
            if now > 0 {
                self.0.insert(*number, now);
            }
            if (before == 0) != (now == 0) {
                turned.push(*number);
            }
        }
        turned
    }

    /// Whether a number is there.
    pub fn has(&self, number: u32) -> bool {
        self.0.contains_key(&number)
    }

    /// Each number once, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_told_when_it_comes_and_when_the_last_of_it_goes() {
        let mut counted = Counted::default();
        let mut change = |more: &[(u32, isize)]| counted.change(&more.iter().copied().collect());
        assert_eq!(change(&[(7, 2), (3, 1), (5, 0)]), [3, 7]);
        assert!(change(&[(7, -1), (3, 1)]).is_empty());
        assert_eq!(change(&[(7, -1), (3, -1)]), [7]);
        assert!(counted.has(3) && !counted.has(7));
        assert!(counted.iter().eq([3]));
    }
}
