//! The operator's choices, which outlive the daemon: mode, held tree, trial.

use serde::{Deserialize, Serialize};

use crate::policy::model::Mode;

/// Name of the file in the state directory.
pub const FILE: &str = "choices.json";

/// Content of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choices {
    /// `apply --mode`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Digest of the content of the watched tree that is not to be put in force by itself: it
    /// was rolled back, or `apply --policies` went over it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// Digest of the last good tree that is not on trial; its copy is in the state directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed: Option<String>,
    /// The trial that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<TrialRecord>,
}

/// A trial, with what it goes back to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialRecord {
    /// Milliseconds of the Unix epoch when it rolls back.
    pub deadline: u64,
    /// Length in milliseconds. A clock that was set back does not make the trial longer.
    pub span: u64,
    /// [`Choices::mode`] before.
    pub mode: Option<Mode>,
    /// [`Choices::held`] before.
    pub held: Option<String>,
    /// The tree on trial, where it is not the watched one: its digest. Its copy is in the state
    /// directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree: Option<String>,
}

impl TrialRecord {
    /// Milliseconds that are left at `now` (milliseconds of the Unix epoch).
    pub fn remaining(&self, now: u64) -> u64 {
        self.deadline.saturating_sub(now).min(self.span)
    }
}

impl Choices {
    /// Starts a trial, or makes a running one longer: then it still goes back to what was
    /// before the first. The new choices are entered by the caller, afterwards.
    pub fn begin_trial(&mut self, now: u64, span: u64) {
        let trial = self.trial.take().unwrap_or_else(|| TrialRecord {
            deadline: 0,
            span: 0,
            mode: self.mode,
            held: self.held.clone(),
            tree: None,
        });
        self.trial = Some(TrialRecord {
            deadline: now.saturating_add(span),
            span,
            ..trial
        });
    }

    /// Keeps what is on trial; `digest` is the tree in force, whose copy is stored.
    pub fn confirm(&mut self, digest: String) {
        self.trial = None;
        self.confirmed = Some(digest);
    }

    /// Goes back to what was before the trial. `watched` is the digest of the watched tree as it
    /// is now (`None`: it cannot be read): if that is not what was confirmed, it is held.
    pub fn roll_back(&mut self, watched: Option<String>) {
        let Some(trial) = self.trial.take() else {
            return;
        };
        self.mode = trial.mode;
        self.held = match watched {
            Some(digest) => (Some(&digest) != self.confirmed.as_ref()).then_some(digest),
            None => trial.held,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn before() -> Choices {
        Choices {
            mode: Some(Mode::Audit),
            held: None,
            confirmed: Some("old".into()),
            trial: None,
        }
    }

    #[test]
    fn a_rollback_restores_the_choices_and_holds_the_tree() {
        let mut choices = before();
        choices.begin_trial(1_000, 60_000);
        choices.mode = Some(Mode::Enforce);
        choices.roll_back(Some("new".into()));
        assert_eq!(
            choices,
            Choices {
                held: Some("new".into()),
                ..before()
            }
        );
    }

    #[test]
    fn a_rollback_of_the_mode_alone_holds_nothing() {
        let mut choices = before();
        choices.begin_trial(1_000, 60_000);
        choices.mode = Some(Mode::Enforce);
        choices.roll_back(Some("old".into()));
        assert_eq!(choices, before());
    }

    #[test]
    fn a_second_trial_goes_back_to_what_was_before_the_first() {
        let mut choices = before();
        choices.begin_trial(1_000, 60_000);
        choices.mode = Some(Mode::Enforce);
        choices.begin_trial(50_000, 60_000);
        assert_eq!(choices.trial.as_ref().unwrap().remaining(50_000), 60_000);
        choices.roll_back(Some("old".into()));
        assert_eq!(choices.mode, Some(Mode::Audit));
    }

    #[test]
    fn confirmed_is_kept() {
        let mut choices = before();
        choices.begin_trial(1_000, 60_000);
        choices.mode = Some(Mode::Enforce);
        choices.confirm("new".into());
        assert_eq!(choices.mode, Some(Mode::Enforce));
        assert_eq!(choices.confirmed.as_deref(), Some("new"));
        assert_eq!(choices.trial, None);
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_lengthen_a_trial() {
        let mut choices = before();
        choices.begin_trial(1_000_000, 60_000);
        let trial = choices.trial.unwrap();
        assert_eq!(trial.remaining(1_010_000), 50_000);
        assert_eq!(trial.remaining(0), 60_000);
        assert_eq!(trial.remaining(2_000_000), 0);
    }
}
