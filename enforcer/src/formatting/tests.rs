use std::path::Path;

use proptest::prelude::*;

use super::*;

fn good(result: Result<String, FormatError>) -> String {
    result.unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn keys_comments_and_indentation_have_one_form() {
    let written = "\
# About the policy.

kind: SegmentPolicy
apiVersion: enforcer.dev/v1alpha1   # the version
spec:
      ingress:
      # web first
      - ports:
        - 80/tcp
        -   443/tcp # tls
        from: [{labels: {app: web}},
               {labels: {app: api}}]
        name: 'web'


      - {ports: [1/tcp], name: b}
      selector:   # whom
          matchLabels: {app: \"db\"}
      # about egress
      egress: []
metadata:
    annotations:
        note: >
            two
            lines
    name: db
# the end
---

---
# only a comment
";
    let expected = "\
# About the policy.

apiVersion: enforcer.dev/v1alpha1 # the version
kind: SegmentPolicy
metadata:
  name: db
  annotations:
    note: |
      two lines
spec:
  selector: # whom
    matchLabels: {app: \"db\"}
  ingress:
    # web first
    - name: 'web'
      from: [{labels: {app: web}},
             {labels: {app: api}}]
      ports:
        - 80/tcp
        - 443/tcp # tls

    - {ports: [1/tcp], name: b}
  # about egress
  egress: []
# the end
---
# only a comment
";
    let formatted = good(format(written));
    assert_eq!(formatted, expected);
    assert_eq!(good(format(&formatted)), expected);
}

#[test]
fn what_is_not_understood_is_left_alone() {
    for (text, line) in [
        ("%YAML 1.2\n---\na: b\n", 1),
        ("a: b\n---\nc: d\n...\n", 4),
        ("a: b\n--- # c\nc: d\n", 2),
        ("a: b\n---\nc: !x d\n", 3),
        ("? [a]\n: b\n", 1),
    ] {
        match format(text) {
            Err(FormatError::Unsupported { line: found, .. }) => assert_eq!(found, line, "{text}"),
            other => panic!("{text}: {other:?}"),
        }
    }
    assert_eq!(good(format("  ---a: b\n")), "---a: b\n");
    assert_eq!(good(format("---a: b\n")), "---a: b\n");
    for broken in ["a: [\n", "a: b # c\rd: e\n"] {
        assert_eq!(format(broken), Err(FormatError::Broken), "{broken:?}");
    }
}

#[test]
fn aliases_keep_their_place_behind_their_anchors() {
    let text =
        "apiVersion: enforcer.dev/v1alpha1\nspec:\n    a: &x\n    - 1\n    b: *x\nkind: Node\n";
    let expected =
        "apiVersion: enforcer.dev/v1alpha1\nspec:\n  a: &x\n    - 1\n  b: *x\nkind: Node\n";
    assert_eq!(good(format(text)), expected);
}

fn yaml_files(directory: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            yaml_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "yaml") {
            found.push(path);
        }
    }
}

#[test]
fn the_library_is_in_canonical_form() {
    let mut files = Vec::new();
    yaml_files(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies"),
        &mut files,
    );
    assert!(files.len() > 8);
    for file in files {
        let text = std::fs::read_to_string(&file).expect("UTF-8");
        assert_eq!(
            good(format(&text)),
            text,
            "{}: run `enforcer fmt`",
            file.display()
        );
    }
}

/// A policy in block style with its keys in any order, at any depth of indentation, with
/// comments and blank lines anywhere.
fn policies() -> impl Strategy<Value = String> {
    let order = |keys: &'static [&'static str]| Just(keys.to_vec()).prop_shuffle();
    (
        order(&["apiVersion", "kind", "metadata", "spec"]),
        order(&["selector", "ingress", "egress", "tier"]),
        order(&["name", "from", "ports", "action"]),
        1..5_usize,
        0..4_usize,
        prop::collection::vec(0..6_u8, 40),
    )
        .prop_map(|(top, spec, rule, step, dash, noise)| {
            let mut noise = noise.into_iter().cycle();
            let mut text = String::new();
            let mut line = |indent: usize, content: &str, text: &mut String| {
                match noise.next() {
                    Some(0) => text.push('\n'),
                    Some(1) => *text += &(" ".repeat(indent) + "# " + content + "\n"),
                    Some(2) => *text += "# at the edge\n\n",
                    _ => {}
                }
                let behind = if noise.next() == Some(3) {
                    "  # behind"
                } else {
                    ""
                };
                *text += &(" ".repeat(indent) + content + behind + "\n");
            };
            for key in top {
                match key {
                    "apiVersion" => line(0, "apiVersion: enforcer.dev/v1alpha1", &mut text),
                    "kind" => line(0, "kind: SegmentPolicy", &mut text),
                    "metadata" => {
                        line(0, "metadata:", &mut text);
                        line(step, "namespace: 'shop'", &mut text);
                        line(step, "name: p", &mut text);
                    }
                    _ => {
                        line(0, "spec:", &mut text);
                        for key in &spec {
                            match *key {
                                "selector" => {
                                    line(step, "selector:", &mut text);
                                    line(2 * step, "matchLabels: {app: web}", &mut text);
                                }
                                "tier" => line(step, "tier: admin", &mut text),
                                direction => {
                                    line(step, &format!("{direction}:"), &mut text);
                                    let peers = if direction == "egress" { "to" } else { "from" };
                                    let at = step + dash;
                                    for (number, key) in rule.iter().enumerate() {
                                        let mark = if number == 0 { "- " } else { "  " };
                                        let content = match *key {
                                            "name" => "name: r".to_owned(),
                                            "from" => format!("{peers}: [{{entity: world}}]"),
                                            "action" => "action: deny".to_owned(),
                                            _ => "ports:".to_owned(),
                                        };
                                        line(at, &format!("{mark}{content}"), &mut text);
                                        if *key == "ports" {
                                            line(at + 2 + dash, "- 80/tcp", &mut text);
                                            line(at + 2 + dash, "- \"443/tcp\"", &mut text);
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
            }
            text
        })
}

#[test]
fn objects_of_kubernetes_have_the_order_of_their_reference() {
    let text = "\
# What the api may do.
spec:
  egress:
    - ports: [{port: 53}]
      to:
        - podSelector: {}
          # every namespace
          namespaceSelector:
            matchExpressions:
              - values: [a]
                operator: In
                key: team
            matchLabels: {}
  policyTypes: [Egress]
  podSelector: {} # all
metadata:
  creationTimestamp: \"2026-01-01T00:00:00Z\"
  namespace: shop
  name: api
kind: NetworkPolicy
apiVersion: \"networking.k8s.io/v1\"
---
items:
  - status:
      podIP: 10.0.0.1
      phase: Running
    spec:
      volumes: []
      containers:
        - ports:
            - protocol: TCP
              containerPort: 80
              name: http
          # pinned
          image: web
          name: web
    metadata: {name: web}
    kind: Pod
    apiVersion: v1
  - spec:
      ingress:
        - protocols:
            - tcp:
                destinationPort:
                  range:
                    end: 2
                    start: 1
          from:
            - namespaces: {}
          action: Deny
          name: no
      subject:
        namespaces: {}
      priority: 1
      tier: Admin
    metadata: {name: c}
    kind: ClusterNetworkPolicy
    apiVersion: policy.networking.k8s.io/v1alpha2
kind: List
apiVersion: v1
";
    let expected = "\
# What the api may do.
apiVersion: \"networking.k8s.io/v1\"
kind: NetworkPolicy
metadata:
  name: api
  namespace: shop
  creationTimestamp: \"2026-01-01T00:00:00Z\"
spec:
  podSelector: {} # all
  policyTypes: [Egress]
  egress:
    - to:
        # every namespace
        - namespaceSelector:
            matchLabels: {}
            matchExpressions:
              - key: team
                operator: In
                values: [a]
          podSelector: {}
      ports: [{port: 53}]
---
apiVersion: v1
kind: List
items:
  - apiVersion: v1
    kind: Pod
    metadata: {name: web}
    spec:
      containers:
        - name: web
          # pinned
          image: web
          ports:
            - name: http
              containerPort: 80
              protocol: TCP
      volumes: []
    status:
      phase: Running
      podIP: 10.0.0.1
  - apiVersion: policy.networking.k8s.io/v1alpha2
    kind: ClusterNetworkPolicy
    metadata: {name: c}
    spec:
      tier: Admin
      priority: 1
      subject:
        namespaces: {}
      ingress:
        - name: no
          action: Deny
          from:
            - namespaces: {}
          protocols:
            - tcp:
                destinationPort:
                  range:
                    start: 1
                    end: 2
";
    assert_eq!(good(format(text)), expected);
    assert_eq!(good(format(expected)), expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Formatting twice is formatting once, and the policy is the same but for where it is
    /// written.
    #[test]
    fn formatting_is_idempotent_and_changes_no_policy(text in policies()) {
        let formatted = good(format(&text));
        prop_assert_eq!(&good(format(&formatted)), &formatted);
        let resolved = |text: &str| {
            let policy = policy::load_text("a.yaml", text);
            let mut policy = policy.unwrap_or_else(|e| panic!("{}\n{text}", e.render(false)));
            policy.digest.clear();
            let policy = std::sync::Arc::make_mut(&mut policy.policies[0]);
            let origin = crate::policy::model::Origin {
                file: "".into(), line: 0, column: 0,
            };
            policy.origin = origin.clone();
            for rule in policy.rules.iter_mut().flatten().flatten() {
                rule.origin = origin.clone();
            }
            policy.clone()
        };
        prop_assert_eq!(resolved(&text), resolved(&formatted));
    }
}
