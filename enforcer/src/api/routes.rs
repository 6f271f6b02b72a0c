//! What is answered at the control socket.

use std::{borrow::Cow, convert::Infallible, sync::Arc};

use axum::{
    Extension, Json, Router,
    body::{Body, Bytes},
    extract::{RawQuery, State},
    http::header,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures::stream;
use serde::Serialize;
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{
    admission::{self, Body64K, demand_full},
    git::{FetchAnswer, FetchRequest, GitStatus},
    identity,
    problem::{Problem, ProblemCode},
    question::{self, FlowQuestion},
    request::ApplyRequest,
    server::Caller,
    status::{AttachmentStatus, EndpointStatus, FeatureStatus, LossStatus, MapStatus, Status},
    tree, waiting,
};
use crate::{
    compile::{
        Image,
        explain::{Explainer, Explanation},
        image::WorkloadName,
    },
    git::follow::{FetchWish, GitHandle},
    identity::{attest::AttestView, workload_api::WorkloadApiView},
    observe::{
        clock::rfc3339,
        filter::FlowQuery,
        history::History,
        record::{FlowRecord, StreamLine},
    },
    reconcile::{command::Command, in_force::InForce, reconciler::unix_milliseconds},
    registry::status::{FleetBoard, FleetStatus},
    settings::Settings,
};

/// The kernel's own account of itself, for `status`.
pub trait KernelView: Send + Sync {
    /// Reads it. Blocks.
    fn read(&self) -> Result<KernelStatus, String>;
}

/// See [`KernelView`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelStatus {
    /// How full the maps are.
    pub maps: Vec<MapStatus>,
    /// What was lost.
    pub losses: Vec<LossStatus>,
    /// What there is and is not.
    pub features: Vec<FeatureStatus>,
    /// Where programs are attached.
    pub attachments: Vec<AttachmentStatus>,
}

/// What the answers are made from.
#[derive(Clone)]
pub struct Sources {
    /// Settings of the daemon.
    pub settings: Arc<Settings>,
    /// When it started.
    pub started: OffsetDateTime,
    /// What is in force.
    pub in_force: watch::Receiver<Arc<InForce>>,
    /// The loop's ear.
    pub commands: mpsc::Sender<Command>,
    /// The kernel.
    pub kernel: Arc<dyn KernelView>,
    /// The git source, if there is one.
    pub git: Option<GitHandle>,
    /// The fleet; `None` on one host.
    pub fleet: Option<FleetBoard>,
    /// Latest flow records.
    pub history: Arc<History>,
    /// Attestation.
    pub attestation: AttestView,
    /// The Workload API, where it is served.
    pub workload_api: Option<WorkloadApiView>,
    /// The daemon stops: streams end.
    pub stop: CancellationToken,
}

/// The requests and who answers them.
pub fn router(sources: Sources) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/endpoints", get(endpoints))
        .route("/v1/nodes", get(nodes))
        .route("/v1/flows", get(flows))
        .route("/v1/identity", get(identity::identity))
        .route("/v1/identity/events", get(identity::events))
        .route("/v1/explain", post(explain))
        .route("/v1/tree", get(tree::serve))
        .route("/v1/wait", get(waiting::wait))
        .route("/v1/apply", post(apply))
        .route("/v1/confirm", post(confirm))
        .route("/v1/fetch", post(fetch))
        .fallback(async || Problem::new(ProblemCode::NotFound, "there is no such request"))
        .method_not_allowed_fallback(async || {
            Problem::new(ProblemCode::NotFound, "not by this method")
        })
        .layer(axum::middleware::from_fn(admission::admit))
        .with_state(sources)
}

/// An answer in JSON, or why there is none.
pub(super) type Answer<T> = Result<Json<T>, Problem>;

async fn status(State(sources): State<Sources>) -> Answer<Status> {
    let kernel = sources.kernel.clone();
    let kernel = tokio::task::spawn_blocking(move || kernel.read())
        .await
        .map_err(|e| Problem::new(ProblemCode::Internal, e))?;
    let now = sources.in_force.borrow().clone();
    let mut health = now.health.clone();
    let notes = sources.attestation.material.borrow().notes.clone();
    health.ok &= notes.is_empty();
    health.reasons.extend(notes);
    let kernel = kernel.unwrap_or_else(|error| {
        health.ok = false;
        health
            .reasons
            .push(format!("the kernel's maps cannot be read: {error}"));
        KernelStatus::default()
    });
    let git = sources.git.as_ref();
    let git = git.map(|git| {
        git.status
            .borrow()
            .clone()
            .with_commit(now.followed_commit())
    });
    let problems = git.as_ref().map(GitStatus::problems).unwrap_or_default();
    health.ok &= problems.is_empty();
    health.reasons.extend(problems);
    let fleet = sources.fleet.as_ref().map(FleetBoard::summary);
    if let Some(fleet) = &fleet {
        let shortfalls = fleet.shortfalls();
        health.ok &= shortfalls.is_empty();
        health.reasons.extend(shortfalls);
    }
    let workload_api = sources.workload_api.as_ref().map(WorkloadApiView::status);
    if let Some(problem) = workload_api.as_ref().and_then(|api| api.problem.clone()) {
        health.ok = false;
        health.reasons.push(problem);
    }
    let uptime = OffsetDateTime::now_utc() - sources.started;
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        abi: enforcer_common::abi::ABI_VERSION,
        node: sources.settings.node.clone(),
        started: rfc3339(sources.started),
        uptime_seconds: u64::try_from(uptime.whole_seconds()).unwrap_or(0),
        health,
        mode: now.mode.clone(),
        policy: now.policy_status(&sources.settings.policies),
        git,
        refused: now.refused.clone(),
        trial: now.trial.as_ref().map(|t| t.status(unix_milliseconds())),
        fleet,
        workload_api,
        endpoints: now.endpoints.to_vec(),
        maps: kernel.maps,
        losses: kernel.losses,
        features: kernel.features,
        attachments: kernel.attachments,
    }))
}

async fn endpoints(State(sources): State<Sources>) -> Json<Vec<EndpointStatus>> {
    Json(sources.in_force.borrow().endpoints.to_vec())
}

async fn nodes(State(sources): State<Sources>) -> Json<Option<FleetStatus>> {
    Json(sources.fleet.as_ref().map(FleetBoard::read))
}

async fn flows(
    State(sources): State<Sources>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let query = FlowQuery::from_url_query(query.as_deref().unwrap_or_default())
        .map_err(|e| Problem::new(ProblemCode::BadRequest, e))?;
    let body = if query.follow {
        let follower = sources.history.follow(query);
        Body::from_stream(stream::unfold(
            (follower, sources.stop),
            async |(mut follower, stop)| {
                let line = tokio::select! {
                    line = follower.next() => line?,
                    () = stop.cancelled() => return None,
                };
                Some((Ok::<_, Infallible>(to_line(&line)), (follower, stop)))
            },
        ))
    } else {
        let records = sources.history.query(&query);
        Body::from_stream(stream::iter(records.into_iter().map(|record| {
            Ok::<_, Infallible>(to_line(&StreamLine::<Arc<FlowRecord>>::Record(record)))
        })))
    };
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

pub(super) fn to_line<T: Serialize>(value: &T) -> Bytes {
    // Records are plain data with string keys, which always have a JSON form.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

async fn explain(
    State(sources): State<Sources>,
    Body64K(question): Body64K<FlowQuestion>,
) -> Answer<Vec<Explanation>> {
    let now = sources.in_force.borrow().clone();
    let image = as_proven(&now);
    let explainer = Explainer {
        policy: &now.policy,
        mode: now.mode.effective,
        now: now.as_of,
        image: &image,
    };
    question::explain(&explainer, &question)
        .map(Json)
        .map_err(|e| Problem::new(ProblemCode::BadRequest, e))
}

/// The image in which a workload is known as well as its endpoint here is.
fn as_proven(now: &InForce) -> Cow<'_, Image> {
    let mut image = Cow::Borrowed(&*now.image);
    for endpoint in now.endpoints.iter().filter(|e| e.attested.is_some()) {
        let name = WorkloadName {
            namespace: endpoint.namespace.clone().unwrap_or_default(),
            name: endpoint.name.clone(),
        };
        let workloads = &mut image.to_mut().workloads;
        workloads.insert(name, endpoint.identity);
    }
    image
}

async fn apply(
    State(sources): State<Sources>,
    Extension(caller): Extension<Caller>,
    Body64K(request): Body64K<ApplyRequest>,
) -> Answer<super::request::ApplyAnswer> {
    demand_full(caller)?;
    ask(&sources, |reply| Command::Apply(request, reply)).await
}

async fn confirm(
    State(sources): State<Sources>,
    Extension(caller): Extension<Caller>,
) -> Answer<super::request::ConfirmAnswer> {
    demand_full(caller)?;
    ask(&sources, Command::Confirm).await
}

async fn fetch(
    State(sources): State<Sources>,
    Extension(caller): Extension<Caller>,
    Body64K(request): Body64K<FetchRequest>,
) -> Answer<FetchAnswer> {
    demand_full(caller)?;
    let git = sources.git.as_ref().ok_or_else(|| {
        Problem::new(
            ProblemCode::BadRequest,
            "the policy tree is no git repository's: start the daemon with `--policies git+https://…`",
        )
    })?;
    let unavailable = || Problem::new(ProblemCode::Unavailable, "the daemon is stopping");
    let (reply, answer) = oneshot::channel();
    let wish = FetchWish { request, reply };
    git.wishes.send(wish).await.map_err(|_| unavailable())?;
    answer.await.map_err(|_| unavailable())?.map(Json)
}

async fn ask<T>(
    sources: &Sources,
    command: impl FnOnce(oneshot::Sender<Result<T, Problem>>) -> Command,
) -> Answer<T> {
    let stopping = || Problem::new(ProblemCode::Unavailable, "the daemon is stopping");
    let (reply, answer) = oneshot::channel();
    sources
        .commands
        .send(command(reply))
        .await
        .map_err(|_| stopping())?;
    answer.await.map_err(|_| stopping())?.map(Json)
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use super::*;
    use crate::{
        api::{
            access::Access,
            admission::LARGEST_BODY,
            client::{Client, ClientError},
            request::{ApplyAnswer, ConfirmAnswer, WaitAnswer, WaitRequest},
            server::ControlSocket,
        },
        datapath::{Capacities, DatapathSettings, XdpMode},
        observe::fixtures,
        policy::model::Mode,
        settings::{FlowLog, SocketSettings, UplinkChoice},
    };

    struct NoKernel;

    impl KernelView for NoKernel {
        fn read(&self) -> Result<KernelStatus, String> {
            Err("there is none".to_owned())
        }
    }

    struct Served {
        root: tempfile::TempDir,
        in_force: watch::Sender<Arc<InForce>>,
        history: Arc<History>,
        stop: CancellationToken,
        task: tokio::task::JoinHandle<std::io::Result<()>>,
    }

    /// Serves on a socket; with `caller` everybody is that one.
    fn serve(caller: Option<Caller>) -> Served {
        let root = tempfile::tempdir().unwrap();
        let socket = SocketSettings {
            path: root.path().join("run/socket"),
            group: None,
        };
        let settings = Settings {
            policies: "/nowhere".into(),
            git: None,
            mode: None,
            uplinks: UplinkChoice::Auto,
            state_dir: root.path().into(),
            datapath: DatapathSettings {
                pin_dir: root.path().into(),
                cgroup_root: None,
                capacities: Capacities::default(),
                xdp: XdpMode::Off,
                numbering: 0,
            },
            socket: socket.clone(),
            metrics: None,
            attest: None,
            identity: crate::identity::files::IdentitySource::Provider(
                "unix:/nowhere".parse().expect("an address"),
            ),
            workload_api: None,
            node: "node1".into(),
            flow_log: FlowLog::Off,
            report_allowed: false,
            report_limit: 1,
            reject_limit: 1,
            fleet: None,
        };
        let (in_force, receiver) = watch::channel(Arc::new(InForce::nothing()));
        let (commands, mut wishes) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Some(wish) = wishes.recv().await {
                match wish {
                    Command::Apply(request, reply) => {
                        let answer = ApplyAnswer {
                            changed: true,
                            generation: 7,
                            digest: String::new(),
                            mode: request.mode.unwrap_or_default(),
                            trial: None,
                            warning: None,
                        };
                        reply.send(Ok(answer)).unwrap();
                    }
                    Command::Confirm(reply) => {
                        let problem = Problem::new(ProblemCode::NoTrial, "no trial");
                        reply.send(Err(problem)).unwrap();
                    }
                    Command::Reload | Command::Refresh(_) => {}
                }
            }
        });
        let history = History::new(10);
        let stop = CancellationToken::new();
        let (_, bindings) = watch::channel(Arc::default());
        let router = router(Sources {
            attestation: AttestView {
                material: crate::identity::files::channel().1,
                bindings,
                journal: Arc::default(),
            },
            workload_api: None,
            settings: Arc::new(settings),
            started: OffsetDateTime::now_utc(),
            in_force: receiver,
            commands,
            kernel: Arc::new(NoKernel),
            git: None,
            fleet: None,
            history: history.clone(),
            stop: stop.clone(),
        });
        let control = ControlSocket::bind(&socket).unwrap();
        // Stands between the socket, which knows who the caller is, and the requests.
        let router = match caller {
            Some(caller) => router.layer(Extension(caller)),
            None => router,
        };
        let task = tokio::spawn(control.serve(router, stop.clone()));
        Served {
            root,
            in_force,
            history,
            stop,
            task,
        }
    }

    impl Served {
        fn client(&self) -> Client {
            Client::new(self.root.path().join("run/socket"))
        }
    }

    fn code(error: &ClientError) -> ProblemCode {
        match error {
            ClientError::Problem(problem) => problem.code,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn whoever_may_read_cannot_change() {
        let served = serve(Some(Caller(Some(Access::Read))));
        let client = served.client();
        let status: Status = client.get("/v1/status").await.unwrap();
        assert_eq!(status.node, "node1");
        assert!(
            status
                .health
                .reasons
                .iter()
                .any(|r| r.contains("there is none"))
        );
        let _: Vec<EndpointStatus> = client.get("/v1/endpoints").await.unwrap();
        for path in ["/v1/apply", "/v1/confirm"] {
            let answer = client
                .post::<_, serde_json::Value>(path, &ApplyRequest::default())
                .await;
            assert_eq!(code(&answer.unwrap_err()), ProblemCode::Forbidden);
        }
    }

    #[tokio::test]
    async fn nobody_else_learns_anything() {
        let served = serve(Some(Caller(None)));
        for path in [
            "/v1/status",
            "/v1/endpoints",
            "/v1/flows",
            "/v1/tree",
            "/v1/nonsense",
        ] {
            let answer = served.client().get::<serde_json::Value>(path).await;
            assert_eq!(code(&answer.unwrap_err()), ProblemCode::Forbidden);
        }
    }

    #[tokio::test]
    async fn the_owner_may_change() {
        let served = serve(None);
        let request = ApplyRequest {
            mode: Some(Mode::Enforce),
            ..ApplyRequest::default()
        };
        let answer: ApplyAnswer = served.client().post("/v1/apply", &request).await.unwrap();
        assert_eq!(answer.mode, Mode::Enforce);
        let refused = served
            .client()
            .post::<_, ConfirmAnswer>("/v1/confirm", &())
            .await;
        assert_eq!(code(&refused.unwrap_err()), ProblemCode::NoTrial);
    }

    #[tokio::test]
    async fn what_is_wrong_is_said() {
        let served = serve(None);
        let client = served.client();
        let answer = client.get::<serde_json::Value>("/v1/nonsense").await;
        assert_eq!(code(&answer.unwrap_err()), ProblemCode::NotFound);
        let nonsense = serde_json::json!({ "mode": "enforce", "force": true });
        let answer = client.post::<_, ApplyAnswer>("/v1/apply", &nonsense).await;
        assert_eq!(code(&answer.unwrap_err()), ProblemCode::BadRequest);
        let large = serde_json::json!({ "tree": "x".repeat(LARGEST_BODY) });
        let answer = client.post::<_, ApplyAnswer>("/v1/apply", &large).await;
        assert_eq!(code(&answer.unwrap_err()), ProblemCode::BadRequest);
        let answer = client
            .get::<WaitAnswer>("/v1/wait?timeout_milliseconds=1&digest=xyz")
            .await;
        assert_eq!(code(&answer.unwrap_err()), ProblemCode::BadRequest);
        let answer = client.lines("/v1/flows?nonsense=1").await;
        assert_eq!(code(&answer.unwrap_err()), ProblemCode::BadRequest);
    }

    #[tokio::test]
    async fn the_tree_in_force_is_served_from_its_copy() {
        let served = serve(Some(Caller(Some(Access::Read))));
        let client = served.client();
        let nothing = tree::fetch(&client).await.unwrap_err();
        assert_eq!(code(&nothing), ProblemCode::Unavailable);
        let copy = crate::state::tree_copy::path_of_copy(served.root.path(), "abcdef");
        std::fs::create_dir_all(copy.join("deep")).unwrap();
        let text = "apiVersion: enforcer.dev/v1alpha1\nkind: Node\nmetadata: {name: n}\nspec: {}\n";
        std::fs::write(copy.join("deep/node.yaml"), text).unwrap();
        let mut now = InForce::nothing();
        Arc::make_mut(&mut now.policy).digest = "abcdef".into();
        served.in_force.send_replace(Arc::new(now));
        let found = tree::fetch(&client).await.unwrap();
        assert_eq!(found.summary.digest, "abcdef");
        assert_eq!(
            found.files,
            [("deep/node.yaml".to_owned(), text.to_owned())]
        );
        std::fs::remove_dir_all(copy).unwrap();
        let gone = tree::fetch(&client).await.unwrap_err();
        assert_eq!(code(&gone), ProblemCode::Unavailable);
    }

    #[tokio::test]
    async fn waiting_ends_when_it_is_in_force() {
        let served = serve(None);
        let request = |generation, timeout_milliseconds| WaitRequest {
            digest: Some("ABCDEF01".to_owned()),
            commit: Some("0123ABC".to_owned()),
            generation: Some(generation),
            timeout_milliseconds,
        };
        let client = served.client();
        let early = client.get::<WaitAnswer>(&request(3, 20).to_path()).await;
        assert_eq!(code(&early.unwrap_err()), ProblemCode::Timeout);
        let path = request(3, 10_000).to_path();
        let waiting = tokio::spawn(async move { client.get::<WaitAnswer>(&path).await });
        for generation in 1..=3 {
            let mut now = InForce::nothing();
            now.ready = true;
            now.generation = generation;
            Arc::make_mut(&mut now.policy).digest = "abcdef0123".into();
            let commit = if generation == 3 {
                "0123abcdef"
            } else {
                "0123abbb"
            };
            Arc::make_mut(&mut now.policy).commit = Some(commit.into());
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert!(!waiting.is_finished());
            served.in_force.send_replace(Arc::new(now));
        }
        assert_eq!(waiting.await.unwrap().unwrap().generation, 3);
    }

    #[tokio::test]
    async fn records_come_as_lines_and_end_with_the_daemon() {
        let served = serve(None);
        served.history.push(Arc::new(fixtures::record()));
        let mut lines = served
            .client()
            .lines("/v1/flows?follow=true")
            .await
            .unwrap();
        let record = fixtures::record();
        served.history.push(Arc::new(FlowRecord {
            sequence: record.sequence + 1,
            ..record
        }));
        for _ in 0..2 {
            let line = lines.next().await.unwrap().unwrap();
            serde_json::from_slice::<FlowRecord>(&line).unwrap();
        }
        served.stop.cancel();
        assert!(matches!(lines.next().await, Ok(None)));
        served.task.await.unwrap().unwrap();
        let gone: Result<Status, _> = Client::new(served.root.path().join("run/socket"))
            .get("/v1/status")
            .await;
        assert!(matches!(gone, Err(ClientError::Unreachable { .. })));
    }

    #[tokio::test]
    async fn a_socket_that_is_served_is_not_taken_and_a_dead_one_is() {
        let served = serve(None);
        let path = served.root.path().join("run/socket");
        let settings = |path: &Path| SocketSettings {
            path: path.into(),
            group: None,
        };
        assert!(ControlSocket::bind(&settings(&path)).is_err());
        served.task.abort();
        let _ = served.task.await;
        assert!(path.exists());
        ControlSocket::bind(&settings(&path)).unwrap();
        let file = served.root.path().join("file");
        std::fs::write(&file, "mine").unwrap();
        assert!(ControlSocket::bind(&settings(&file)).is_err());
        assert!(file.exists());
    }

    #[tokio::test]
    async fn only_the_owner_can_connect_unless_a_group_is_named() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let root = tempfile::tempdir().unwrap();
        let gid = nix::unistd::getegid().as_raw();
        for (group, mode) in [(None, 0o600), (Some((gid, Access::Read)), 0o660)] {
            let path = root.path().join(format!("{mode:o}"));
            let _socket = ControlSocket::bind(&SocketSettings {
                path: path.clone(),
                group,
            })
            .unwrap();
            let metadata = std::fs::metadata(&path).unwrap();
            assert_eq!(metadata.permissions().mode() & 0o777, mode);
            assert_eq!(metadata.gid(), gid);
        }
    }
}
