use super::*;

const NOW: Moment = Moment(1_800_000_000);

const TREE: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: api, namespace: shop}
spec:
  selector: {matchLabels: {app: api}}
  ingress:
    - {name: web, from: [{labels: {app: web}}], ports: [9000/tcp]}
    - {name: ops, from: [{labels: {app: ops}}], ports: [22/tcp]}
---
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: probe}
spec: {tier: admin, mode: audit, selector: {}, ingress: [{name: telnet, action: deny, ports: [23/tcp]}]}
---
{apiVersion: enforcer.dev/v1alpha1, kind: Workload, metadata: {name: web, namespace: shop, labels: {app: web}}, spec: {addresses: [10.0.0.1]}}
---
{apiVersion: enforcer.dev/v1alpha1, kind: Workload, metadata: {name: api, namespace: shop, labels: {app: api}}, spec: {interface: veth-api, addresses: [10.0.0.2]}}
---
apiVersion: enforcer.dev/v1alpha1
kind: PolicyTest
metadata: {name: t, namespace: shop}
spec:
  flows:
";

fn study(flows: &[&str]) -> Study {
    let root = tempfile::tempdir().expect("a directory");
    let path = root.path().join("a.yaml");
    let items: Vec<_> = flows.iter().map(|flow| format!("    - {flow}\n")).collect();
    std::fs::write(&path, format!("{TREE}{}", items.concat())).expect("writable");
    crate::policy::study(&[path]).unwrap_or_else(|errors| panic!("{}", errors.render(false)))
}

/// The messages of each flow.
fn messages(flows: &[&str]) -> Vec<Vec<String>> {
    let report = run(&study(flows), NOW).expect("compiles");
    let flows = report.tests[0].flows.iter();
    flows
        .map(|flow| flow.failures.iter().map(|f| f.message.clone()).collect())
        .collect()
}

#[test]
fn flows_that_are_as_expected_pass() {
    let flows = [
        "{from: web, to: api, ports: [9000/tcp], expect: allow, policy: api, rule: web}",
        "{from: shop/web, to: {labels: {app: api}}, ports: [9001/tcp, icmp], expect: deny, rule: isolation}",
        "{from: 10.0.0.1, to: 10.0.0.2, ports: [9000/tcp], expect: allow, policy: shop/api}",
        "{from: [world, host, 10.9.9.9], to: api, ports: [9000/tcp, 53/udp, gre], expect: deny}",
        "{from: world, to: web, ports: [23/tcp], expect: audit, policy: probe, rule: telnet}",
        "{from: web, to: world, ports: [443/tcp], expect: allow, rule: default}",
    ];
    for (flow, messages) in flows.iter().zip(messages(&flows)) {
        assert!(messages.is_empty(), "{flow}: {messages:?}");
    }
}

#[test]
fn flows_that_are_not_say_how() {
    let found = messages(&[
        "{from: web, to: api, ports: [9001/tcp, 9000/tcp], expect: allow}",
        "{from: web, to: api, ports: [9000/tcp], expect: allow, rule: ops}",
        "{from: web, to: api, ports: [9000/tcp], expect: allow, policy: other/api}",
        "{from: nobody, to: api, ports: [9000/tcp], expect: deny}",
        "{from: {labels: {app: nobody}}, to: api, ports: [9000/tcp], expect: deny}",
        "{from: web, to: web, ports: [9000/tcp], expect: deny}",
    ]);
    assert_eq!(
        found,
        [
            ["expected allow, is deny"],
            ["is allow as expected, but not by rule ops"],
            ["is allow as expected, but not by policy other/api"],
            ["there is no workload shop/nobody in the policy tree"],
            ["there is no workload with the labels app=nobody in namespace shop"],
            ["nothing was tested: `from` and `to` are one and the same"],
        ]
    );
}

#[test]
fn a_failure_says_what_decided_and_where_it_is_written() {
    let study = study(&["{from: web, to: api, ports: [9001/tcp], expect: allow}"]);
    let report = run(&study, NOW).expect("compiles");
    assert!(!report.passed());
    let failure = &report.tests[0].flows[0].failures[0];
    assert_eq!(failure.flow, "shop/web -> shop/api:9001/tcp");
    let last = failure.decided.last().expect("a side").to_string();
    assert!(last.starts_with("ingress of shop/api: deny (isolation) by shop/api isolation at "));
    assert!(last.ends_with("a.yaml:1"), "{last}");
}

#[test]
fn coverage_names_the_rules_that_decided_nothing() {
    let study = study(&["{from: web, to: api, ports: [9000/tcp], expect: deny}"]);
    let coverage = run(&study, NOW).expect("compiles").coverage;
    let unreached: Vec<_> = coverage.unreached.iter().map(|r| r.rule.as_str()).collect();
    assert_eq!(unreached, ["telnet", "ops"]);
    assert_eq!(
        (coverage.rules, coverage.reached, coverage.percent()),
        (3, 1, 33)
    );
}

#[test]
fn junit_has_a_case_for_each_flow_and_escapes_what_is_not_xml() {
    let study = study(&[
        "{name: 'a <b> & \"c\"', from: web, to: api, ports: [9000/tcp], expect: allow}",
        "{from: web, to: api, ports: [1/tcp], expect: allow}",
    ]);
    let mut out = Vec::new();
    write_junit(&run(&study, NOW).expect("compiles"), &mut out).expect("memory");
    let text = String::from_utf8(out).expect("UTF-8");
    assert!(
        text.contains(r#"name="a &lt;b&gt; &amp; &quot;c&quot;""#),
        "{text}"
    );
    assert!(text.contains(r#"<testsuite name="shop/t""#), "{text}");
    assert!(text.contains(r#"tests="2" failures="1""#), "{text}");
    assert_eq!(text.matches("<testcase ").count(), 2);
    let failure = r#"<failure message="shop/web -&gt; shop/api:1/tcp expected allow, is deny">"#;
    assert!(text.contains(failure), "{text}");
}

#[test]
fn a_test_may_name_its_moment() {
    let mut study = study(&["{from: web, to: api, ports: [9000/tcp], expect: allow}"]);
    let policy = std::sync::Arc::make_mut(&mut study.policy.policies[1]);
    policy.rules[1].as_mut().expect("ingress")[0].validity.until = Some(NOW);
    assert!(!run(&study, NOW).expect("compiles").passed());
    study.tests[0].at = Some(Moment(NOW.0 - 1));
    assert!(run(&study, NOW).expect("compiles").passed());
}
