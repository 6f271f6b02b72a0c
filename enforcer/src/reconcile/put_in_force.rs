//! The way into force: compile, number, apply, keep.

use std::{error::Error, sync::Arc};

use time::OffsetDateTime;
use tokio::time::Instant;
use tracing::{error, info};

use super::{
    desired::{NodeFacts, plan},
    in_force::InForce,
    kernel::{Applied, Kernel},
    mode,
    reconciler::{HEAP_REST, NUMBER_GRACE, Reconciler, unix_milliseconds},
    tree::LoadedTree,
};
use crate::{
    api::{
        problem::{Problem, ProblemCode},
        status::PolicySource,
    },
    cause::chain,
    compile::{Inputs, Subjects},
    datapath::clock::WallClock,
    identity::binding,
    metrics::mode_name,
    observe::clock::{monotonic, rfc3339},
    policy::model::{Mode, Moment},
    state::{StateError, choices},
};

impl<K: Kernel> Reconciler<K> {
    /// Compiles, and lets the kernel take it. On an error nothing has changed.
    pub(super) fn put_in_force(
        &mut self,
        tree: LoadedTree,
        operator: Option<Mode>,
    ) -> Result<Applied, Problem> {
        let result = self.try_put_in_force(tree, operator);
        if result.is_ok() {
            self.current.activity.applied += 1;
            self.wiring.observer.applied(&self.current);
        } else {
            self.current.activity.failed += 1;
            self.wiring.observer.apply_failed();
        }
        result
    }

    fn try_put_in_force(
        &mut self,
        tree: LoadedTree,
        operator: Option<Mode>,
    ) -> Result<Applied, Problem> {
        let refused =
            |error: &(dyn Error + 'static)| Problem::new(ProblemCode::NotApplied, chain(error));
        let started = std::time::Instant::now();
        let mut snapshot = self.wiring.inventory.borrow_and_update().clone();
        if self.settings.datapath.cgroup_root.is_none() {
            // Nothing is hooked there: to enroll a cgroup would only look like enforcement.
            Arc::make_mut(&mut snapshot).cgroups.clear();
        }
        let elsewhere = self.wiring.elsewhere.borrow_and_update().clone();
        let bindings = self.wiring.bindings.borrow_and_update().clone();
        let workloads = &tree.policy.workloads;
        self.placer.follow(workloads);
        let placement = self.placer.place(&snapshot);
        let attested = binding::proven_by_address(&bindings, workloads, &placement);
        let now = &self.current;
        let mode = mode::effective(self.settings.mode, &tree.policy.node, operator);
        if self.clock_was_set() {
            self.clock = WallClock::now();
        }
        let same_policy = self.tree.is_some() && Arc::ptr_eq(&tree.policy, &now.policy);
        let as_of = Moment::now();
        let same_image = same_policy
            && !self.recompile
            && tree.policy.means_the_same(now.as_of, as_of)
            && mode.effective == now.mode.effective
            && Arc::ptr_eq(&elsewhere, &now.elsewhere)
            && snapshot.host_addresses == now.snapshot.host_addresses
            && attested == *now.attested;
        let image = if same_image {
            now.image.clone()
        } else {
            let inputs = Inputs {
                policy: &tree.policy,
                mode: mode.effective,
                now: as_of,
                host_addresses: &snapshot.host_addresses,
                elsewhere: &elsewhere,
                attested: &attested,
                subjects: Subjects::Placed,
                limits: &self.limits,
                in_force: Some(&now.image),
            };
            let image = self.compiler.compile(&inputs, &mut self.numbers.policy);
            Arc::new(image.map_err(|e| refused(&e))?)
        };
        let mut wanted = InForce {
            policy: tree.policy.clone(),
            from: tree.from,
            as_of: if same_image { now.as_of } else { as_of },
            elsewhere: elsewhere.clone(),
            image,
            mode,
            attested: Arc::new(attested),
            snapshot: snapshot.clone(),
            ..now.clone()
        };
        let facts = NodeFacts {
            name: &self.settings.node,
            uplinks: &self.settings.uplinks,
            report_allowed: self.settings.report_allowed,
            report_limit: self.settings.report_limit,
            reject_limit: self.settings.reject_limit,
            now: unix_milliseconds() / 1_000,
            clock: self.clock,
        };
        let numbers_before = self.numbers.endpoints.clone();
        let plan = plan(
            &wanted,
            &snapshot,
            placement,
            &bindings,
            &facts,
            &mut self.numbers.endpoints,
        )
        .map_err(|e| refused(&e))?;
        let all = self.recompile || self.numbers.endpoints != numbers_before;
        if all || !same_image {
            self.keep_numbers(all).map_err(|e| refused(&e))?;
        }
        wanted.endpoints = plan.endpoints.into();
        self.wiring.observer.announce(&wanted);
        let applied = match self.kernel.apply(&plan.desired) {
            Ok(applied) => applied,
            Err(error) => {
                self.wiring.observer.announce(&self.current);
                return Err(refused(&*error));
            }
        };
        wanted.generation = applied.generation;
        let commit = wanted.policy.commit.as_ref();
        wanted.commits.note(commit, applied.generation, monotonic());
        if !self.current.ready || !same_policy || wanted.mode != self.current.mode {
            wanted.since = Some(rfc3339(OffsetDateTime::now_utc()));
            info!(
                generation = applied.generation,
                digest = wanted.policy.digest,
                mode = mode_name(wanted.mode.effective),
                endpoints = wanted.endpoints.len(),
                milliseconds = started.elapsed().as_millis(),
                "in force"
            );
        }
        wanted.ready = true;
        wanted.activity.last_apply = started.elapsed();
        // What was refused before was another tree, or it is in force now.
        if tree.from != PolicySource::LastGood && !same_policy {
            wanted.refused = None;
        }
        if !same_image {
            self.recompile = false;
            self.retire.get_or_insert(Instant::now() + NUMBER_GRACE);
        }
        // Also without a new image: on a host with many endpoints a plan is large too.
        self.heap_due = Some(Instant::now() + HEAP_REST);
        self.trouble.host = None;
        self.shortfalls = plan.shortfalls;
        self.current = wanted;
        self.wiring.observer.announce(&self.current);
        if !same_policy {
            self.boundaries = tree.policy.boundaries();
        }
        self.await_boundary(as_of);
        self.tree = Some(tree);
        Ok(applied)
    }

    /// What is in force is final: a copy is kept, and the choices are written.
    pub(super) fn settle(&mut self) {
        if let Err(error) = self.try_settle() {
            error!(
                error = chain(&error),
                "the state directory cannot be written"
            );
            self.trouble.state = Some(chain(&error));
            self.retry_later();
        }
    }

    pub(super) fn try_settle(&mut self) -> Result<(), StateError> {
        let Some(tree) = self.tree.clone() else {
            return self.state.write(choices::FILE, &self.choices);
        };
        let digest = tree.digest().to_owned();
        if digest.is_empty() {
            return self.state.write(choices::FILE, &self.choices);
        }
        tree.store(&self.state)?;
        let mut choices = self.choices.clone();
        choices.confirm(digest.clone());
        self.state.write(choices::FILE, &choices)?;
        self.state.keep_trees(&[&digest])?;
        self.choices = choices;
        self.confirmed = Some(tree);
        self.trouble.state = None;
        Ok(())
    }

    pub(super) fn save_choices(&mut self) {
        match self.state.write(choices::FILE, &self.choices) {
            Ok(()) => self.trouble.state = None,
            Err(error) => {
                error!(
                    error = chain(&error),
                    "the operator's choices cannot be kept"
                );
                self.trouble.state = Some(chain(&error));
                self.retry_later();
            }
        }
    }
}
