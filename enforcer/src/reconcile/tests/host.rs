//! A host without a kernel, and the loop on it.

use std::{
    error::Error,
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::super::{
    command::Command,
    in_force::InForce,
    kernel::{Applied, Kernel},
    kernel_numbers::KernelNumbers,
    observer::Observer,
    reconciler::{Reconciler, Wiring},
};
use crate::{
    api::{
        problem::Problem,
        request::{ApplyAnswer, ApplyRequest, ConfirmAnswer},
    },
    compile::Limits,
    datapath::{Capacities, DatapathSettings, XdpMode, desired::Desired},
    identity::binding::Bindings,
    inventory::Snapshot,
    sd_notify::ServiceManager,
    settings::{FlowLog, Settings, SocketSettings, UplinkChoice},
    state::StateDir,
};

/// Takes everything, until it is told to refuse.
#[derive(Clone, Debug, Default)]
pub struct Memory(pub Arc<Mutex<Remembered>>);

#[derive(Debug, Default)]
pub struct Remembered {
    pub generation: u32,
    pub last: Option<Desired>,
    pub refuse: bool,
}

impl Memory {
    pub fn refuse(&self, refuse: bool) {
        self.0.lock().unwrap().refuse = refuse;
    }

    pub fn audit(&self) -> bool {
        self.0.lock().unwrap().last.as_ref().unwrap().node.audit
    }

    pub fn endpoints(&self) -> usize {
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
pub struct Host {
    pub root: tempfile::TempDir,
    pub kernel: Memory,
}

/// A daemon on it, as far as the loop goes.
pub struct Daemon {
    /// Proofs of identity.
    pub bindings: watch::Sender<Arc<Bindings>>,
    pub kernel: Memory,
    pub published: watch::Receiver<Arc<InForce>>,
    commands: mpsc::Sender<Command>,
    pub tree_changed: Arc<Notify>,
    pub inventory: watch::Sender<Arc<Snapshot>>,
    pub stop: CancellationToken,
    pub task: JoinHandle<anyhow::Result<()>>,
}

pub fn tree_of(workload: &str) -> String {
    format!(
        "apiVersion: enforcer.dev/v1alpha1\nkind: Workload\n\
         metadata: {{ name: {workload}, namespace: shop, labels: {{ app: web }} }}\n\
         spec: {{ cgroup: /{workload} }}\n"
    )
}

impl Host {
    pub fn new(workload: &str) -> Self {
        let host = Self {
            root: tempfile::tempdir().unwrap(),
            kernel: Memory::default(),
        };
        fs::create_dir(host.tree()).unwrap();
        host.write(&tree_of(workload));
        host
    }

    pub fn tree(&self) -> PathBuf {
        self.root.path().join("policies")
    }

    pub fn write(&self, text: &str) {
        fs::write(self.tree().join("a.yaml"), text).unwrap();
    }

    pub fn settings(&self) -> Settings {
        let at = |name: &str| self.root.path().join(name);
        Settings {
            policies: self.tree(),
            git: None,
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
            attest: None,
            identity: crate::identity::files::IdentitySource::Provider(
                "unix:/nowhere".parse().expect("an address"),
            ),
            workload_api: None,
            node: "node1".into(),
            flow_log: FlowLog::Off,
            report_allowed: false,
            fleet: None,
            report_limit: 1,
            reject_limit: 1,
        }
    }

    /// Starts the loop and waits for its first word.
    pub async fn start(&self) -> Daemon {
        let settings = self.settings();
        let state = StateDir::open(&settings.state_dir).unwrap();
        let numbers = KernelNumbers::open(&state).unwrap();
        let former = self.kernel.0.lock().unwrap().last.is_some();
        let (inventory, inventory_receiver) = watch::channel(Arc::new(Snapshot::default()));
        let (commands, command_receiver) = mpsc::channel(1);
        let (published, mut published_receiver) = watch::channel(Arc::new(InForce::nothing()));
        published_receiver.mark_unchanged();
        let tree_changed = Arc::new(Notify::new());
        let (bindings, bindings_receiver) = watch::channel(Arc::default());
        let wiring = Wiring {
            inventory: inventory_receiver,
            elsewhere: watch::channel(Arc::default()).1,
            bindings: bindings_receiver,
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
            bindings,
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
    pub fn now(&self) -> Arc<InForce> {
        self.published.borrow().clone()
    }

    /// Name of the one workload in force.
    pub fn workload(&self) -> String {
        let workloads = &self.now().policy.workloads;
        workloads.first().map_or(String::new(), |w| w.name.clone())
    }

    pub async fn tree_changes(&mut self) {
        self.published.mark_unchanged();
        self.tree_changed.notify_one();
        timeout(Duration::from_secs(1), self.published.changed())
            .await
            .unwrap()
            .unwrap();
    }

    pub async fn apply(&self, request: ApplyRequest) -> Result<ApplyAnswer, Problem> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Apply(request, reply);
        self.commands.send(command).await.unwrap();
        answer.await.unwrap()
    }

    pub async fn confirm(&self) -> Result<ConfirmAnswer, Problem> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Confirm(reply)).await.unwrap();
        answer.await.unwrap()
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}
