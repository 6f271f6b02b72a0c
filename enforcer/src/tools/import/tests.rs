use super::*;

fn imported(text: &str, networks: &[&str]) -> Import {
    let file = Arc::new(SourceFile::new("a.yaml", text));
    let networks = networks.iter().map(|text| text.parse().expect("a network"));
    let settings = Settings {
        cluster_networks: networks.collect(),
    };
    import(&[file], &settings).unwrap_or_else(|e| panic!("{}", e.render(false)))
}

fn told(import: &Import) -> String {
    let found = import.left_out.iter().map(|found| {
        format!(
            "{found}\n  {:?}, {:?}; {}\n",
            found.fate, found.effect, found.help
        )
    });
    found.collect()
}

/// Both are good policy, in canonical form.
fn check(import: &Import) {
    if import.yaml.is_empty() {
        return;
    }
    if let Err(errors) = load_text("imported.yaml", &import.yaml) {
        panic!("{}\n{}", errors.render(false), import.yaml);
    }
    assert_eq!(formatting::format(&import.yaml).as_ref(), Ok(&import.yaml));
}

#[test]
fn examples_of_cilium_are_imported_as_reviewed() {
    let import = imported(include_str!("examples/cilium.yaml"), &[]);
    check(&import);
    insta::assert_snapshot!(
        "cilium",
        format!("{}\n=====\n{}", import.yaml, told(&import))
    );
}

#[test]
fn examples_of_calico_are_imported_as_reviewed() {
    let import = imported(include_str!("examples/calico.yaml"), &[]);
    check(&import);
    insta::assert_snapshot!(
        "calico",
        format!("{}\n=====\n{}", import.yaml, told(&import))
    );
}

fn cilium(spec: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\n\
         metadata: {{name: p, namespace: shop}}\nspec: {spec}\n"
    )
}

fn calico(spec: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\n\
         metadata: {{name: p, namespace: shop}}\nspec: {spec}\n"
    )
}

/// Nothing of these is imported wider or narrower without a word.
#[test]
fn what_has_no_equivalent_is_told_with_its_place() {
    let cases = [
        (
            cilium("{endpointSelector: {}, ingress: [{fromNodes: [{}]}]}"),
            "spec.ingress[0].fromNodes",
            Effect::Narrower,
        ),
        (
            cilium(
                "{endpointSelector: {}, egress: [{toServices: [{k8sService: {serviceName: a}}]}]}",
            ),
            "spec.egress[0].toServices",
            Effect::Narrower,
        ),
        (
            cilium("{endpointSelector: {}, egressDeny: [{toEntities: [kube-apiserver]}]}"),
            "spec.egressDeny[0].toEntities[0]",
            Effect::Wider,
        ),
        (
            cilium("{endpointSelector: {}, ingress: [{fromRequires: [{matchLabels: {a: b}}]}]}"),
            "spec.ingress[0].fromRequires",
            Effect::Wider,
        ),
        (
            cilium("{endpointSelector: {}, ingress: [{fromEndpoint: [{}]}]}"),
            "spec.ingress[0].fromEndpoint",
            Effect::Narrower,
        ),
        (
            cilium(
                "{endpointSelector: {}, ingress: [{authentication: {mode: required}, fromEndpoints: [{}]}]}",
            ),
            "spec.ingress[0].authentication",
            Effect::Narrower,
        ),
        (
            cilium("{endpointSelector: {matchLabels: {'container:x': y}}, ingress: [{}]}"),
            "spec.endpointSelector.matchLabels.container:x",
            Effect::Either,
        ),
        (
            calico("{ingress: [{action: Deny, http: {methods: [GET]}}]}"),
            "spec.ingress[0].http",
            Effect::Wider,
        ),
        (
            calico("{ingress: [{action: Allow, protocol: TCP, source: {ports: [1]}}]}"),
            "spec.ingress[0].source.ports",
            Effect::Narrower,
        ),
        (
            calico("{serviceAccountSelector: \"role == 'x'\", ingress: [{action: Allow}]}"),
            "spec.serviceAccountSelector",
            Effect::Either,
        ),
        (
            calico("{tier: security, ingress: [{action: Allow}]}"),
            "spec.tier",
            Effect::Either,
        ),
        (
            calico("{ingress: [{action: Log}, {action: Allow}]}"),
            "spec.ingress[0]",
            Effect::Same,
        ),
        (
            calico("{egress: [{action: Allow, destination: {notSelector: has(a)}}]}"),
            "spec.egress[0].destination",
            Effect::Narrower,
        ),
    ];
    for (text, path, effect) in cases {
        let import = imported(&text, &["10.0.0.0/8"]);
        check(&import);
        let [found] = import.left_out.as_slice() else {
            panic!("{text}\n{}", told(&import));
        };
        assert_eq!(
            (found.path.as_str(), found.effect),
            (path, effect),
            "{text}"
        );
        assert!(found.line >= 4 && found.column > 1, "{found:?}");
        assert!(!found.help.is_empty());
    }
}

#[test]
fn networks_of_cilium_leave_the_cluster_out() {
    let text = cilium(
        "{endpointSelector: {}, egress: [{toCIDR: [10.0.0.0/8, 10.244.1.0/24, 192.0.2.7]}]}",
    );
    let import = imported(&text, &["10.244.0.0/16"]);
    assert!(import.left_out.is_empty(), "{}", told(&import));
    let tree = load_text("a.yaml", &import.yaml).unwrap();
    let rules = tree.policies[0].rules[0].as_ref().unwrap();
    let expected = [
        Peer::Cidr {
            prefix: "10.0.0.0/8".parse().unwrap(),
            except: vec!["10.244.0.0/16".parse().unwrap()],
        },
        Peer::Cidr {
            prefix: "192.0.2.7/32".parse().unwrap(),
            except: vec![],
        },
    ];
    assert_eq!(rules[0].peers, expected);
    let import = imported(&text, &[]);
    assert_eq!(import.left_out.len(), 1);
    assert_eq!(import.left_out[0].fate, Fate::Differs);
    assert_eq!(import.left_out[0].effect, Effect::Wider);
}

#[test]
fn an_order_that_no_tiers_keep_is_told() {
    let rule = |action: &str, ports: &str| {
        format!("{{action: {action}, protocol: TCP, destination: {{ports: [{ports}]}}}}")
    };
    let rules = [
        rule("Allow", "'1:10'"),
        rule("Deny", "'5:20'"),
        rule("Allow", "'15:30'"),
        rule("Deny", "'25:40'"),
        rule("Allow", "'35:50'"),
    ];
    let import = imported(&calico(&format!("{{egress: [{}]}}", rules.join(", "))), &[]);
    check(&import);
    let paths: Vec<_> = import.left_out.iter().map(|f| f.path.as_str()).collect();
    assert_eq!(paths, ["spec.egress[0]"]);
    assert_eq!(import.left_out[0].effect, Effect::Narrower);
}

#[test]
fn what_an_importer_reads_may_be_anything() {
    for text in [
        cilium("[]"),
        cilium("{endpointSelector: [], ingress: {}}"),
        cilium("{endpointSelector: {}, ingress: [1, null, [], {toPorts: [[]]}]}"),
        calico("x"),
        calico("{ingress: [null, {action: [], source: []}], types: {}}"),
        "apiVersion: v1\nkind: List\nitems: [null, 1, {kind: CiliumNetworkPolicy, apiVersion: cilium.io/v2}]\n".to_owned(),
        "kind: [a]\n".to_owned(),
    ] {
        check(&imported(&text, &[]));
    }
}
