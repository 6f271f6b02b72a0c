//! Pauses between attempts, longer each time and never the same for two nodes: a fleet that lost
//! its registry does not come back in one rush.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub struct Pause {
    longest: Duration,
    hasher: RandomState,
    times: u64,
}

impl Default for Pause {
    fn default() -> Self {
        Self {
            longest: FIRST,
            hasher: RandomState::new(),
            times: 0,
        }
    }
}

impl Pause {
    /// It went well.
    pub fn reset(&mut self) {
        self.longest = FIRST;
    }

    /// How long to wait now: between half of the pause and the whole.
    pub fn take(&mut self) -> Duration {
        self.times += 1;
        let half = self.longest / 2;
        // A keyed hash of a count is as good as random here.
        let thousandths = u32::try_from(self.hasher.hash_one(self.times) % 1_000).unwrap_or(0);
        self.longest = (self.longest * 2).min(LONGEST);
        half + half * thousandths / 1_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_grow_to_a_bound_and_begin_again() {
        let mut pause = Pause::default();
        let first = pause.take();
        assert!(first >= FIRST / 2 && first <= FIRST);
        let last = (0..20).map(|_| pause.take()).last().unwrap();
        assert!(last >= LONGEST / 2 && last <= LONGEST);
        pause.reset();
        assert!(pause.take() <= FIRST);
    }
}
