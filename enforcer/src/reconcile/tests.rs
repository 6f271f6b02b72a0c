//! The loop with a kernel that only remembers.

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    command::Command,
    in_force::InForce,
    kernel::{Applied, Kernel},
    kernel_numbers::KernelNumbers,
    observer::Observer,
    reconciler::{Reconciler, Wiring},
};
use crate::{
    api::{
        problem::{Problem, ProblemCode},
        request::{ApplyAnswer, ApplyRequest, ConfirmAnswer},
        status::{ModeSource, PolicySource},
    },
    compile::Limits,
    datapath::{Capacities, DatapathSettings, XdpMode, desired::Desired},
    inventory::Snapshot,
    policy::model::Mode,
    sd_notify::ServiceManager,
    settings::{FlowLog, Settings, SocketSettings, UplinkChoice},
    state::StateDir,
};

/// Takes everything, until it is told to refuse.
#[derive(Clone, Debug, Default)]
struct Memory(Arc<Mutex<Remembered>>);

#[derive(Debug, Default)]
struct Remembered {
    generation: u32,
    last: Option<Desired>,
    refuse: bool,
}

impl Memory {
    fn refuse(&self, refuse: bool) {
        self.0.lock().unwrap().refuse = refuse;
    }

    fn audit(&self) -> bool {
        self.0.lock().unwrap().last.as_ref().unwrap().node.audit
    }

    fn endpoints(&self) -> usize {
        let memory = self.0.lock().unwrap();
        memory.last.as_ref().map_or(0, |d| d.endpoints.len())
    }
}

impl Kernel for Memory {
    fn apply(&mut self, desired: &Desired) -> Result<Applied, Box<dyn Error + Send + Sync>> {
        let mut memory = self.0.lock().unwrap();
        if memory.refuse {
            return Err("full".into());
        }
        memory.generation += 1;
        memory.last = Some(desired.clone());
        Ok(Applied {
            generation: memory.generation,
            changed: true,
        })
    }
}

/// Is told everything and does nothing.
struct Nobody;

impl Observer for Nobody {
    fn announce(&self, _: &InForce) {}
    fn applied(&self, _: &InForce) {}
    fn tree_refused(&self, _: bool) {}
    fn load_failed(&self, _: usize) {}
    fn apply_failed(&self) {}
}

/// A host with directories that outlive the daemon.
struct Host {
    root: tempfile::TempDir,
    kernel: Memory,
}

/// A daemon on it, as far as the loop goes.
struct Daemon {
    kernel: Memory,
    published: watch::Receiver<Arc<InForce>>,
    commands: mpsc::Sender<Command>,
    tree_changed: Arc<Notify>,
    inventory: watch::Sender<Arc<Snapshot>>,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

fn tree_of(workload: &str) -> String {
    format!(
        "apiVersion: enforcer.dev/v1alpha1\nkind: Workload\n\
         metadata: {{ name: {workload}, namespace: shop, labels: {{ app: web }} }}\n\
         spec: {{ cgroup: /{workload} }}\n"
    )
}

impl Host {
    fn new(workload: &str) -> Self {
        let host = Self {
            root: tempfile::tempdir().unwrap(),
            kernel: Memory::default(),
        };
        fs::create_dir(host.tree()).unwrap();
        host.write(&tree_of(workload));
        host
    }

    fn tree(&self) -> PathBuf {
        self.root.path().join("policies")
    }

    fn write(&self, text: &str) {
        fs::write(self.tree().join("a.yaml"), text).unwrap();
    }

    fn settings(&self) -> Settings {
        let at = |name: &str| self.root.path().join(name);
        Settings {
            policies: self.tree(),
            mode: None,
            uplinks: UplinkChoice::Names(Vec::new()),
            state_dir: at("state"),
            datapath: DatapathSettings {
                pin_dir: at("pins"),
                cgroup_root: Some(at("cgroups")),
                capacities: Capacities::default(),
                xdp: XdpMode::Off,
                numbering: 0,
            },
            socket: SocketSettings {
                path: at("socket"),
                group: None,
            },
            metrics: None,
            node: "node1".into(),
            flow_log: FlowLog::Off,
            report_allowed: false,
            report_limit: 1,
        }
    }

    /// Starts the loop and waits for its first word.
    async fn start(&self) -> Daemon {
        let settings = self.settings();
        let state = StateDir::open(&settings.state_dir).unwrap();
        let numbers = KernelNumbers::open(&state).unwrap();
        let former = self.kernel.0.lock().unwrap().last.is_some();
        let (inventory, inventory_receiver) = watch::channel(Arc::new(Snapshot::default()));
        let (commands, command_receiver) = mpsc::channel(1);
        let (published, mut published_receiver) = watch::channel(Arc::new(InForce::nothing()));
        published_receiver.mark_unchanged();
        let tree_changed = Arc::new(Notify::new());
        let wiring = Wiring {
            inventory: inventory_receiver,
            tree_changed: tree_changed.clone(),
            commands: command_receiver,
            published,
            observer: Arc::new(Nobody),
            manager: Arc::new(ServiceManager::default()),
        };
        let reconciler = Reconciler::new(
            Arc::new(settings),
            Limits::NONE,
            state,
            numbers,
            self.kernel.clone(),
            former,
            wiring,
        )
        .unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(reconciler.run(stop.clone()));
        published_receiver.changed().await.unwrap();
        Daemon {
            kernel: self.kernel.clone(),
            published: published_receiver,
            commands,
            tree_changed,
            inventory,
            stop,
            task,
        }
    }
}

impl Daemon {
    fn now(&self) -> Arc<InForce> {
        self.published.borrow().clone()
    }

    /// Name of the one workload in force.
    fn workload(&self) -> String {
        let workloads = &self.now().policy.workloads;
        workloads.first().map_or(String::new(), |w| w.name.clone())
    }

    async fn tree_changes(&mut self) {
        self.published.mark_unchanged();
        self.tree_changed.notify_one();
        timeout(Duration::from_secs(1), self.published.changed())
            .await
            .unwrap()
            .unwrap();
    }

    async fn apply(&self, request: ApplyRequest) -> Result<ApplyAnswer, Problem> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Apply(request, reply);
        self.commands.send(command).await.unwrap();
        answer.await.unwrap()
    }

    async fn confirm(&self) -> Result<ConfirmAnswer, Problem> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Confirm(reply)).await.unwrap();
        answer.await.unwrap()
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

fn enforce_on_trial(seconds: u64) -> ApplyRequest {
    ApplyRequest {
        mode: Some(Mode::Enforce),
        trial_milliseconds: Some(seconds * 1_000),
        ..ApplyRequest::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_trial_rolls_back_unless_confirmed() {
    let host = Host::new("web");
    let daemon = host.start().await;
    assert!(daemon.kernel.audit());
    let answer = daemon.apply(enforce_on_trial(60)).await.unwrap();
    assert_eq!(answer.mode, Mode::Enforce);
    assert!(answer.trial.is_some());
    sleep(Duration::from_secs(59)).await;
    assert!(!daemon.kernel.audit());
    sleep(Duration::from_secs(2)).await;
    assert!(daemon.kernel.audit());
    assert_eq!(daemon.now().trial, None);
    assert_eq!(daemon.now().activity.rolled_back, 1);
    assert_eq!(
        daemon.confirm().await.unwrap_err().code,
        ProblemCode::NoTrial
    );
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_confirmed_stays_across_a_restart() {
    let host = Host::new("web");
    let daemon = host.start().await;
    daemon.apply(enforce_on_trial(60)).await.unwrap();
    assert_eq!(daemon.confirm().await.unwrap().mode, Mode::Enforce);
    sleep(Duration::from_hours(1)).await;
    assert!(!daemon.kernel.audit());
    daemon.stop().await;
    let daemon = host.start().await;
    assert!(!daemon.kernel.audit());
    assert_eq!(daemon.now().mode.from, ModeSource::Operator);
    let request = ApplyRequest {
        forget_mode: true,
        ..ApplyRequest::default()
    };
    assert_eq!(daemon.apply(request).await.unwrap().mode, Mode::Audit);
    assert_eq!(daemon.now().mode.from, ModeSource::Default);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_trial_survives_a_restart_and_ends_in_time() {
    let host = Host::new("web");
    let mut daemon = host.start().await;
    daemon.apply(enforce_on_trial(600)).await.unwrap();
    host.write(&tree_of("risky"));
    daemon.tree_changes().await;
    assert_eq!(daemon.workload(), "risky");
    daemon.stop().await;

    let daemon = host.start().await;
    assert!(!daemon.kernel.audit());
    assert_eq!(daemon.workload(), "risky");
    assert!(daemon.now().trial.is_some());
    sleep(Duration::from_secs(601)).await;
    assert!(daemon.kernel.audit());
    assert_eq!(daemon.workload(), "web");
    // The tree on disk is still the risky one: it is held, also by the next daemon.
    assert!(daemon.now().held.is_some());
    daemon.stop().await;
    let mut daemon = host.start().await;
    assert_eq!(daemon.workload(), "web");
    daemon.tree_changes().await;
    assert_eq!(daemon.workload(), "web");
    host.write(&tree_of("better"));
    daemon.tree_changes().await;
    assert_eq!(daemon.workload(), "better");
    assert_eq!(daemon.now().held, None);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_trial_that_ran_out_while_the_daemon_was_away_is_rolled_back_at_once() {
    let host = Host::new("web");
    let mut daemon = host.start().await;
    daemon.apply(enforce_on_trial(1)).await.unwrap();
    host.write(&tree_of("risky"));
    daemon.tree_changes().await;
    daemon.stop().await;
    // The real clock: the next daemon compares with it.
    std::thread::sleep(Duration::from_millis(1_100));
    let daemon = host.start().await;
    assert!(daemon.kernel.audit());
    assert_eq!(daemon.workload(), "web");
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn another_tree_on_trial() {
    let host = Host::new("web");
    let other = host.root.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("b.yaml"), tree_of("other")).unwrap();
    let daemon = host.start().await;
    let request = || ApplyRequest {
        tree: Some(other.clone()),
        trial_milliseconds: Some(60_000),
        ..ApplyRequest::default()
    };
    daemon.apply(request()).await.unwrap();
    assert_eq!(daemon.workload(), "other");
    sleep(Duration::from_secs(61)).await;
    assert_eq!(daemon.workload(), "web");
    assert_eq!(daemon.now().held, None);

    daemon.apply(request()).await.unwrap();
    daemon.stop().await;
    // The next daemon goes on with the copy, whatever became of the original.
    fs::remove_dir_all(&other).unwrap();
    let daemon = host.start().await;
    assert_eq!(daemon.workload(), "other");
    daemon.confirm().await.unwrap();
    daemon.stop().await;
    let daemon = host.start().await;
    assert_eq!(daemon.workload(), "other");
    let request = ApplyRequest::default();
    daemon.apply(request).await.unwrap();
    assert_eq!(daemon.workload(), "web");
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_bad_tree_changes_nothing_and_is_named() {
    let host = Host::new("web");
    let (git, commit) = (host.tree().join(".git"), "a".repeat(40));
    std::fs::create_dir(&git).unwrap();
    std::fs::write(git.join("HEAD"), &commit).unwrap();
    let mut daemon = host.start().await;
    host.write("kind: Nonsense\n");
    daemon.tree_changes().await;
    assert_eq!(daemon.workload(), "web");
    let refused = daemon.now().refused.clone().unwrap();
    assert_eq!(refused.problem.code, ProblemCode::BadPolicy);
    assert!(!refused.problem.diagnostics.is_empty());
    assert!(!daemon.now().health.ok);
    let refused = daemon.apply(ApplyRequest::default()).await;
    assert_eq!(refused.unwrap_err().code, ProblemCode::BadPolicy);
    // The mode can be changed all the same.
    let request = ApplyRequest {
        mode: Some(Mode::Enforce),
        ..ApplyRequest::default()
    };
    let answer = daemon.apply(request).await.unwrap();
    assert_eq!(answer.mode, Mode::Enforce);
    assert!(answer.warning.is_some());
    daemon.stop().await;

    // A start with the bad tree uses the copy.
    let mut daemon = host.start().await;
    assert_eq!(daemon.workload(), "web");
    let status = daemon.now().policy_status(&host.tree());
    assert_eq!(status.from, PolicySource::LastGood);
    assert_eq!(status.commit, Some(commit));
    assert!(!daemon.now().health.ok);
    host.write(&tree_of("web"));
    daemon.tree_changes().await;
    assert_eq!(daemon.now().from, PolicySource::Tree);
    assert!(daemon.now().health.ok, "{:?}", daemon.now().health);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_first_start_with_a_bad_tree_enforces_nothing_and_says_so() {
    let host = Host::new("web");
    host.write("kind: Nonsense\n");
    let mut daemon = host.start().await;
    assert_eq!(daemon.kernel.endpoints(), 0);
    assert!(daemon.now().ready && !daemon.now().health.ok);
    host.write(&tree_of("web"));
    daemon.tree_changes().await;
    assert_eq!(daemon.workload(), "web");
    assert!(daemon.now().health.ok, "{:?}", daemon.now().health);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_former_runs_policy_is_not_replaced_by_none() {
    let host = Host::new("web");
    host.start().await.stop().await;
    let generation = host.kernel.0.lock().unwrap().generation;
    fs::remove_dir_all(host.root.path().join("state")).unwrap();
    host.write("kind: Nonsense\n");
    let daemon = host.start().await;
    assert_eq!(host.kernel.0.lock().unwrap().generation, generation);
    assert!(!daemon.now().health.ok);
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_the_kernel_refuses_is_tried_again() {
    let host = Host::new("web");
    let mut daemon = host.start().await;
    daemon.kernel.refuse(true);
    let refused = daemon.apply(enforce_on_trial(60)).await.unwrap_err();
    assert_eq!(refused.code, ProblemCode::NotApplied);
    assert_eq!(daemon.now().trial, None);
    host.write(&tree_of("next"));
    daemon.tree_changes().await;
    assert_eq!(daemon.workload(), "web");
    assert!(daemon.now().refused.is_some());
    sleep(Duration::from_secs(10)).await;
    daemon.kernel.refuse(false);
    sleep(Duration::from_secs(61)).await;
    assert_eq!(daemon.workload(), "next");
    assert!(daemon.now().health.ok, "{:?}", daemon.now().health);
    daemon.stop().await;
    // The refused trial has left nothing behind.
    let daemon = host.start().await;
    assert!(daemon.kernel.audit());
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn endpoints_come_and_go_with_their_numbers() {
    let host = Host::new("web");
    let mut daemon = host.start().await;
    assert_eq!(daemon.kernel.endpoints(), 0);
    let mut number = None;
    for round in 0..3 {
        for there in [true, false] {
            let mut snapshot = Snapshot::default();
            if there {
                snapshot.cgroups.insert("/web".into(), 70 + round);
            }
            daemon.published.mark_unchanged();
            daemon.inventory.send(Arc::new(snapshot)).unwrap();
            daemon.published.changed().await.unwrap();
            assert_eq!(daemon.kernel.endpoints(), usize::from(there));
            if there {
                let id = daemon.now().endpoints[0].id;
                assert_eq!(*number.get_or_insert(id), id);
            }
        }
    }
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn impossible_requests_are_refused() {
    let host = Host::new("web");
    let daemon = host.start().await;
    for request in [
        ApplyRequest {
            mode: Some(Mode::Audit),
            forget_mode: true,
            ..ApplyRequest::default()
        },
        ApplyRequest {
            tree: Some(Path::new("relative").into()),
            ..ApplyRequest::default()
        },
        ApplyRequest {
            trial_milliseconds: Some(0),
            ..ApplyRequest::default()
        },
        ApplyRequest {
            trial_milliseconds: Some(u64::MAX),
            ..ApplyRequest::default()
        },
    ] {
        let refused = daemon.apply(request).await.unwrap_err();
        assert_eq!(refused.code, ProblemCode::BadRequest);
    }
    daemon.stop().await;
}
