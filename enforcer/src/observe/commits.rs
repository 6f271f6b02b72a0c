//! Which git commit of the policy tree was in force, and when.

use std::sync::Arc;

/// How many are remembered.
const MOST: usize = 64;

/// The commits of the trees that were in force, oldest first, up to the present one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commits(Vec<Term>);

/// A commit, and since when it was in force.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    /// Policy generation.
    generation: u32,
    /// Nanoseconds of the monotonic clock.
    time: u64,
    /// `None` for a tree that is in no git work tree.
    commit: Option<Arc<str>>,
}

impl Commits {
    /// This is the commit in force from this generation and this moment (nanoseconds of the
    /// monotonic clock) on.
    pub fn note(&mut self, commit: Option<&Arc<str>>, generation: u32, time: u64) {
        let last = self.0.last();
        if last.is_some_and(|last| last.commit.as_ref() == commit) {
            return;
        }
        if self.0.len() == MOST {
            self.0.remove(0);
        }
        self.0.push(Term {
            generation,
            time,
            commit: commit.cloned(),
        });
    }

    /// The commit in force in a generation, the last one where there were several. `None` also
    /// where it is not known.
    pub fn at_generation(&self, generation: u32) -> Option<&Arc<str>> {
        self.last(|term| term.generation <= generation)
    }

    /// The commit in force at a moment (nanoseconds of the monotonic clock). `None` also where
    /// it is not known.
    pub fn at(&self, time: u64) -> Option<&Arc<str>> {
        self.last(|term| term.time <= time)
    }

    fn last(&self, began: impl Fn(&Term) -> bool) -> Option<&Arc<str>> {
        let mut terms = self.0.iter().rev();
        terms.find(|term| began(term))?.commit.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commit_of_then_is_known_and_that_before_all_is_not() {
        let mut commits = Commits::default();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        commits.note(Some(&a), 5, 100);
        commits.note(Some(&a), 6, 200);
        commits.note(Some(&b), 7, 300);
        // The same files in another place: the kernel has nothing to change.
        commits.note(None, 7, 400);
        let at = |commit: Option<&Arc<str>>| commit.map(ToString::to_string);
        let by_generation = [4, 5, 6, 7, 8].map(|n| at(commits.at_generation(n)));
        let (a, b) = (Some("a".to_owned()), Some("b".to_owned()));
        assert_eq!(by_generation, [None, a.clone(), a.clone(), None, None]);
        let by_time = [99, 100, 299, 300, 400].map(|t| at(commits.at(t)));
        assert_eq!(by_time, [None, a.clone(), a, b, None]);
    }

    #[test]
    fn not_all_are_kept() {
        let mut commits = Commits::default();
        for number in 0..100_u32 {
            commits.note(Some(&number.to_string().into()), number, number.into());
        }
        assert_eq!(commits.0.len(), MOST);
        assert_eq!(commits.at_generation(35), None);
        assert_eq!(commits.at_generation(36).map(AsRef::as_ref), Some("36"));
    }
}
