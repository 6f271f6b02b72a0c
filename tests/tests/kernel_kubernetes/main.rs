//! Policies of Kubernetes on the wire: three namespaces of three pods, somebody outside and the
//! node, everybody to everybody by TCP and UDP on two ports over both families of addresses, held
//! against tables that are written out.

mod admin_tier;
mod baseline_tier;
mod network_policy_peers;
mod network_policy_ports;

use anyhow::Result;
use tests::lab::{
    Daemon, Lab, Process, Tree,
    cluster::{self, Cluster, NAMES, TruthTables},
};

/// Objects, and who may then talk to whom.
pub(crate) struct Case {
    /// What it shows.
    name: &'static str,
    /// Documents.
    policy: &'static str,
    /// What is expected, but for what `but` says.
    table: &'static str,
    /// Of which flows something else is expected.
    but: &'static [(&'static str, &'static str)],
}

impl Case {
    fn expected(&self) -> TruthTables {
        let tables = TruthTables::all(self.table);
        let but = self.but.iter();
        but.fold(tables, |tables, (which, table)| tables.but(which, table))
    }
}

/// The node's labels, and the namespaces and pods of the cluster. Every namespace has the label
/// `ns`, every pod `pod`; pods called `a` and `b` have different ports called `web`.
fn objects() -> Result<Vec<(String, String)>> {
    let node = "apiVersion: enforcer.dev/v1alpha1\nkind: Node\n\
                metadata: {name: node, labels: {role: worker}}\nspec: {}\n";
    let mut files = vec![("node.yaml".to_owned(), node.to_owned())];
    for name in &NAMES[..9] {
        let (namespace, pod) = name.split_once('/').unwrap_or_default();
        let labels = format!("{{pod: {pod}}}");
        files.push((
            format!("pod-{namespace}{pod}.yaml"),
            cluster::pod(namespace, pod, &labels, ports(pod))?,
        ));
    }
    for namespace in ["x", "y", "z"] {
        let labels = format!("{{ns: {namespace}}}");
        files.push((
            format!("namespace-{namespace}.yaml"),
            a_namespace(namespace, &labels),
        ));
    }
    Ok(files)
}

fn ports(pod: &str) -> &'static str {
    match pod {
        "a" => "[{name: web, containerPort: 80}]",
        "b" => "[{name: web, containerPort: 81, protocol: TCP}]",
        _ => "[]",
    }
}

fn a_namespace(name: &str, labels: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {labels}}}\n")
}

/// A cluster with its servers, and a daemon that enforces no policy yet.
struct Stage {
    daemon: Daemon,
    _servers: Vec<Process>,
    cluster: Cluster,
    tree: Tree,
    _lab: Lab,
}

impl Stage {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let cluster = Cluster::build(&lab)?;
        let servers = cluster.serve()?;
        let tree = Tree::empty(&lab, "policies")?;
        for (name, text) in objects()? {
            tree.write(&name, &text)?;
        }
        Ok(Self {
            daemon: cluster.start_daemon(&lab, tree.path())?,
            _servers: servers,
            cluster,
            tree,
            _lab: lab,
        })
    }

    /// Puts files in force and says what is not as expected.
    fn try_with(&self, files: &[(&str, &str)], expected: &TruthTables) -> Result<Vec<String>> {
        for (name, text) in files {
            self.tree.write(name, text)?;
        }
        self.daemon.apply()?;
        self.cluster.wrong(expected)
    }
}

const OPEN: &str = "
    #.. ... ... ..
    .#. ... ... ..
    ..# ... ... ..
    ... #.. ... ..
    ... .#. ... ..
    ... ..# ... ..
    ... ... #.. ..
    ... ... .#. ..
    ... ... ..# ..
    ... ... ... #.
    ... ... ... .#
";

#[test]
fn every_flow_is_as_kubernetes_says() -> Result<()> {
    let stage = Stage::new()?;
    let open = TruthTables::all(OPEN);
    let wrong = stage.try_with(&[], &open)?;
    assert!(wrong.is_empty(), "without policy:\n{}", wrong.join("\n"));
    let cases = [
        network_policy_peers::CASES,
        network_policy_ports::CASES,
        admin_tier::CASES,
        baseline_tier::CASES,
    ];
    let mut failed = Vec::new();
    for case in cases.into_iter().flatten() {
        let wrong = stage.try_with(&[("policy.yaml", case.policy)], &case.expected())?;
        if !wrong.is_empty() {
            let shown = wrong.len().min(12);
            let lines = wrong[..shown].join("\n  ");
            failed.push(format!("{} ({} wrong):\n  {lines}", case.name, wrong.len()));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

/// `x/a` is open to pods labelled `pod: b` of namespaces labelled `ns: y` alone.
const FROM_Y_B: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: x}
spec:
  podSelector: {matchLabels: {pod: a}}
  ingress:
    - from:
        - namespaceSelector: {matchLabels: {ns: y}}
          podSelector: {matchLabels: {pod: b}}
";

#[test]
fn labels_policies_and_pods_change_while_it_runs() -> Result<()> {
    let stage = Stage::new()?;
    let check = |what: &str, files: &[(&str, &str)], table: &str| -> Result<()> {
        let wrong = stage.try_with(files, &TruthTables::all(table))?;
        assert!(wrong.is_empty(), "{what}:\n{}", wrong.join("\n"));
        Ok(())
    };
    check(
        "a policy comes",
        &[("policy.yaml", FROM_Y_B)],
        "
            #.. ... ... ..
            X#. ... ... ..
            X.# ... ... ..
            X.. #.. ... ..
            ... .#. ... ..
            X.. ..# ... ..
            X.. ... #.. ..
            X.. ... .#. ..
            X.. ... ..# ..
            X.. ... ... #.
            ... ... ... .#
        ",
    )?;
    let relabelled = cluster::pod("y", "c", "{pod: b, other: label}", ports("c"))?;
    let unlabelled = cluster::pod("y", "b", "{}", ports("b"))?;
    check(
        "a pod gets the label and another one loses it",
        &[("pod-yc.yaml", &relabelled), ("pod-yb.yaml", &unlabelled)],
        "
            #.. ... ... ..
            X#. ... ... ..
            X.# ... ... ..
            X.. #.. ... ..
            X.. .#. ... ..
            ... ..# ... ..
            X.. ... #.. ..
            X.. ... .#. ..
            X.. ... ..# ..
            X.. ... ... #.
            ... ... ... .#
        ",
    )?;
    let now_z = a_namespace("z", "{ns: y}");
    check(
        "a namespace gets the label and another one loses it",
        &[
            ("namespace-z.yaml", &now_z),
            ("namespace-y.yaml", &a_namespace("y", "{}")),
        ],
        "
            #.. ... ... ..
            X#. ... ... ..
            X.# ... ... ..
            X.. #.. ... ..
            X.. .#. ... ..
            X.. ..# ... ..
            X.. ... #.. ..
            ... ... .#. ..
            X.. ... ..# ..
            X.. ... ... #.
            ... ... ... .#
        ",
    )?;
    let isolated = cluster::pod("z", "c", "{pod: a}", ports("c"))?;
    check(
        "the policy moves to another namespace",
        &[
            (
                "policy.yaml",
                &FROM_Y_B.replace("namespace: x", "namespace: z"),
            ),
            ("pod-zc.yaml", &isolated),
        ],
        "
            #.. ... X.X ..
            .#. ... X.X ..
            ..# ... X.X ..
            ... #.. X.X ..
            ... .#. X.X ..
            ... ..# X.X ..
            ... ... #.X ..
            ... ... .#. ..
            ... ... X.# ..
            ... ... X.X #.
            ... ... ... .#
        ",
    )?;
    let ended = isolated.replace("phase: Running", "phase: Succeeded");
    check(
        "a pod ends: who has its address then is no pod",
        &[("pod-zc.yaml", &ended)],
        "
            #.. ... X.. ..
            .#. ... X.. ..
            ..# ... X.. ..
            ... #.. X.. ..
            ... .#. X.. ..
            ... ..# X.. ..
            ... ... #.. ..
            ... ... .#. ..
            ... ... X.# ..
            ... ... X.. #.
            ... ... ... .#
        ",
    )?;
    check("the policy goes", &[("policy.yaml", "")], OPEN)
}
