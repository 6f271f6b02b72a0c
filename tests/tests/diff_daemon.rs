//! `enforcer diff --daemon`: what a tree would change against what a daemon enforces.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use serde_json::Value;
use tests::lab::{Daemon, Lab, shop::Shop, tree::Tree};

fn policy(port: u16) -> String {
    format!(
        "\
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {{name: db, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: db}}}}
  ingress:
    - name: from-api
      from: [{{labels: {{app: api}}}}]
      ports: [{port}/tcp]
"
    )
}

/// What the command says, with its exit code.
fn compare(daemon: &Daemon, tree: &Path) -> Result<(Option<i32>, Value)> {
    let tree = tree.to_str().context("a path in UTF-8")?;
    let output = daemon.ask(&["diff", "--daemon", tree, "--output", "json"])?;
    let value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok((output.status.code(), value))
}

/// `gained` and so on, with the services, of all changes between these two.
fn changes(value: &Value, from: &str, to: &str) -> Vec<(String, Vec<String>)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let changes = value["changes"].as_array().into_iter().flatten();
    let between = changes.filter(|change| {
        text(&change["from"]).starts_with(from) && text(&change["to"]).starts_with(to)
    });
    let mut told: Vec<_> = between
        .map(|change| {
            let services = change["services"].as_array().into_iter().flatten();
            (text(&change["change"]), services.map(text).collect())
        })
        .collect();
    told.sort();
    told
}

#[test]
fn a_tree_is_compared_with_what_is_in_force() -> Result<()> {
    let lab = Lab::new()?;
    let shop = Shop::build(&lab)?;
    let tree = Tree::of_shop(&lab, &policy(5432))?;
    let daemon = shop.back.start_daemon(&lab, tree.path())?;
    let (code, value) = compare(&daemon, tree.path())?;
    anyhow::ensure!(code == Some(0), "the same tree differs: {value}");
    assert_eq!(value["changes"], serde_json::json!([]));

    // Another tree, beside the daemon's own: nothing is applied by asking.
    let other = lab.folder().join("other");
    fs::create_dir(&other)?;
    fs::copy(
        tree.path().join("workloads.yaml"),
        other.join("workloads.yaml"),
    )?;
    fs::write(other.join("policy.yaml"), policy(6432))?;
    let (code, value) = compare(&daemon, &other)?;
    assert_eq!(code, Some(5), "{value}");
    let expected = [
        ("gained".to_owned(), vec!["6432/tcp".to_owned()]),
        ("lost".to_owned(), vec!["5432/tcp".to_owned()]),
    ];
    assert_eq!(changes(&value, "shop/api", "shop/db"), expected, "{value}");

    // What counts is what is in force: a tree that the daemon refuses is not.
    tree.write("policy.yaml", "kind: nonsense\n")?;
    let (code, value) = compare(&daemon, &other)?;
    assert_eq!(code, Some(5), "{value}");
    assert_eq!(changes(&value, "shop/api", "shop/db"), expected, "{value}");

    let other = other.to_str().context("a path in UTF-8")?;
    let output = daemon.ask(&["apply", "--policies", other, "--output", "json"])?;
    anyhow::ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let (code, value) = compare(&daemon, Path::new(other))?;
    assert_eq!(code, Some(0), "{value}");

    // Without a daemon the command says so.
    let output = daemon.ask(&["diff", "--daemon", other, "--socket", "/nonexistent.sock"])?;
    assert_eq!(output.status.code(), Some(3));
    Ok(())
}
