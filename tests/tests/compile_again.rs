//! A compiler that remembers the last tree makes the same of the next one as one that does not:
//! the same image, byte for byte, and the same numbers given out.

use std::{collections::BTreeSet, sync::Arc};

use enforcer::{
    compile::{
        Compiler, Image, Inputs, Limits, Numbers, Subjects, compile,
        elsewhere::{Announced, Elsewhere, NodePeers, Reached, Service, ServiceAddress},
        image::{IdentitySubject, WorkloadName},
    },
    policy::{
        load_text,
        model::{Assurance, Mode, Moment, Origin, RemoteHost, Workload},
    },
};
use enforcer_common::Action;
use proptest::{collection::vec, prelude::*, sample::Index};
use tests::generate::{self, Scenario};

/// Brings a policy of another tree in, under a name of its own.
fn add_policy(scenario: &mut Scenario, other: &Scenario, which: Index, name: String) {
    let others = &other.policy.policies;
    if others.is_empty() {
        return;
    }
    let mut policy = others[which.index(others.len())].clone();
    Arc::make_mut(&mut policy).name = name;
    let policies = &mut scenario.policy.policies;
    policies.push(policy);
    policies.sort_by(|a, b| a.rank().cmp(&b.rank()));
}

/// Makes a policy say what one of another tree says.
fn change_policy(scenario: &mut Scenario, other: &Scenario, which: Index) {
    let (policies, others) = (&mut scenario.policy.policies, &other.policy.policies);
    if policies.is_empty() || others.is_empty() {
        return;
    }
    let (at, from) = (which.index(policies.len()), which.index(others.len()));
    let policy = Arc::make_mut(&mut policies[at]);
    let source = &others[from];
    policy.rules.clone_from(&source.rules);
    policy.subject.clone_from(&source.subject);
    policy.validity = source.validity;
    policy.mode = source.mode;
}

/// A line comes before a policy: it says the same, further down.
fn move_policy(scenario: &mut Scenario, which: Index) {
    let policies = &mut scenario.policy.policies;
    if policies.is_empty() {
        return;
    }
    let at = which.index(policies.len());
    let policy = Arc::make_mut(&mut policies[at]);
    policy.origin.line += 1;
    for rule in policy.rules.iter_mut().flatten().flatten() {
        rule.origin.line += 1;
    }
}

/// Brings a workload of another tree in, under a name of its own.
fn add_workload(scenario: &mut Scenario, other: &Scenario, which: Index, name: String) {
    let others = &other.policy.workloads;
    if others.is_empty() {
        return;
    }
    let mut workload = others[which.index(others.len())].clone();
    Arc::make_mut(&mut workload).name = name;
    let workloads = Arc::make_mut(&mut scenario.policy.workloads);
    workloads.push(workload);
    workloads.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
}

fn remove_workload(scenario: &mut Scenario, which: Index) {
    let workloads = Arc::make_mut(&mut scenario.policy.workloads);
    if !workloads.is_empty() {
        workloads.remove(which.index(workloads.len()));
    }
}

/// One more thing that happens, beside an [`generate::Edit`].
#[derive(Clone, Copy, Debug)]
enum Also {
    Nothing,
    AddPolicy,
    ChangePolicy,
    MovePolicy,
    AddWorkload,
    RemoveWorkload,
    /// Everything is as it was some steps before, in the same places in memory.
    GoBack,
}

/// Some of the workloads, whose proofs are bound.
fn attested(scenario: &Scenario, choice: u8) -> BTreeSet<WorkloadName> {
    let workloads = scenario.policy.workloads.iter().enumerate();
    let chosen = workloads.filter(|(index, _)| choice >> (index % 8) & 1 == 1);
    let names = chosen.map(|(_, workload)| WorkloadName {
        namespace: workload.namespace.clone(),
        name: workload.name.clone(),
    });
    names.collect()
}

/// Nodes that publish the workloads of two trees, of which one may be that of this node, in two
/// forms each: with all of them, and with every other one. A third has addresses of its own; the
/// others share those of their host, and half of them are known by a port there.
fn nodes(trees: [&Scenario; 2]) -> Vec<[Arc<NodePeers>; 2]> {
    let workloads = trees
        .into_iter()
        .flat_map(|tree| tree.policy.workloads.iter());
    let published: Vec<Arc<Workload>> = (workloads.enumerate())
        .map(|(index, workload)| {
            let single = |net: &&ipnet::IpNet| net.prefix_len() == net.max_prefix_len();
            let own = workload.addresses.iter().filter(single);
            Arc::new(Workload {
                addresses: own.filter(|_| index % 3 == 0).copied().collect(),
                assurance: Assurance::Orchestrator,
                place: None,
                ..(**workload).clone()
            })
        })
        .collect();
    let host = |index: usize| {
        let address = trees[0].host_addresses.get(index).copied();
        let last = u8::try_from(40 + index).expect("few nodes");
        let address = address.unwrap_or_else(|| [10, 0, 0, last].into());
        Arc::new(RemoteHost {
            name: format!("node-{index}"),
            origin: Origin {
                file: "node".into(),
                line: 1,
                column: 1,
            },
            labels: [("node".to_owned(), index.to_string())].into(),
            addresses: vec![address.into()],
        })
    };
    let per_node = published.len().div_ceil(NODES).max(1);
    let nodes = published.chunks(per_node).enumerate();
    let nodes = nodes.map(|(index, workloads)| {
        let host = host(index);
        [1, 2].map(|step| {
            let kept = workloads.iter().enumerate().step_by(step);
            let shared = kept.clone().filter(|(_, w)| w.addresses.is_empty());
            let services = shared.clone().step_by(2).map(|(place, workload)| Service {
                at: ServiceAddress {
                    address: host.addresses[0].addr(),
                    protocol: 6,
                    port: u16::try_from(place).unwrap_or(0),
                },
                workload: Arc::clone(workload),
            });
            let sharing = shared
                .clone()
                .map(|(_, workload)| IdentitySubject::of(workload).without_ports());
            Arc::new(NodePeers {
                name: host.name.clone(),
                host: Arc::clone(&host),
                workloads: kept.map(|(_, workload)| Arc::clone(workload)).collect(),
                services: services.collect(),
                sharing: Arc::new(sharing.collect()),
            })
        })
    });
    nodes.collect()
}

/// Nodes of the fleet beside this one.
const NODES: usize = 3;

/// What others know of this node: some workloads by some ports, some by their addresses.
fn announced(scenario: &Scenario, choice: usize) -> Announced {
    let some = scenario.policy.workloads.iter().enumerate();
    let some = some.filter(|(index, _)| !(index + choice).is_multiple_of(4));
    let reached = some.map(|(index, workload)| {
        let name = WorkloadName {
            namespace: workload.namespace.clone(),
            name: workload.name.clone(),
        };
        let reached = if (index + choice) % 4 > 2 {
            Reached::ByAddress
        } else {
            let ports = scenario.flows.iter().map(|flow| (flow.protocol, flow.port));
            Reached::ByPort(ports.skip(choice % 2).collect())
        };
        (name, reached)
    });
    Announced(reached.collect())
}

/// What becomes of the fleet.
#[derive(Clone, Copy, Debug)]
enum Fleet {
    /// Nothing.
    Stay,
    /// One node comes, goes or says something else.
    One(usize, usize),
    /// All do.
    All(usize),
    /// Something else is known of this node, or nothing.
    Own(usize),
}

fn fleet() -> impl Strategy<Value = Fleet> {
    prop_oneof![
        4 => Just(Fleet::Stay),
        3 => (0..NODES, 0_usize..4).prop_map(|(node, form)| Fleet::One(node, form)),
        1 => (0_usize..64).prop_map(Fleet::All),
        2 => (0_usize..9).prop_map(Fleet::Own),
    ]
}

/// What the registry knows.
struct Registry {
    nodes: Vec<[Arc<NodePeers>; 2]>,
    /// Two bits for each node: whether it is there, and in which form.
    chosen: usize,
    /// What is known of this node; from 8 on nothing.
    own: usize,
    announced: Option<Arc<Announced>>,
}

impl Registry {
    fn follow(&mut self, happens: Fleet, scenario: &Scenario) -> Elsewhere {
        match happens {
            Fleet::Stay => {}
            Fleet::One(node, form) => {
                self.chosen = self.chosen & !(3 << (2 * node)) | form << (2 * node);
            }
            Fleet::All(chosen) => self.chosen = chosen,
            Fleet::Own(own) => self.own = own,
        }
        let own = (self.own < 8).then(|| announced(scenario, self.own));
        // What is the same stays where it is.
        if self.announced.as_deref() != own.as_ref() {
            self.announced = own.map(Arc::new);
        }
        let nodes = self.nodes.iter().enumerate();
        let chosen = nodes.filter_map(|(index, forms)| match self.chosen >> (2 * index) & 3 {
            0 => None,
            form => Some(Arc::clone(&forms[form % 2])),
        });
        Elsewhere {
            nodes: chosen.collect(),
            own: self.announced.clone(),
        }
    }
}

fn also() -> impl Strategy<Value = Also> {
    prop_oneof![
        3 => Just(Also::Nothing),
        3 => Just(Also::AddPolicy),
        3 => Just(Also::ChangePolicy),
        2 => Just(Also::MovePolicy),
        2 => Just(Also::AddWorkload),
        2 => Just(Also::RemoveWorkload),
        2 => Just(Also::GoBack),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: generate::cases(2000) / 2 + 1,
        max_shrink_iters: 500,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_is_remembered_changes_nothing(
        first in generate::scenario(4),
        other in generate::scenario(0),
        steps in vec((generate::edit(), also(), any::<Index>(), 0_u8..8, fleet()), 2..10),
        proofs in vec(prop_oneof![3 => Just(0_u8), 1 => any::<u8>()], 10),
        subjects in prop_oneof![Just(Subjects::Placed), Just(Subjects::All)],
    ) {
        let mut scenario = first;
        let mut compiler = Compiler::default();
        let (mut remembering, mut forgetting) = (Numbers::default(), Numbers::default());
        let mut image: Option<Image> = None;
        let mut history: Vec<Scenario> = Vec::new();
        let mut registry = Registry {
            nodes: nodes([&other, &scenario]),
            chosen: 0b01_10_01,
            own: 1,
            announced: None,
        };
        for (step, (edit, also, which, chance, happens)) in steps.iter().enumerate() {
            history.push(scenario.clone());
            scenario = edit.apply(&scenario);
            match also {
                Also::Nothing => {}
                Also::AddPolicy => {
                    add_policy(&mut scenario, &other, *which, format!("p{chance}-{step}"));
                }
                Also::ChangePolicy => change_policy(&mut scenario, &other, *which),
                Also::MovePolicy => move_policy(&mut scenario, *which),
                Also::AddWorkload => {
                    add_workload(&mut scenario, &other, *which, format!("w{chance}-{step}"));
                }
                Also::RemoveWorkload => remove_workload(&mut scenario, *which),
                Also::GoBack => scenario = history[which.index(history.len())].clone(),
            }
            let attested = attested(&scenario, proofs[step]);
            // Sometimes it does not fit.
            let limits = match chance {
                0 => Limits { policies: 3, ..Limits::NONE },
                1..4 => Limits::NONE,
                _ => Limits { moments: 2, ..Limits::NONE },
            };
            let elsewhere = registry.follow(*happens, &scenario);
            let inputs = Inputs {
                policy: &scenario.policy,
                mode: scenario.mode,
                now: scenario.now,
                host_addresses: &scenario.host_addresses,
                elsewhere: &elsewhere,
                attested: &attested,
                subjects,
                limits: &limits,
                in_force: image.as_ref(),
            };
            let again = compiler.compile(&inputs, &mut remembering);
            let afresh = compile(&inputs, &mut forgetting);
            prop_assert_eq!(&again, &afresh);
            if let Ok(new) = again {
                image = Some(new);
            }
            if let (1, Some(image)) = (chance, &image) {
                prop_assert_eq!(remembering.retire(image), forgetting.retire(image));
            }
            prop_assert_eq!(
                serde_json::to_string(&remembering).expect("JSON"),
                serde_json::to_string(&forgetting).expect("JSON")
            );
        }
    }
}

/// Everybody may come in, but for `web`, of whom the tier below is asked: only there is anything
/// denied.
const WEB_IS_PASSED_ON: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: api, namespace: shop, labels: {app: api}}
spec: {addresses: [10.0.0.1], interface: veth-api}
---
apiVersion: enforcer.dev/v1alpha1
kind: Workload
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {addresses: [10.0.0.2]}
---
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: open, namespace: shop}
spec:
  tier: admin
  selector: {matchLabels: {app: api}}
  ingress:
    - {action: pass, from: [{labels: {app: web}}]}
    - {from: [{entity: any}]}
---
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: closed, namespace: shop}
spec:
  selector: {matchLabels: {app: api}}
  ingress: []
";

/// What the policy says to `web` is kept from the last compilation, and so is everything else of
/// the set: nothing in it asks where the policy is now.
#[test]
fn a_policy_that_isolates_is_named_where_it_moved_to() {
    let mut tree = load_text("tree.yaml", WEB_IS_PASSED_ON).expect("good");
    let mut compiler = Compiler::default();
    let mut numbers = Numbers::default();
    let mut line_in_force = |tree: &_| {
        let inputs = Inputs {
            policy: tree,
            mode: Mode::Enforce,
            now: Moment::default(),
            host_addresses: &[],
            elsewhere: &enforcer::compile::elsewhere::NOBODY,
            attested: enforcer::compile::NOBODY,
            subjects: Subjects::Placed,
            limits: &Limits::NONE,
            in_force: None,
        };
        let image = compiler.compile(&inputs, &mut numbers).expect("it fits");
        let entries = image.policies.iter();
        let denied = entries.filter(|(_, entry)| entry.decision.action == Action::Deny as u8);
        let rules: Vec<_> = denied.map(|(_, entry)| entry.decision.rule).collect();
        let [rule] = rules[..] else {
            panic!("web alone is denied: {rules:?}");
        };
        let rule = &image.rules[&rule];
        assert_eq!(rule.policy, "closed");
        rule.origin.as_ref().expect("it is written somewhere").line
    };
    let before = line_in_force(&tree);
    let closed = tree
        .policies
        .iter_mut()
        .find(|policy| policy.name == "closed");
    Arc::make_mut(closed.expect("it is there")).origin.line += 1;
    assert_eq!(line_in_force(&tree), before + 1);
}
