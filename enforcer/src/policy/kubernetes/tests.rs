//! What every field means, from documents and from objects as the API gives them.

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

#[test]
fn an_empty_selector_isolates_every_pod_of_the_namespace() {
    for spec in [
        "{}",
        "{podSelector: {}}",
        "{podSelector: null, ingress: null}",
    ] {
        let policy = policy(&network_policy(spec));
        assert_eq!(policy.kind, PolicyKind::NetworkPolicy);
        assert_eq!((policy.tier, policy.priority), (Tier::Application, None));
        assert_eq!(policy.namespace.as_deref(), Some("default"));
        let everybody = pods(Some("default"), &[], &[]);
        assert_eq!(policy.subject, Subject::Workloads(vec![everybody]));
        assert_eq!(written(policy.rules[INGRESS].as_ref()), []);
        assert_eq!(policy.rules[EGRESS], None);
    }
}

#[test]
fn directions_are_what_policy_types_says_or_what_there_are_rules_for() {
    let cases = [
        ("{}", [false, true]),
        ("{ingress: []}", [false, true]),
        ("{egress: []}", [false, true]),
        ("{egress: [{}]}", [true, true]),
        ("{policyTypes: [], egress: [{}]}", [true, true]),
        ("{policyTypes: [Ingress], egress: [{}]}", [false, true]),
        ("{policyTypes: [Egress]}", [true, false]),
        ("{policyTypes: [Egress], ingress: [{}]}", [true, false]),
        ("{policyTypes: [Ingress, Egress]}", [true, true]),
        ("{policyTypes: [Egress, Ingress, Egress]}", [true, true]),
    ];
    for (spec, isolated) in cases {
        let policy = policy(&network_policy(spec));
        let found = [EGRESS, INGRESS].map(|way| policy.rules[way].is_some());
        assert_eq!(found, isolated, "{spec}");
    }
}

#[test]
fn empty_and_missing_lists_are_everybody_and_every_port() {
    for rule in [
        "{}",
        "{from: []}",
        "{ports: []}",
        "{from: null, ports: null}",
    ] {
        let policy = policy(&network_policy(&format!("{{ingress: [{rule}]}}")));
        let [rule] = &written(policy.rules[INGRESS].as_ref())[..] else {
            panic!("one rule");
        };
        assert_eq!(rule.name, "ingress[0]");
        assert_eq!(rule.action, RuleAction::Allow);
        assert_eq!(rule.peers, [Peer::Any]);
        assert_eq!(rule.ports, [PortMatch::ANY]);
    }
    let policy = policy(&network_policy("{egress: [{to: []}]}"));
    assert_eq!(written(policy.rules[EGRESS].as_ref())[0].peers, [Peer::Any]);
}

#[test]
fn selectors_of_a_peer_mean_each_other() {
    let workloads = |selector| vec![Peer::Workloads(selector)];
    let cases = [
        (
            "{podSelector: {matchLabels: {a: b}}}",
            workloads(pods(Some("default"), &[], &[("a", "b")])),
        ),
        (
            "{podSelector: {}}",
            workloads(pods(Some("default"), &[], &[])),
        ),
        ("{namespaceSelector: {}}", workloads(pods(None, &[], &[]))),
        (
            "{namespaceSelector: {matchLabels: {t: x}}}",
            workloads(pods(None, &[("t", "x")], &[])),
        ),
        (
            "{namespaceSelector: {matchLabels: {t: x}}, podSelector: {matchLabels: {a: b}}}",
            workloads(pods(None, &[("t", "x")], &[("a", "b")])),
        ),
        (
            "{namespaceSelector: {matchLabels: {t: x}}}, {podSelector: {matchLabels: {a: b}}}",
            vec![
                Peer::Workloads(pods(None, &[("t", "x")], &[])),
                Peer::Workloads(pods(Some("default"), &[], &[("a", "b")])),
            ],
        ),
        (
            "{ipBlock: {cidr: 172.17.3.4/16, except: [172.17.1.7/24, 172.17.2.0/24]}}",
            vec![block("172.17.0.0/16", &["172.17.1.0/24", "172.17.2.0/24"])],
        ),
        ("{ipBlock: {cidr: '::/0'}}", vec![block("::/0", &[])]),
    ];
    for (peers, expected) in cases {
        let policy = policy(&network_policy(&format!(
            "{{ingress: [{{from: [{peers}]}}]}}"
        )));
        assert_eq!(
            written(policy.rules[INGRESS].as_ref())[0].peers,
            expected,
            "{peers}"
        );
    }
}

#[test]
fn expressions_are_those_of_the_language() {
    let expression = |operator, values: &[&str]| Expression {
        key: "app".to_owned(),
        operator,
        values: values.iter().map(|v| (*v).to_owned()).collect(),
    };
    let policy = policy(&network_policy(
        "{podSelector: {matchLabels: {x: y}, matchExpressions: [{key: app, operator: In, values: \
         [a, b]}, {key: app, operator: NotIn, values: ['']}, {key: app, operator: Exists}, {key: \
         app, operator: DoesNotExist, values: []}]}}",
    ));
    let expected = WorkloadSelector {
        labels: LabelSelector {
            expressions: vec![
                expression(Operator::In, &["a", "b"]),
                expression(Operator::NotIn, &[""]),
                expression(Operator::Exists, &[]),
                expression(Operator::DoesNotExist, &[]),
            ],
            ..labels(&[("x", "y")])
        },
        ..pods(Some("default"), &[], &[])
    };
    assert_eq!(policy.subject, Subject::Workloads(vec![expected]));
}

#[test]
fn ports_are_of_tcp_unless_they_say_so() {
    let named = |protocol, name: &str| {
        PortMatch::Named(NamedPortMatch {
            protocol: Some(protocol),
            name: name.to_owned(),
        })
    };
    let cases = [
        ("{}", ports(Protocol::TCP, 0, 65535)),
        ("{port: 80}", ports(Protocol::TCP, 80, 80)),
        ("{port: '80'}", ports(Protocol::TCP, 80, 80)),
        ("{protocol: UDP}", ports(Protocol::UDP, 0, 65535)),
        (
            "{protocol: SCTP, port: 7777}",
            ports(Protocol::SCTP, 7777, 7777),
        ),
        (
            "{protocol: TCP, port: 32000, endPort: 32768}",
            ports(Protocol::TCP, 32000, 32768),
        ),
        ("{port: 80, endPort: 80}", ports(Protocol::TCP, 80, 80)),
        ("{port: http}", named(Protocol::TCP, "http")),
        (
            "{port: dns-1, protocol: UDP}",
            named(Protocol::UDP, "dns-1"),
        ),
        ("{port: 80-tcp}", named(Protocol::TCP, "80-tcp")),
    ];
    for (port, expected) in cases {
        let policy = policy(&network_policy(&format!(
            "{{egress: [{{ports: [{port}]}}]}}"
        )));
        assert_eq!(
            written(policy.rules[EGRESS].as_ref())[0].ports,
            [expected],
            "{port}"
        );
    }
}

#[test]
fn the_example_of_the_documentation_means_what_it_says() {
    let text = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: test-network-policy
  namespace: prod
  uid: 11111111-2222-3333-4444-555555555555
  creationTimestamp: null
  managedFields: [{manager: kubectl}]
spec:
  podSelector:
    matchLabels:
      role: db
  policyTypes:
    - Ingress
    - Egress
  ingress:
    - from:
        - ipBlock:
            cidr: 172.17.0.0/16
            except:
              - 172.17.1.0/24
        - namespaceSelector:
            matchLabels:
              project: myproject
        - podSelector:
            matchLabels:
              role: frontend
      ports:
        - protocol: TCP
          port: 6379
  egress:
    - to:
        - ipBlock:
            cidr: 10.0.0.0/24
      ports:
        - protocol: TCP
          port: 5978
status: {}
";
    let policy = policy(text);
    let db = pods(Some("prod"), &[], &[("role", "db")]);
    assert_eq!(policy.subject, Subject::Workloads(vec![db]));
    let [rule] = &written(policy.rules[INGRESS].as_ref())[..] else {
        panic!("one rule");
    };
    let frontend = pods(Some("prod"), &[], &[("role", "frontend")]);
    let expected = [
        block("172.17.0.0/16", &["172.17.1.0/24"]),
        Peer::Workloads(pods(None, &[("project", "myproject")], &[])),
        Peer::Workloads(frontend),
    ];
    assert_eq!(rule.peers, expected);
    assert_eq!(rule.ports, [ports(Protocol::TCP, 6379, 6379)]);
    assert_eq!(rule.origin.line, 18);
    let [rule] = &written(policy.rules[EGRESS].as_ref())[..] else {
        panic!("one rule");
    };
    assert_eq!(rule.peers, [block("10.0.0.0/24", &[])]);
    assert_eq!(rule.ports, [ports(Protocol::TCP, 5978, 5978)]);
}

#[test]
fn what_means_nothing_in_a_network_policy_is_an_error_where_it_is() {
    let cases = [
        ("{podselector: {}}", Code::UnknownField),
        ("{policyTypes: [Both]}", Code::UnknownValue),
        ("{ingress: [{from: [{}]}]}", Code::BadPeer),
        ("{ingress: [null]}", Code::WrongType),
        (
            "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]}",
            Code::BadPeer,
        ),
        (
            "{ingress: [{to: [{podSelector: {}}]}]}",
            Code::WrongDirection,
        ),
        ("{egress: [{from: []}]}", Code::WrongDirection),
        ("{ingress: [{from: [{ipBlock: {}}]}]}", Code::MissingField),
        (
            "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.1}}]}]}",
            Code::BadCidr,
        ),
        (
            "{ingress: [{from: [{ipBlock: {cidr: '::ffff:10.0.0.0/104'}}]}]}",
            Code::BadCidr,
        ),
        (
            "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/9]}}]}]}",
            Code::ExceptOutside,
        ),
        (
            "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]}",
            Code::ExceptOutside,
        ),
        ("{ingress: [{ports: [{endPort: 80}]}]}", Code::BadPort),
        (
            "{ingress: [{ports: [{port: http, endPort: 80}]}]}",
            Code::BadPort,
        ),
        (
            "{ingress: [{ports: [{port: 81, endPort: 80}]}]}",
            Code::ReversedRange,
        ),
        ("{ingress: [{ports: [{port: 0}]}]}", Code::BadPort),
        ("{ingress: [{ports: [{port: 65536}]}]}", Code::BadPort),
        ("{ingress: [{ports: [{port: 0x50}]}]}", Code::BadPort),
        (
            "{ingress: [{ports: [{protocol: ICMP}]}]}",
            Code::UnknownValue,
        ),
        (
            "{ingress: [{ports: [{protocol: tcp}]}]}",
            Code::UnknownValue,
        ),
        ("{podSelector: {matchLabels: {-a: b}}}", Code::BadLabel),
        ("{podSelector: {matchLabels: {a: 'b c'}}}", Code::BadLabel),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: In}]}}",
            Code::BadSelector,
        ),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}",
            Code::BadSelector,
        ),
        (
            "{podSelector: {matchExpressions: [{operator: Exists}]}}",
            Code::MissingField,
        ),
    ];
    for (spec, code) in cases {
        assert_eq!(wrong(&network_policy(spec)), [(code, 4)], "{spec}");
    }
    let all = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: A}\nspec:\n  \
               policyTypes: [x]\n  ingress:\n    - ports: [{port: 0}]\n    - from: [{}]\n";
    let expected = [
        (Code::BadName, 3),
        (Code::UnknownValue, 5),
        (Code::BadPort, 7),
        (Code::BadPeer, 8),
    ];
    assert_eq!(wrong(all), expected);
}

#[test]
fn a_cluster_network_policy_has_tier_priority_and_order() {
    let text = document(
        "policy.networking.k8s.io/v1alpha2",
        "ClusterNetworkPolicy",
        "{tier: Baseline, priority: 1000, subject: {pods: {namespaceSelector: {matchLabels: {n: \
         m}}, podSelector: {matchLabels: {a: b}}}}, ingress: [{name: first one, action: Accept, \
         from: [{namespaces: {}}]}, {action: Pass, from: [{pods: {podSelector: {}}}]}, {action: \
         Deny, name: default, from: [{pods: {podSelector: {matchLabels: {a: b}}, \
         namespaceSelector: {matchLabels: {n: m}}}}]}]}",
    );
    let policy = policy(&text);
    assert_eq!(policy.kind, PolicyKind::ClusterNetworkPolicy);
    assert_eq!(policy.namespace, None);
    assert_eq!((policy.tier, policy.priority), (Tier::Baseline, Some(1000)));
    let some = pods(None, &[("n", "m")], &[("a", "b")]);
    assert_eq!(policy.subject, Subject::Workloads(vec![some.clone()]));
    assert_eq!(policy.rules[EGRESS], None, "it says nothing of it");
    let rules = policy.rules[INGRESS].as_ref().unwrap();
    let said: Vec<_> = rules.iter().map(|r| (r.name.as_str(), r.action)).collect();
    let expected = [
        ("first one", RuleAction::Allow),
        ("ingress[1]", RuleAction::Pass),
        ("ingress[2]", RuleAction::Deny),
    ];
    assert_eq!(said, expected);
    assert_eq!(rules[0].peers, [Peer::Workloads(pods(None, &[], &[]))]);
    assert_eq!(rules[1].peers, [Peer::Workloads(pods(None, &[], &[]))]);
    assert_eq!(rules[2].peers, [Peer::Workloads(some)]);
    assert_eq!(rules[0].ports, [PortMatch::ANY]);
}

#[test]
fn cluster_peers_of_egress_are_nodes_and_networks_too() {
    let policy = policy(&cluster(
        "egress: [{action: Deny, to: [{nodes: {matchLabels: {r: w}}}, {networks: [10.0.0.0/8, \
         'fd00::/8']}, {namespaces: {matchLabels: {n: m}}}]}]",
    ));
    let rule = &policy.rules[EGRESS].as_ref().unwrap()[0];
    let expected = [
        Peer::Hosts(labels(&[("r", "w")])),
        block("10.0.0.0/8", &[]),
        block("fd00::/8", &[]),
        Peer::Workloads(pods(None, &[("n", "m")], &[])),
    ];
    assert_eq!(rule.peers, expected);
}

#[test]
fn protocols_of_a_cluster_network_policy() {
    let named = PortMatch::Named(NamedPortMatch {
        protocol: None,
        name: "web".to_owned(),
    });
    let cases = [
        (
            "{tcp: {destinationPort: {number: 80}}}",
            ports(Protocol::TCP, 80, 80),
        ),
        (
            "{udp: {destinationPort: {range: {start: 1, end: 65535}}}}",
            ports(Protocol::UDP, 1, 65535),
        ),
        (
            "{sctp: {destinationPort: {number: 9003}}}",
            ports(Protocol::SCTP, 9003, 9003),
        ),
        ("{destinationNamedPort: web}", named),
    ];
    for (protocol, expected) in cases {
        let policy = policy(&cluster(&format!(
            "ingress: [{{action: Accept, from: [{{namespaces: {{}}}}], protocols: [{protocol}]}}]"
        )));
        let rule = &policy.rules[INGRESS].as_ref().unwrap()[0];
        assert_eq!(rule.ports, [expected], "{protocol}");
    }
}

#[test]
fn what_means_nothing_in_a_cluster_network_policy() {
    let ingress = |rule: &str| format!("ingress: [{rule}]");
    let egress = |rule: &str| format!("egress: [{rule}]");
    let to = |peer: &str| format!("egress: [{{action: Accept, to: [{peer}]}}]");
    let port = |port: &str| {
        format!("egress: [{{action: Accept, to: [{{namespaces: {{}}}}], protocols: [{port}]}}]")
    };
    let cases = [
        (
            ingress("{action: Allow, from: [{namespaces: {}}]}"),
            Code::UnknownValue,
        ),
        (ingress("{from: [{namespaces: {}}]}"), Code::MissingField),
        (ingress("{action: Deny}"), Code::MissingField),
        (ingress("{action: Deny, from: []}"), Code::MissingField),
        (
            ingress("{action: Deny, to: [{namespaces: {}}]}"),
            Code::WrongDirection,
        ),
        (
            ingress("{action: Deny, from: [{networks: [10.0.0.0/8]}]}"),
            Code::WrongDirection,
        ),
        (
            ingress("{action: Deny, from: [{nodes: {}}]}"),
            Code::WrongDirection,
        ),
        (to("{}"), Code::BadPeer),
        (
            to("{namespaces: {}, pods: {podSelector: {}}}"),
            Code::BadPeer,
        ),
        (to("{pods: {namespaceSelector: {}}}"), Code::MissingField),
        (to("{networks: []}"), Code::NoEffect),
        (to("{networks: [example.org]}"), Code::BadCidr),
        (to("{domainNames: [kubernetes.io]}"), Code::NotYet),
        (port("{}"), Code::BadPort),
        (port("{tcp: {}}"), Code::MissingField),
        (port("{tcp: {destinationPort: {}}}"), Code::BadPort),
        (
            port("{tcp: {destinationPort: {number: 80}}, udp: {destinationPort: {number: 80}}}"),
            Code::BadPort,
        ),
        (
            port("{tcp: {destinationPort: {range: {start: 2, end: 1}}}}"),
            Code::ReversedRange,
        ),
        (
            "egress: [{action: Accept, to: [{namespaces: {}}], protocols: []}]".to_owned(),
            Code::NoEffect,
        ),
        (
            "egress: [{action: Deny, to: [{networks: [10.0.0.0/8]}], protocols: \
             [{destinationNamedPort: web}]}]"
                .to_owned(),
            Code::BadPort,
        ),
        (
            egress(&format!(
                "{{name: {}, action: Deny, to: [{{namespaces: {{}}}}]}}",
                "x".repeat(101)
            )),
            Code::BadName,
        ),
    ];
    for (spec, code) in cases {
        assert_eq!(wrong(&cluster(&spec)), [(code, 4)], "{spec}");
    }
    let version = "policy.networking.k8s.io/v1alpha2";
    let cases = [
        (
            "{priority: 1, subject: {namespaces: {}}}",
            Code::MissingField,
        ),
        (
            "{tier: Admin, subject: {namespaces: {}}}",
            Code::MissingField,
        ),
        ("{tier: Admin, priority: 1}", Code::MissingField),
        (
            "{tier: Admin, priority: 1001, subject: {namespaces: {}}}",
            Code::UnknownValue,
        ),
        (
            "{tier: Application, priority: 1, subject: {namespaces: {}}}",
            Code::UnknownValue,
        ),
        ("{tier: Admin, priority: 1, subject: {}}", Code::BadSelector),
    ];
    for (spec, code) in cases {
        let text = document(version, "ClusterNetworkPolicy", spec);
        assert_eq!(wrong(&text), [(code, 4)], "{spec}");
    }
}

#[test]
fn the_older_kinds_are_the_same_in_other_words() {
    let policy = policy(&admin(
        "egress: [{action: Allow, to: [{namespaces: {}}], ports: [{portNumber: {port: 80}}, \
         {portNumber: {protocol: UDP, port: 53}}, {portRange: {start: 1, end: 1023}}, \
         {portRange: {protocol: SCTP, start: 1, end: 2}}, {namedPort: web}]}, {action: Pass, to: \
         [{networks: [10.0.0.0/8]}]}, {action: Deny, to: [{nodes: {}}]}]",
    ));
    assert_eq!(policy.kind, PolicyKind::AdminNetworkPolicy);
    assert_eq!((policy.tier, policy.priority), (Tier::Admin, Some(7)));
    let rules = policy.rules[EGRESS].as_ref().unwrap();
    let named = PortMatch::Named(NamedPortMatch {
        protocol: None,
        name: "web".to_owned(),
    });
    let expected = [
        ports(Protocol::TCP, 80, 80),
        ports(Protocol::UDP, 53, 53),
        ports(Protocol::TCP, 1, 1023),
        ports(Protocol::SCTP, 1, 2),
        named,
    ];
    assert_eq!(rules[0].ports, expected);
    let actions: Vec<_> = rules.iter().map(|rule| rule.action).collect();
    assert_eq!(
        actions,
        [RuleAction::Allow, RuleAction::Pass, RuleAction::Deny]
    );
    assert_eq!(rules[2].peers, [Peer::Hosts(LabelSelector::default())]);
}

#[test]
fn the_older_baseline_is_one_without_pass_and_after_the_new_ones() {
    let rule =
        |action: &str| format!("ingress: [{{action: {action}, from: [{{namespaces: {{}}}}]}}]");
    let policy = policy(&baseline(&rule("Deny")));
    assert_eq!(policy.kind, PolicyKind::BaselineAdminNetworkPolicy);
    assert_eq!(policy.tier, Tier::Baseline);
    assert!(policy.priority > Some(1000));
    assert_eq!(wrong(&baseline(&rule("Pass"))), [(Code::UnknownValue, 4)]);
    let other = baseline(&rule("Deny")).replace("name: default", "name: other");
    assert_eq!(wrong(&other), [(Code::BadName, 3)]);
    let both = "namespaceSelector: {}";
    let one = format!("egress: [{{action: Deny, to: [{{pods: {{{both}}}}}]}}]");
    assert_eq!(wrong(&baseline(&one)), [(Code::MissingField, 4)]);
    let old = admin("egress: [{action: Deny, to: [{pods: {podSelector: {}}}]}]");
    assert_eq!(wrong(&old), [(Code::MissingField, 4)], "both were needed");
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
        assert_eq!(tree(&POD.replace(from, to)).workloads, [], "{to}");
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
