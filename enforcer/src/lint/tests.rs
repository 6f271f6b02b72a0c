use std::fmt::Write as _;

use super::*;
use crate::policy::{Code, PolicyErrors};

/// A document in flow style.
fn document(kind: &str, metadata: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: enforcer.dev/v1alpha1\nkind: {kind}\nmetadata: {{{metadata}}}\nspec: {spec}\n"
    )
}

fn policy(name: &str, spec: &str) -> String {
    document(
        "SegmentPolicy",
        &format!("name: {name}, namespace: shop"),
        spec,
    )
}

/// web, api and db of namespace shop.
fn workloads() -> String {
    let mut text = String::new();
    for (number, name) in ["web", "api", "db"].iter().enumerate() {
        let metadata = format!("name: {name}, namespace: shop, labels: {{app: {name}}}");
        let spec = format!(
            "{{interface: veth-{name}, addresses: [10.0.0.{}]}}",
            number + 1
        );
        text += &document("Workload", &metadata, &spec);
    }
    text
}

fn study(text: &str) -> Study {
    let root = tempfile::tempdir().expect("a directory");
    let path = root.path().join("a.yaml");
    std::fs::write(&path, text).expect("writable");
    crate::policy::study(&[path]).unwrap_or_else(|errors| panic!("{}", errors.render(false)))
}

/// Code and message of what is found in a tree with these documents and the shop's workloads.
fn found(text: &str) -> Vec<(&'static str, String)> {
    let findings = run(&study(&(workloads() + text)), None, NOW).expect("compiles");
    let short = |finding: Finding| (finding.code.as_str(), finding.message);
    findings.into_iter().map(short).collect()
}

fn expect(text: &str, expected: &[(&str, &str)]) {
    let found = found(text);
    let found: Vec<_> = found.iter().map(|(code, m)| (*code, m.as_str())).collect();
    assert_eq!(found, expected, "{text}");
}

const NOW: Moment = Moment(1_800_000_000);

const FROM_WEB: &str = "from: [{labels: {app: web}}]";

#[test]
fn a_good_tree_has_no_findings() {
    let text = policy(
        "api",
        &format!(
            "{{selector: {{matchLabels: {{app: api}}}}, ingress: [{{name: a, {FROM_WEB}, ports: [80/tcp]}}, {{name: b, from: [{{entity: host}}], ports: [80-90/tcp]}}], egress: []}}"
        ),
    );
    expect(&text, &[]);
}

#[test]
fn a_rule_behind_others_is_found_with_those_that_decide() {
    let text = policy(
        "api",
        &format!(
            "{{selector: {{matchLabels: {{app: api}}}}, ingress: [{{name: wide, {FROM_WEB}, ports: [80-90/tcp]}}, {{name: narrow, {FROM_WEB}, ports: [85/tcp]}}]}}"
        ),
    );
    let message = "ingress rule narrow decides about no flow: what it matches is decided by rule wide of policy shop/api";
    expect(&text, &[("unreachable-rule", message)]);
    // Partly covered is not unreachable.
    expect(&text.replace("[85/tcp]", "[85-91/tcp]"), &[]);
    // A denial of the same tier stands before all.
    let denied = text.replace("{name: wide", "{name: wide, action: deny");
    expect(&denied, &[("unreachable-rule", message)]);
}

#[test]
fn what_is_only_tried_out_counts_as_what_it_is_to_be() {
    let text = policy(
        "all",
        "{tier: admin, mode: audit, selector: {}, ingress: [{name: no, action: deny, ports: [23/tcp]}]}",
    ) + &policy("api", "{selector: {matchLabels: {app: api}}, ingress: []}");
    expect(&text, &[]);
}

#[test]
fn an_allow_that_a_higher_tier_denies_is_found_whole_or_in_the_part_that_is_named() {
    let admin = policy(
        "admin",
        "{tier: admin, selector: {}, ingress: [{name: telnet, action: deny, ports: [23/tcp]}]}",
    );
    let allow = |ports: &str| {
        let spec = format!(
            "{{selector: {{matchLabels: {{app: api}}}}, ingress: [{{name: in, {FROM_WEB}, ports: {ports}}}]}}"
        );
        admin.clone() + &policy("api", &spec)
    };
    let whole = "rule in allows nothing there: what it allows is denied in a higher tier by rule telnet of policy shop/admin";
    expect(&allow("[23/tcp]"), &[("overruled-allow", whole)]);
    let part = whole.replace("what it allows", "its port 23/tcp");
    expect(&allow("[80/tcp, 23/tcp]"), &[("overruled-allow", &part)]);
    expect(&allow("[1-100/tcp]"), &[]);
    expect(&allow("[any]"), &[]);
}

#[test]
fn selectors_that_match_nothing_are_found_where_there_is_an_inventory() {
    let nobody = policy(
        "nobody",
        "{selector: {matchLabels: {app: wbe}}, ingress: []}",
    );
    let message = "policy shop/nobody selects no workload of this tree";
    expect(&nobody, &[("empty-selector", message)]);
    let peer = policy(
        "db",
        "{selector: {matchLabels: {app: db}}, ingress: [{name: in, from: [{labels: {app: api}}, {labels: {app: apu}}], ports: [1/tcp]}]}",
    );
    let message =
        "a peer of rule in is nobody in this tree: workloads with app=apu in namespace shop";
    expect(&peer, &[("empty-selector", message)]);
    let library = run(&study(&(nobody + &peer)), None, NOW).expect("compiles");
    assert_eq!(library, []);
}

#[test]
fn isolation_from_dns_and_health_checks_is_found() {
    let egress = policy(
        "web",
        "{selector: {matchLabels: {app: web}}, egress: [{name: out, to: [{labels: {app: api}}], ports: [80/tcp]}]}",
    );
    let message = "policy shop/web isolates workloads that cannot ask DNS: shop/web";
    expect(&egress, &[("cut-off", message)]);
    expect(&egress.replace("[80/tcp]", "[80/tcp, 53/udp]"), &[]);
    expect(
        &policy("web", "{selector: {matchLabels: {app: web}}, egress: []}"),
        &[],
    );

    let checked = document(
        "Workload",
        "name: c, namespace: shop, labels: {app: c}, annotations: {enforcer.dev/health-check: '8080/tcp, 9/udp from shop/web'}",
        "{interface: veth-c, addresses: [10.0.0.9]}",
    );
    let ingress = |rules: &str| {
        checked.clone()
            + &policy(
                "c",
                &format!("{{selector: {{matchLabels: {{app: c}}}}, ingress: {rules}}}"),
            )
    };
    let message = |service: &str| {
        format!("the isolation by policy shop/c denies shop/c its health check: {service}")
    };
    let (http, udp) = (
        message("8080/tcp from host"),
        message("9/udp from shop/web"),
    );
    expect(&ingress("[]"), &[("cut-off", &http), ("cut-off", &udp)]);
    expect(
        &ingress("[{from: [{entity: host}], ports: [8080/tcp]}]"),
        &[("cut-off", &udp)],
    );
    let wrong = checked.replace("8080/tcp, 9/udp from shop/web", "http");
    assert_eq!(found(&wrong)[0].0, "cut-off");
}

#[test]
fn policies_that_say_the_same_are_found_whatever_their_names_and_order() {
    let one = "{selector: {matchLabels: {app: db}}, ingress: [{name: a, from: [{labels: {app: api}}], ports: [1/tcp]}, {name: b, from: [{labels: {app: web}}], ports: [2/tcp]}]}";
    let other = "{selector: {matchLabels: {app: db}}, ingress: [{name: x, from: [{labels: {app: web}}], ports: [2/tcp]}, {name: y, from: [{labels: {app: api}}], ports: [1/tcp]}]}";
    let same = |text: &str| {
        found(text)
            .iter()
            .filter(|(code, _)| *code == "same-policy")
            .count()
    };
    assert_eq!(same(&(policy("a", one) + &policy("b", other))), 1);
    assert_eq!(
        same(&(policy("a", one) + &policy("b", &other.replace("2/tcp", "3/tcp")))),
        0
    );
}

#[test]
fn what_has_ended_is_found_on_the_second() {
    let mut study = study(
        &(workloads()
            + &policy(
                "db",
                "{selector: {matchLabels: {app: db}}, ingress: [{name: in, from: [{entity: host}]}]}",
            )),
    );
    let codes = |study: &Study| -> Vec<String> {
        let findings = run(study, None, NOW).expect("compiles");
        findings
            .into_iter()
            .map(|finding| finding.message)
            .collect()
    };
    let policy = std::sync::Arc::make_mut(&mut study.policy.policies[0]);
    let rule = &mut policy.rules[1].as_mut().expect("ingress")[0];
    rule.validity.until = Some(Moment(NOW.0 + 1));
    assert!(codes(&study).is_empty());
    let policy = std::sync::Arc::make_mut(&mut study.policy.policies[0]);
    policy.rules[1].as_mut().expect("ingress")[0].validity.until = Some(NOW);
    assert_eq!(codes(&study), ["rule in ended on 2027-01-15T08:00:00Z"]);
    let policy = std::sync::Arc::make_mut(&mut study.policy.policies[0]);
    policy.validity.until = Some(NOW);
    assert_eq!(
        codes(&study),
        ["policy shop/db ended on 2027-01-15T08:00:00Z"]
    );
}

#[test]
fn more_moments_than_the_kernel_knows_are_told() {
    use enforcer_common::config::MOMENTS;

    let rules = (0..=MOMENTS).map(|n| format!("{{name: r{n}, from: [{{entity: host}}]}}"));
    let rules: Vec<String> = rules.collect();
    let spec = format!(
        "{{selector: {{matchLabels: {{app: db}}}}, ingress: [{}]}}",
        rules.join(", ")
    );
    let mut study = study(&(workloads() + &policy("db", &spec)));
    let found = |study: &Study, now: i64| -> usize {
        let findings = run(study, None, Moment(now)).expect("compiles");
        let found = findings.iter().filter(|f| f.code == Lint::ManyMoments);
        found.count()
    };
    let policy = std::sync::Arc::make_mut(&mut study.policy.policies[0]);
    let rules = policy.rules[1].as_mut().expect("ingress");
    for (rule, second) in rules.iter_mut().zip(NOW.0 + 1..) {
        rule.validity.until = Some(Moment(second));
    }
    assert_eq!(found(&study, NOW.0), 1);
    // One has passed: the others fit.
    assert_eq!(found(&study, NOW.0 + 1), 0);
}

#[test]
fn anybody_is_questioned_where_flows_show_few() {
    let text = workloads()
        + &policy(
            "api",
            "{selector: {matchLabels: {app: api}}, ingress: [{name: in, ports: [80/tcp]}]}",
        );
    let record = |peer: &str, port: u16| -> FlowRecord {
        serde_json::from_value(serde_json::json!({
            "version": 1, "time": "2026-11-22T01:13:51.889767Z", "run": "2026-11-22T01:13:30.617706Z",
            "sequence": 1, "node": "n", "direction": "ingress", "verdict": "allow", "reason": "rule",
            "workload": {"kind": "workload", "name": "api", "namespace": "shop", "port": port, "identity": 256},
            "peer": {"kind": "world", "address": peer, "identity": 2},
            "protocol": "tcp", "generation": 1, "packets": 1, "bytes": 1,
        }))
        .expect("a record")
    };
    let messages = |flows: &[FlowRecord]| -> Vec<String> {
        let findings = run(&study(&text), Some(flows), NOW).expect("compiles");
        findings
            .into_iter()
            .map(|finding| finding.message)
            .collect()
    };
    let flows: Vec<_> = (1..=3)
        .map(|n| record(&format!("192.0.2.{n}"), 80))
        .collect();
    assert_eq!(
        messages(&flows),
        [
            "rule in allows anybody, and the flows show 3 peers only: 192.0.2.1, 192.0.2.2, 192.0.2.3"
        ]
    );
    let many: Vec<_> = (1..=4)
        .map(|n| record(&format!("192.0.2.{n}"), 80))
        .collect();
    assert!(messages(&many).is_empty());
    assert!(messages(&[record("192.0.2.1", 81)]).is_empty());
    assert!(messages(&[]).is_empty());
}

#[test]
fn annotations_silence_with_a_reason_and_never_without() {
    let spec = format!(
        "{{selector: {{matchLabels: {{app: api}}}}, ingress: [{{name: wide, {FROM_WEB}, ports: [80-90/tcp]}}, {{name: narrow, {FROM_WEB}, ports: [85/tcp]}}]}}"
    );
    let codes = |annotation: &str| -> Vec<&str> {
        let metadata = format!("name: api, namespace: shop, annotations: {{{annotation}}}");
        let found = found(&document("SegmentPolicy", &metadata, &spec));
        found.into_iter().map(|(code, _)| code).collect()
    };
    assert_eq!(
        codes("lint.enforcer.dev/unreachable-rule: kept for the move"),
        [] as [&str; 0]
    );
    assert_eq!(
        codes("lint.enforcer.dev/unreachable-rule.narrow: kept"),
        [] as [&str; 0]
    );
    assert_eq!(
        codes("lint.enforcer.dev/unreachable-rule.wide: kept"),
        ["unreachable-rule"]
    );
    assert_eq!(
        codes("lint.enforcer.dev/cut-off: kept"),
        ["unreachable-rule"]
    );
    let mut without = codes("lint.enforcer.dev/unreachable-rule: ' '");
    without.sort_unstable();
    assert_eq!(without, ["bad-silence", "unreachable-rule"]);
    assert!(codes("lint.enforcer.dev/unknown: x").contains(&"bad-silence"));
    assert!(codes("lint.enforcer.dev/bad-silence: x").contains(&"bad-silence"));
}

#[test]
fn findings_are_framed_with_their_line() {
    let text = policy(
        "nobody",
        "{selector: {matchLabels: {app: wbe}}, ingress: []}",
    );
    let findings = run(&study(&(workloads() + &text)), None, NOW).expect("compiles");
    let shown = render(&findings, false);
    for part in [
        "empty-selector",
        "selects no workload",
        "a.yaml:17:1",
        "help: correct its selector",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
}

/// The members that the SARIF schema requires (sarif-v2.1.0, 3.13.2, 3.14.6, 3.19.8, 3.27.11,
/// 3.49.3), and what viewers need to find the line.
#[test]
fn the_sarif_log_has_what_its_schema_requires() {
    let text = policy(
        "nobody",
        "{selector: {matchLabels: {app: wbe}}, ingress: []}",
    );
    let findings = run(&study(&(workloads() + &text)), None, NOW).expect("compiles");
    let errors: PolicyErrors =
        crate::policy::load_text("b c.yaml", "kind: Nod\n").expect_err("bad");
    for (errors, findings) in [(&[][..], &findings[..]), (errors.errors(), &[])] {
        let log = sarif::log(errors, findings);
        assert_eq!(log["version"], "2.1.0");
        let run = &log["runs"][0];
        let driver = &run["tool"]["driver"];
        assert_eq!(driver["name"], "enforcer");
        let rules = driver["rules"].as_array().expect("rules");
        let ids: std::collections::BTreeSet<_> = rules.iter().map(|r| r["id"].as_str()).collect();
        assert_eq!(
            ids.len(),
            Lint::ALL.len() + Code::ALL.len(),
            "ids are unique"
        );
        let results = run["results"].as_array().expect("results");
        assert_eq!(results.len(), errors.len() + findings.len());
        for result in results {
            assert!(ids.contains(&result["ruleId"].as_str()));
            assert!(result["message"]["text"].is_string());
            assert!(
                ["none", "note", "warning", "error"].contains(&result["level"].as_str().unwrap())
            );
            let place = &result["locations"][0]["physicalLocation"];
            let uri = place["artifactLocation"]["uri"].as_str().expect("a URI");
            assert!(!uri.contains(' '), "{uri}");
            assert!(place["region"]["startLine"].as_u64().expect("a line") > 0);
        }
    }
}

#[test]
fn every_lint_has_a_section() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/lint.md");
    let text = std::fs::read_to_string(path).expect("docs/lint.md is there");
    let mut headings = String::new();
    for lint in Lint::ALL {
        let _ = writeln!(headings, "## {}", lint.as_str());
        let severity = format!("Severity: {}.", lint.severity().as_str());
        let section = text.split(&format!("## {}\n", lint.as_str())).nth(1);
        let section = section
            .and_then(|rest| rest.split("\n## ").next())
            .unwrap_or_default();
        assert!(section.contains(&severity), "{lint:?}: {severity}");
    }
    let found = text.lines().filter(|line| line.starts_with("## "));
    let found: Vec<_> = found.collect();
    let found = found.join("\n") + "\n";
    assert_eq!(found, format!("## How to silence a finding\n{headings}"));
}

/// The shop again, as objects of Kubernetes.
fn pods() -> String {
    let pod = |(number, name): (usize, &str)| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}}}\n\
             spec: {{containers: [{{name: c}}]}}\nstatus: {{podIP: 10.0.0.{}}}\n",
            number + 1
        )
    };
    ["web", "api", "db"]
        .into_iter()
        .enumerate()
        .map(pod)
        .collect()
}

fn found_among_pods(text: &str) -> Vec<(&'static str, String)> {
    let findings = run(&study(&(pods() + text)), None, NOW).expect("compiles");
    let short = |finding: Finding| (finding.code.as_str(), finding.message);
    findings.into_iter().map(short).collect()
}

fn network_policy(annotations: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata:\n  name: api\n  namespace: shop\n  annotations: {{{annotations}}}\nspec: {spec}\n"
    )
}

#[test]
fn policies_of_kubernetes_are_looked_at_too_and_silenced_by_their_annotations() {
    let unreachable = "{podSelector: {matchLabels: {app: api}}, ingress: [\
        {from: [{podSelector: {matchLabels: {app: web}}}]}, \
        {from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 80}]}]}";
    let nobody = "{podSelector: {matchLabels: {app: apu}}, ingress: []}";
    let no_peer =
        "{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: wep}}}]}]}";
    let no_dns = "{podSelector: {}, egress: [{to: [{podSelector: {}}], ports: [{port: 80}]}]}";
    for (code, spec, message) in [
        (
            "unreachable-rule",
            unreachable,
            "ingress rule ingress[1] decides about no flow: what it matches is decided by rule \
             ingress[0] of policy shop/api",
        ),
        (
            "empty-selector",
            nobody,
            "policy shop/api selects no workload of this tree",
        ),
        (
            "empty-selector",
            no_peer,
            "a peer of rule ingress[0] is nobody in this tree: workloads of namespace shop with \
             app=wep",
        ),
        (
            "cut-off",
            no_dns,
            "policy shop/api isolates workloads that cannot ask DNS: shop/api, shop/db, shop/web",
        ),
    ] {
        let found = found_among_pods(&network_policy("", spec));
        assert_eq!(found.len(), 1, "{code}: {found:?}");
        assert_eq!(found[0].0, code);
        assert!(
            found[0].1.starts_with(message) || code == "empty-selector",
            "{found:?}"
        );
        let silence = format!("lint.enforcer.dev/{code}: known, T-1");
        assert_eq!(found_among_pods(&network_policy(&silence, spec)), []);
    }
    // One rule that has no name of its own.
    for rule in ["ingress-1", "ingress[1]"] {
        let silence = format!("\"lint.enforcer.dev/unreachable-rule.{rule}\": known, T-1");
        assert_eq!(found_among_pods(&network_policy(&silence, unreachable)), []);
    }
    let silence = "lint.enforcer.dev/unreachable-rule.ingress-0: known, T-1";
    assert_eq!(
        found_among_pods(&network_policy(silence, unreachable)).len(),
        1
    );
}

#[test]
fn a_cluster_policy_overrules_and_a_list_keeps_its_annotations() {
    let list = |annotations: &str| {
        format!(
            "---\napiVersion: v1\nkind: List\nitems:\n  \
             - apiVersion: policy.networking.k8s.io/v1alpha2\n    kind: ClusterNetworkPolicy\n    \
             metadata: {{name: no-telnet}}\n    \
             spec: {{tier: Admin, priority: 1, subject: {{namespaces: {{}}}}, ingress: \
             [{{name: telnet, action: Deny, from: [{{namespaces: {{}}}}], protocols: [{{tcp: {{destinationPort: {{number: 23}}}}}}]}}]}}\n  \
             - apiVersion: networking.k8s.io/v1\n    kind: NetworkPolicy\n    \
             metadata:\n      name: api\n      namespace: shop\n      annotations: {{{annotations}}}\n    \
             spec: {{podSelector: {{}}, ingress: [{{from: [{{podSelector: {{}}}}], ports: [{{port: 23}}]}}]}}\n"
        )
    };
    let found = found_among_pods(&list(""));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].0, "overruled-allow");
    assert!(
        found[0].1.contains("rule telnet of policy no-telnet"),
        "{found:?}"
    );
    let silence = "lint.enforcer.dev/overruled-allow: until the move";
    assert_eq!(found_among_pods(&list(silence)), []);
    let bad = found_among_pods(&list("lint.enforcer.dev/overruled-allow: \"\""));
    assert_eq!(
        bad.iter()
            .filter(|(code, _)| *code == "bad-silence")
            .count(),
        1,
        "{bad:?}"
    );
}

#[test]
fn a_policy_of_the_same_name_and_another_kind_hides_nothing() {
    let ours = policy(
        "api",
        "{selector: {matchLabels: {app: api}}, ingress: [{from: [{labels: {app: web}}]}]}",
    );
    // Its rule has the name of the other one's, and decides about nothing.
    let theirs = network_policy(
        "",
        "{podSelector: {matchLabels: {app: api}}, ingress: [{from: [{podSelector: {matchLabels: \
         {app: web}}}], ports: [{port: 80}]}]}",
    );
    let found = found_among_pods(&(ours + &theirs));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].0, "unreachable-rule");
}
