//! Fields of NetworkPolicy.

use super::*;

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
