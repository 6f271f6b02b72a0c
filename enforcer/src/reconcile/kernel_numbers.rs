//! Numbers that the kernel knows, in the state directory.
//!
//! The file with all of them takes its time when there are many. So a change only notes how far
//! numbers were given, which is on disk before the kernel learns a new one, and the file is
//! written when the host has come to rest. What is noted and lost in between is never given
//! another meaning: after such a crash it is numbered anew.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::{error, warn};

use super::{
    kernel::Kernel,
    reconciler::{Reconciler, unix_milliseconds},
};
use crate::{
    cause::chain,
    compile::{Numbers, numbers::Given},
    state::{StateDir, StateError, endpoint_numbers::EndpointNumbers},
};

/// Name of the file with the numbers that the kernel knows.
const NUMBERS_FILE: &str = "numbers.json";
/// Name of the file that says how far numbers were given since that one was written.
const GIVEN_FILE: &str = "numbers-given.json";
/// A file of this many bytes is written at every change.
const SMALL: u64 = 1 << 20;
/// A larger one when no number was given for this long.
const REST: Duration = Duration::from_secs(5);

/// Numbers that the kernel knows.
#[derive(Debug, Serialize, Deserialize)]
pub struct KernelNumbers {
    /// Names this numbering: maps that were filled by another one are not taken over.
    pub numbering: u64,
    /// Of identities, rules, sets and tables.
    pub policy: Numbers,
    /// Of endpoints.
    pub endpoints: EndpointNumbers,
}

#[derive(Debug, Serialize, Deserialize)]
struct Noted {
    numbering: u64,
    given: Given,
}

impl KernelNumbers {
    /// As the last run left them, or else a new numbering, which is on disk when this returns.
    pub fn open(state: &StateDir) -> Result<Self, StateError> {
        match Self::read(state) {
            Ok(Some(numbers)) => return Ok(numbers),
            Ok(None) => {}
            // Nothing is lost but the use of the former maps.
            Err(error @ StateError::Damaged { .. }) => {
                warn!(error = chain(&error), "the kernel's maps are numbered anew");
            }
            Err(error) => return Err(error),
        }
        let fresh = Self {
            // The keys of the standard library's hasher are random.
            numbering: RandomState::new().hash_one(unix_milliseconds()),
            policy: Numbers::default(),
            endpoints: EndpointNumbers::default(),
        };
        state.write(NUMBERS_FILE, &fresh)?;
        Ok(fresh)
    }

    fn read(state: &StateDir) -> Result<Option<Self>, StateError> {
        let Some(mut numbers) = state.read::<Self>(NUMBERS_FILE)? else {
            return Ok(None);
        };
        if let Some(noted) = state.read::<Noted>(GIVEN_FILE)?
            && noted.numbering == numbers.numbering
        {
            numbers.policy.skip(&noted.given);
        }
        Ok(Some(numbers))
    }
}

impl<K: Kernel> Reconciler<K> {
    /// To be called before the kernel learns new numbers. `all`: what was numbered before may
    /// have changed too.
    pub(super) fn keep_numbers(&mut self, all: bool) -> Result<(), StateError> {
        if all || self.state.size(NUMBERS_FILE) <= SMALL {
            return self.write_numbers();
        }
        // Until it is noted, also what was numbered for a change that failed.
        self.numbers_unkept |= self.numbers.policy.gave();
        if self.numbers_unkept {
            let noted = Noted {
                numbering: self.numbers.numbering,
                given: self.numbers.policy.given(),
            };
            self.state.write(GIVEN_FILE, &noted)?;
            self.numbers_unkept = false;
            self.numbers_due = Some(Instant::now() + REST);
        }
        Ok(())
    }

    fn write_numbers(&mut self) -> Result<(), StateError> {
        self.state.write(NUMBERS_FILE, &self.numbers)?;
        self.numbers_due = None;
        self.numbers_unkept = false;
        Ok(())
    }

    /// Writes what was only noted.
    pub(super) fn numbers_at_rest(&mut self) {
        if self.numbers_due.is_some()
            && let Err(error) = self.write_numbers()
        {
            error!(error = chain(&error), "the kernel's numbers cannot be kept");
            self.numbers_due = Some(Instant::now() + REST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::{Inputs, Limits, Subjects, compile};

    fn image(numbers: &mut Numbers, names: &[&str]) -> crate::compile::Image {
        let rules = names
            .iter()
            .map(|name| format!("{{name: {name}, from: [{{entity: host}}]}}"));
        let text = format!(
            "apiVersion: enforcer.dev/v1alpha1\nkind: SegmentPolicy\nmetadata: {{name: p}}\n\
             spec: {{selector: {{host: true}}, ingress: [{}]}}\n",
            rules.collect::<Vec<_>>().join(", ")
        );
        let policy = crate::policy::load_text("a.yaml", &text).unwrap();
        let inputs = Inputs {
            policy: &policy,
            mode: crate::policy::model::Mode::Enforce,
            now: crate::policy::model::Moment::default(),
            host_addresses: &[],
            elsewhere: &crate::compile::elsewhere::NOBODY,
            attested: crate::compile::NOBODY,
            subjects: Subjects::All,
            limits: &Limits::NONE,
            in_force: None,
        };
        compile(&inputs, numbers).unwrap()
    }

    #[test]
    fn numbers_that_were_only_noted_are_not_given_again() {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::open(root.path()).unwrap();
        let mut numbers = KernelNumbers::open(&state).unwrap();
        let first = image(&mut numbers.policy, &["a"]);
        state.write(NUMBERS_FILE, &numbers).unwrap();
        let again = KernelNumbers::open(&state).unwrap();
        assert_eq!(
            serde_json::to_string(&again).unwrap(),
            serde_json::to_string(&numbers).unwrap()
        );
        let second = image(&mut numbers.policy, &["b"]);
        assert!(numbers.policy.gave());
        let noted = Noted {
            numbering: numbers.numbering,
            given: numbers.policy.given(),
        };
        state.write(GIVEN_FILE, &noted).unwrap();

        let mut after = KernelNumbers::open(&state).unwrap();
        let third = image(&mut after.policy, &["c"]);
        let sets = |image: &crate::compile::Image| -> Vec<u32> {
            image.policies.parts().map(|(set, _)| set).collect()
        };
        assert!(sets(&third).iter().all(|set| !sets(&second).contains(set)));
        let new = |image: &crate::compile::Image| -> Vec<u32> {
            let rules = image.rules.missing_in(&first.rules);
            rules.map(|(number, _)| *number).collect()
        };
        assert!(!new(&second).is_empty() && !new(&third).is_empty());
        assert!(new(&third).iter().all(|rule| !new(&second).contains(rule)));
        // What was written before keeps its number.
        assert_eq!(sets(&image(&mut after.policy, &["a"])), sets(&first));
    }
}
