use super::*;
use crate::{
    api::status::EndpointStatus,
    compile::image::{Assurance, WorkloadName},
    identity::{
        bundle::Revoked,
        fixtures::{Ca, ca_params, leaf_params, trust},
        material::Material,
    },
    policy::model::Labels,
};

const ID: &str = "spiffe://example.org/web";
const TREE: &str = "
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: web, namespace: shop}
spec: {cgroup: /shop/web, spiffeId: 'spiffe://example.org/web'}
";

fn endpoint(number: u64) -> EndpointStatus {
    EndpointStatus {
        id: 2,
        namespace: Some("shop".into()),
        name: "web".into(),
        identity: 300,
        labels: Labels::new(),
        spiffe_id: Some(ID.into()),
        assurance: Assurance::Kernel,
        attested: None,
        kind: PlaceKind::Cgroup,
        place: "/shop/web".into(),
        place_number: number,
        audit: false,
        origin: None,
    }
}

fn in_force(tree: &str, number: u64) -> InForce {
    let mut now = InForce::nothing();
    now.ready = true;
    now.policy = Arc::new(crate::policy::load_text("t.yaml", tree).unwrap());
    now.endpoints = Arc::new([endpoint(number)]);
    now
}

struct Scene {
    root: Ca,
    binding: Binding,
    folder: tempfile::TempDir,
    journal: Arc<Journal>,
}

fn scene(seconds: u64) -> Scene {
    let root = Ca::root(ca_params("root"));
    let (leaf, _) = root.issue(&leaf_params(&[ID]));
    let svid = Svid::parse(std::slice::from_ref(&leaf), Usage::Client).unwrap();
    let since = unix_milliseconds();
    Scene {
        binding: Binding {
            at: BoundPlace {
                workload: WorkloadName {
                    namespace: "shop".into(),
                    name: "web".into(),
                },
                kind: PlaceKind::Cgroup,
                place: "/shop/web".into(),
                number: 7,
            },
            id: svid.id().clone(),
            serial: svid.serial().clone(),
            chain: vec![to_hex(&leaf)],
            since,
            until: since + seconds * 1_000,
            source: "127.0.0.1:4000".parse().unwrap(),
            process: None,
        },
        root,
        folder: tempfile::tempdir().unwrap(),
        journal: Arc::default(),
    }
}

fn reasons(journal: &Journal) -> Vec<String> {
    let kept = journal.kept();
    kept.into_iter().map(|event| event.reason).collect()
}

#[test]
fn ends_have_their_reasons() {
    let mut scene = scene(60);
    let now = in_force(TREE, 7);
    assert_eq!(end_of(&scene.binding, &now), None);
    let reason = |binding: &Binding, now: &InForce| end_of(binding, now).map(|end| end.reason);
    // The cgroup was made anew: it is another one.
    let anew = in_force(TREE, 8);
    assert_eq!(reason(&scene.binding, &anew), Some("endpoint-gone"));
    let other = TREE.replace("/web'", "/other'");
    let other = in_force(&other, 7);
    assert_eq!(reason(&scene.binding, &other), Some("policy"));
    scene.binding.until = scene.binding.since;
    assert_eq!(reason(&scene.binding, &now), Some("expired"));
}

#[test]
fn what_is_believed_is_asked_again() {
    let scene = scene(60);
    let reason = |trust: Trust| disbelieved(&scene.binding, &trust).map(|end| end.reason);
    let with = |revoked| trust("example.org", &[&scene.root], revoked);
    assert_eq!(reason(with(Revoked::default())), None);
    let revoked = Revoked::of(["0abc".parse().unwrap()]);
    assert_eq!(reason(with(revoked)), Some("revoked"));
    assert_eq!(reason(Trust::default()), Some("unknown-domain"));
}

#[tokio::test]
async fn a_lease_outlives_the_daemon_and_ends_in_time() {
    let scene = scene(3);
    let path = scene.folder.path();
    let leases = Leases::open(path, scene.journal.clone()).unwrap();
    leases
        .bind(scene.binding.clone(), || Ok::<_, ()>(()))
        .unwrap();
    assert!(leases.bind(scene.binding.clone(), || Err(())).is_err());
    let mut later = scene.binding.clone();
    later.until += 1;
    leases.bind(later.clone(), || Ok::<_, ()>(())).unwrap();
    leases.write(&leases.watch().borrow().clone());
    assert_eq!(reasons(&scene.journal), ["proven", "renewed"]);

    // Started again, before anything is known.
    let leases = Leases::open(path, scene.journal.clone()).unwrap();
    assert_eq!(**leases.watch().borrow().values().next().unwrap(), later);
    let (in_force_sender, in_force_receiver) = watch::channel(Arc::new(InForce::nothing()));
    let (material_sender, material) = watch::channel(Arc::new(Material::default()));
    let stop = CancellationToken::new();
    let task = tokio::spawn(
        leases
            .clone()
            .keep(in_force_receiver, material, stop.clone()),
    );
    let mut watch = leases.watch();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(watch.borrow().len(), 1, "nobody knows yet whom to believe");
    in_force_sender.send_replace(Arc::new(in_force(TREE, 7)));
    material_sender.send_replace(Arc::new(Material {
        trust: Arc::new(trust("example.org", &[&scene.root], Revoked::default())),
        ..Material::default()
    }));
    watch
        .wait_for(|bindings| bindings.is_empty())
        .await
        .unwrap();
    assert!(unix_milliseconds() >= later.until);
    assert_eq!(reasons(&scene.journal).last().unwrap(), "expired");
    stop.cancel();
    task.await.unwrap().unwrap();
    let kept: Kept = serde_json::from_slice(&std::fs::read(path.join(FILE)).unwrap()).unwrap();
    assert!(kept.bindings.is_empty());
}

#[tokio::test]
async fn a_revoked_serial_ends_it_at_once() {
    let scene = scene(600);
    let leases = Leases::open(scene.folder.path(), scene.journal.clone()).unwrap();
    leases
        .bind(scene.binding.clone(), || Ok::<_, ()>(()))
        .unwrap();
    let (_in_force, in_force_receiver) = watch::channel(Arc::new(in_force(TREE, 7)));
    let (material_sender, material) = watch::channel(Arc::new(Material::default()));
    let stop = CancellationToken::new();
    tokio::spawn(
        leases
            .clone()
            .keep(in_force_receiver, material, stop.clone()),
    );
    let believe = |revoked| {
        material_sender.send_replace(Arc::new(Material {
            trust: Arc::new(trust("example.org", &[&scene.root], revoked)),
            ..Material::default()
        }))
    };
    believe(Revoked::default());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut watch = leases.watch();
    assert_eq!(watch.borrow_and_update().len(), 1);
    believe(Revoked::of(["0abc".parse().unwrap()]));
    let ended = watch.wait_for(|bindings| bindings.is_empty());
    tokio::time::timeout(Duration::from_secs(5), ended)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(reasons(&scene.journal), ["proven", "revoked"]);
    stop.cancel();
}
