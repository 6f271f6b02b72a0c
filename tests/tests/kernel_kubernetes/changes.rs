//! Labels, policies and pods that change while it runs.

use anyhow::Result;
use tests::lab::{cluster, truth::TruthTables};

use crate::{OPEN, Stage, a_namespace, ports};

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

/// Puts files in force and fails if a flow is not as the table has it.
fn check(stage: &mut Stage, what: &str, files: &[(&str, &str)], table: &str) -> Result<()> {
    let wrong = stage.try_with(files, &TruthTables::all(table))?;
    assert!(wrong.is_empty(), "{what}:\n{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn labels_policies_and_pods_change_while_it_runs() -> Result<()> {
    let mut stage = Stage::new()?;
    let mut check =
        |what: &str, files: &[(&str, &str)], table: &str| check(&mut stage, what, files, table);
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

/// To [`FROM_Y_B`]: who is not `y/b` may not go to `x/a`.
const TO_X_A: &str = "
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
";

#[test]
fn pods_come_go_and_move_while_it_runs() -> Result<()> {
    let mut stage = Stage::new()?;
    check(
        &mut stage,
        "a policy comes",
        &[("policy.yaml", FROM_Y_B)],
        TO_X_A,
    )?;
    check(
        &mut stage,
        "the pod that may goes: who has its addresses is nobody",
        &[("pod-yb.yaml", "")],
        "
            #.. ... ... ..
            X#. ... ... ..
            X.# ... ... ..
            X.. #.. ... ..
            X.. .#. ... ..
            X.. ..# ... ..
            X.. ... #.. ..
            X.. ... .#. ..
            X.. ... ..# ..
            X.. ... ... #.
            ... ... ... .#
        ",
    )?;
    let came = cluster::pod("y", "b", "{pod: b}", "[]")?.replace("name: b,", "name: b-2,");
    check(
        &mut stage,
        "a pod of another name comes in its place",
        &[("pod-yb-2.yaml", &came)],
        TO_X_A,
    )?;
    check(
        &mut stage,
        "the pod that is isolated goes",
        &[("pod-xa.yaml", "")],
        OPEN,
    )?;
    let back = cluster::pod("x", "a", "{pod: a}", ports("a"))?;
    check(
        &mut stage,
        "it comes back",
        &[("pod-xa.yaml", &back)],
        TO_X_A,
    )?;

    // x/a, and y/b as the pod of another name.
    let addresses = [
        (0, ([10, 78, 1, 77], "fd78:1::77")),
        (4, ([10, 78, 2, 77], "fd78:2::77")),
    ];
    let mut moved = Vec::new();
    for (pod, (v4, v6)) in addresses {
        let addresses = (v4.into(), v6.parse()?);
        stage.cluster.readdress(pod, addresses)?;
        stage.mesh.readdress(pod, addresses);
        moved.push(addresses);
    }
    let (x_a, y_b) = (moved[0], moved[1]);
    check(
        &mut stage,
        "the pod that may and the pod that is isolated have other addresses",
        &[
            (
                "pod-xa.yaml",
                &cluster::pod_at("x", "a", "{pod: a}", ports("a"), x_a),
            ),
            (
                "pod-yb-2.yaml",
                &cluster::pod_at("y", "b-2", "{pod: b}", "[]", y_b),
            ),
        ],
        TO_X_A,
    )?;
    check(
        &mut stage,
        "they change places: x/a is who was y/b, and the other way round",
        &[
            (
                "pod-xa.yaml",
                &cluster::pod_at("x", "a", "{pod: a}", ports("a"), y_b),
            ),
            (
                "pod-yb-2.yaml",
                &cluster::pod_at("y", "b-2", "{pod: b}", "[]", x_a),
            ),
        ],
        "
            #.. ... ... ..
            .#. .X. ... ..
            ..# .X. ... ..
            ... #X. ... ..
            ... .#. ... ..
            ... .X# ... ..
            ... .X. #.. ..
            ... .X. .#. ..
            ... .X. ..# ..
            ... .X. ... #.
            ... ... ... .#
        ",
    )
}

/// A ClusterNetworkPolicy about namespace x, with one rule about what comes from namespace y.
fn about_y(name: &str, tier: &str, priority: u32, action: &str) -> String {
    format!(
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n\
         metadata: {{name: {name}}}\nspec:\n  tier: {tier}\n  priority: {priority}\n  \
         subject: {{namespaces: {{matchLabels: {{ns: x}}}}}}\n  \
         ingress: [{{action: {action}, from: [{{namespaces: {{matchLabels: {{ns: y}}}}}}]}}]\n"
    )
}

/// Nobody of namespace y may go to namespace x.
const NONE_OF_Y: &str = "
    #.. ... ... ..
    .#. ... ... ..
    ..# ... ... ..
    XXX #.. ... ..
    XXX .#. ... ..
    XXX ..# ... ..
    ... ... #.. ..
    ... ... .#. ..
    ... ... ..# ..
    ... ... ... #.
    ... ... ... .#
";

#[test]
fn priorities_actions_and_tiers_change_while_it_runs() -> Result<()> {
    let mut stage = Stage::new()?;
    let mut check =
        |what: &str, files: &[(&str, &str)], table: &str| check(&mut stage, what, files, table);
    check(
        "a Deny comes",
        &[("deny.yaml", &about_y("deny", "Admin", 10, "Deny"))],
        NONE_OF_Y,
    )?;
    check(
        "an Accept of a later priority changes nothing",
        &[("other.yaml", &about_y("other", "Admin", 20, "Accept"))],
        NONE_OF_Y,
    )?;
    check(
        "its priority becomes an earlier one",
        &[("other.yaml", &about_y("other", "Admin", 5, "Accept"))],
        OPEN,
    )?;
    let isolating = FROM_Y_B.replace("{matchLabels: {pod: a}}", "{}");
    check(
        "a NetworkPolicy comes: the Accept still comes before it",
        &[("policy.yaml", &isolating)],
        "
            #XX ... ... ..
            X#X ... ... ..
            XX# ... ... ..
            ... #.. ... ..
            ... .#. ... ..
            ... ..# ... ..
            XXX ... #.. ..
            XXX ... .#. ..
            XXX ... ..# ..
            XXX ... ... #.
            ... ... ... .#
        ",
    )?;
    let only_y_b = "
        #XX ... ... ..
        X#X ... ... ..
        XX# ... ... ..
        XXX #.. ... ..
        ... .#. ... ..
        XXX ..# ... ..
        XXX ... #.. ..
        XXX ... .#. ..
        XXX ... ..# ..
        XXX ... ... #.
        ... ... ... .#
    ";
    check(
        "the Accept becomes a Pass: the NetworkPolicy decides",
        &[("other.yaml", &about_y("other", "Admin", 5, "Pass"))],
        only_y_b,
    )?;
    check(
        "both move to tier Baseline: nothing is left to them",
        &[
            ("deny.yaml", &about_y("deny", "Baseline", 10, "Deny")),
            ("other.yaml", &about_y("other", "Baseline", 20, "Accept")),
        ],
        only_y_b,
    )?;
    check(
        "the NetworkPolicy goes: the first of Baseline decides",
        &[("policy.yaml", "")],
        NONE_OF_Y,
    )?;
    check("the Deny goes", &[("deny.yaml", "")], OPEN)
}
