//! The small tree that parsed questions, records and events are put to.

use std::sync::LazyLock;

use enforcer::{
    compile::{self, Image, Inputs, Limits, Numbers, Subjects},
    policy::{
        load_text,
        model::{Mode, Moment, ResolvedPolicy},
    },
};

const TREE: &str = "
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {cgroup: /web, addresses: [10.0.0.1, 'fd00::1']}
---
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {interface: veth-db, addresses: [10.0.0.2]}
---
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: db, namespace: shop}
spec:
  selector: {matchLabels: {app: db}}
  ingress:
  - {name: web, from: [{labels: {app: web}}], ports: [5432/tcp, icmp]}
";

/// When everything is asked: 2027.
pub const NOW: Moment = Moment(1_800_000_000);

/// The tree, and what it compiles to.
pub static SCENE: LazyLock<(ResolvedPolicy, Image)> = LazyLock::new(|| {
    let policy = load_text("scene.yaml", TREE).expect("good");
    let image = compile(&policy, &mut Numbers::default()).expect("small");
    (policy, image)
});

/// Compiles for every workload, on a node that enforces.
pub fn compile(
    policy: &ResolvedPolicy,
    numbers: &mut Numbers,
) -> Result<Image, compile::CompileError> {
    let inputs = Inputs {
        policy,
        mode: Mode::Enforce,
        now: NOW,
        host_addresses: &[],
        elsewhere: &enforcer::compile::elsewhere::NOBODY,
        attested: enforcer::compile::NOBODY,
        subjects: Subjects::All,
        limits: &Limits::NONE,
        in_force: None,
    };
    compile::compile(&inputs, numbers)
}
