//! What the operator asks for: apply, confirm, and the rollback of what was not confirmed.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{
    command::Command,
    in_force::Trial,
    kernel::Kernel,
    reconciler::{FIRST_RETRY, Reconciler, unix_milliseconds},
    tree::{self, LoadedTree},
};
use crate::{
    api::{
        problem::{Problem, ProblemCode},
        request::{ApplyAnswer, ApplyRequest, ConfirmAnswer},
        status::PolicySource,
    },
    cause::chain,
    metrics::mode_name,
    policy::Loader,
    state::choices::{self, Choices},
};

/// Longest trial: what nobody confirms for a day, nobody looks at.
const LONGEST_TRIAL: Duration = Duration::from_hours(24);

impl<K: Kernel> Reconciler<K> {
    pub(super) fn command(&mut self, command: Command) {
        match command {
            Command::Apply(request, reply) => {
                let answer = self.apply(&request);
                if let Err(problem) = &answer {
                    warn!(%problem, "apply was refused");
                }
                // Published first: whoever has the answer sees its effect.
                self.publish();
                let _ = reply.send(answer);
            }
            Command::Confirm(reply) => {
                let answer = self.confirm();
                self.publish();
                let _ = reply.send(answer);
            }
            Command::Refresh(reply) => {
                self.read_tree();
                self.publish();
                let _ = reply.send(());
            }
            Command::Reload => {
                self.wiring.manager.reloading();
                self.read_tree();
                self.publish();
                self.wiring.manager.ready(&self.summary());
            }
        }
    }

    fn apply(&mut self, request: &ApplyRequest) -> Result<ApplyAnswer, Problem> {
        let bad_request = |message| Err(Problem::new(ProblemCode::BadRequest, message));
        if request.mode.is_some() && request.forget_mode {
            return bad_request("a mode and no mode at once");
        }
        if request.tree.as_ref().is_some_and(|t| !t.is_absolute()) {
            return bad_request("the path of the tree must be absolute");
        }
        let span = request.trial_milliseconds;
        if span.is_some_and(|s| s == 0 || u128::from(s) > LONGEST_TRIAL.as_millis()) {
            return bad_request("a trial takes at least a millisecond and at most 24 hours");
        }
        let mut choices = self.choices.clone();
        match span {
            Some(span) => choices.begin_trial(unix_milliseconds(), span),
            // Without a trial it is final, whatever was on trial before.
            None => choices.trial = None,
        }
        if request.mode.is_some() || request.forget_mode {
            choices.mode = request.mode;
        }
        let tree = self.tree_for(request, &mut choices)?;

        // A trial must be on disk before it begins; everything else only once it is in force.
        let before = self.choices.clone();
        if choices.trial.is_some() {
            self.state
                .write(choices::FILE, &choices)
                .and_then(|()| tree.store(&self.state))
                .map_err(|e| Problem::new(ProblemCode::Internal, chain(&e)))?;
        }
        let mode_before = self.current.mode.effective;
        let applied = match self.put_in_force(tree, choices.mode) {
            Ok(applied) => applied,
            Err(problem) => {
                if choices.trial.is_some()
                    && let Err(error) = self.state.write(choices::FILE, &before)
                {
                    error!(
                        error = chain(&error),
                        "cannot take back the note of a trial"
                    );
                }
                return Err(problem);
            }
        };
        self.choices = choices;
        self.trial_deadline = span.map(|s| Instant::now() + Duration::from_millis(s));
        if span.is_none() {
            self.settle();
        }
        let trial = self.trial();
        if let Some(trial) = &trial {
            info!(
                deadline = trial.status(0).deadline,
                "on trial: rolls back unless confirmed"
            );
        }
        Ok(ApplyAnswer {
            changed: applied.changed || mode_before != self.current.mode.effective,
            generation: self.current.generation,
            digest: self.current.policy.digest.clone(),
            mode: self.current.mode.effective,
            trial: trial.map(|t| t.status(unix_milliseconds())),
            warning: match &self.current.refused {
                Some(refused) if request.tree.is_none() => Some(refused.problem.message.clone()),
                _ => None,
            },
        })
    }

    /// The tree that an `apply` is about. A request about the mode alone is carried out over the
    /// policy in force when the watched tree is broken or held: the way back to audit must not
    /// depend on anything.
    fn tree_for(
        &mut self,
        request: &ApplyRequest,
        choices: &mut Choices,
    ) -> Result<LoadedTree, Problem> {
        if let Some(path) = &request.tree {
            let tree = LoadedTree::read(&mut Loader::default(), path, PolicySource::Operator)
                .map_err(|errors| tree::problem(path, &errors))?;
            if let Some(watched) = self.load_watched() {
                choices.held = Some(watched.digest().to_owned());
            }
            if let Some(trial) = &mut choices.trial {
                trial.tree = Some(tree.digest().to_owned());
            }
            return Ok(tree);
        }
        let mode_only = request.mode.is_some() || request.forget_mode;
        if mode_only
            && choices.held.is_some()
            && let Some(tree) = &self.tree
        {
            return Ok(tree.clone());
        }
        if let Some(tree) = self.load_watched() {
            choices.held = None;
            if let Some(trial) = &mut choices.trial {
                trial.tree = None;
            }
            return Ok(tree);
        }
        if mode_only && let Some(tree) = &self.tree {
            return Ok(tree.clone());
        }
        Err(match &self.current.refused {
            Some(refused) => refused.problem.clone(),
            None => Problem::new(ProblemCode::BadPolicy, "the policy tree cannot be read"),
        })
    }

    fn confirm(&mut self) -> Result<ConfirmAnswer, Problem> {
        if self.choices.trial.is_none() {
            return Err(Problem::new(
                ProblemCode::NoTrial,
                "there is no trial: it was rolled back, confirmed, or never begun",
            ));
        }
        let trial = self.choices.trial.take();
        if let Err(error) = self.try_settle() {
            // It was not written, so it would be rolled back after a restart: say no.
            self.choices.trial = trial;
            return Err(Problem::new(ProblemCode::Internal, chain(&error)));
        }
        self.trial_deadline = None;
        info!(
            digest = self.current.policy.digest,
            "the trial was confirmed"
        );
        Ok(ConfirmAnswer {
            generation: self.current.generation,
            digest: self.current.policy.digest.clone(),
            mode: self.current.mode.effective,
        })
    }

    /// The trial's time is over.
    pub(super) fn roll_back(&mut self) {
        let mut choices = self.choices.clone();
        choices.roll_back(self.watched.clone());
        let tree = match (&self.confirmed, &choices.confirmed) {
            (Some(tree), _) => tree.clone(),
            (None, None) => LoadedTree::nothing(),
            // Its copy cannot be read. The mode at least goes back.
            (None, Some(_)) => self.tree.clone().unwrap_or_else(LoadedTree::nothing),
        };
        match self.put_in_force(tree, choices.mode) {
            Ok(_) => {
                warn!(
                    digest = self.current.policy.digest,
                    mode = mode_name(self.current.mode.effective),
                    "nobody confirmed the trial: it is rolled back"
                );
                self.trouble.rollback = None;
                self.current.activity.rolled_back += 1;
                self.choices = choices;
                self.trial_deadline = None;
                self.save_choices();
            }
            Err(problem) => {
                error!(%problem, "the trial cannot be rolled back; it is tried again");
                self.trouble.rollback = Some(format!("a trial cannot be rolled back: {problem}"));
                self.trial_deadline = Some(Instant::now() + FIRST_RETRY);
            }
        }
    }

    /// Takes up a trial of a former run, or ends it when its time is over. Returns the tree on
    /// trial where it is not the watched one.
    pub(super) fn resume_trial(&mut self) -> Option<LoadedTree> {
        let trial = self.choices.trial.clone()?;
        let remaining = trial.remaining(unix_milliseconds());
        if remaining == 0 {
            warn!("a trial ran out while the daemon was away: it is rolled back");
            self.choices.roll_back(self.watched.clone());
            self.current.activity.rolled_back += 1;
            self.save_choices();
            return None;
        }
        self.trial_deadline = Some(Instant::now() + Duration::from_millis(remaining));
        let digest = trial.tree?;
        LoadedTree::read_copy(&self.state, &digest)
            .inspect_err(|errors| warn!(%digest, %errors, "the tree on trial cannot be read"))
            .ok()
    }

    pub(super) fn trial(&self) -> Option<Trial> {
        self.choices.trial.as_ref().map(|trial| Trial {
            deadline: trial.deadline,
            rollback_digest: self.choices.confirmed.clone().unwrap_or_default(),
            rollback_mode: trial.mode,
        })
    }
}
