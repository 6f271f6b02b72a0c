//! Policies of Kubernetes on the wire: three namespaces of three pods, somebody outside and the
//! node, everybody to everybody by TCP, UDP and SCTP on two ports over both families of
//! addresses, held against tables that are written out. UPSTREAM.md beside this file has the cases
//! of the upstream suites and their counterparts here.

mod admin_actions;
mod admin_priorities;
mod admin_tier;
mod baseline_orders;
mod baseline_tier;
mod changes;
mod network_policy_blocks;
mod network_policy_directions;
mod network_policy_peers;
mod network_policy_ports;
mod network_policy_protocols;
mod network_policy_selectors;
mod older_kinds;

use anyhow::Result;
use tests::lab::{
    Daemon, Lab, Process, Tree,
    cluster::{self, Cluster, NAMES},
    mesh::Mesh,
    truth::TruthTables,
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

/// A pod of the node's own network: it has the node's addresses.
const HOST_POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: host, namespace: x, labels: {pod: host}}
spec: {hostNetwork: true, containers: [{name: serve, ports: [{name: web, containerPort: 80}]}]}
status: {phase: Running, podIP: 10.79.0.1, podIPs: [{ip: 10.79.0.1}, {ip: 'fd79::1'}]}
";

/// The node's labels, and the namespaces and pods of the cluster. Every namespace has the label
/// `ns`, every pod `pod`; see [`ports`] for what their ports are called.
fn objects() -> Result<Vec<(String, String)>> {
    let node = "apiVersion: enforcer.dev/v1alpha1\nkind: Node\n\
                metadata: {name: node, labels: {role: worker}}\nspec: {}\n";
    let mut files = vec![
        ("node.yaml".to_owned(), node.to_owned()),
        ("pod-host.yaml".to_owned(), HOST_POD.to_owned()),
    ];
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
        "a" => "[{name: web, containerPort: 80}, {name: query, containerPort: 81, protocol: UDP}]",
        "b" => {
            "[{name: web, containerPort: 81, protocol: TCP}, \
             {name: query, containerPort: 80, protocol: UDP}]"
        }
        _ => "[{name: stream, containerPort: 80, protocol: SCTP}]",
    }
}

fn a_namespace(name: &str, labels: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {labels}}}\n")
}

/// A cluster with its servers, and a daemon that enforces no policy yet.
struct Stage {
    daemon: Daemon,
    mesh: Mesh,
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
            mesh: Mesh::start(&cluster.parties)?,
            _servers: servers,
            cluster,
            tree,
            _lab: lab,
        })
    }

    /// Puts files in force and says what is not as expected.
    fn try_with(&mut self, files: &[(&str, &str)], expected: &TruthTables) -> Result<Vec<String>> {
        for (name, text) in files {
            self.tree.write(name, text)?;
        }
        self.daemon.apply()?;
        self.mesh.wrong(&self.daemon, expected)
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
    let mut stage = Stage::new()?;
    let open = TruthTables::all(OPEN);
    let wrong = stage.try_with(&[], &open)?;
    assert!(wrong.is_empty(), "without policy:\n{}", wrong.join("\n"));
    let cases = [
        network_policy_directions::CASES,
        network_policy_peers::CASES,
        network_policy_selectors::CASES,
        network_policy_blocks::CASES,
        network_policy_ports::CASES,
        network_policy_protocols::CASES,
        admin_tier::CASES,
        admin_actions::CASES,
        admin_priorities::CASES,
        baseline_tier::CASES,
        baseline_orders::CASES,
        older_kinds::CASES,
    ];
    let mut failed = Vec::new();
    for case in cases.iter().copied().flatten() {
        let wrong = stage.try_with(&[("policy.yaml", case.policy)], &case.expected())?;
        if !wrong.is_empty() {
            let shown = wrong.len().min(12);
            let lines = wrong[..shown].join("\n  ");
            failed.push(format!("{} ({} wrong):\n  {lines}", case.name, wrong.len()));
        }
    }
    let all = cases.iter().map(|cases| cases.len()).sum::<usize>();
    let failures = format!(
        "{} of {all} cases fail:\n{}",
        failed.len(),
        failed.join("\n")
    );
    assert!(failed.is_empty(), "{failures}");
    Ok(())
}
