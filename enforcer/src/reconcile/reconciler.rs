//! The loop itself.

use std::{collections::BTreeSet, future::pending, sync::Arc, time::Duration};

use anyhow::Context;
use time::OffsetDateTime;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    clock_steps::ClockSteps,
    command::Command,
    in_force::InForce,
    kernel::Kernel,
    kernel_numbers::KernelNumbers,
    observer::Observer,
    tree::{self, LoadedTree},
};
use crate::{
    api::{
        problem::{Problem, ProblemCode},
        status::{Health, PolicySource, Refused},
    },
    compile::{Compiler, Limits, elsewhere::Elsewhere},
    datapath::clock::WallClock,
    heap,
    identity::binding::Bindings,
    inventory::{Snapshot, place::Placer},
    metrics::mode_name,
    observe::clock::rfc3339,
    policy::{Loader, model::Moment},
    sd_notify::ServiceManager,
    settings::Settings,
    state::{
        StateDir, StateError,
        choices::{self, Choices},
    },
};

/// First pause after a failure; it doubles up to [`LONGEST_RETRY`].
pub(super) const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_mins(1);
/// For how long the kernel may still speak by the numbers of an image that was replaced: longer
/// than its table of denied flows keeps an entry, and than names are remembered.
pub(super) const NUMBER_GRACE: Duration = Duration::from_mins(15);
/// How long the clock is not looked at while a boundary is awaited: it may be set meanwhile.
const LONGEST_DOZE: Duration = Duration::from_secs(10);
/// When nothing was put in force for this long, memory that it took is given back.
pub(super) const HEAP_REST: Duration = Duration::from_millis(200);
/// Signs of life where no service manager asks for them.
const IDLE_TICK: Duration = Duration::from_hours(1);

/// What the loop listens to and whom it tells.
pub struct Wiring {
    /// The host.
    pub inventory: watch::Receiver<Arc<Snapshot>>,
    /// Other hosts.
    pub elsewhere: watch::Receiver<Arc<Elsewhere>>,
    /// Proofs of identity.
    pub bindings: watch::Receiver<Arc<Bindings>>,
    /// The policy tree changed.
    pub tree_changed: Arc<Notify>,
    /// Wishes.
    pub commands: mpsc::Receiver<Command>,
    /// Everybody who shows what is in force.
    pub published: watch::Sender<Arc<InForce>>,
    /// Who is told what happens.
    pub observer: Arc<dyn Observer>,
    /// The service manager.
    pub manager: Arc<ServiceManager>,
}

/// The loop's state.
pub struct Reconciler<K> {
    pub(super) settings: Arc<Settings>,
    pub(super) limits: Limits,
    pub(super) state: StateDir,
    pub(super) kernel: K,
    pub(super) wiring: Wiring,
    /// The kernel enforces what a former run left there.
    pub(super) former: bool,
    pub(super) choices: Choices,
    pub(super) numbers: KernelNumbers,
    /// What is in force, if this daemon put it there.
    pub(super) tree: Option<LoadedTree>,
    /// What a rollback goes back to.
    pub(super) confirmed: Option<LoadedTree>,
    /// Digest of the watched tree when it was last read without errors.
    pub(super) watched: Option<String>,
    pub(super) loader: Loader,
    pub(super) current: InForce,
    /// Where enforcement is not what it should be.
    pub(super) shortfalls: Vec<String>,
    /// What went wrong since, until it goes well.
    pub(super) trouble: Trouble,
    pub(super) trial_deadline: Option<Instant>,
    pub(super) retry: Option<(Instant, Duration)>,
    /// When the file of numbers is to be written.
    pub(super) numbers_due: Option<Instant>,
    /// When memory is to be given back.
    pub(super) heap_due: Option<Instant>,
    /// Numbers were given that are in no file.
    pub(super) numbers_unkept: bool,
    pub(super) compiler: Compiler,
    /// Of the workloads of the last tree.
    pub(super) placer: Placer,
    /// When the numbers that no image needs any more can be forgotten.
    pub(super) retire: Option<Instant>,
    pub(super) recompile: bool,
    /// Moments at which rules of the tree in force begin or end to hold.
    pub(super) boundaries: BTreeSet<Moment>,
    /// When to look whether one of them has come.
    pub(super) boundary: Option<Instant>,
    /// How the wall clock stood when the kernel was last told when they come.
    pub(super) clock: WallClock,
}

#[derive(Debug, Default)]
pub(super) struct Trouble {
    /// The kernel does not follow the host's changes.
    pub(super) host: Option<String>,
    /// The state directory cannot be written.
    pub(super) state: Option<String>,
    /// A trial cannot be rolled back.
    pub(super) rollback: Option<String>,
}

impl<K: Kernel> Reconciler<K> {
    /// A loop that has done nothing yet. `former`: the kernel enforces what a former run left.
    pub fn new(
        settings: Arc<Settings>,
        limits: Limits,
        state: StateDir,
        numbers: KernelNumbers,
        kernel: K,
        former: bool,
        wiring: Wiring,
    ) -> Result<Self, StateError> {
        let choices = state.read(choices::FILE)?.unwrap_or_default();
        Ok(Self {
            settings,
            limits,
            state,
            kernel,
            wiring,
            former,
            choices,
            numbers,
            tree: None,
            confirmed: None,
            watched: None,
            loader: Loader::default(),
            current: InForce::nothing(),
            shortfalls: Vec::new(),
            trouble: Trouble::default(),
            trial_deadline: None,
            retry: None,
            numbers_due: None,
            heap_due: None,
            numbers_unkept: false,
            compiler: Compiler::default(),
            placer: Placer::default(),
            retire: None,
            recompile: false,
            boundaries: BTreeSet::new(),
            boundary: None,
            clock: WallClock::now(),
        })
    }

    /// Runs until `stop`, or until an input ends.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        blocking(|| self.start());
        self.publish();
        self.wiring.manager.ready(&self.summary());
        let mut alive = interval(self.wiring.manager.watchdog_interval().unwrap_or(IDLE_TICK));
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let clock_steps = ClockSteps::new();
        loop {
            tokio::select! {
                // In this order: at the end, inputs end after `stop`; and what comes often does
                // not keep what comes rarely waiting.
                biased;
                () = stop.cancelled() => {
                    blocking(|| self.numbers_at_rest());
                    return Ok(());
                }
                _ = alive.tick() => {
                    self.wiring.manager.alive();
                    continue;
                }
                command = self.wiring.commands.recv() => {
                    let command = command.context("nobody can give commands any more")?;
                    blocking(|| self.command(command));
                }
                () = until(self.trial_deadline) => blocking(|| self.roll_back()),
                () = self.wiring.tree_changed.notified() => blocking(|| self.read_tree()),
                () = until(self.retry.map(|(at, _)| at)) => blocking(|| self.try_again()),
                () = until(self.numbers_due) => {
                    blocking(|| self.numbers_at_rest());
                    continue;
                }
                () = until(self.heap_due) => {
                    self.heap_due = None;
                    blocking(heap::give_back);
                    continue;
                }
                () = until(self.boundary) => blocking(|| self.cross_boundary()),
                () = clock_steps.next() => blocking(|| self.cross_boundary()),
                changed = self.wiring.bindings.changed() => {
                    changed.context("nobody tells of proofs of identity any more")?;
                    blocking(|| self.follow_host());
                }
                () = until(self.retire) => blocking(|| self.retire_numbers()),
                changed = self.wiring.inventory.changed() => {
                    changed.context("the inventory ended")?;
                    blocking(|| self.follow_host());
                }
                () = heard(&mut self.wiring.elsewhere) => blocking(|| self.follow_host()),
            }
            self.publish();
            self.wiring.manager.status(&self.summary());
        }
    }

    /// Puts the first policy in force: the trial's or the watched tree's, else the last good one,
    /// else (unless a former run's policy is in the kernel) none at all.
    fn start(&mut self) {
        let watched = self.load_watched();
        self.confirmed = self.choices.confirmed.clone().and_then(|digest| {
            match LoadedTree::read_copy(&self.state, &digest) {
                Ok(tree) => Some(tree),
                Err(errors) => {
                    warn!(%digest, %errors, "the copy of the last good tree cannot be read");
                    None
                }
            }
        });
        let mut first = self.resume_trial();
        if let Some(tree) = watched {
            if self.choices.held.as_deref() == Some(tree.digest()) {
                info!(digest = tree.digest(), "the policy tree is held back");
            } else if first.is_none() {
                self.choices.held = None;
                first = Some(tree);
            }
        }
        let nothing = (!self.former).then(LoadedTree::nothing);
        let candidates = [first, self.confirmed.clone(), nothing];
        for tree in candidates.into_iter().flatten() {
            let digest = tree.digest().to_owned();
            match self.put_in_force(tree, self.choices.mode) {
                Ok(_) => {
                    if self.choices.trial.is_none() && !digest.is_empty() {
                        self.settle();
                    }
                    return;
                }
                Err(problem) => self.refuse(Some(digest), problem),
            }
        }
        if self.former {
            warn!("no policy could be loaded: what a former run left in the kernel stays in force");
        }
    }

    /// The watched tree may have changed.
    pub(super) fn read_tree(&mut self) {
        let Some(tree) = self.load_watched() else {
            return;
        };
        if self.choices.held.as_deref() == Some(tree.digest()) {
            return;
        }
        let lifted = self.choices.held.take().is_some();
        if let Some(known) = &mut self.tree
            && known.policy == tree.policy
        {
            // The same again, after an error or from a copy: nothing to do but to say so.
            known.from = PolicySource::Tree;
            self.current.from = PolicySource::Tree;
            self.current.refused = None;
            if lifted {
                self.save_choices();
            }
            return;
        }
        let digest = tree.digest().to_owned();
        match self.put_in_force(tree, self.choices.mode) {
            Ok(_) => match &mut self.choices.trial {
                // What changes during a trial is part of it.
                Some(trial) => {
                    trial.tree = None;
                    self.save_choices();
                }
                None => self.settle(),
            },
            Err(problem) => {
                self.refuse(Some(digest), problem);
                self.retry_later();
            }
        }
    }

    /// The host changed (endpoints came or went, or its addresses did), or other hosts.
    fn follow_host(&mut self) {
        let Some(tree) = self.tree.clone() else {
            return;
        };
        match self.put_in_force(tree, self.choices.mode) {
            Ok(_) => {}
            Err(problem) => {
                error!(%problem, "the kernel does not follow the host's changes");
                self.trouble.host = Some(problem.message);
                self.retry_later();
            }
        }
    }

    /// A rule may begin or end to hold. Where the clock says that it is not yet, waits again.
    fn cross_boundary(&mut self) {
        let now = Moment::now();
        let same = self.current.policy.means_the_same(self.current.as_of, now);
        if same && !self.clock_was_set() {
            self.await_boundary(now);
        } else {
            // Where it fails, it is tried again with the host's changes.
            self.boundary = None;
            self.follow_host();
        }
    }

    /// Whether the wall clock was set, or the host has slept, since the kernel was told when
    /// rules begin and end.
    pub(super) fn clock_was_set(&self) -> bool {
        WallClock::now().differs(self.clock)
    }

    /// Sets the alarm for the next boundary.
    pub(super) fn await_boundary(&mut self, now: Moment) {
        use std::ops::Bound::{Excluded, Unbounded};
        let mut later = self.boundaries.range((Excluded(now), Unbounded));
        self.boundary = later.next().map(|boundary| {
            let millisecond = u64::try_from(boundary.0).unwrap_or(0).saturating_mul(1_000);
            let left = millisecond.saturating_sub(unix_milliseconds());
            Instant::now() + Duration::from_millis(left).min(LONGEST_DOZE)
        });
    }

    pub(super) fn retry_later(&mut self) {
        let pause = self
            .retry
            .map_or(FIRST_RETRY, |(_, pause)| (pause * 2).min(LONGEST_RETRY));
        self.retry = Some((Instant::now() + pause, pause));
    }

    fn try_again(&mut self) {
        // Far away, so that a failure finds the pause to double.
        let pause = self.retry.map_or(FIRST_RETRY, |(_, pause)| pause);
        self.retry = Some((Instant::now() + LONGEST_RETRY * 2, pause));
        let tried = Instant::now();
        if self.trouble.host.is_some() {
            self.follow_host();
        }
        if self.current.refused.is_some() {
            self.read_tree();
        }
        if self.trouble.state.is_some() {
            self.save_choices();
        }
        let failed_again = self
            .retry
            .is_some_and(|(at, _)| at < tried + LONGEST_RETRY * 2);
        if !failed_again {
            self.retry = None;
        }
    }

    fn retire_numbers(&mut self) {
        self.retire = None;
        let retired = self.numbers.policy.retire(&self.current.image);
        if retired.idle {
            self.retire = Some(Instant::now() + NUMBER_GRACE);
        }
        if retired.forgotten {
            self.recompile = true;
            self.follow_host();
        }
    }

    /// Reads the watched tree. Errors are noted for `status`.
    pub(super) fn load_watched(&mut self) -> Option<LoadedTree> {
        let path = &self.settings.policies;
        if let Some(git) = &self.settings.git
            && !path.exists()
        {
            self.watched = None;
            let message = format!(
                "no commit of {} has been accepted yet: `enforcer status` says why",
                git.remote
            );
            self.refuse(None, Problem::new(ProblemCode::BadPolicy, message));
            return None;
        }
        match LoadedTree::read(&mut self.loader, path, PolicySource::Tree) {
            Ok(tree) => {
                self.watched = Some(tree.digest().to_owned());
                if self
                    .current
                    .refused
                    .as_ref()
                    .is_some_and(|r| r.problem.code == ProblemCode::BadPolicy)
                {
                    self.current.refused = None;
                }
                Some(tree)
            }
            Err(errors) => {
                self.watched = None;
                let problem = tree::problem(path, &errors);
                for diagnostic in errors.errors() {
                    error!(
                        "{}:{}: {}",
                        diagnostic.file, diagnostic.line, diagnostic.message
                    );
                }
                self.current.activity.bad_trees += 1;
                self.wiring.observer.load_failed(errors.count());
                self.refuse(None, problem);
                None
            }
        }
    }

    pub(super) fn refuse(&mut self, digest: Option<String>, problem: Problem) {
        error!("{problem}");
        self.current.refused = Some(Refused {
            time: rfc3339(OffsetDateTime::now_utc()),
            digest,
            problem,
        });
    }

    pub(super) fn publish(&mut self) {
        self.current.held.clone_from(&self.choices.held);
        self.current.trial = self.trial();
        let mut reasons = Vec::new();
        if self.tree.is_none() {
            reasons.push(if self.former {
                "no policy could be loaded; what a former run left in the kernel is enforced"
                    .to_owned()
            } else {
                "no policy could be loaded; nothing is enforced".to_owned()
            });
        } else if self.current.policy.digest.is_empty() {
            reasons.push("no policy was ever loaded; nothing is enforced".to_owned());
        }
        if let Some(refused) = &self.current.refused {
            reasons.push(refused.problem.message.clone());
        }
        let trouble = [
            &self.trouble.host,
            &self.trouble.state,
            &self.trouble.rollback,
        ];
        reasons.extend(trouble.into_iter().flatten().cloned());
        reasons.extend(self.shortfalls.iter().cloned());
        reasons.extend(self.current.snapshot.notes.iter().cloned());
        self.current.health = Health {
            ok: reasons.is_empty(),
            reasons,
        };
        let refused = self.current.refused.is_some();
        self.wiring.observer.tree_refused(refused);
        self.wiring
            .published
            .send_replace(Arc::new(self.current.clone()));
    }

    /// For `systemctl status`.
    pub(super) fn summary(&self) -> String {
        let digest = &self.current.policy.digest;
        format!(
            "{}mode {}, policy {}, generation {}, {} endpoints",
            if self.current.health.ok {
                ""
            } else {
                "DEGRADED (see `enforcer status`): "
            },
            mode_name(self.current.mode.effective),
            digest.get(..12).unwrap_or("none"),
            self.current.generation,
            self.current.endpoints.len(),
        )
    }
}

/// Runs what may block for long without holding up other tasks.
pub(crate) fn blocking<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => work(),
        _ => tokio::task::block_in_place(work),
    }
}

/// Where there is no fleet, nobody will ever say anything.
async fn heard(elsewhere: &mut watch::Receiver<Arc<Elsewhere>>) {
    if elsewhere.changed().await.is_err() {
        pending::<()>().await;
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}

/// Milliseconds of the Unix epoch.
pub fn unix_milliseconds() -> u64 {
    let now = OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
    u64::try_from(now).unwrap_or(0)
}
