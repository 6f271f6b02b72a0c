//! Requests at the control socket, as bytes on a connection.

use std::{path::PathBuf, sync::Arc};

use enforcer::{
    api::{
        access::Access,
        request::{ApplyAnswer, ConfirmAnswer},
        routes::{KernelStatus, KernelView, Sources, router},
        server,
    },
    datapath::{Capacities, DatapathSettings, XdpMode},
    identity::attest::AttestView,
    observe::history::History,
    policy::model::Mode,
    reconcile::{command::Command, in_force::InForce},
    settings::{FlowLog, Settings, SocketSettings, UplinkChoice},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    runtime::{Builder, Runtime},
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;

use super::scene::{NOW, SCENE};

/// How often everybody may go on before an exchange is over: some requests are answered only
/// when something happens, and nothing does.
const PATIENCE: usize = 50;

struct NoKernel;

impl KernelView for NoKernel {
    fn read(&self) -> Result<KernelStatus, String> {
        Err("there is none".to_owned())
    }
}

/// A daemon without a kernel.
struct Desk {
    runtime: Runtime,
    sources: Sources,
    /// Whoever looks at it has something to see for as long as this is there.
    _in_force: watch::Sender<Arc<InForce>>,
}

impl Desk {
    fn new() -> Self {
        let (policy, image) = &*SCENE;
        let mut now = InForce::nothing();
        now.policy = Arc::new(policy.clone());
        now.image = Arc::new(image.clone());
        now.as_of = NOW;
        let (in_force, receiver) = watch::channel(Arc::new(now));
        let (commands, wishes) = mpsc::channel(1);
        let runtime = Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime without files");
        runtime.spawn(answer(wishes));
        let nowhere = PathBuf::from("/nonexistent");
        let settings = Settings {
            fleet: None,
            policies: nowhere.clone(),
            git: None,
            mode: None,
            uplinks: UplinkChoice::Auto,
            state_dir: nowhere.clone(),
            datapath: DatapathSettings {
                pin_dir: nowhere.clone(),
                cgroup_root: None,
                capacities: Capacities::default(),
                xdp: XdpMode::Off,
                numbering: 0,
            },
            socket: SocketSettings {
                path: nowhere,
                group: None,
            },
            metrics: None,
            attest: None,
            identity: enforcer::identity::files::IdentitySource::Provider(
                "unix:/nowhere".parse().expect("an address"),
            ),
            workload_api: None,
            node: "node".to_owned(),
            flow_log: FlowLog::Off,
            report_allowed: false,
            reject_limit: 0,
            report_limit: 1,
        };
        Self {
            runtime,
            sources: Sources {
                fleet: None,
                settings: Arc::new(settings),
                started: time::OffsetDateTime::UNIX_EPOCH,
                in_force: receiver,
                commands,
                kernel: Arc::new(NoKernel),
                git: None,
                history: History::new(10),
                workload_api: None,
                attestation: AttestView {
                    material: enforcer::identity::files::channel().1,
                    bindings: watch::channel(Arc::default()).1,
                    journal: Arc::default(),
                },
                stop: CancellationToken::new(),
            },
            _in_force: in_force,
        }
    }
}

/// Does what is asked, without doing it.
async fn answer(mut wishes: mpsc::Receiver<Command>) {
    while let Some(wish) = wishes.recv().await {
        // Whoever asked may be gone.
        match wish {
            Command::Apply(request, reply) => {
                let _ = reply.send(Ok(ApplyAnswer {
                    changed: true,
                    generation: 1,
                    digest: String::new(),
                    mode: request.mode.unwrap_or_default(),
                    trial: None,
                    warning: None,
                }));
            }
            Command::Confirm(reply) => {
                let _ = reply.send(Ok(ConfirmAnswer {
                    generation: 1,
                    digest: String::new(),
                    mode: Mode::Enforce,
                }));
            }
            Command::Reload | Command::Refresh(_) => {}
        }
    }
}

thread_local! {
    static DESK: Desk = Desk::new();
}

/// Whatever comes in, what goes out is HTTP, and nothing breaks inside.
pub fn request(data: &[u8]) {
    DESK.with(|desk| {
        let answer = desk.runtime.block_on(exchange(desk.sources.clone(), data));
        if answer.is_empty() {
            return;
        }
        let shown = || String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(b"HTTP/1."), "{}", shown());
        let code = answer.get(9..12).unwrap_or_default();
        assert_ne!(code, b"500", "{}", shown());
    });
}

async fn exchange(sources: Sources, data: &[u8]) -> Vec<u8> {
    let (mut caller, daemon) = duplex(1 << 20);
    let stop = CancellationToken::new();
    let serve = server::connection(daemon, Some(Access::Full), router(sources), stop);
    let mut answer = Vec::new();
    let ask = async {
        // The daemon may have heard enough.
        let _ = caller.write_all(data).await;
        let _ = caller.read_to_end(&mut answer).await;
    };
    let both = async { tokio::join!(serve, ask) };
    let patience = async {
        for _ in 0..PATIENCE {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        _ = both => {}
        () = patience => {}
    }
    answer
}
