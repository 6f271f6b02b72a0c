//! Proofs of identity, as far as the loop goes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::timeout;

use super::host::{Daemon, Host};
use crate::{
    api::status::PlaceKind,
    compile::image::{Assurance, WorkloadName},
    identity::binding::{Binding, Bindings, BoundPlace},
    inventory::{Interface, Snapshot},
};

const TREE: &str = "
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {cgroup: /web, spiffeId: 'spiffe://example.org/web'}
---
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: api, namespace: shop, labels: {app: api}}
spec: {interface: veth0, addresses: [10.0.0.7], spiffeId: 'spiffe://example.org/api'}
---
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: web, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  ingress: [{from: [{labels: {app: api}, assurance: attested}]}]
";

fn snapshot() -> Snapshot {
    Snapshot {
        cgroups: [("/".to_owned(), 1), ("/web".to_owned(), 7)].into(),
        interfaces: vec![Interface {
            ifindex: 9,
            name: "veth0".into(),
            up: true,
            loopback: false,
            kind: None,
            peer: None,
            peer_netns: None,
            controller: None,
        }],
        ..Snapshot::default()
    }
}

fn proof(name: &str, id: &str, kind: PlaceKind, place: &str, number: u64) -> Bindings {
    let at = BoundPlace {
        workload: WorkloadName {
            namespace: "shop".into(),
            name: name.into(),
        },
        kind,
        place: place.into(),
        number,
    };
    let binding = Binding {
        at: at.clone(),
        id: id.parse().unwrap(),
        serial: "01".parse().unwrap(),
        chain: Vec::new(),
        since: 0,
        until: u64::MAX,
        source: "127.0.0.1:1".parse().unwrap(),
        process: None,
    };
    BTreeMap::from([(at, Arc::new(binding))])
}

async fn bind(daemon: &mut Daemon, bindings: Bindings) {
    daemon.published.mark_unchanged();
    daemon.bindings.send(Arc::new(bindings)).unwrap();
    let changed = timeout(Duration::from_secs(1), daemon.published.changed());
    changed.await.unwrap().unwrap();
}

fn known_as(daemon: &Daemon, name: &str) -> (Assurance, u32) {
    let now = daemon.now();
    let endpoint = now.endpoints.iter().find(|e| e.name == name).unwrap();
    (endpoint.assurance, endpoint.identity)
}

async fn started() -> (Host, Daemon) {
    let host = Host::new("web");
    host.write(TREE);
    let mut daemon = host.start().await;
    daemon.inventory.send(Arc::new(snapshot())).unwrap();
    daemon.published.changed().await.unwrap();
    (host, daemon)
}

#[tokio::test(start_paused = true)]
async fn a_proof_raises_the_endpoint_to_which_it_is_bound_and_no_other() {
    const ID: &str = "spiffe://example.org/web";
    let (_host, mut daemon) = started().await;
    let (assurance, number) = known_as(&daemon, "web");
    assert_eq!(assurance, Assurance::Kernel);
    let cgroup = |id, place, number| proof("web", id, PlaceKind::Cgroup, place, number);
    // Another cgroup under the same name, somebody else, and another place.
    for wrong in [
        cgroup(ID, "/web", 8),
        cgroup("spiffe://example.org/api", "/web", 7),
        cgroup(ID, "/other", 7),
    ] {
        bind(&mut daemon, wrong).await;
        assert_eq!(known_as(&daemon, "web"), (Assurance::Kernel, number));
    }
    let image = daemon.now().image.clone();
    bind(&mut daemon, cgroup(ID, "/web", 7)).await;
    let (assurance, proven) = known_as(&daemon, "web");
    assert_eq!(assurance, Assurance::Attested);
    assert_ne!(proven, number);
    let now = daemon.now();
    assert_eq!(
        now.image.identities.get(&proven).unwrap().assurance,
        Assurance::Attested
    );
    assert!(Arc::ptr_eq(&image, &now.image), "nothing is compiled anew");
    // Whoever has proven it is restricted by the same rules as before.
    assert_eq!(image.sets[&number].numbers, image.sets[&proven].numbers);
    let shown = now.endpoints.iter().find(|e| e.name == "web").unwrap();
    assert_eq!(shown.attested.as_ref().unwrap().serial, "01");
    bind(&mut daemon, Bindings::new()).await;
    assert_eq!(known_as(&daemon, "web"), (Assurance::Kernel, number));
    daemon.stop().await;
}

#[tokio::test(start_paused = true)]
async fn addresses_behind_an_interface_stand_for_its_proof() {
    let (_host, mut daemon) = started().await;
    let by_address = |daemon: &Daemon| {
        let image = &daemon.now().image;
        let number = image.identity_of("10.0.0.7".parse().unwrap());
        image.identities.get(&number).unwrap().assurance
    };
    assert_eq!(by_address(&daemon), Assurance::Address);
    let id = "spiffe://example.org/api";
    let proven = proof("api", id, PlaceKind::Interface, "veth0", 9);
    bind(&mut daemon, proven).await;
    assert_eq!(known_as(&daemon, "api").0, Assurance::Attested);
    assert_eq!(by_address(&daemon), Assurance::Attested);
    bind(&mut daemon, Bindings::new()).await;
    assert_eq!(by_address(&daemon), Assurance::Address);
    daemon.stop().await;
}
