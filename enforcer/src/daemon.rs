//! The daemon: wires the rooms together, and ends when any of them does.

mod kernel_tables;
mod policy_remote;

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use time::OffsetDateTime;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Notify, mpsc, watch},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::{
    kernel_tables::{expire_flows, read_events},
    policy_remote::Remote,
};
use crate::{
    api::{
        routes::{self, Sources},
        server::ControlSocket,
    },
    datapath::{Adopted, Datapath, DatapathError},
    identity::{
        attest::{self, AttestServer, AttestView, journal::Journal, leases::Leases},
        files::{self, FileSource, IdentitySource},
        svid::Usage,
        workload_api::{
            client::{self, Provider},
            memory::Memory,
            server::WorkloadApiServer,
        },
    },
    inventory::{Inventory, InventorySettings},
    kernel_handle::KernelHandle,
    lock_holder,
    metrics::{MetricSources, Metrics, git::GitStats, serve::MetricsServer},
    narrator::Narrator,
    observe::{
        context::NameBook,
        history::{DEFAULT_KEPT, History},
        pipeline::Pipeline,
    },
    policy::model::TrustDomainSettings,
    reconcile::{
        command::Command,
        in_force::InForce,
        kernel_numbers::KernelNumbers,
        reconciler::{Reconciler, Wiring},
        sweep,
    },
    registry::{
        node_identity::NODE_PATH,
        status::FleetBoard,
        taking_part::{self, Part},
    },
    reject::{self, Answers},
    sd_notify::ServiceManager,
    settings::{FlowLog, Settings},
    sink::{SinkQueue, file::FileSink, queue::DEFAULT_QUEUE, stdout::StreamSink},
    state::StateDir,
    supervisor::Supervisor,
    watch::{Patience, TreeWatch},
};

/// Broken flows that wait for their sockets to be ended. The packets of what finds no room are
/// dropped all the same.
const BROKEN_FLOWS: usize = 4_096;
/// What a start may take beside the first fetch, as in the unit.
const START_PATIENCE: Duration = Duration::from_mins(2);
/// Commands that wait.
const COMMANDS: usize = 16;

/// Runs until a signal asks for an end (`Ok`) or a task ends by itself. Either way what is in
/// force stays in force.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let started = OffsetDateTime::now_utc();
    let mut settings = settings;
    let manager =
        Arc::new(ServiceManager::from_environment().context("cannot reach the service manager")?);
    let state = StateDir::open(&settings.state_dir)?;
    let numbers = KernelNumbers::open(&state)?;
    settings.datapath.numbering = numbers.numbering;
    let settings = Arc::new(settings);

    let datapath_settings = settings.datapath.clone();
    let (datapath, adopted) =
        tokio::task::spawn_blocking(move || Datapath::open(&datapath_settings))
            .await?
            .map_err(name_holder)?;
    let former = adopted != Adopted::Fresh;
    info!(version = env!("CARGO_PKG_VERSION"), ?adopted, "started");

    let names = Arc::new(NameBook::default());
    let history = History::new(DEFAULT_KEPT);
    let sinks = sinks(&settings.flow_log)?;
    let kernel = KernelHandle::new(datapath, names.clone());
    let events = kernel
        .take_events()
        .context("the event reader was taken already")?;
    let git_stats = settings.git.as_ref().map(|_| Arc::new(GitStats::default()));
    let refusals = kernel
        .take_refusals()
        .context("the reader of refused packets was taken already")?;
    let answers = Arc::new(Answers::default());
    let sink_stats = sinks.iter().map(|sink| sink.stats().clone()).collect();
    let inlets = sinks.iter().map(SinkQueue::inlet).collect();
    let pipeline = Pipeline::new(names.clone(), history.clone(), sinks);
    let journal = Journal::new(&settings.node, pipeline.run(), inlets);
    let journal = Arc::new(journal);
    let board = settings.fleet.as_ref();
    let board = board.map(|_| FleetBoard::new(journal.clone()));
    let (material_sender, material) = files::channel();
    let leases = match &settings.attest {
        Some(_) => Some(Leases::open(&settings.state_dir, journal.clone())?),
        None => None,
    };
    let (no_bindings, nothing_bound) = watch::channel(Arc::default());
    let bindings = leases
        .as_ref()
        .map_or(nothing_bound, |leases| leases.watch());
    let view = AttestView {
        material: material.clone(),
        bindings: bindings.clone(),
        journal: journal.clone(),
    };
    // Everything that can be refused is taken before the first change to the kernel.
    let (mut inventory, snapshots) = Inventory::start(InventorySettings {
        cgroup_root: settings.datapath.cgroup_root.clone(),
        ..InventorySettings::default()
    })
    .await
    .context("cannot see what is on this host")?;
    let workload_api = match &settings.workload_api {
        Some(settings) => {
            allow_many_connections();
            let root = inventory.cgroup_root();
            Some(WorkloadApiServer::bind(settings, root, journal.clone())?)
        }
        None => None,
    };
    let memory = Memory::new(&settings.state_dir);
    let (identity_sender, identity_heard) = client::channel(&memory);
    let provider = match &settings.identity {
        IdentitySource::Provider(address) if settings.needs_own_svid() => Some(Provider {
            address: address.clone(),
            path: Some(format!("{NODE_PATH}{}", settings.node)),
            usage: Usage::Server,
            stats: Arc::default(),
            memory: Some(memory),
        }),
        _ => None,
    };
    let provider_stats = provider.as_ref().map(|provider| provider.stats.clone());
    let from_provider = provider.as_ref().map(|_| identity_heard);
    let mut tasks = Supervisor::default();
    let stop = tasks.stop_token();
    if let Some(provider) = provider {
        tasks.spawn(
            "identity provider",
            provider.follow(identity_sender, stop.clone()),
        );
    }
    let workload_api_view = workload_api.as_ref().map(WorkloadApiServer::view);
    let metrics = Arc::new(Metrics::new(MetricSources {
        workload_api: workload_api_view.clone(),
        provider: provider_stats,
        fleet: board.clone(),
        attestation: leases.is_some().then(|| view.clone()),
        kernel: Arc::new(kernel.clone()),
        names: names.clone(),
        pipeline: pipeline.stats().clone(),
        history: history.clone(),
        sinks: sink_stats,
        git: git_stats.clone(),
        answers: answers.clone(),
    }));

    let metrics_server = match settings.metrics {
        Some(address) => Some(MetricsServer::bind(address).await?),
        None => None,
    };
    let (published, in_force) = watch::channel(Arc::new(InForce::nothing()));
    let (peers, elsewhere) = watch::channel(Arc::default());
    let part = match (&settings.fleet, &board) {
        (Some(fleet), Some(board)) => {
            let (node, state) = (&settings.node, &settings.state_dir);
            let part = taking_part::prepare(
                fleet,
                node,
                state,
                in_force.clone(),
                peers,
                board,
                from_provider.clone(),
            );
            Some(part.await?)
        }
        _ => None,
    };
    let attest_server = match &settings.attest {
        Some(attest) => {
            allow_many_connections();
            let root = Some(inventory.cgroup_root().to_owned());
            Some(AttestServer::bind(attest.listen, root).await?)
        }
        None => None,
    };
    let control = ControlSocket::bind(&settings.socket)?;
    let tree_changed = Arc::new(Notify::new());
    let (commands, command_receiver) = mpsc::channel(COMMANDS);
    let (mut remote, mut tree_watch) = (None, None);
    match (&settings.git, git_stats) {
        (Some(git), Some(counts)) => {
            manager.starting(git.timeout + START_PATIENCE);
            remote = Some(
                Remote::prepare(git, &settings, counts, in_force.clone(), commands.clone()).await?,
            );
        }
        // What is checked out changes with a word to the loop, and needs no watching.
        _ => tree_watch = Some(TreeWatch::start(&settings.policies, Patience::default())?),
    }
    let git_handle = remote.as_ref().map(|remote| remote.handle.clone());
    let (broken, broken_receiver) = mpsc::channel(BROKEN_FLOWS);
    let reconciler = Reconciler::new(
        settings.clone(),
        settings.datapath.capacities.limits(),
        state,
        numbers,
        kernel.clone(),
        former,
        Wiring {
            inventory: snapshots,
            elsewhere,
            bindings,
            tree_changed: tree_changed.clone(),
            commands: command_receiver,
            published,
            observer: Arc::new(Narrator::new(settings.node.clone(), names, metrics.clone())),
            manager: manager.clone(),
        },
    )?;

    tasks.spawn("policy loop", reconciler.run(stop.clone()));
    if let Some(tree_watch) = tree_watch {
        let stop = stop.clone();
        tasks.spawn("policy watcher", async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => Ok(()),
                error = tree_watch.run(tree_changed) => Err(error.into()),
            }
        });
    }
    if let Some(remote) = remote {
        tasks.spawn("git source", remote.follower.run(stop.clone()));
        if let Some(webhook) = remote.webhook {
            let stop = stop.clone();
            tasks.spawn("web hook", async move {
                webhook.run(stop).await;
                Ok(())
            });
        }
    }
    tasks.spawn("inventory", {
        let stop = stop.clone();
        async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => Ok(()),
                ended = inventory.ended() => ended.map_err(Into::into),
            }
        }
    });
    tasks.spawn(
        "event reader",
        read_events(
            kernel.clone(),
            events,
            pipeline,
            broken,
            in_force.clone(),
            stop.clone(),
        ),
    );
    tasks.spawn("answerer", reject::run(refusals, answers, stop.clone()));
    tasks.spawn("flow collector", expire_flows(kernel.clone(), stop.clone()));
    tasks.spawn(
        "connection sweeper",
        sweep::run(
            in_force.clone(),
            broken_receiver,
            Arc::new(kernel.clone()),
            stop.clone(),
        ),
    );
    if let Some(server) = metrics_server {
        info!(address = %server.address(), "metrics are served");
        let (metrics, stop) = (metrics.clone(), stop.clone());
        tasks.spawn("metrics server", async move {
            server.run(metrics, stop).await;
            Ok(())
        });
    }
    if let Some(Part { publisher, reader }) = part {
        tasks.spawn("fleet publisher", publisher.run(stop.clone()));
        tasks.spawn("fleet reader", reader.run(stop.clone()));
    }
    if settings.attest.is_some() || settings.workload_api.is_some() || from_provider.is_some() {
        let (domains_sender, domains) = watch::channel(Arc::from([]));
        let source = match (&settings.identity, from_provider) {
            (_, Some(provider)) => FileSource::of_provider(provider, Usage::Server),
            (IdentitySource::Files(files), None) if settings.attest.is_some() => {
                FileSource::new(Some(files.clone()), Usage::Server)
            }
            _ => FileSource::new(None, Usage::Server),
        };
        tasks.spawn(
            "identity files",
            source.watch(domains, material_sender, stop.clone()),
        );
        tasks.spawn(
            "trust domains",
            follow_domains(in_force.clone(), domains_sender, stop.clone()),
        );
    }
    if let Some(server) = workload_api {
        tasks.spawn(
            "certificate authority",
            server.issuer().follow(stop.clone()),
        );
        tasks.spawn(
            "Workload API",
            server.serve(in_force.clone(), material.clone(), stop.clone()),
        );
    }
    if let (Some(server), Some(leases), Some(attest)) = (attest_server, leases, &settings.attest) {
        tasks.spawn(
            "lease keeper",
            leases
                .clone()
                .keep(in_force.clone(), material.clone(), stop.clone()),
        );
        let sources = attest::routes::Sources {
            in_force: in_force.clone(),
            material,
            leases,
            locator: server.locator(),
            journal,
            longest: attest.lease,
        };
        tasks.spawn("attestation server", server.serve(sources, stop.clone()));
    }
    let router = routes::router(Sources {
        attestation: view,
        workload_api: workload_api_view,
        fleet: board,
        settings,
        started,
        in_force,
        commands: commands.clone(),
        kernel: Arc::new(kernel),
        git: git_handle,
        history,
        stop: stop.clone(),
    });
    tasks.spawn("control socket", {
        async move { Ok(control.serve(router, stop).await?) }
    });
    let ended = supervise(tasks, &commands, &manager).await;
    // Where nothing attests this is what says that nothing is bound.
    drop(no_bindings);
    ended
}

/// Tells who reads bundles which trust domains policy has.
async fn follow_domains(
    mut in_force: watch::Receiver<Arc<InForce>>,
    domains: watch::Sender<Arc<[Arc<TrustDomainSettings>]>>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut first = true;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            ready = in_force.wait_for(|now| now.ready) => drop(ready?),
        }
        let wanted: Arc<[_]> = in_force
            .borrow_and_update()
            .policy
            .trust_domains
            .as_slice()
            .into();
        domains.send_if_modified(|known| {
            let changed = std::mem::take(&mut first) || *known != wanted;
            *known = wanted;
            changed
        });
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            changed = in_force.changed() => changed?,
        }
    }
}

/// Each connection for attestation takes a file descriptor: as many as the system allows this
/// process.
fn allow_many_connections() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        warn!(%error, "cannot raise the number of open files: fewer connections can be served");
    }
}

/// Says which process holds the pins.
fn name_holder(error: DatapathError) -> anyhow::Error {
    let holder = match &error {
        DatapathError::InUse { path } => lock_holder::of(path),
        _ => None,
    };
    let error = anyhow::Error::from(error);
    match holder {
        Some(pid) => error.context(format!("process {pid} is another daemon")),
        None => error,
    }
}

/// Waits for the end, and carries SIGHUP on.
async fn supervise(
    mut tasks: Supervisor,
    commands: &mpsc::Sender<Command>,
    manager: &ServiceManager,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let failure = loop {
        tokio::select! {
            _ = terminate.recv() => break None,
            _ = interrupt.recv() => break None,
            _ = hangup.recv() => {
                info!("asked to reload");
                // When the loop is gone, so is the daemon, below.
                let _ = commands.send(Command::Reload).await;
            }
            failure = tasks.first_end() => break Some(failure),
        }
    };
    if let Some(failure) = failure {
        let failure = anyhow::Error::from(failure);
        manager.stopping(&format!("{failure:#}"));
        error!("{failure:#}; what is in force stays in force");
        // The others are not waited for: one of them may be what hangs.
        return Err(failure);
    }
    info!("asked to stop; what is in force stays in force");
    manager.stopping("asked to stop");
    tasks.stop().await?;
    Ok(())
}

fn sinks(flow_log: &FlowLog) -> anyhow::Result<Vec<SinkQueue>> {
    Ok(match flow_log {
        FlowLog::Off => Vec::new(),
        FlowLog::Stdout => vec![SinkQueue::start(
            "stdout",
            StreamSink::stdout(),
            DEFAULT_QUEUE,
        )?],
        FlowLog::File { path, rotation } => {
            let sink = FileSink::open(path, rotation.clone())?;
            vec![SinkQueue::start("file", sink, DEFAULT_QUEUE)?]
        }
    })
}
