//! Fields of ClusterNetworkPolicy, and of the older kinds that mean the same.

use super::*;

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
