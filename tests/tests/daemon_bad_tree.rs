//! A bad tree keeps the last good one in force, and the daemon says so.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use anyhow::Result;
use serde_json::Value;
use tests::lab::{Daemon, Expect, Scene};

const CLOSED: &str = "\
apiVersion: enforcer.dev/v1alpha1
kind: SegmentPolicy
metadata: {name: api, namespace: shop}
spec:
  selector: {matchLabels: {app: api}}
  ingress: []
";

fn wait_for_refusal(daemon: &Daemon, refused: bool) -> Result<Value> {
    let what = format!("refused should be {refused}");
    daemon.wait_for(
        &what,
        Duration::from_secs(10),
        &["status"],
        |status: &Value| status["refused"].is_object() == refused,
    )
}

/// What is done, how, and how it is undone.
type Change<'a> = (
    &'static str,
    Box<dyn Fn() -> Result<()> + 'a>,
    Box<dyn Fn() -> Result<()> + 'a>,
);

#[test]
fn broken_unreadable_empty_and_gone() -> Result<()> {
    let scene = Scene::new(CLOSED)?;
    let shop = &scene.shop;
    let mut back = scene.enforce(&shop.back)?;
    let good: Value = back.ask_json(&["status"])?;
    let denied = || scene.expect_tcp(&shop.intruder, &shop.api, 9000, Expect::Denied);
    denied()?;
    let path = scene.tree.path();
    let aside = path.with_extension("aside");

    let changes: Vec<Change<'_>> = vec![
        (
            "broken YAML",
            Box::new(|| scene.tree.write("broken.yaml", "kind: [SegmentPolicy\n")),
            Box::new(|| scene.tree.remove("broken.yaml")),
        ),
        (
            "a word that means nothing",
            Box::new(|| {
                scene
                    .tree
                    .write("policy.yaml", &CLOSED.replace("ingress", "ingres"))
            }),
            Box::new(|| scene.tree.write("policy.yaml", CLOSED)),
        ),
        (
            "a dangling link",
            Box::new(|| {
                Ok(std::os::unix::fs::symlink(
                    "nowhere",
                    path.join("link.yaml"),
                )?)
            }),
            Box::new(|| scene.tree.remove("link.yaml")),
        ),
        (
            "not a text",
            Box::new(|| Ok(fs::write(path.join("binary.yaml"), [0xff, 0xfe, 0, 1, 2])?)),
            Box::new(|| scene.tree.remove("binary.yaml")),
        ),
        (
            "an empty directory",
            Box::new(|| {
                fs::rename(path, &aside)?;
                fs::create_dir(path)?;
                fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
                Ok(())
            }),
            Box::new(|| {
                fs::remove_dir(path)?;
                Ok(fs::rename(&aside, path)?)
            }),
        ),
        (
            "a directory that is gone",
            Box::new(|| Ok(fs::rename(path, &aside)?)),
            Box::new(|| Ok(fs::rename(&aside, path)?)),
        ),
    ];
    for (what, worsen, mend) in changes {
        worsen()?;
        let status = wait_for_refusal(&back, true).map_err(|e| e.context(what))?;
        assert_eq!(
            status["policy"]["digest"], good["policy"]["digest"],
            "{what}"
        );
        assert_eq!(status["health"]["ok"], false, "{what}: {status}");
        denied()?;
        // Nor does a restart forget the last good tree.
        back.kill()?;
        back.launch()?;
        back.wait_ready()?;
        wait_for_refusal(&back, true).map_err(|e| e.context(what))?;
        denied()?;
        mend()?;
        wait_for_refusal(&back, false).map_err(|e| e.context(what))?;
        denied()?;
    }
    // And a change for the better is taken up after all that.
    scene
        .tree
        .write("policy.yaml", &CLOSED.replace("[]", "[{}]"))?;
    scene.expect_tcp(&shop.intruder, &shop.api, 9000, Expect::Open)
}
