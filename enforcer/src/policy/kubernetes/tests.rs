//! What every field means, from documents and from objects as the API gives them.

mod cluster_policies;
mod network_policy;

use enforcer_common::{Direction, Protocol};

use super::*;
use crate::policy::{
    load_text,
    model::{
        Expression, LOCAL_NODE, LabelSelector, NamedPort, NamedPortMatch, Operator, Peer, Place,
        Policy, PolicyKind, PortMatch, PortRange, ResolvedPolicy, Rule, RuleAction, Subject, Tier,
        WorkloadSelector,
    },
};

const EGRESS: usize = Direction::Egress as usize;
const INGRESS: usize = Direction::Ingress as usize;

fn tree(text: &str) -> ResolvedPolicy {
    load_text("a.yaml", text).unwrap_or_else(|errors| panic!("{}", errors.render(false)))
}

/// The codes and lines of what is wrong.
fn wrong(text: &str) -> Vec<(Code, u32)> {
    let errors = load_text("a.yaml", text).expect_err(text);
    errors.errors().iter().map(|e| (e.code, e.line)).collect()
}

fn document(version: &str, kind: &str, spec: &str) -> String {
    format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: default}}\nspec: {spec}\n")
}

fn network_policy(spec: &str) -> String {
    document("networking.k8s.io/v1", "NetworkPolicy", spec)
}

fn cluster(spec: &str) -> String {
    let spec = format!("{{tier: Admin, priority: 7, subject: {{namespaces: {{}}}}, {spec}}}");
    document(
        "policy.networking.k8s.io/v1alpha2",
        "ClusterNetworkPolicy",
        &spec,
    )
}

fn admin(spec: &str) -> String {
    let spec = format!("{{priority: 7, subject: {{namespaces: {{}}}}, {spec}}}");
    document(
        "policy.networking.k8s.io/v1alpha1",
        "AdminNetworkPolicy",
        &spec,
    )
}

fn baseline(spec: &str) -> String {
    let spec = format!("{{subject: {{namespaces: {{}}}}, {spec}}}");
    document(
        "policy.networking.k8s.io/v1alpha1",
        "BaselineAdminNetworkPolicy",
        &spec,
    )
}

fn policy(text: &str) -> Arc<Policy> {
    tree(text).policies.remove(0)
}

/// The rules of a NetworkPolicy without the one that Kubernetes adds, which must be the last.
fn written(rules: Option<&Vec<Rule>>) -> Vec<Rule> {
    let mut rules = rules.cloned().expect("the direction is isolated");
    let node = rules.pop().expect("the rule for the node");
    assert_eq!(node.name, LOCAL_NODE);
    assert_eq!(
        (node.action, node.peers, node.ports),
        (RuleAction::Allow, vec![Peer::Host], vec![PortMatch::ANY])
    );
    rules
}

fn labels(pairs: &[(&str, &str)]) -> LabelSelector {
    let pairs = pairs.iter();
    LabelSelector::of(
        pairs
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect(),
    )
}

fn pods(own: Option<&str>, of: &[(&str, &str)], pods: &[(&str, &str)]) -> WorkloadSelector {
    WorkloadSelector {
        namespace: own.map(str::to_owned),
        namespace_labels: labels(of),
        labels: labels(pods),
        ..WorkloadSelector::default()
    }
}

fn block(prefix: &str, except: &[&str]) -> Peer {
    Peer::Cidr {
        prefix: prefix.parse().unwrap(),
        except: except.iter().map(|net| net.parse().unwrap()).collect(),
    }
}

fn ports(protocol: u8, first: u16, last: u16) -> PortMatch {
    PortMatch::Range(PortRange {
        protocol: Some(protocol),
        first,
        last,
    })
}
const POD: &str = "
apiVersion: v1
kind: Pod
metadata:
  name: web-0
  namespace: shop
  labels: {app: web}
  annotations: {anything: goes}
  ownerReferences: [{kind: StatefulSet}]
spec:
  serviceAccountName: web
  nodeName: node-1
  tolerations: [{operator: Exists}]
  initContainers:
    - name: once
      ports: [{name: once, containerPort: 1}]
    - name: beside
      restartPolicy: Always
      ports: [{name: metrics, containerPort: 9100}]
  containers:
    - name: web
      image: web
      ports:
        - {name: http, containerPort: 8080, hostPort: 80}
        - {name: dns, containerPort: 53, protocol: UDP}
        - {containerPort: 9000}
status:
  phase: Running
  podIP: 10.244.0.7
  podIPs: [{ip: 10.244.0.7}, {ip: 'fd00:244::7'}]
  conditions: [{type: Ready}]
";

#[test]
fn a_pod_is_a_workload() {
    let tree = tree(POD);
    let [pod] = &tree.workloads[..] else {
        panic!("one workload");
    };
    assert_eq!(
        (pod.namespace.as_str(), pod.name.as_str()),
        ("shop", "web-0")
    );
    assert_eq!(pod.labels, labels(&[("app", "web")]).match_labels);
    assert_eq!(pod.service_account.as_deref(), Some("web"));
    let addresses: Vec<_> = pod.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.244.0.7/32", "fd00:244::7/128"]);
    assert_eq!(pod.place, Some(Place::Route("10.244.0.7".parse().unwrap())));
    assert_eq!(pod.assurance, Assurance::Address);
    let port = |name: &str, protocol, port| NamedPort {
        name: name.to_owned(),
        protocol,
        port,
    };
    let expected = [
        port("http", Protocol::TCP, 8080),
        port("dns", Protocol::UDP, 53),
        port("metrics", Protocol::TCP, 9100),
    ];
    assert_eq!(pod.ports, expected.into());
}

#[test]
fn a_pod_may_lack_almost_everything() {
    let tree = tree("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n");
    let pod = &tree.workloads[0];
    assert_eq!(pod.namespace, "default");
    assert_eq!(pod.service_account.as_deref(), Some("default"));
    assert_eq!((&pod.addresses[..], &pod.place), (&[][..], &None));
    let old = POD.replace("  podIPs: [{ip: 10.244.0.7}, {ip: 'fd00:244::7'}]\n", "");
    let addresses = &self::tree(&old).workloads[0].addresses;
    assert_eq!(addresses.len(), 1, "older objects have podIP alone");
}

#[test]
fn pods_that_ended_and_pods_that_are_their_node_are_no_workloads() {
    for (from, to) in [
        ("phase: Running", "phase: Succeeded"),
        ("phase: Running", "phase: Failed"),
        ("nodeName: node-1", "hostNetwork: true"),
    ] {
        let workloads = tree(&POD.replace(from, to)).workloads;
        assert!(workloads.is_empty(), "{to}");
    }
    for phase in ["Pending", "Unknown"] {
        let text = POD.replace("phase: Running", &format!("phase: {phase}"));
        assert_eq!(tree(&text).workloads.len(), 1, "{phase}");
    }
}

#[test]
fn two_pods_with_one_address_are_one_error_for_each_address() {
    let text = format!("{POD}---{}", POD.replace("web-0", "web-1"));
    let codes: Vec<_> = wrong(&text).into_iter().map(|(code, _)| code).collect();
    assert_eq!(codes, [Code::DuplicateAddress, Code::DuplicateAddress]);
    let bad = POD.replace("ip: 10.244.0.7}", "ip: ten}");
    assert_eq!(wrong(&bad), [(Code::BadCidr, 30)]);
}

#[test]
fn namespaces_and_nodes_have_labels() {
    let tree = tree(
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {team: a}, uid: x}\n\
         spec: {finalizers: [kubernetes]}\nstatus: {phase: Active}\n---\n\
         apiVersion: v1\nkind: Node\nmetadata: {name: n1, labels: {zone: a}}\n\
         status: {addresses: [{type: InternalIP, address: 192.0.2.1}, {type: ExternalIP, address: \
         192.0.2.1}, {type: Hostname, address: n1}]}\n",
    );
    assert!(tree.namespaces.matches(&labels(&[("team", "a")]), "shop"));
    assert_eq!(tree.hosts[0].name, "n1");
    assert_eq!(tree.hosts[0].labels, labels(&[("zone", "a")]).match_labels);
    assert_eq!(tree.hosts[0].addresses, ["192.0.2.1/32".parse().unwrap()]);
}

#[test]
fn a_list_is_its_items() {
    let items = POD.trim().replace('\n', "\n    ");
    let text = format!(
        "apiVersion: v1\nkind: List\nmetadata: {{resourceVersion: ''}}\nitems:\n  - {items}\n"
    );
    let tree = tree(&text);
    assert_eq!(tree.workloads[0].name, "web-0");
    assert_eq!(tree.workloads[0].origin.line, 5);
    let empty = wrong("apiVersion: v1\nkind: List\nitems: []\n");
    assert_eq!(empty, [(Code::EmptyTree, 1)], "nothing was listed");
    let bad = "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Service}, {apiVersion: \
               v1, kind: List, items: []}]\n";
    assert_eq!(wrong(bad), [(Code::UnknownKind, 3), (Code::UnknownKind, 3)]);
}

#[test]
fn kinds_have_their_version() {
    let cases = [
        (
            "networking.k8s.io/v1beta1",
            "NetworkPolicy",
            Code::UnknownApiVersion,
        ),
        (
            "policy.networking.k8s.io/v1alpha1",
            "ClusterNetworkPolicy",
            Code::UnknownApiVersion,
        ),
        (
            "policy.networking.k8s.io/v1alpha2",
            "AdminNetworkPolicy",
            Code::UnknownApiVersion,
        ),
        ("networking.k8s.io/v1", "Ingress", Code::UnknownKind),
        ("v1", "Service", Code::UnknownKind),
    ];
    for (version, kind, code) in cases {
        let found = wrong(&document(version, kind, "{}"));
        assert_eq!(found.len(), 1, "{version} {kind}");
        assert_eq!(found[0].0, code, "{version} {kind}");
    }
}

#[test]
fn two_kinds_may_share_a_name_and_two_of_one_kind_may_not() {
    let one = network_policy("{}");
    let other = cluster("ingress: [{action: Deny, from: [{namespaces: {}}]}]");
    assert_eq!(tree(&format!("{one}---\n{other}")).policies.len(), 2);
    assert_eq!(
        wrong(&format!("{one}---\n{one}")),
        [(Code::DuplicateName, 8)]
    );
}

#[test]
fn objects_of_the_api_mean_what_documents_mean() {
    let spec = r#"{"podSelector": {"matchLabels": {"a": "b"}}, "policyTypes": ["Egress"],
        "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}],
        "ports": [{"protocol": "TCP", "port": 80, "endPort": 90}, {"port": "http"}]}]}"#;
    let json = format!(
        r#"{{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata":
        {{"name": "default", "uid": "1", "managedFields": []}}, "spec": {spec}, "status": {{}}}}"#
    );
    let object: Object = serde_json::from_str(&json).unwrap();
    let called = "networkpolicies/default/default";
    let Ok(Resolved::Policy(found)) = resolve(&object, called) else {
        panic!("a policy");
    };
    assert_eq!(found.origin.file.as_ref(), called);
    let mut found = Policy::clone(&found);
    let mut expected = Policy::clone(&policy(&network_policy(spec)));
    for policy in [&mut found, &mut expected] {
        policy.origin.file = "".into();
        policy.origin.line = 0;
        policy.origin.column = 0;
        let origin = policy.origin.clone();
        let rules = policy.rules.iter_mut().flatten().flatten();
        rules.for_each(|rule| rule.origin = origin.clone());
    }
    assert_eq!(found, expected);

    let pod = r#"{"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name":
        "c"}]}, "status": {"podIPs": [{"ip": "10.0.0.7"}]}}"#;
    let Ok(Resolved::Workload(pod)) = resolve(&serde_json::from_str(pod).unwrap(), "pods/p") else {
        panic!("a workload");
    };
    assert_eq!(pod.assurance, Assurance::Orchestrator);
    let bad = json.replace("\"endPort\": 90", "\"endPort\": 9");
    let errors = resolve(&serde_json::from_str(&bad).unwrap(), called).unwrap_err();
    assert_eq!(errors.errors()[0].code, Code::ReversedRange);
    assert_eq!(errors.errors()[0].file.as_ref(), called);
}
